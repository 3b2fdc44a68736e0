"""Shared by all apps: a config from a file and flags, and errors that end the process in one line."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from absl import app, flags
from absl import logging as absl_logging

from experiments.config_flag import ConfigFlag
from jopt.ablate import Ablation
from jopt.ablate.trials import trials
from jopt.codec import CodecError
from jopt.config import ConfigError, require
from jopt.data import DataError
from jopt.export import ExportError
from jopt.report import formats
from jopt.rules import RuleError
from jopt.train import Experiment
from jopt.train.checkpoint import CheckpointError
from jopt.train.loop import NonFiniteError
from jopt.train.packed import PackedError
from jopt.train.snapshot import is_exhausted
from jopt.train.workdir import StopRequested, WorkdirError
from jopt.transfer import TransferError


class ConfigFileError(RuntimeError):
    """A config file raises an error; its text is that error, and the line."""


# Errors that users can fix. Anything else is a defect, and shows its traceback.
_OF_THE_CONFIG = (ConfigError, ConfigFileError, RuleError, TransferError)
_OF_FILES = (DataError, WorkdirError, CheckpointError, CodecError, PackedError, ExportError)
_EXPECTED = (*_OF_THE_CONFIG, *_OF_FILES, NonFiniteError)
C = TypeVar("C")
# Defined at import, since absl parses flags before `main` runs.
CONFIG = ConfigFlag().define()
# 128 + the number of the signal, as shells report it.
_INTERRUPTED, _CLOSED, _TERMINATED = 128 + 2, 128 + 13, 128 + 15
_ACCEPTED = "a file whose get_config() returns a jopt.train.Experiment"


def launch(main: Callable[[list[str]], int | None], arguments: str = "") -> None:
    """Parses flags, runs `main(argv)` and exits with its status.

    An error that the user can fix is printed as one line, with status 1 (2 for flags and configs). A run that was
    asked to stop exits with status 143, as a shell expects after SIGTERM.

    Args:
      main: receives the program's name and the arguments that are not flags.
      arguments: names of these arguments, for the message; empty if there must be none.
    """

    def guarded(argv: list[str]) -> int:
        # absl and JAX log to stderr, where an error must stay the only line.
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("absl").setLevel(logging.WARNING)
        try:
            if argv[1:] and not arguments:
                raise ConfigError("the command line", " ".join(argv[1:]), "flags only, such as --name=value")
            return main(argv) or 0
        except KeyboardInterrupt:
            print(
                "interrupted; the same command continues from the last checkpoint, if one was saved",
                file=sys.stderr,
            )
            return _INTERRUPTED
        except BrokenPipeError:
            # The reader has closed the pipe, as `head` does. Python would fail again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _CLOSED
        except StopRequested as error:
            print(error, file=sys.stderr)
            return _TERMINATED
        except _EXPECTED as error:
            print(_line(error), file=sys.stderr)
            return 2 if isinstance(error, _OF_THE_CONFIG) else 1
        except (MemoryError, RuntimeError) as error:
            if not is_exhausted(error):
                raise
            print(_line(error), file=sys.stderr, flush=True)
            # At once: Python would wait at its end for threads of libraries, which may wait for others that could
            # not start.
            os._exit(1)

    app.run(guarded, flags_parser=_parse)


def experiment(trial: str | None = None) -> Experiment:
    """The Experiment of `--config`, or the trial of this id where `--config` is an Ablation.

    Raises:
      ConfigError: if the file does not exist, or returns something else.
    """
    value = _config()
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
    require(trial is None, "--trial", trial, "absent: it is valid only with the config of an ablation")
    if isinstance(value, Experiment):
        return value
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
    if len(argv) != 2:
        raise ConfigError("FILE", " ".join(argv[1:]), "one packed model file, or a run directory that holds one")
    path = Path(argv[1])
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
    """The flag `--trust` of the apps that read a run which somebody else may have written."""
    return flags.DEFINE_bool(
        "trust",
        False,
        "Import the modules that the run's files name, such as those of methods of your own: their "
        "code is run. Only for files whose origin you trust.",
    )


def use_cores(count: int | None) -> None:
    """Makes `count` CPU cores JAX devices; None is all cores that this process may use."""
    import jax

    # The affinity and not the machine's count: in a container the other cores belong to someone else.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", count or cores)


def _parse(args: list[str]) -> Any:
    """Parses flags; an error in them ends the process with status 2."""
    try:
        return flags.FLAGS(CONFIG.define_overrides(args))
    except flags.Error as error:
        print(_line(error), file=sys.stderr)
        sys.exit(2)


def _config() -> Any:
    """The result of the config file; an error in the file is reported with its line."""
    try:
        return CONFIG.value()
    except Exception as error:
        file = Path(str(flags.FLAGS[CONFIG.name].value).partition(":")[0])
        # The last line in the config file, not the last of the traceback, which lies in the library.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        explained = isinstance(
            error, SyntaxError | AttributeError | LookupError | ValueError | TypeError | ImportError
        )
        if not lines or not explained:
            raise
        raise ConfigFileError(f"{_line(error)} ({file}, line {lines[-1]})") from error


def _line(error: BaseException) -> str:
    # The text of a KeyError is the repr of its argument, with quotes that would confuse.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if isinstance(error, ConfigFileError):
        return formats.printable(" ".join(text.split()))
    return formats.printable(f"{type(error).__name__}: {' '.join(text.split())}")
