"""What a command is asked to work on: the config of `--config`, a trial, a packed file."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from absl import flags

from jopt.apps.config_flag import ConfigFileError, ConfigFlag
from jopt.config import ConfigError, require
from jopt.paths import expanded
from jopt.remote import is_url

if TYPE_CHECKING:
    from jopt.train import Experiment

C = TypeVar("C")
CONFIG = ConfigFlag()
_ACCEPTED = "a file whose get_config() returns a jopt.train.Experiment"


def experiment(trial: str | None = None, *, trusted: bool = False) -> Experiment:
    """The Experiment of `--config`, or a trial of the Ablation there, or without `--config` a trial of a directory.

    Args:
      trial: an id, or DIRECTORY/ID; an unambiguous start of the id is enough.
      trusted: whether modules that the directory names may be imported.

    Raises:
      ConfigError: if the file does not exist, or returns something else, or there is no such trial.
    """
    from jopt.train import Experiment

    directory, slash, name = (trial or "").rpartition("/")
    if not CONFIG.is_set() and slash:
        from jopt.ablate import load_trial

        if is_url(directory):
            from jopt.remote.reading import local_copy

            with local_copy(directory, lambda file: file == "ablation.json", "--trial") as copy:
                return load_trial(copy, name, trusted=trusted)
        return load_trial(directory, name, trusted=trusted)
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


def use_cores(count: int | None) -> None:
    """Makes `count` CPU cores JAX devices; None is all cores that this process may use."""
    import jax

    # The affinity and not the machine's count: in a container the other cores belong to someone else.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", count or cores)


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
        from jopt.apps import failures

        raise ConfigFileError(f"{failures.line(error)} ({file}, line {lines[-1]})") from error
