"""The command `jopt`: its table of commands, its help, and what starts one of them."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple, NoReturn


class Command(NamedTuple):
    """One line of the table; the command itself is the module `jopt.apps.NAME`.

    Attributes:
      summary: what it does, for `jopt --help`.
      arguments: names of the arguments that are not flags; empty if it takes none.
    """

    summary: str
    arguments: str = ""


COMMANDS = {
    "new": Command("writes a new project: config, data, model, README", "NAME"),
    "train": Command("runs the experiment of a config file, or continues it"),
    "ablate": Command("runs a grid of experiments, or the part of it that is new"),
    "search": Command("searches for the model to use under a budget"),
    "export": Command("writes a run's model as files for other programs", "RUN"),
    "inspect": Command("shows where each byte of a packed model file goes", "FILE"),
    "predict": Command("runs a packed model file on a data set", "FILE"),
    "verify": Command("repeats a finished run and compares the two bit for bit", "RUN"),
    "compare": Command("shows how runs differ: config, environment, metrics, curves", "RUN_A RUN_B [RUN_C ...]"),
}
_HELP = ("help", "--help", "-help", "-h", "-?")


def main() -> None:
    """Runs the command that `sys.argv` names."""
    name, *args = sys.argv[1:] or ["help"]
    if name in _HELP:
        # `jopt help train` is `jopt train --help`.
        name, args = (args[0], ["--help"]) if args else (name, args)
    if name in _HELP:
        end(help_text())
    if name == "--version":
        from importlib.metadata import PackageNotFoundError, version

        try:
            end(f"jopt {version('jopt')}")
        except PackageNotFoundError:
            end("jopt, of a checkout that is not installed")
    if name not in COMMANDS:
        print(unknown(name), file=sys.stderr)
        sys.exit(2)
    _add_current_directory()
    # Here, as absl takes half of the time of `jopt --help`.
    from jopt.apps.launch import launch

    launch(name, args, f"jopt {name}")


def help_text() -> str:
    """The text of `jopt --help`."""
    lines = [f"  {name:<9}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Trains and compresses neural networks in JAX.",
            "",
            "jopt COMMAND [ARGUMENTS] [--FLAG=VALUE ...]",
            "",
            *lines,
            "",
            "`jopt COMMAND --help` shows its flags, `jopt --version` the version.",
        ]
    )


def unknown(name: str) -> str:
    """The line about a command that does not exist.

    Example:
      >>> unknown("trian")
      "jopt: 'trian' is not a command; did you mean 'jopt train'? `jopt --help` lists all"
      >>> unknown("--workdir=a")
      "jopt: '--workdir=a' is not a command; `jopt --help` lists all"
    """
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    suggestion = f"; did you mean 'jopt {near[0]}'?" if near else ";"
    return f"jopt: {name!r} is not a command{suggestion} `jopt --help` lists all"


def _add_current_directory() -> None:
    """Modules in the current directory can be imported, as with `python -m`, but hide no installed module."""
    # `python -P` and PYTHONSAFEPATH ask for a path without it.
    if not sys.flags.safe_path and (current := os.getcwd()) not in sys.path:  # noqa: PTH109
        sys.path.append(current)


def end(text: str, status: int = 0) -> NoReturn:
    """Prints a text that was asked for, as `--help` does, and ends the process."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader has seen enough, as `head` does; what is left in the buffer must not fail again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
