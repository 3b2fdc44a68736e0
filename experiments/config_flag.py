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

from jopt import address
from jopt.config import ConfigError, is_node, matches, require, type_name

ACCEPTED = "a Python file with a function get_config, and, after a colon, its argument"


@dataclasses.dataclass(frozen=True)
class ConfigFlag:
    """A flag that names a config file, and the flags that override parts of its config.

    Attributes:
      name: of the flag.
    """

    name: str = "config"

    def define(self) -> "ConfigFlag":
        """Defines the flag."""
        text = f"File that defines get_config(). --{self.name}.ADDRESS=VALUE overrides a part of what it returns."
        flags.DEFINE_string(self.name, None, text)
        return self

    def define_overrides(self, args: Sequence[str]) -> list[str]:
        """Defines a flag for each override in `args`, and gives the arguments with a value for each.

        `--config.data.flip` stands for true, `--noconfig.data.flip` for false, and a value may follow as an
        argument of its own, as for other flags.
        """
        given, left = [], list(args)
        while left:
            arg = left.pop(0)
            head, equals, _ = arg.lstrip("-").partition("=")
            if not arg.startswith("-") or not head.removeprefix("no").startswith(f"{self.name}."):
                given.append(arg)
                continue
            off = head.startswith("no")
            head = head.removeprefix("no") if off else head
            if not equals:
                follows = bool(left) and not left[0].startswith("-") and not off
                arg = f"--{head}={'false' if off else left.pop(0) if follows else 'true'}"
            if head not in flags.FLAGS:
                flags.DEFINE_string(head, None, "An override.")
            given.append(arg)
        return given

    def value(self) -> Any:
        """What the file's `get_config` returns, with the overrides.

        Raises:
          ConfigError: for a file that is not there or has no `get_config`, an address that names no part, or a
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
    """A config with parts set from text.

    Example:
      >>> from jopt.train import Experiment
      >>> overridden(Experiment(), {"model.features": "(40, 20)", "learning_rate": "1e-2"}).model.features
      (40, 20)
    """
    accepted = "a file whose get_config() returns a config of jopt"
    require(is_node(config), "--config", f"get_config() -> {type(config).__name__}", accepted)
    values = {}
    for name, text in overrides.items():
        value, hint = address.parse(text), address.resolve(config, name, text).hint
        # '5' may be the name of something.
        values[name] = text if hint is not None and not matches(value, hint) and matches(text, hint) else value
    config = address.with_values(config, values)
    for name, value in values.items():
        slot = address.resolve(config, name)
        fine = slot.hint is None or matches(address.get(config, name), slot.hint)
        require(fine, slot.path, value, f"of type {type_name(slot.hint)}")
    return config


def load(text: str) -> Any:
    """What `get_config` of the file in `FILE[:ARGUMENT]` returns.

    The file is imported as a module, and its directory is one of those that modules are looked for in, as for a
    script: so a config can use what lies beside it, and functions and classes in it have a name
    (`jopt.reference`).

    Raises:
      ConfigError: if there is no such file, or it has no function `get_config`.
    """
    file, colon, argument = text.partition(":")
    path = Path(file)
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
    """The file as a module: by its path from here where that is a module's name, else by its own name."""
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    near = path.with_suffix("").parts[len(Path.cwd().parts) :] if path.is_relative_to(Path.cwd()) else ()
    name = ".".join(near) if near and all(part.isidentifier() for part in near) else path.stem
    known = sys.modules.get(name)
    if known is not None and Path(known.__file__ or "").resolve() != path:
        # A name that is taken: the module gets one that no import statement finds.
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
        del sys.modules[name]
        raise
    return module
