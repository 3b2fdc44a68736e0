"""What a program measures of a state, as a dictionary of numbers on the host."""

import jax
import numpy as np
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


def assert_trees_equal(a, b, **tolerance):
    """Equal to the bit; or within a tolerance, as `np.testing.assert_allclose` takes it."""
    compare = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: compare(np.asarray(x), np.asarray(y), **tolerance), a, b)
