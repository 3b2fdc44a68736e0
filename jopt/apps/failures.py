"""Errors that users can fix, as one line and an exit status; all others are defects and show their traceback."""

import jax

from jopt.apps.config_flag import ConfigFileError
from jopt.codec import CodecError
from jopt.config import ConfigError
from jopt.data import DataError
from jopt.export import ExportError
from jopt.machines import ExecutorError
from jopt.processes import ProcessError
from jopt.report import formats
from jopt.rules import RuleError
from jopt.train.checkpoint import CheckpointError
from jopt.train.loop import NonFiniteError
from jopt.train.packed import PackedError
from jopt.train.snapshot import is_exhausted as is_exhausted
from jopt.train.workdir import WorkdirError
from jopt.transfer import TransferError

_OF_THE_CONFIG = (ConfigError, ConfigFileError, RuleError, TransferError)
_OF_FILES = (DataError, WorkdirError, CheckpointError, CodecError, PackedError, ExportError, ExecutorError)
# An OSError is a full or failing disk, a directory that is gone or may not be written; its text has the path.
_EXPECTED = (*_OF_THE_CONFIG, *_OF_FILES, OSError, NonFiniteError, ProcessError)


def is_expected(error: Exception) -> bool:
    """Whether the user, and not the developer, can fix it."""
    return isinstance(error, _EXPECTED) or is_exhausted(error) or _is_full(error)


def status(error: Exception) -> int:
    """The exit status of an expected error: 2 for flags and configs, else 1."""
    return 2 if isinstance(error, _OF_THE_CONFIG) else 1


def line(error: BaseException) -> str:
    """The error as one line of printable characters, with its type."""
    # The text of a KeyError is the repr of its argument, with quotes that would confuse.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    # That of a config file begins with the type of the error which the file raised.
    prefix = "" if isinstance(error, ConfigFileError) else f"{type(error).__name__}: "
    return formats.printable(f"{prefix}{' '.join(text.split())}")


def _is_full(error: Exception) -> bool:
    """Whether XLA's own error says that the memory of a device is full."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
