"""Flags that several commands have. Each command defines its flags in a `FlagValues` of its own.

So the modules of several commands can be imported in one process, and no command takes the flags of another.
"""

from typing import Any

from absl import flags

from jopt.paths import expanded
from jopt.remote.urls import check_url, is_url


def define_path(
    values: flags.FlagValues, name: str, default: str | None, text: str, required: bool = False
) -> flags.FlagHolder[Any]:
    """A flag that is a path, in which `~` is a home directory."""
    return flags.DEFINE(_PathParser(), name, default, text, values, required=required)


def define_workdir(values: flags.FlagValues, text: str, required: bool = True) -> flags.FlagHolder[Any]:
    """The flag `--workdir`: a path, or the URL of a remote directory."""
    return flags.DEFINE(_WorkdirParser(), "workdir", None, f"{text} A path or a URL.", values, required=required)


class _PathParser(flags.ArgumentParser):
    def parse(self, argument: str) -> str:
        return str(expanded(argument))


class _WorkdirParser(_PathParser):
    def parse(self, argument: str) -> str:
        return check_url(argument) if is_url(argument) else super().parse(argument)


class Optional(flags.ArgumentParser):
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
        """The value, or None."""
        return None if argument == "None" else self._parser.parse(argument)

    def flag_type(self) -> str:
        """The type, for `--helpxml`."""
        return self._parser.flag_type()


def define_trust(values: flags.FlagValues) -> flags.FlagHolder[bool]:
    """The flag `--trust` of the apps that read files which somebody else may have written (`docs/security.md`)."""
    return flags.DEFINE_bool(
        "trust",
        False,
        "Import the modules that run directories, packed files and data sets name, such as those of your own "
        "methods: their code is run. Use the paths that they name. Only for files whose origin you trust.",
        flag_values=values,
    )


def define_accept_changes(values: flags.FlagValues) -> flags.FlagHolder[bool]:
    """The flag `--accept_changes` of the apps that resume work."""
    return flags.DEFINE_bool(
        "accept_changes",
        False,
        "Resume even if the data, a source, a version, an option of JAX or the kind of device is not what it was. "
        "The result then mixes both, and says so.",
        flag_values=values,
    )


def define_max_bytes(values: flags.FlagValues) -> flags.FlagHolder[int]:
    """The flag `--max_bytes` of the apps that read packed files: one of 30 bytes can claim any amount of memory."""
    from jopt.codec import MAX_BYTES

    text = "Memory that the tensors of a packed file may take, in bytes; more is an error before it is allocated."
    return flags.DEFINE_integer("max_bytes", MAX_BYTES, text, lower_bound=1, flag_values=values)
