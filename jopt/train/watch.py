"""What watches the segments of a run: the profiler's trace of one, and the replay of one that diverged."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jopt.report.observer import Observer, attempt
from jopt.train import profile
from jopt.train.debug_nans import Finding, Replay
from jopt.train.schedule import Segment
from jopt.train.staging import Staging
from jopt.train.state import TrainState

Around = Callable[[Segment, TrainState], contextlib.AbstractContextManager[None]]


class Watch:
    """Watches the segments of a run; changes none of its numbers.

    Attributes:
      finding: what `explain` found; None before, and without `debug_nans`.
    """

    def __init__(
        self,
        staging: Staging,
        observer: Observer,
        *,
        trace: Path | None = None,
        debug_nans: bool = False,
    ):
        """Nothing is watched yet.

        Args:
          staging: of the run: its programs, and what they train on.
          observer: is told where the trace is, and what was found.
          trace: the directory for the profiler's trace; None: none is made.
          debug_nans: whether to look for the first bad operation of a diverged run.
        """
        self.finding: Finding | None = None
        self._plans, self._observer, self._trace = staging.prepared.plans, observer, trace
        self._replay = Replay(staging) if debug_nans else None

    def around(self, segments: Sequence[Segment]) -> Around:
        """A context for the steps of each segment."""
        traced = None
        if self._trace is not None:
            traced = profile.tracer(self._trace, segments, self._name, self._observer)

        def enter(segment: Segment, state: TrainState) -> contextlib.AbstractContextManager[None]:
            if self._replay is not None:
                self._replay.keep(segment, state)
            return contextlib.nullcontext() if traced is None else traced(segment)

        return enter

    def explain(self, part: str, stage: int, step: int, state: TrainState) -> str:
        """Why a loss is not finite, as the end of a sentence; '' if it is not known. See `Replay.find`."""
        # An operation that cannot be run by itself must not hide that the run diverged.
        with attempt(self._observer, "the segment cannot be replayed"):
            if self._replay is not None:
                self.finding = self._replay.find(part, stage, step, state)
                self._observer.note("\n".join(self.finding.lines()))
                return f"; {self.finding.sentence()}"
        return ""

    def facts(self) -> dict[str, Any]:
        """What the manifest records at the end."""
        return {} if self.finding is None else {"non_finite": self.finding.json()}

    def _name(self, segment: Segment) -> str:
        return f"stage {self._plans[segment.stage].name!r}, steps {segment.start} to {segment.stop - 1}"
