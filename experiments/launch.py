"""What every app shares: a config from a file and flags, and errors that end the process in one line."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

from jopt.config import ConfigError
from jopt.data import DataError
from jopt.rules import RuleError
from jopt.train import Experiment
from jopt.train.checkpoint import CheckpointError
from jopt.train.loop import NonFiniteError
from jopt.train.signals import StopRequested
from jopt.train.workdir import WorkdirError

# What a user can cause and mend. Anything else is a defect, and shows its traceback.
_EXPECTED = (ConfigError, RuleError, DataError, WorkdirError, CheckpointError, NonFiniteError)
_TERMINATED = 128 + 15


def launch(main: Callable[[list[str]], int | None]) -> None:
    """Parses flags, runs `main(argv)` and exits with its status.

    An error that the user can mend is printed as one line, with status 1 (2 for flags and configs); a run that was
    asked to stop leaves with status 143, as the shell expects after SIGTERM.
    """

    def guarded(argv: list[str]) -> int:
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("absl").setLevel(logging.WARNING)
        try:
            return main(argv) or 0
        except StopRequested as error:
            print(error, file=sys.stderr)
            return _TERMINATED
        except _EXPECTED as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2 if isinstance(error, ConfigError | RuleError) else 1

    app.run(guarded, flags_parser=_parse)


def experiment(flag: flags.FlagHolder) -> Experiment:
    """The Experiment that a `--config` flag gives.

    Raises:
      ConfigError: if the file is not there, or gives something else.
    """
    value, accepted = flag.value, "a file whose get_config() returns a jopt.train.Experiment"
    if isinstance(value, Experiment):
        return value
    try:
        # ml_collections stands in for a file that it could not load with what raises at any attribute.
        getattr(value, "seed", None)
    except OSError as error:
        raise ConfigError("--config", str(error.__cause__ or error), accepted) from error
    raise ConfigError("--config", f"get_config() -> {type(value).__name__}", accepted)


def _parse(args: list[str]) -> Any:
    """Absl's parser, with the errors of config files and overrides as one line too."""
    try:
        return app.parse_flags_with_usage(args)
    except (KeyError, ValueError, TypeError, FileNotFoundError, AttributeError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{type(error).__name__}: {text}", file=sys.stderr)
        sys.exit(2)
