"""Arguments of commands that are URLs: the command works on a local copy of what they name."""

import contextlib
from collections.abc import Iterator, Sequence

from jopt.remote import is_url

# A checkpoint may be large, and these commands read none.
_WITHOUT_CHECKPOINTS = ("compare", "inspect", "predict", "verify")


@contextlib.contextmanager
def local_arguments(command: str, argv: Sequence[str], *, writes: bool) -> Iterator[list[str]]:
    """The arguments of a command, with a local path in the place of each URL.

    Args:
      command: its name.
      argv: of the command; the first is the program.
      writes: whether the command writes into the directory that it is given; its files are uploaded at the end.

    Raises:
      ConfigError, RemoteError: if a URL cannot be read.
    """
    with contextlib.ExitStack() as copies:
        yield [argv[0], *(_local(copies, command, argument, writes) for argument in argv[1:])]


def _local(copies: contextlib.ExitStack, command: str, argument: str, writes: bool) -> str:
    if not is_url(argument):
        return argument
    from jopt.remote.opening import opened
    from jopt.remote.reading import local_copy

    if writes:
        return str(copies.enter_context(opened(argument)))
    everything = command not in _WITHOUT_CHECKPOINTS
    is_selected = lambda name: everything or not name.startswith("checkpoints/")  # noqa: E731
    return str(copies.enter_context(local_copy(argument, is_selected, "RUN")))
