"""A config's stages over seeds, in memory: one compilation of each function, whatever the number of trials."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.train import Experiment, prepare, run_segments
from jopt.train.compiler import Compiler
from jopt.train.prepared import Prepared
from jopt.train.staging import Staging
from jopt.train.state import TrainState, to_host


class End(NamedTuple):
    """The end of a stage of a trial: its place, its state, the swept numbers, and the test accuracy in [0, 1]."""

    seed: int
    stage: int
    name: str
    state: TrainState
    values: dict[str, jax.Array]
    accuracy: float


def run(config: Experiment, seeds: Sequence[int], at_end: Callable[[Prepared, End], None]) -> None:
    """Runs the config once a seed, and calls `at_end` at the end of each stage."""
    p, compiler = prepare(config), Compiler()
    for seed in seeds:
        values = p.values | {"seed": jnp.uint32(seed)}
        ends: dict[int, Any] = {}
        staging = Staging(p, compiler, ends.__getitem__, values)

        def at_boundary(boundary, seed=seed, values=values, ends=ends, staging=staging):
            stage, state = boundary.segment.stage, boundary.state
            if boundary.segment.last:
                ends[stage] = to_host(state)
                judgement = jax.device_get(staging.judge(stage, state, "test"))
                accuracy = staging.measured(stage, judgement, "test")["accuracy"]
                at_end(p, End(seed, stage, config.stages[stage].name, state, values, accuracy))

        segments = [segment._replace(evaluate=False) for segment in p.segments]
        run_segments(staging, segments, at_boundary)


def by_stage(config: Experiment, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """The test accuracy at the end of each stage: an array over seeds for each stage's name."""
    found: dict[str, list[float]] = {stage.name: [] for stage in config.stages}
    run(config, seeds, lambda p, end: found[end.name].append(end.accuracy))
    return {name: np.array(values) for name, values in found.items()}
