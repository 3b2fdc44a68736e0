"""What the caller of a job is told at each boundary, and what it decides there."""

from collections.abc import Callable
from typing import TypeAlias

from jopt.train.metrics import MetricsRow

OnRows: TypeAlias = Callable[[list[MetricsRow]], object]
"""Called with the new metric rows."""
ShouldStop: TypeAlias = Callable[[list[MetricsRow]], bool]
"""Called with the latest metric rows; whether to save and to stop."""


def ignore(rows: list[MetricsRow]) -> None:
    """The `on_rows` of a job that nobody watches."""
    del rows


def never(rows: list[MetricsRow]) -> bool:
    """The `should_stop` of a job that nobody stops."""
    del rows
    return False


class Hooks:
    """The two hooks of a job.

    Example:
      >>> hooks = Hooks(on_rows=print, should_stop=lambda rows: any(row["loss"] > 9 for row in rows))
      >>> hooks.stop()  # before the first step
      False
      >>> hooks.tell([{"step": 10, "loss": 9.5}])
      [{'step': 10, 'loss': 9.5}]
      >>> hooks.stop()
      True
    """

    def __init__(self, on_rows: OnRows = ignore, should_stop: ShouldStop = never):
        self.on_rows, self.should_stop = on_rows, should_stop
        self.latest: list[MetricsRow] = []

    def tell(self, rows: list[MetricsRow]) -> None:
        """Hands out the rows of a boundary, which have been written; what the hook raises ends the job."""
        self.latest = rows
        self.on_rows(rows)

    def stop(self) -> bool:
        """Whether to save and to stop, by the rows of the last boundary; there are none before the first step."""
        return bool(self.should_stop(self.latest))
