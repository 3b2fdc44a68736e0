"""What every app shares: a config from a file and flags, and errors that end the process in one line."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from absl import app
from absl import logging as absl_logging

from jopt.config import ConfigError
from jopt.data import DataError
from jopt.rules import RuleError
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


def experiment(holder: flags.FlagHolder) -> Experiment:
    """The Experiment that a `--config` flag gives.

    Raises:
      ConfigError: if the file is not there, does not run, or gives something else.
    """
    try:
        value = holder.value
        # A file that could not be loaded becomes a stand-in, whose every attribute raises why.
        kind = type(value) if isinstance(value, Experiment) else type(value.__class__)
    except OSError as error:
        why = str(error).partition("earlier failure to load: ")[2] or str(error)
        raise ConfigError("--config", why, "a file whose get_config() returns a jopt.train.Experiment") from error
    if not isinstance(value, Experiment):
        accepted = "a file whose get_config() returns a jopt.train.Experiment"
        raise ConfigError("--config", kind, accepted)
    return value


def _parse(args: list[str]) -> Any:
    """Absl's parser, with the errors of config files and overrides as one line too."""
    try:
        return app.parse_flags_with_usage(args)
    except (KeyError, ValueError, TypeError, FileNotFoundError, AttributeError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{type(error).__name__}: {text}", file=sys.stderr)
        sys.exit(2)
