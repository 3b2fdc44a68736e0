"""Shared by all apps: a config from a file and flags, and errors that end the process in one line.

Importing an app defines its flags, and imports nothing that `--help` does not need: JAX and all that rests on it
are imported in `main`.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from absl import app, flags
from absl import logging as absl_logging

from experiments.config_flag import ConfigFileError, ConfigFlag
from experiments.signals import SavedAndStopped
from jopt.config import ConfigError, require
from jopt.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Callable

    from jopt.train import Experiment

C = TypeVar("C")
# Defined at import, since absl parses flags before `main` runs.
CONFIG = ConfigFlag().define()
# 128 + the number of the signal, as shells report it.
_INTERRUPTED, _CLOSED = 128 + 2, 128 + 13
_ACCEPTED = "a file whose get_config() returns a jopt.train.Experiment"


def launch(main: Callable[[list[str]], int | None], arguments: str = "") -> None:
    """Parses flags, runs `main(argv)` and exits with its status.

    An error that the user can fix is printed as one line, with status 1 (2 for flags and configs). A run that a
    signal has stopped exits with status 128 + its number, as a shell expects, and an app whose reader has closed
    the pipe with 141.

    Args:
      main: receives the program's name and the arguments that are not flags.
      arguments: names of these arguments, for the message; empty if there must be none.
    """

    def guarded(argv: list[str]) -> int:
        # absl and JAX log to stderr, where an error must stay the only line.
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("absl").setLevel(logging.WARNING)
        # Imports make more than 100,000 objects that stay: to search them for garbage takes a sixth of the time of
        # the imports, and again as long in each full collection of the run.
        gc.disable()
        # Before `main`: where memory or files have run out, nothing can be imported any more.
        from experiments import failures
        from jopt.report import terminal

        gc.freeze()
        gc.enable()
        try:
            if argv[1:] and not arguments:
                raise ConfigError("the command line", " ".join(argv[1:]), "flags only, such as --name=value")
            status = main(argv) or 0
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
    app.run(guarded, flags_parser=_parse)


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


def define_path(name: str, default: str | None, text: str, required: bool = False) -> flags.FlagHolder[Any]:
    """A flag that is a path, in which `~` is a home directory."""
    return flags.DEFINE(_PathParser(), name, default, text, required=required)


class _PathParser(flags.ArgumentParser):
    def parse(self, argument: str) -> str:
        return str(expanded(argument))


class _OptionalParser(flags.ArgumentParser):
    """Takes 'None', and what another parser takes."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser = parser
        self.syntactic_help = parser.syntactic_help

    def __getattr__(self, name: str) -> Any:
        # What absl asks of a parser of some kind, such as the values of an enum for --helpxml.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._parser, name)

    def parse(self, argument: str) -> Any:
        return None if argument == "None" else self._parser.parse(argument)

    def flag_type(self) -> str:
        return self._parser.flag_type()


def experiment(trial: str | None = None) -> Experiment:
    """The Experiment of `--config`, or the trial of this id where `--config` is an Ablation.

    Raises:
      ConfigError: if the file does not exist, or returns something else.
    """
    from jopt.train import Experiment

    value = _config()
    if isinstance(value, Experiment):
        require(trial is None, "--trial", trial, "absent: it is valid only with the config of an ablation")
        return value
    # Here, as most runs need none of it.
    from jopt.ablate import Ablation
    from jopt.ablate.trials import trials

    if isinstance(value, Ablation):
        every = trials(value)
        configs = [candidate.config for candidate in every if trial is not None and candidate.id.startswith(trial)]
        require(
            trial is not None, "--trial", trial, "an id: --config is an ablation, and a run is one of its trials"
        )
        accepted = (
            f"the id of one of the {len(every)} trials of {value.name!r}; {len(configs) or 'none'} start with this"
        )
        require(len(configs) == 1, "--trial", trial, accepted)
        return configs[0]
    raise ConfigError("--config", f"get_config() -> {type(value).__name__}", _ACCEPTED)


def config_of(cls: type[C]) -> C:
    """The config of `--config`, which must be of this class.

    Raises:
      ConfigError: if the file does not exist, or returns something else.
    """
    value = _config()
    accepted = f"a file whose get_config() returns a {cls.__module__.rpartition('.')[0]}.{cls.__name__}"
    require(isinstance(value, cls), "--config", f"get_config() -> {type(value).__name__}", accepted)
    return value


def packed_file(argv: list[str]) -> Path:
    """The packed model file that `argv` names, or that of the run directory that `argv` names.

    Raises:
      ConfigError: if `argv` is not one name.
      WorkdirError: if the file does not exist or cannot be read.
    """
    from jopt.train.workdir import WorkdirError

    if len(argv) != 2:
        raise ConfigError("FILE", " ".join(argv[1:]), "one packed model file, or a run directory that holds one")
    path = expanded(argv[1], "FILE")
    if path.is_dir():
        path = path / "model.jopt"
        if not path.exists():
            raise WorkdirError(f"{path.parent} holds no {path.name}: its config did not ask for a packed model")
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise WorkdirError(f"{path} cannot be read: {error.strerror}") from error


def define_trust() -> flags.FlagHolder[bool]:
    """The flag `--trust` of the apps that read files which somebody else may have written (`docs/security.md`)."""
    return flags.DEFINE_bool(
        "trust",
        False,
        "Import the modules that run directories, packed files and data sets name, such as those of your own "
        "methods: their code is run. Use the paths that they name. Only for files whose origin you trust.",
    )


def define_accept_changes() -> flags.FlagHolder[bool]:
    """The flag `--accept_changes` of the apps that resume work."""
    return flags.DEFINE_bool(
        "accept_changes",
        False,
        "Resume even if the data, a source, a version, an option of JAX or the kind of device is not what it was. "
        "The result then mixes both, and says so.",
    )


def define_max_bytes() -> flags.FlagHolder[int]:
    """The flag `--max_bytes` of the apps that read packed files: one of 30 bytes can claim any amount of memory."""
    from jopt.codec import MAX_BYTES

    text = "Memory that the tensors of a packed file may take, in bytes; more is an error before it is allocated."
    return flags.DEFINE_integer("max_bytes", MAX_BYTES, text, lower_bound=1)


def use_cores(count: int | None) -> None:
    """Makes `count` CPU cores JAX devices; None is all cores that this process may use."""
    import jax

    # The affinity and not the machine's count: in a container the other cores belong to someone else.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", count or cores)


def _parse(args: list[str]) -> Any:
    """Parses flags; an error in them ends the process with status 2."""
    for flag in {id(flag): flag for flag in map(flags.FLAGS.__getitem__, flags.FLAGS)}.values():
        # Whoever keeps a command in a script can take a flag back, as in a config.
        if flag.default is None and flag.parser is not None:
            flag.parser = _OptionalParser(flag.parser)
    try:
        return flags.FLAGS(CONFIG.define_overrides(args))
    except (flags.Error, ConfigError) as error:
        from experiments import failures

        print(failures.line(error), file=sys.stderr)
        sys.exit(2)


def _config() -> Any:
    """The result of the config file; an error in the file is reported with its line."""
    try:
        return CONFIG.value()
    except Exception as error:
        file = expanded(str(flags.FLAGS[CONFIG.name].value).partition(":")[0])
        # The last line in the config file, not the last of the traceback, which lies in the library.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        explained = isinstance(
            error, SyntaxError | AttributeError | LookupError | ValueError | TypeError | ImportError
        )
        if not lines or not explained:
            raise
        from experiments import failures

        raise ConfigFileError(f"{failures.line(error)} ({file}, line {lines[-1]})") from error
