"""Output streams that may be anything: a terminal, a closed pipe, a full disk, one that knows ASCII alone."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, TextIO

from jopt.report.formats import encodable

if TYPE_CHECKING:
    # Rich is slow to import, and a silent run needs none of it.
    import rich.console


class AnyText:
    """A text stream that takes any text: '?' stands for what its encoding lacks.

    Args:
      stream: where to write; None, as `sys.stdout` is in a process without one, takes text and drops it.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes the text; returns its length."""
        if self._stream is not None:
            self._stream.write(encodable(text, self.encoding))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        if self._stream is not None:
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        # A stream that is closed cannot tell.
        with contextlib.suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def fileno(self) -> int:
        """The number of its file."""
        if self._stream is None:
            raise OSError("there is no such stream")
        return self._stream.fileno()


class Unbreakable(AnyText):
    """A text stream whose writes never fail: a terminal that is gone loses text only."""

    def write(self, text: str) -> int:
        """Writes the text, if it can be written."""
        with contextlib.suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream, if it can be flushed."""
        with contextlib.suppress(OSError, ValueError):
            super().flush()


def open_console(width: int | None = None, stream: TextIO | None = None) -> rich.console.Console:
    """A Rich console that takes any text and interprets none of it.

    Args:
      width: columns where the output is no terminal: it has no width, and tables need not fold as in one.
      stream: where to print; None is standard output.

    Raises:
      OSError: in `print`, if the stream cannot be written, BrokenPipeError included.
    """
    import rich.console

    class Console(rich.console.Console):
        def on_broken_pipe(self) -> None:
            # Rich would end the process with status 1. The error that it is handling is the caller's to decide on.
            raise

    file = AnyText(stream or sys.stdout)
    return Console(
        file=file,  # pyright: ignore[reportArgumentType]
        width=None if file.isatty() else width,
        highlight=False,
        markup=False,
        emoji=False,
    )


def drop(stream: TextIO | None) -> None:
    """Discards what is still to be written to a broken stream, or Python would fail again as it exits."""
    with contextlib.suppress(OSError, ValueError):
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
