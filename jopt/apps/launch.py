"""Starts a command: its flags are parsed, its `main` runs, and errors end the process in one line."""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags
from absl import logging as absl_logging

from jopt.apps.commands import COMMANDS, end
from jopt.apps.definitions import Optional
from jopt.apps.inputs import CONFIG
from jopt.apps.remote import local_arguments
from jopt.apps.signals import SavedAndStopped
from jopt.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

# 128 + the number of the signal, as shells report it.
_INTERRUPTED, _CLOSED = 128 + 2, 128 + 13


def launch(name: str, args: Sequence[str], program: str) -> None:
    """Parses flags, runs a command and exits with its status.

    An error that the user can fix is printed as one line, with status 1 (2 for flags and configs). A run that a
    signal has stopped exits with status 128 + its number, as a shell expects, and an app whose reader has closed
    the pipe with 141.

    Args:
      name: of the command, in `jopt.apps.commands.COMMANDS`.
      args: its flags and arguments.
      program: how it was called, for its help, such as 'jopt train'.
    """
    command, arguments = importlib.import_module(f"jopt.apps.{name}"), COMMANDS[name].arguments

    def guarded(argv: list[str]) -> int:
        # absl and JAX log to stderr, where an error must stay the only line.
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("absl").setLevel(logging.WARNING)
        # It warns at each access where nobody is logged in, which the error then says.
        logging.getLogger("gcsfs").setLevel(logging.ERROR)
        # Imports make more than 100,000 objects that stay: to search them for garbage takes a sixth of the time of
        # the imports, and again as long in each full collection of the run.
        gc.disable()
        # Before `main`: where memory or files have run out, nothing can be imported any more.
        from jopt.apps import failures
        from jopt.report import terminal

        gc.freeze()
        gc.enable()
        try:
            if argv[1:] and not arguments:
                raise ConfigError("the command line", " ".join(argv[1:]), "flags only, such as --name=value")
            # An export without --out goes into the directory of its run.
            writes = name == "export" and command.FLAGS["out"].value is None
            with local_arguments(name, argv, writes=writes) as local:
                status = command.main(local) or 0
            # Written here, where a failure has a status, and not as Python exits.
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            print(
                "interrupted; the same command continues from the last checkpoint, if one was saved",
                file=sys.stderr,
            )
            return _INTERRUPTED
        except BrokenPipeError:
            # The reader has closed the pipe, as `head` does.
            terminal.drop(sys.stdout)
            return _CLOSED
        except SavedAndStopped as error:
            print(error, file=sys.stderr)
            return error.status
        except Exception as error:
            if not failures.is_expected(error):
                raise
            print(failures.line(error), file=sys.stderr, flush=True)
            if failures.is_exhausted(error):
                # At once: Python would wait at its end for threads of libraries, which may wait for others that
                # could not start.
                os._exit(1)
            if isinstance(error, OSError):
                terminal.drop(sys.stdout)
            return failures.status(error)

    _take_any_text()
    _drop_late_callbacks()
    _adopt(program, command.FLAGS)
    # `sys.argv` stays what was typed: runs record it.
    app.run(guarded, argv=[program, *args], flags_parser=lambda argv: _parse(argv, command))


def _take_any_text() -> None:
    """Makes standard output and error take any text, whatever their encoding; a closed one drops it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_late_callbacks() -> None:
    """Keeps TensorStore's callbacks off standard error, where an error must stay the only line."""
    report_others = sys.unraisablehook

    def report(unraisable: sys.UnraisableHookArgs) -> None:
        # When the first array of a checkpoint fails, Orbax closes its event loop; the others call back into it.
        if str(unraisable.exc_value) != "Event loop is closed":
            report_others(unraisable)

    sys.unraisablehook = report


def _adopt(program: str, defined: flags.FlagValues) -> None:
    """Adds the flags of a command to those of absl, as the ones that its help shows."""
    flags.FLAGS.append_flag_values(defined)
    for flag_name in defined:
        flags.FLAGS.register_flag_by_module(program, defined[flag_name])


def _parse(argv: list[str], command: ModuleType) -> list[str]:
    """Parses flags; an error in them ends the process with status 2, and `--help` after the help."""
    program = argv[0]
    if not {"--help", "-help", "-h", "-?"}.isdisjoint(argv):
        usage = (command.__doc__ or "").replace(f"jopt {command.__name__.rpartition('.')[2]} ", f"{program} ")
        flags_text = flags.FLAGS.module_help(program)
        # The scripts of a checkout end as absl's own help does.
        status = 0 if program.startswith("jopt ") else 1
        end(f"{usage}\nflags:\n{flags_text}\n\nTry --helpfull to get a list of all flags.", status)
    for flag in {id(flag): flag for flag in map(flags.FLAGS.__getitem__, flags.FLAGS)}.values():
        # Whoever keeps a command in a script can take a flag back, as in a config.
        if flag.default is None and flag.parser is not None:
            flag.parser = Optional(flag.parser)
    try:
        remaining = flags.FLAGS(CONFIG.define_overrides(argv) if CONFIG.name in command.FLAGS else argv)
    except (flags.Error, ConfigError) as error:
        from jopt.apps import failures

        print(failures.line(error), file=sys.stderr)
        sys.exit(2)
    # The same flags, parsed through absl's own values.
    command.FLAGS.mark_as_parsed()
    if "trust" in command.FLAGS and command.FLAGS["trust"].value and not sys.flags.safe_path:
        # The names in files that are trusted mean what they meant to the run: the project's modules come first.
        sys.path.insert(0, str(Path.cwd()))
    return remaining
