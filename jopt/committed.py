"""Who is told that a job has committed files: a checkpoint, the result of a chunk, the end of a part.

A job says where it has committed something, and knows of no listener; the mirror of a remote directory is one.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

_LISTENERS: dict[Path, Callable[[], None]] = {}


@contextlib.contextmanager
def listening(directory: Path, listener: Callable[[], None]) -> Iterator[None]:
    """Within the context, `listener` is called after each commit in `directory`, in the thread that committed.

    What it raises, `announce` raises.

    Example:
      >>> with listening(Path("/runs/grid"), lambda: print("committed")):
      ...     announce(Path("/runs/grid/chunks/0/checkpoints"))
      ...     announce(Path("/runs/other"))
      committed
    """
    _LISTENERS[directory] = listener
    try:
        yield
    finally:
        del _LISTENERS[directory]


def announce(path: Path) -> None:
    """Tells the listeners of `path` and of the directories above it that something in it was committed."""
    # A copy, as other threads may begin or end to listen meanwhile.
    for directory, listener in list(_LISTENERS.items()):
        if path.is_relative_to(directory):
            listener()
