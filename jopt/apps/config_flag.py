"""The flag `--config=FILE[:ARGUMENT]` and its overrides, `--config.ADDRESS=VALUE`."""

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags

from jopt.config import ConfigError, is_node, matches, require, type_name
from jopt.paths import expanded

ACCEPTED = "a Python file with a function get_config, and, after a colon, its argument"


class ConfigFileError(RuntimeError):
    """A config file raises an error; its text is that error, and the line."""


@dataclasses.dataclass(frozen=True)
class ConfigFlag:
    """A flag that names a config file, and the flags that override parts of its config.

    Attributes:
      name: of the flag.
    """

    name: str = "config"

    def define(self, values: flags.FlagValues, *, required: bool = True) -> None:
        """Defines the flag."""
        text = f"File that defines get_config(). --{self.name}.ADDRESS=VALUE overrides a part of its result."
        flags.DEFINE_string(self.name, None, text, flag_values=values, required=required)

    def define_overrides(self, args: Sequence[str]) -> list[str]:
        """Defines a flag for each override in `args`, and returns the arguments with a value for each override.

        `--config.data.flip` means true and `--noconfig.data.flip` false. The value may also be the next argument,
        as for other flags.
        """
        # absl refuses flags that it does not know, and a config's addresses are known only after its file has run.
        complete, pending = [], list(args)
        while pending:
            arg = pending.pop(0)
            head, equals, _ = arg.lstrip("-").partition("=")
            if not arg.startswith("-") or not head.removeprefix("no").startswith(f"{self.name}."):
                complete.append(arg)
                continue
            off = head.startswith("no")
            head = head.removeprefix("no") if off else head
            if not equals:
                follows = bool(pending) and not pending[0].startswith("-") and not off
                arg = f"--{head}={'false' if off else pending.pop(0) if follows else 'true'}"
            # The same override may be given twice; the last one counts, as for every flag.
            if head not in flags.FLAGS:
                flags.DEFINE_string(head, None, "An override.")
            complete.append(arg)
        return complete

    def is_set(self) -> bool:
        """Whether the command names a file."""
        return flags.FLAGS[self.name].value is not None

    def value(self) -> Any:
        """The result of the file's `get_config`, with the overrides.

        Raises:
          ConfigError: for a file that does not exist or has no `get_config`, an address that names no part, or a
            value of another type.
        """
        text = flags.FLAGS[self.name].value
        if text is None:
            raise ConfigError(f"--{self.name}", text, ACCEPTED)
        return overridden(load(text), dict(self._overrides()))

    def _overrides(self) -> Iterator[tuple[str, str]]:
        for name in flags.FLAGS:
            if name.startswith(f"{self.name}.") and (value := flags.FLAGS[name].value) is not None:
                yield name.removeprefix(f"{self.name}."), value


def overridden(config: Any, overrides: dict[str, str]) -> Any:
    """A config with parts set from text, as flags give it.

    Example:
      >>> from jopt.train import Experiment
      >>> overridden(Experiment(), {"model.features": "(40, 20)", "learning_rate": "1e-2"}).model.features
      (40, 20)
    """
    # Here, as it imports JAX, which the flags need not.
    from jopt import address

    accepted = "a file whose get_config() returns a config of jopt"
    require(is_node(config), "--config", f"get_config() -> {type(config).__name__}", accepted)
    values = {}
    for name, text in overrides.items():
        value, hint = address.parse(text), address.resolve(config, name, text).hint
        # A field of text takes '5' as text: it may be a name.
        is_text = hint is not None and not matches(value, hint, name) and matches(text, hint, name)
        values[name] = text if is_text else value
    config = address.with_values(config, values)
    # Checked after all are set: an override may replace a part that another override is in.
    for name, value in values.items():
        slot = address.resolve(config, name)
        fine = slot.hint is None or matches(address.get(config, name), slot.hint, slot.path)
        require(fine, slot.path, value, f"of type {type_name(slot.hint)}")
    return config


def load(text: str) -> Any:
    """The result of `get_config` of the file in `FILE[:ARGUMENT]`.

    The file is imported as a module, and its directory comes first on the search path of modules, as for a script.
    So a config can import files next to it, and functions and classes in them can be named (`jopt.reference`).

    Raises:
      ConfigError: if there is no such file, or it has no function `get_config`.
    """
    file, colon, argument = text.partition(":")
    path = expanded(file, "--config")
    # Opened first, since an import error would not tell a missing file from a missing module in it.
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError("--config", file, f"{ACCEPTED} ({error.strerror})") from error
    get_config = getattr(_module(path), "get_config", None)
    require(callable(get_config), "--config", file, ACCEPTED)
    assert get_config is not None
    return get_config(argument) if colon else get_config()


def _module(path: Path) -> ModuleType:
    """The file as a module, named by its path from the current directory if that is a name, else by its stem."""
    path = path.resolve()
    if sys.path[:1] != [str(path.parent)]:
        # First, as for a script: her `models.py` is what her config imports, whatever is installed under this name.
        sys.path.insert(0, str(path.parent))
    near = path.with_suffix("").parts[len(Path.cwd().parts) :] if path.is_relative_to(Path.cwd()) else ()
    name = ".".join(near) if near and all(part.isidentifier() for part in near) else path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and Path(loaded.__file__ or "").resolve() != path:
        # Another module has the name. This one gets a name that no import statement in the file can mean.
        name = f"config_file_{name}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    require(spec is not None and spec.loader is not None, "--config", str(path), ACCEPTED)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # Half a module must not be found by a second import of the same file.
        del sys.modules[name]
        raise
    return module
