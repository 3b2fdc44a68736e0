"""A trace of one segment by JAX's profiler, for the flag `--profile` of the app `train`."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from jopt.config import ConfigError, require
from jopt.paths import expanded
from jopt.report.observer import Observer, attempt
from jopt.train.schedule import Segment


def claim(directory: str | Path, field: str = "profile") -> Path:
    """The directory for a trace, if nothing is in it; it is not made.

    Args:
      directory: a new or an empty one.
      field: what to call it in the error.

    Raises:
      ConfigError: if it is no directory, or holds files.
    """
    path = expanded(directory, field)
    try:
        entries = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    except OSError as error:
        raise ConfigError(field, str(directory), f"a new or empty directory ({error.strerror})") from error
    accepted = f"a new or empty directory; it holds {', '.join(entries[:3])}"
    require(not entries, field, str(directory), accepted)
    return path


def make(path: Path, field: str = "profile") -> None:
    """Makes the directory of a trace.

    Raises:
      ConfigError: if it cannot be written.
    """
    probe = path / ".probe"
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Tried and not asked: permissions, quotas and read-only file systems are told by no single call.
        probe.touch()
        probe.unlink()
    except OSError as error:
        accepted = f"a directory that can be written ({error.strerror})"
        raise ConfigError(field, str(path), accepted) from error


def choose(segments: Sequence[Segment]) -> Segment | None:
    """The segment to trace: the first whose program has run before, since a first run also warms up the device.

    Args:
      segments: those that this process runs.

    Returns:
      The segment; where no program runs twice, the first with steps; None where no steps are left.
    """
    programs: set[tuple[int, int]] = set()
    with_steps = [segment for segment in segments if segment.steps]
    for segment in with_steps:
        program = (segment.stage, segment.steps)
        if program in programs:
            return segment
        programs.add(program)
    return with_steps[0] if with_steps else None


def tracer(
    path: Path, segments: Sequence[Segment], name: Callable[[Segment], str], observer: Observer
) -> Callable[[Segment], contextlib.AbstractContextManager[None]]:
    """What each segment is run in: it traces the chosen one.

    Args:
      path: a directory that `claim` has given and `make` has made.
      segments: those that this process runs.
      name: of a segment, in the trace.
      observer: is told where the trace is. A trace that cannot be written is a warning: the run goes on.
    """
    chosen = choose(segments)
    if chosen is None:
        observer.warn(f"no step is left to run, so {path} gets no trace")

    @contextlib.contextmanager
    def traced(segment: Segment) -> Iterator[None]:
        if segment != chosen:
            yield
            return
        started = False
        with attempt(observer, f"{name(segment)} cannot be traced"):
            options = jax.profiler.ProfileOptions()
            # Of the device and XLA: calls of Python would slow the segment, and hide it among thousands.
            options.python_tracer_level = 0
            jax.profiler.start_trace(path, profiler_options=options)
            started = True
        try:
            with jax.profiler.TraceAnnotation(name(segment)):
                yield
        finally:
            if started:
                with attempt(observer, f"the trace of {name(segment)} cannot be written to {path}"):
                    jax.profiler.stop_trace()
                    observer.note(_sentence(path, name(segment)))

    return traced


def _sentence(path: Path, name: str) -> str:
    files = sorted(path.rglob("*.trace.json.gz"))
    assert files, f"the profiler wrote no trace to {path}"
    return f"trace of {name}: {files[0]}; open it at https://ui.perfetto.dev, or by `xprof --logdir={path}`"
