"""What a program measures of a state, as a dictionary of numbers on the host."""

import jax
from quick import jit

from jopt import task as tasks
from jopt.train.program import Program


def evaluate(program: Program, state, values, arrays, task: tasks.Task | None = None) -> dict[str, float]:
    """The loss and the metrics of a state on a part: `seen`, `judge`, and the task's finish."""
    task = tasks.Classification() if task is None else task
    judgement = jax.device_get(
        jit(lambda *args: program.judge(program.seen(*args[:2]), *args[1:]))(state, values, arrays)
    )
    examples = arrays.rows if isinstance(arrays.count, tuple) else int(arrays.count)
    return judgement.measured(task, examples)
