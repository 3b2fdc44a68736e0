"""The progress of a chunk that another process runs, as the files of the chunk show it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jopt.ablate.execute import Chunk, SegmentProgress
from jopt.train.metrics import MetricsRow
from jopt.train.schedule import Segment


class Tail:
    """Follows the metric rows of a chunk, which its worker writes anyway: no message of a worker can be lost.

    Rows that are there when it is made were told by an earlier launch, and are skipped.
    """

    def __init__(self, directory: Path, chunk: Chunk):
        """Reads the rows that are there.

        Args:
          directory: of the chunk.
          chunk: its trials.
        """
        self.directory, self.chunk = directory, chunk
        self.offset, self.last, self.since = 0, -1, time.monotonic()
        self.news()

    def news(self) -> list[SegmentProgress]:
        """The boundaries that have been written since the last call."""
        return self._boundaries(self._rows())

    def remaining(self) -> list[SegmentProgress]:
        """The boundaries of a finished chunk that no call has given yet: its metric rows are now in its result."""
        try:
            results = json.loads((self.directory / "result.json").read_text())["trials"]
        except (OSError, ValueError, KeyError):
            return []
        rows = [{"trial": one["row"]["trial"], **row} for one in results for row in one["curves"]]
        return self._boundaries(rows)

    def _rows(self) -> list[dict[str, Any]]:
        """The whole lines after the last ones that were read."""
        try:
            with (self.directory / "metrics.jsonl").open("rb") as file:
                # A worker that resumes cuts the file at its checkpoint, then writes the same bytes again.
                file.seek(self.offset)
                content = file.read()
            lines = content[: content.rfind(b"\n") + 1]
            rows = [json.loads(line) for line in lines.splitlines()]
        # Read at the moment of a removal or of a cut: nothing is new, and the result has all rows.
        except (OSError, ValueError):
            return []
        self.offset += len(lines)
        return rows

    def _boundaries(self, rows: Iterable[MetricsRow]) -> list[SegmentProgress]:
        prepared = self.chunk.prepared
        by_place: dict[tuple[str, int], list[MetricsRow]] = {}
        for row in rows:
            by_place.setdefault((row["stage"], row["step"]), []).append(row)
        segments = {(prepared.plans[s.stage].name, s.stop): s for s in prepared.segments}
        boundaries: list[tuple[Segment, list[MetricsRow]]] = [
            (segments[place], place_rows) for place, place_rows in by_place.items() if place in segments
        ]
        new = sorted((b for b in boundaries if b[0].mark > self.last), key=lambda b: b[0].mark)
        if not new:
            return []
        seconds = (time.monotonic() - self.since) / len(new)
        self.last, self.since = new[-1][0].mark, time.monotonic()
        return [SegmentProgress(segment, segment_rows, seconds) for segment, segment_rows in new]
