"""The loop: runs a Program segment by segment. What it shows and keeps is its caller's."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

from jopt.hyper import Hyper
from jopt.train.compilation import Compiler
from jopt.train.program import Program
from jopt.train.schedule import Segment


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
    state: Any
    train: dict[str, Any] | None
    validation: dict[str, Any] | None
    seconds: float


class NonFiniteError(RuntimeError):
    """A loss was not finite."""

    exit_status = "diverged"


def run_segments(
    program_of: Callable[[int, int], Program],
    segments: Iterable[Segment],
    values: Hyper,
    arrays_of: Callable[[int], Mapping[str, Any]],
    *,
    compiler: Compiler,
    begin: Callable[[int, Any], Any],
    origin: Callable[[int], tuple[Any, ...] | None],
    updated: Callable[[int], bool],
    at_boundary: Callable[[Boundary], None],
    state: Any = None,
    stage: int | None = None,
) -> Any:
    """Runs `segments` one after the other.

    Args:
      program_of: `(stage, steps) -> Program` of a stage, with segments of so many steps.
      segments: what is still to be run.
      values: the swept numbers, on the device.
      arrays_of: `stage ->` `train` and `validation`, on the device.
      compiler: compiles each function once for each (stage, steps).
      begin: `(stage, state) -> state`, the state that a stage starts from, given the last one's (None: nothing).
      origin: `stage ->` what `Program.rewind` is given, beyond state and values, once the stage's masks are chosen;
        None where nothing is rewound.
      updated: `stage ->` whether to call `Program.update` before each segment.
      at_boundary: called after each segment; an exception from it ends the loop.
      state: the state to go on from, with `stage` the stage it was saved in; None starts from nothing.
      stage: see `state`.

    Returns:
      The last state.
    """
    for segment in segments:
        program = program_of(segment.stage, segment.steps)
        first = segment.stage != stage
        if first:
            stage = segment.stage
            state = begin(stage, state)
        arrays = arrays_of(segment.stage)
        if updated(segment.stage):
            state = compiler.call("update", stage, program.update, state, values, arrays["train"], donate=(0,))
        if first and (more := origin(segment.stage)) is not None:
            state = compiler.call("rewind", stage, program.rewind, state, values, *more)
        metrics, seconds = None, 0.0
        if segment.steps:
            shape = (segment.stage, segment.steps)
            run = compiler.get("segment", shape, program.segment, state, values, arrays["train"], donate=(0,))
            start = time.perf_counter()
            with jax.transfer_guard("disallow"):
                state, metrics = jax.block_until_ready(run(state, values, arrays["train"]))
            seconds = time.perf_counter() - start
            metrics = jax.device_get(metrics)
        validation = None
        if segment.evaluate:
            validation = jax.device_get(
                compiler.call("evaluate", stage, program.evaluate, state, values, arrays["validation"])
            )
        at_boundary(Boundary(segment, state, metrics, validation, seconds))
    return state
