"""The console: the observer that prints a plan, progress and findings."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from jopt.codec.ledger import Ledger
from jopt.report import formats, terminal
from jopt.report.ledger import ledger_bars
from jopt.report.observer import Shown, Update
from jopt.report.page import Code, Details, Figure, Findings, Heading
from jopt.report.tables import Table, fit, to_rich
from jopt.report.terminal import Unbreakable
from jopt.task import RESERVED

if TYPE_CHECKING:
    # Rich is slow to import, and a silent run needs none of it.
    import rich.console

_LOG_WIDTH, _WIDEST_BARS = 140, 110
_PARTS = ("validation ", "test ")  # of the data, before the name of a metric.


class Console:
    """Prints what it hears: plan and findings to standard output, progress and warnings to standard error.

    Args:
      quiet: print warnings only.
    """

    def __init__(self, quiet: bool = False):
        self._quiet = quiet

    def plan(self, parts: Callable[[], Sequence[Shown]]) -> None:
        """Prints the parts."""
        self._show(parts)

    def note(self, sentence: str) -> None:
        """Prints the sentence."""
        self._show(lambda: [sentence])

    def warn(self, sentence: str) -> None:
        """Prints the sentence to standard error, quiet or not."""
        stream = Unbreakable(sys.stderr)
        stream.write(f"warning: {formats.printable(sentence)}\n")
        stream.flush()

    @contextlib.contextmanager
    def training(self, total: int, start: int = 0) -> Iterator[Update]:
        """Shows a `Progress`."""
        if self._quiet or not total:
            yield lambda step, stage, metrics: None
            return
        with Progress(total, start) as progress:
            yield progress.update

    def finished(self, parts: Callable[[], Sequence[Shown]]) -> None:
        """Prints the parts."""
        self._show(parts)

    def _show(self, parts: Callable[[], Sequence[Shown]]) -> None:
        if self._quiet:
            return
        shown = parts()
        try:
            # In a file, such as a job's log, tables need not fold at 80 columns.
            console = terminal.open_console(_LOG_WIDTH)
            for part in shown:
                show_part(part, console)
        # A ValueError is that of a stream that has been closed.
        except (OSError, ValueError) as error:
            # A reader that has gone away, as `head` does, or a full disk: the run is worth more than its output.
            self._quiet = True
            terminal.drop(sys.stdout)
            self.warn(f"standard output cannot be written ({error}); nothing more is printed")


def show_part(part: Shown, console: rich.console.Console) -> None:
    """Prints a part of a report; figures, which a terminal cannot show, and details are left out."""
    # Both are in the page whose address is shown last.
    if isinstance(part, Figure | Details):
        return
    if isinstance(part, Table):
        for piece in fit(part, console.width):
            console.print(to_rich(piece))
        return
    if isinstance(part, Ledger):
        width = min(max(console.width, 40), _WIDEST_BARS)
        console.print(ledger_bars(part, width, console.options.ascii_only), "")
        return
    lines = [f"- {sentence}" for sentence in part.sentences] if isinstance(part, Findings) else [_line(part)]
    # Paths and commands are copied from here: they must not be broken.
    for line in "\n".join(lines).split("\n"):
        console.print(formats.printable(line), markup=False, soft_wrap=True)


def _line(part: Heading | Code | str) -> str:
    return part if isinstance(part, str) else part.text


def show(table: Table, console: rich.console.Console | None = None, width: int = 80) -> None:
    """Prints the table; without colors and `width` columns wide where the output is not a terminal."""
    # A file or a pipe has no width, and Rich would take that of the last terminal.
    (console or terminal.open_console(width)).print(to_rich(table))


class Progress:
    """Shows how far a run is, what it reaches and how long it takes.

    In a terminal it is one live line: stage, bar, steps, loss, metric, steps a second, time elapsed and left.
    Elsewhere (a file, a CI log, `TERM=dumb`) it is a plain line now and then. A terminal that goes away never
    stops the run: what cannot be written is dropped.

    Args:
      total_steps: optimizer steps of the whole run.
      start: the step from which this process starts; not 0 after a resume.
      stream: where to show it; standard error if None.
      interval: least seconds between two plain lines; the last update always gets its line, at the exit.

    Example:
      >>> with Progress(100, stream=sys.stdout) as progress:
      ...     progress.update(100, "train", {"loss": 0.25, "accuracy": 0.5, "steps_per_second": 2000.0})
      train 100/100 (100%)  loss 0.25  accuracy 50.00%  2000 steps/s  elapsed 0:00
    """

    def __init__(self, total_steps: int, start: int = 0, stream: TextIO | None = None, interval: float = 5.0):
        self._total = total_steps
        self._step = start
        self._stream = Unbreakable(sys.stderr if stream is None else stream)
        self._interval = interval
        self._stage = ""
        self._shown: dict[str, float] = {}
        self._began = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._last_line = -math.inf
        self._pending = False
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        if self._stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown", ""):
            self._start_bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._pending:
            self._write_line(time.monotonic())

    def update(self, step: int, stage: str, metrics: Mapping[str, Any]) -> None:
        """Tells how far the run is.

        Args:
          step: optimizer steps done, of the whole run.
          stage: the name of the stage.
          metrics: `loss`, the task's metrics, of which the first is shown, and `steps_per_second`, as far as
            known, as in a metric row; a row whose `split` is not `train` is shown with the training metrics, until
            the next one.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = now, step
        self._step, self._stage = step, stage
        split = metrics.get("split", "train")
        prefix = "" if split == "train" else f"{split} "
        # A row of another split must not hide the last training row.
        others = [key for key in metrics if key not in RESERVED]
        for key in ("loss", *others[:1], "steps_per_second"):
            if isinstance(metrics.get(key), int | float):
                self._shown[key if key == "steps_per_second" else prefix + key] = float(metrics[key])
        if self._bar is not None:
            self._bar.update(self._task, completed=step, stage=stage, facts=" ".join(self._brief_facts()))
        elif now - self._last_line >= self._interval:
            self._write_line(now)
        else:
            self._pending = True

    def _write_line(self, now: float) -> None:
        self._last_line, self._pending = now, False
        # One write a line: others may write to the same stream.
        self._stream.write(self._line(now) + "\n")
        self._stream.flush()

    def _start_bar(self) -> None:
        from rich import progress
        from rich.console import Console

        times = self._times

        class Times(progress.ProgressColumn):
            def render(self, task: progress.Task) -> Any:
                from rich.text import Text

                return Text(times(), style="cyan", no_wrap=True)

        self._bar = progress.Progress(
            progress.TextColumn("{task.fields[stage]}", style="bold", markup=False),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[facts]}", markup=False),
            Times(),
            console=Console(file=self._stream, force_terminal=True),  # pyright: ignore[reportArgumentType]
            refresh_per_second=4,
            expand=True,
        )
        self._task = self._bar.add_task("", total=self._total, completed=self._step, stage="", facts="")
        self._bar.start()

    def _facts(self) -> list[str]:
        facts = []
        for key, value in self._shown.items():
            if key == "steps_per_second":
                facts.append(f"{formats.number(value)} steps/s")
            else:
                metric = key.replace(" ", "_", 1) if key.startswith(_PARTS) else key
                facts.append(f"{formats.name(metric)} {formats.value(metric, value)}")
        return facts

    def _times(self) -> str:
        now = time.monotonic()
        remaining = self._remaining(now)
        return formats.clock(now - self._began) + (f" -{formats.clock(remaining)}" if remaining else "")

    def _brief_facts(self) -> list[str]:
        """The metrics that fit next to a bar in 80 columns."""
        others = ("loss", "steps_per_second")
        metrics = [key for key in self._shown if key.removeprefix("validation ") not in others]
        # Training first, then validation: a metric of another part has no room.
        metrics = [k for k in metrics if " " not in k] + [k for k in metrics if k.startswith("validation ")]
        brief = {"loss": "loss {:.3g}"}
        for key in metrics:
            name = "val" if " " in key else "acc" if key == "accuracy" else key
            fraction = formats.column(key.removeprefix("validation ")).fraction
            brief[key] = f"{name} {{:{'.1%' if fraction else '.3g'}}}"
        brief["steps_per_second"] = "{:.0f}/s"
        return [form.format(self._shown[key]) for key, form in brief.items() if key in self._shown]

    def _line(self, now: float) -> str:
        share = f"{self._step / self._total:.0%}" if self._total else "-"
        parts = [f"{self._stage} {self._step}/{self._total} ({share})", *self._facts()]
        parts.append(f"elapsed {formats.clock(now - self._began)}")
        remaining = self._remaining(now)
        if remaining is not None and self._step < self._total:
            parts.append(f"left {formats.clock(remaining)}")
        return "  ".join(parts)

    def _remaining(self, now: float) -> float | None:
        """Seconds remaining at the mean speed since the first update, before which there is compilation."""
        if self._first is None or self._step <= self._first[1]:
            speed = self._shown.get("steps_per_second", 0.0)
            return (self._total - self._step) / speed if speed > 0 else None
        # The first update comes after compilation, which would make the time left too long.
        began, first = self._first
        return (self._total - self._step) * (now - began) / (self._step - first)
