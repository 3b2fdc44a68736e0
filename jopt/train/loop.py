"""The loop: compiles the functions of a Program and runs them, segment by segment."""

import contextlib
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jopt import data
from jopt.hyper import Hyper
from jopt.paths import cache, expanded
from jopt.train.program import Program
from jopt.train.schedule import Segment
from jopt.train.state import TrainState, Variables

_OPTIONS: ContextVar[dict[str, Any] | None] = ContextVar("compiler_options", default=None)


@contextlib.contextmanager
def compiler_options(**options: bool | int | float | str) -> Iterator[None]:
    """XLA's options for the programs that every `Compiler` compiles inside the context.

    They are those of `jax.jit(..., compiler_options=)`, such as `xla_backend_optimization_level=0` for programs
    that compile quickly and run slowly. Other options give other bits. Options of an outer context hold too.

    Example:
      >>> with compiler_options(xla_backend_optimization_level=0):
      ...     int(Compiler().call("double", 0, lambda x: 2 * x, jax.numpy.int32(3)))
      6
    """
    # A context variable, not an argument of every Compiler: tests lower the optimization level of a whole run.
    token = _OPTIONS.set({**(_OPTIONS.get() or {}), **options})
    try:
        yield
    finally:
        _OPTIONS.reset(token)


def current_options() -> dict[str, Any]:
    """The options of the contexts of `compiler_options` around the caller."""
    return dict(_OPTIONS.get() or {})


@dataclasses.dataclass
class Compiler:
    """Compiles functions, keeps what it compiled, and counts.

    Attributes:
      seconds: spent tracing, lowering and compiling (or reading the persistent cache).
      counts: compilations by name.
    """

    seconds: float = 0.0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    _compiled: dict[tuple[str, Hashable], Callable[..., Any]] = dataclasses.field(default_factory=dict)

    def call(
        self, name: str, key: Hashable, fn: Callable[..., Any], *args: object, donate: tuple[int, ...] = ()
    ) -> Any:
        """Runs `fn(*args)`, compiled once for each `(name, key)`.

        Args:
          name: what to count it as.
          key: hashable; stands for everything that makes the program, the arguments' shapes included.
          fn: a pure function.
          *args: its arguments.
          donate: positions of arguments whose buffers the result may use.
        """
        return self.get(name, key, fn, *args, donate=donate)(*args)

    def get(
        self, name: str, key: Hashable, fn: Callable[..., Any], *args: object, donate: tuple[int, ...] = ()
    ) -> Any:
        """The executable of `fn` for arguments like `args`; as `call`, without the running."""
        # Compiled ahead of time, as `jax.jit` would hide compilation in the first call and its time in that step's.
        if (name, key) not in self._compiled:
            start = time.perf_counter()
            lowered = jax.jit(fn, donate_argnums=donate).lower(*args)
            self._compiled[name, key] = lowered.compile(compiler_options=_OPTIONS.get())
            self.seconds += time.perf_counter() - start
            self.counts[name] += 1
        return self._compiled[name, key]


def enable_cache(directory: str | os.PathLike[str] | None = None) -> Path | None:
    """Turns on JAX's persistent compilation cache, for every program however small.

    Args:
      directory: where to keep it; None is `$JAX_COMPILATION_CACHE_DIR`, or else `~/.cache/jopt/xla`.

    Returns:
      The directory; None for a user without a home directory who names none: everything is then compiled again.

    Raises:
      ConfigError: for a `~` that stands for no home directory.
    """
    # JAX skips quick compilations by default. A short run has dozens, which together take longer than its training.
    chosen = directory or os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache("xla")
    if chosen is None:
        return None
    chosen = expanded(chosen, "the compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return chosen


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
    program_of: Callable[[int, int], Program],
    segments: Iterable[Segment],
    values: Hyper,
    arrays_of: Callable[[int], Mapping[str, data.Arrays]],
    *,
    compiler: Compiler,
    begin: Callable[[int, TrainState | None], TrainState],
    origin: Callable[[int], tuple[Variables, ...] | None],
    updated: Callable[[int], bool],
    at_boundary: Callable[[Boundary], None],
    around: Callable[[Segment, Any], contextlib.AbstractContextManager[None]] = lambda *_: contextlib.nullcontext(),
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
      around: `(segment, state) ->` a context in which the steps of the segment are run.
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
            state = compiler.call("update", stage, program.update, state, values, arrays["train"], donate=(0,))
        # After the update: the stage's masks are chosen from the trained weights and then hold the rewound ones,
        # which is what finds a lottery ticket (Frankle and Carbin 2019).
        if first and (origin_args := origin(segment.stage)) is not None:
            state = compiler.call("rewind", stage, program.rewind, state, values, *origin_args)
        metrics, seconds = None, 0.0
        if segment.steps:
            shape = (segment.stage, segment.steps)
            run = compiler.get("segment", shape, program.segment, state, values, arrays["train"], donate=(0,))
            # Compiled above, so that the clock sees steps alone. Nothing may move between host and device here: a
            # transfer would be a number that should have been placed before the loop.
            with around(segment, state), jax.transfer_guard("disallow"):
                start = time.perf_counter()
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
