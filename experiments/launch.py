"""What every app shares: a config from a file and flags, and errors that end the process in one line."""

import dataclasses
import logging
import os
import pydoc
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

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
from jopt.train.signals import StopRequested
from jopt.train.workdir import WorkdirError
from jopt.transfer import TransferError

# What a user can cause and mend. Anything else is a defect, and shows its traceback.
_OF_THE_CONFIG = (ConfigError, RuleError, TransferError)
_OF_FILES = (DataError, WorkdirError, CheckpointError, CodecError, PackedError, ExportError)
_EXPECTED = (*_OF_THE_CONFIG, *_OF_FILES, NonFiniteError)
_INTERRUPTED, _CLOSED, _TERMINATED = 128 + 2, 128 + 13, 128 + 15
_ACCEPTED = "a file whose get_config() returns a jopt.train.Experiment"


def launch(main: Callable[[list[str]], int | None], arguments: str = "") -> None:
    """Parses flags, runs `main(argv)` and exits with its status.

    An error that the user can mend is printed as one line, with status 1 (2 for flags and configs); a run that was
    asked to stop leaves with status 143, as the shell expects after SIGTERM.

    Args:
      main: takes the program's name and the arguments that are no flags.
      arguments: names of these arguments, for the message; empty where there must be none.
    """

    def guarded(argv: list[str]) -> int:
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("absl").setLevel(logging.WARNING)
        try:
            if argv[1:] and not arguments:
                raise ConfigError("the command line", " ".join(argv[1:]), "flags only, such as --name=value")
            return main(argv) or 0
        except KeyboardInterrupt:
            print(
                "interrupted; the same command goes on from the last checkpoint, if one was saved", file=sys.stderr
            )
            return _INTERRUPTED
        except BrokenPipeError:
            # Who reads has seen enough, as `head` has; what is still buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _CLOSED
        except StopRequested as error:
            print(error, file=sys.stderr)
            return _TERMINATED
        except _EXPECTED as error:
            print(_line(error), file=sys.stderr)
            return 2 if isinstance(error, _OF_THE_CONFIG) else 1

    app.run(guarded, flags_parser=_parse)


def experiment(flag: flags.FlagHolder, trial: str | None = None) -> Experiment:
    """The Experiment that a `--config` flag gives, or the trial of this id in the Ablation that it gives.

    Raises:
      ConfigError: if the file is not there, or gives something else.
    """
    value = _loaded(flag)
    if isinstance(value, Ablation):
        every = trials(value)
        found = [own.config for own in every if trial is not None and own.id.startswith(trial)]
        require(trial is not None, "--trial", trial, "given: --config is an ablation, and a run is one trial of it")
        accepted = f"the id of one of the {len(every)} trials of {value.name!r}; {len(found) or 'none'} begin so"
        require(len(found) == 1, "--trial", trial, accepted)
        return found[0]
    require(trial is None, "--trial", trial, "absent: --config is no ablation")
    if isinstance(value, Experiment):
        return value
    raise ConfigError("--config", f"get_config() -> {type(value).__name__}", _ACCEPTED)


def ablation(flag: flags.FlagHolder) -> Ablation:
    """The Ablation that a `--config` flag gives.

    Raises:
      ConfigError: if the file is not there, or gives something else.
    """
    value = _loaded(flag)
    accepted = "a file whose get_config() returns a jopt.ablate.Ablation"
    require(isinstance(value, Ablation), "--config", f"get_config() -> {type(value).__name__}", accepted)
    return value


def packed_file(argv: list[str]) -> Path:
    """The packed model file that `argv` names, or that lies in the run directory that it names.

    Raises:
      ConfigError: if it does not name one.
      WorkdirError: if it is not there, or cannot be read.
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


def use_cores(count: int | None) -> None:
    """Makes `count` CPU cores devices; None is all that this process may use."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", count or cores)


def _loaded(flag: flags.FlagHolder) -> Any:
    value = flag.value
    try:
        # ml_collections stands in for a file that it could not load with what raises at any attribute.
        getattr(value, "seed", None)
    except OSError as error:
        raise _unreadable(error) from error
    return value


def _unreadable(error: OSError) -> ConfigError:
    """Of the several lines that ml_collections says about a file that it cannot read, the last holds the reason."""
    return ConfigError("--config", str(error.__cause__ or error).rpartition("\n")[2].strip(), _ACCEPTED)


def _parse(args: list[str]) -> Any:
    """Parses flags; an error in them, in an override or in the config file ends the process with status 2."""
    try:
        return flags.FLAGS(args)
    except Exception as error:
        line = _explain(error, args)
        if line is None:
            raise
        print(line, file=sys.stderr)
        sys.exit(2)


def _explain(error: Exception, args: list[str]) -> str | None:
    """One line on what is wrong with the command or its config file; None for an error of another kind."""
    given = [arg.partition("=")[2] for arg in args if arg.lstrip("-").startswith("config=")]
    files = [Path(path.partition(":")[0]) for path in given]
    for inner in _chain(error):
        # ml_collections raises some errors of a config file again, as another type and with their traceback.
        frames = traceback.extract_tb(inner.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() in map(Path.resolve, files)]
        if lines:
            return f"{_line(inner)} ({files[-1]}, line {lines[-1]})"
    if isinstance(error, OSError):
        return _line(_unreadable(error))
    if isinstance(error, KeyError | IndexError):
        overrides = [arg.lstrip("-") for arg in args if arg.lstrip("-").startswith("config.")]
        unknown = _unknown_field(str(error), overrides)
        return _line(unknown) if unknown else f"{_line(error)}, in {' '.join(overrides)}"
    known = isinstance(error, flags.Error | SyntaxError | AttributeError | ValueError | TypeError)
    return _line(error) if known else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_field(text: str, overrides: list[str]) -> ConfigError | None:
    """The error of an override whose field does not exist, with those that do."""
    leaf = re.search(r"Field (?P<field>\S+) not found on dataclass <class '(?P<owner>[\w.]+)'>", text)
    found = leaf or re.search(r"Attribute <class '(?P<owner>[\w.]+)'>\.(?P<field>\w+) does not exist", text)
    cls: Any = found and pydoc.locate(found["owner"])
    if not (found and dataclasses.is_dataclass(cls)):
        return None
    path, value = found["field"], ""
    for override in overrides:
        name, _, given = override.partition("=")
        if found["field"] in name.split("."):
            path, value = name.removeprefix("config."), given
    names = ", ".join(field.name for field in dataclasses.fields(cls))
    return ConfigError(path, value, f"absent: {found['owner'].rpartition('.')[2]} has only {names}")


def _line(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return formats.printable(f"{type(error).__name__}: {' '.join(text.split())}")
