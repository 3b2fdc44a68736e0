"""The loop: runs the functions of a Program, segment by segment."""

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from jopt import processes
from jopt.train.schedule import Segment
from jopt.train.staging import Staging
from jopt.train.state import TrainState


class Boundary(NamedTuple):
    """What is known when a segment has ended.

    Attributes:
      segment: the segment.
      state: the state after it. The next segment is given its buffers: copy what must last.
      train: the segment's metrics, on the host; None for a segment without steps.
      validation: the validation part's metrics, or None where it was not evaluated.
      seconds: the time that the segment's steps took, compilation excluded.
    """

    segment: Segment
    state: TrainState
    train: dict[str, Any] | None
    validation: dict[str, Any] | None
    seconds: float


class NonFiniteError(RuntimeError):
    """A loss was not finite.

    Attributes:
      finding: the `jopt.train.debug_nans.Finding` of a run with `debug_nans`; else None.
    """

    exit_status = "diverged"
    finding: Any = None


def run_segments(
    staging: Staging,
    segments: Iterable[Segment],
    at_boundary: Callable[[Boundary], TrainState],
    *,
    around: Callable[[Segment, Any], contextlib.AbstractContextManager[None]] = lambda *_: contextlib.nullcontext(),
    state: Any = None,
    stage: int | None = None,
) -> Any:
    """Runs `segments` one after the other.

    Args:
      staging: the run's programs, with what its stages start from and train on.
      segments: what is still to be run.
      at_boundary: called after each segment; gives the state to go on with: that of the boundary, or, where the
        stage stops early, one whose step is the stage's last. An exception from it ends the loop.
      around: `(segment, state) ->` a context in which the steps of the segment are run.
      state: the state to resume from, with `stage` the stage it was saved in; None starts a new run.
      stage: see `state`.

    Returns:
      The last state.
    """
    calls, compiler = staging.calls, staging.compiler
    for segment in segments:
        first = segment.stage != stage
        # A resumed run enters a stage in its middle: then the state comes from the checkpoint and nothing begins.
        if first:
            stage = segment.stage
            state = staging.begin(stage, state)
        # A stage that was stopped early: what is left of it changes nothing.
        elif _is_stopped(staging, segment, state):
            state = at_boundary(Boundary(segment, state, None, None, 0.0))
            continue
        # Between segments, not within: masks and codebooks are then constants of a segment's scan.
        if staging.prepared.plans[segment.stage].updates:
            chosen_from = staging.chosen_from(segment.stage, segment.start)
            state = compiler.run(calls.update(segment.stage, state, chosen_from))
        # After the update: the stage's masks are chosen from the trained weights and then hold the rewound ones,
        # which is what finds a lottery ticket (Frankle and Carbin 2019).
        if first and (origin := staging.origin(segment.stage)) is not None:
            state = compiler.run(calls.rewind(segment.stage, state, *origin))
        metrics, seconds = None, 0.0
        if segment.steps:
            train = staging.train(segment.stage, segment.start, segment.steps)
            request = calls.segment(segment.stage, segment.steps, state, train)
            run = compiler.compiled(request)
            processes.barrier("segment")
            # Compiled above, so that the clock sees steps alone. Nothing may move between host and device here: a
            # transfer would be a number that should have been placed before the loop.
            with around(segment, state), jax.transfer_guard("disallow"):
                start = time.perf_counter()
                state, metrics = jax.block_until_ready(run(*request.args))
                seconds = time.perf_counter() - start
            state = calls.after_segment(segment.stage, state)
            metrics = staging.trained(segment.stage, jax.device_get(metrics))
        validation = None
        if segment.evaluate:
            judgement = staging.judge(segment.stage, state, "validation")._replace(predictions=())
            validation = staging.measured(segment.stage, jax.device_get(judgement), "validation")
        state = at_boundary(Boundary(segment, state, metrics, validation, seconds))
    return state


def _is_stopped(staging: Staging, segment: Segment, state: TrainState) -> bool:
    """Whether the stage, of each of several trials, ended before this segment."""
    # By the step in the state, which is saved: a resumed run knows it too.
    return staging.prepared.plans[segment.stage].early_stopping is not None and bool(
        (np.asarray(state.step) > segment.start).all()
    )
