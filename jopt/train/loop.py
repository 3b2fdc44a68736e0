"""The loop: runs the functions of a Program, segment by segment."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

from jopt import data
from jopt.hyper import Hyper
from jopt.train.compiler import Compiler
from jopt.train.program import Program
from jopt.train.schedule import Segment
from jopt.train.state import TrainState, Variables


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
    """A loss was not finite."""

    exit_status = "diverged"


def run_segments(
    program_of: Callable[[int, int], Program],
    segments: Iterable[Segment],
    values: Hyper,
    arrays_of: Callable[[int], Mapping[str, data.Arrays]],
    *,
    compiler: Compiler,
    begin: Callable[[int, TrainState | None], TrainState],
    origin: Callable[[int], tuple[Variables, ...] | None],
    updated: Callable[[int], bool],
    validate: Callable[[int, TrainState], dict[str, Any]],
    level: Callable[[int, str], int | None],
    at_boundary: Callable[[Boundary], None],
    state: Any = None,
    stage: int | None = None,
) -> Any:
    """Runs `segments` one after the other.

    Args:
      program_of: `(stage, steps) -> Program` of a stage, with segments of so many steps.
      segments: what is still to be run.
      values: the swept numbers, on the device.
      arrays_of: `stage ->` the data, on the device, of which `train` is read.
      compiler: compiles each function once for each (stage, steps).
      begin: `(stage, state) -> state`, the state that a stage starts from, given the last one's (None: nothing).
      origin: `stage ->` what `Program.rewind` is given, beyond state and values, once the stage's masks are chosen;
        None where nothing is rewound.
      updated: `stage ->` whether to call `Program.update` before each segment.
      validate: `(stage, state) ->` metrics of the validation part, on the device.
      level: `(stage, name) ->` how well a program is compiled.
      at_boundary: called after each segment; an exception from it ends the loop.
      state: the state to resume from, with `stage` the stage it was saved in; None starts a new run.
      stage: see `state`.

    Returns:
      The last state.
    """
    for segment in segments:
        program = program_of(segment.stage, segment.steps)
        first = segment.stage != stage
        # A resumed run enters a stage in its middle: then the state comes from the checkpoint and nothing begins.
        if first:
            stage = segment.stage
            state = begin(stage, state)
        arrays = arrays_of(segment.stage)
        # Between segments, not within: masks and codebooks are then constants of a segment's scan. The state is
        # donated, as two copies of it may not fit on a device.
        if updated(segment.stage):
            state = compiler.call(
                "update",
                stage,
                program.update,
                state,
                values,
                arrays["train"],
                donate=(0,),
                level=level(stage, "update"),
            )
        # After the update: the stage's masks are chosen from the trained weights and then hold the rewound ones,
        # which is what finds a lottery ticket (Frankle and Carbin 2019).
        if first and (origin_args := origin(segment.stage)) is not None:
            state = compiler.call(
                "rewind", stage, program.rewind, state, values, *origin_args, level=level(stage, "rewind")
            )
        metrics, seconds = None, 0.0
        if segment.steps:
            shape = (segment.stage, segment.steps)
            run = compiler.get("segment", shape, program.segment, state, values, arrays["train"], donate=(0,))
            # Compiled above, so that the clock sees steps alone. Nothing may move between host and device here: a
            # transfer would be a number that should have been placed before the loop.
            start = time.perf_counter()
            with jax.transfer_guard("disallow"):
                state, metrics = jax.block_until_ready(run(state, values, arrays["train"]))
            seconds = time.perf_counter() - start
            metrics = jax.device_get(metrics)
        validation = None
        if segment.evaluate:
            validation = jax.device_get(validate(stage, state))
        at_boundary(Boundary(segment, state, metrics, validation, seconds))
    return state
