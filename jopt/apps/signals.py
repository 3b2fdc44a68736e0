"""Signals that ask an app to save its state and end."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from types import FrameType

from absl import flags

from jopt import processes

NAMES = ("TERM", "HUP", "INT", "USR1", "USR2", "XCPU")
"""Signals whose usual effect is to end a process, and which it can handle on Linux and on macOS."""


class SavedAndStopped(RuntimeError):
    """The run has saved its state and ends because of a signal.

    Attributes:
      status: what a shell reports of a process that the signal ended.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


class Stop:
    """Whether a signal has asked to stop; a run calls it at each boundary.

    Attributes:
      number: of the first such signal; None before it.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._interrupts = 0

    def __call__(self, rows: object = ()) -> bool:
        """Whether to stop, whatever the metric rows are."""
        del rows
        # A signal to one process stops all of them, at the same boundary.
        agreed = next((number for number in processes.gather("signal", self.number) if number is not None), None)
        if agreed is not None:
            self.number = agreed
        return agreed is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes a signal; a second SIGINT ends the process at once."""
        del frame
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if self.number is None:
            self.number = number
            process = f"[process {processes.index()}] " if processes.count() > 1 else ""
            text = f"{process}{signal.Signals(number).name}: saving at the end of this segment, then ending"
            again = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
            # Not `print`: the signal may have come in the middle of one, which may not be entered again.
            with contextlib.suppress(OSError):
                os.write(2, f"{text}{again}\n".encode())


def define_save_on(values: flags.FlagValues) -> flags.FlagHolder[list[str]]:
    """The flag `--save_on` of the apps that can save in the middle."""
    holder = flags.DEFINE_list(
        "save_on",
        ["TERM", "HUP", "INT", "USR1"],
        "Signals at which the run saves at its next boundary and ends, with status 128 + number; some of "
        f"{', '.join(NAMES)}. A second INT ends it at once.",
        flag_values=values,
    )
    flags.register_validator(holder, lambda names: set(names) <= set(NAMES), f"must be of {', '.join(NAMES)}")
    return holder


@contextlib.contextmanager
def saving(names: Sequence[str]) -> Iterator[Stop]:
    """Within the context these signals set the `Stop`, instead of ending the process.

    Args:
      names: such as 'TERM', of `NAMES`. One that the process was started to ignore stays ignored.

    Raises:
      SavedAndStopped: for a `StopRequested` that followed from a signal.
    """
    from jopt.train.workdir import StopRequested

    stop, previous = Stop(), {}
    for name in names:
        number = signal.Signals[f"SIG{name}"]
        # `nohup` starts a process that ignores SIGHUP: it asked that the run outlive the terminal.
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, stop.handle)
    try:
        yield stop
    except StopRequested as error:
        if stop.number is None:
            raise
        raise SavedAndStopped(str(error), stop.number) from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
