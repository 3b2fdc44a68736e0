"""A config's stages over seeds, in memory: one compilation of each function, whatever the number of trials."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jopt.train import Experiment, prepare, run_segments
from jopt.train.compilation import Compiler
from jopt.train.compression import updates
from jopt.train.staging import Staging
from jopt.train.state import to_host


def by_stage(config: Experiment, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """The test accuracy at the end of each stage: an array over seeds for each stage's name."""
    p, compiler = prepare(config), Compiler()
    found = {stage.name: [] for stage in config.stages}
    for seed in seeds:
        values = p.values | {"seed": jnp.uint32(seed)}
        ends = {}

        def at_boundary(boundary, values=values, ends=ends):
            stage, state = boundary.segment.stage, boundary.state
            if boundary.segment.last:
                ends[stage] = to_host(state)
                program = p.program_of(stage, p.stages[stage].segment_steps)
                test = compiler.call("test", stage, program.evaluate, state, values, p.arrays["test"])
                found[config.stages[stage].name].append(float(jax.device_get(test["accuracy"])))

        staging = Staging(p, compiler, ends.__getitem__, values)
        run_segments(
            p.program_of,
            [segment._replace(evaluate=False) for segment in p.segments],
            values,
            staging.arrays,
            compiler=compiler,
            begin=staging.begin,
            origin=staging.origin,
            updated=lambda stage: updates(config, stage),
            at_boundary=at_boundary,
        )
    return {name: np.array(values) for name, values in found.items()}
