"""References: objects named as `package.module:name`, in configs, on the command line and in files."""

import importlib
import sys
from typing import Any

from jopt.config import ConfigError

_ACCEPTED = "'package.module:name', which names a function or a class at the top of a module"


def is_reference(value: Any) -> bool:
    """Whether a value has the form of a reference.

    Example:
      >>> is_reference("my_package.scores:taylor"), is_reference("magnitude")
      (True, False)
    """
    if not isinstance(value, str):
        return False
    module, colon, name = value.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def resolve(reference: str, field: str, *, trusted: bool = True) -> Any:
    """The object that a reference names. Its module is imported, and so run.

    Args:
      reference: 'package.module:name'.
      field: what holds it, for messages.
      trusted: False resolves only names in `jopt` and in modules that are imported already, so that a config that
        somebody else wrote runs no code.

    Raises:
      ConfigError: if there is no such module or name, or it may not be imported.

    Example:
      >>> resolve("jopt.prune.scores:magnitude", "score").__name__
      'magnitude'
    """
    if not is_reference(reference):
        raise ConfigError(field, reference, _ACCEPTED)
    module, _, name = reference.partition(":")
    if not trusted and module not in sys.modules and module.split(".")[0] != "jopt":
        accepted = f"in a module that is imported already: import {module} first, if you trust it"
        raise ConfigError(field, reference, accepted)
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(field, reference, f"{_ACCEPTED} ({error})") from error
    return value


def name_of(value: Any, field: str = "the object") -> str:
    """The reference that resolves to this very object; shortest for names that `jopt`'s packages export.

    Raises:
      ConfigError: for what no reference can name: a lambda, a function inside a function, an instance.

    Example:
      >>> from jopt.prune.scores import magnitude
      >>> name_of(magnitude)
      'jopt.prune:magnitude'
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module and name:
        package = ".".join(module.split(".")[:2])
        homes = (package, module) if module.startswith("jopt.") else (module,)
        for home in homes:
            found: Any = sys.modules.get(home)
            for part in name.split("."):
                found = getattr(found, part, None)
            if found is value:
                return f"{home}:{name}"
    raise ConfigError(field, value, "a function or a class at the top of a module that can be imported")
