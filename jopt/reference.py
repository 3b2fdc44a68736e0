"""Callables by name: `package.module:name`, from the text to the object and back.

A config is text in a file and a part of a run's identity, so a function in it is written as the place where it can
be imported from. This file is the one place that imports code because a config names it.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeGuard, TypeVar

from jopt.config import ConfigError
from jopt.trust import Trusted, check_module, is_method, is_trusted

C = TypeVar("C")

_PART = r"[A-Za-z_]\w*"
_REFERENCE = re.compile(rf"{_PART}(\.{_PART})*:{_PART}(\.{_PART})*")


def is_reference(text: object) -> TypeGuard[str]:
    """Whether `text` is written as `package.module:name`; nothing is looked up.

    Example:
      >>> is_reference("my_package.optimizers:signed_momentum"), is_reference("adam"), is_reference("cifar10:3.0.2")
      (True, False, False)
    """
    return isinstance(text, str) and _REFERENCE.fullmatch(text) is not None


def resolve(reference: str, field: str, *, trusted: Trusted = True) -> Any:
    """The object that `package.module:name` names.

    Its module is imported, which runs the module's code. Nothing else is evaluated: the name after the colon is
    looked up attribute by attribute.

    Args:
      reference: such as `my_package.optimizers:signed_momentum`, or `module:Class.method`.
      field: the config field that holds it, for the message.
      trusted: False for a foreign config (`jopt.trust`), such as that of a run directory that was downloaded. Then
        only what jopt's packages of methods define is returned (`jopt.trust.METHODS`).

    Returns:
      The object.

    Raises:
      ConfigError: if `reference` is not of that form, its module is missing or fails to import, the module does not
        have the name or lies in a run directory, or `trusted` is False and the object is no method of jopt's.

    Example:
      >>> resolve("jopt.keys:stream", "score").__name__
      'stream'
      >>> resolve("jopt.keys:streem", "score")
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: score must be a name that exists: module 'jopt.keys' has no 'streem', got
      'jopt.keys:streem'
    """
    if not is_reference(reference):
        raise ConfigError(field, reference, "a reference written as 'package.module:name'")
    module_name, _, path = reference.partition(":")
    target: object = _module(module_name, reference, field, trusted)
    for part in path.split("."):
        if not hasattr(target, part):
            owner = f"module {module_name!r}" if isinstance(target, ModuleType) else repr(target)
            hint = ""
            if module_name == "__main__":
                # Written by a script or a notebook, and read by another process, whose main module is another one.
                hint = " (it was defined in a script: move it to a module that can be imported)"
            raise ConfigError(field, reference, f"a name that exists: {owner} has no {part!r}{hint}")
        target = getattr(target, part)
    # A module leads to all that it imports: `jopt.prune.patterns:np.save` is a function of NumPy.
    if is_method(module_name) and trusted is not True:
        _check_trusted(getattr(target, "__module__", None) or type(target).__module__, reference, field, trusted)
    return target


def check_options(options: object, field: str, *, trusted: Trusted) -> None:
    """Raises ConfigError for a reference among the arguments of a function that a foreign config may not name.

    The function may look its arguments up: `jopt.task:Custom`, itself a method of jopt's, calls what it is given.
    Text that is written as a reference is taken for one; nothing of the user's own is imported.

    Args:
      options: a mapping, a tuple or a value.
      field: that holds it.
      trusted: as in `resolve`.

    Example:
      >>> check_options({"reference": "os:abort"}, "task.options", trusted=True)
      >>> check_options({"reference": "os:abort"}, "task.options", trusted=False)
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: task.options.reference must be a reference to a method of jopt's: this config is not
      trusted, and 'os' would run. If you trust it, read it with trusted=True (apps: --trust), got 'os:abort'
    """
    if trusted is True:
        return
    if isinstance(options, Mapping):
        for key, inner in options.items():
            check_options(inner, f"{field}.{key}", trusted=trusted)
    elif isinstance(options, list | tuple):
        for i, inner in enumerate(options):
            check_options(inner, f"{field}[{i}]", trusted=trusted)
    elif is_reference(options):
        module = options.partition(":")[0]
        _check_trusted(module, options, field, trusted)
        if is_method(module):
            resolve(options, field, trusted=trusted)


def _module(name: str, reference: str, field: str, trusted: Trusted) -> ModuleType:
    # Also where it is imported already: a foreign config could name any function of `os`, and jopt would call it.
    _check_trusted(name, reference, field, trusted)
    if name in sys.modules:
        return sys.modules[name]
    check_module(name, field, reference)
    try:
        return importlib.import_module(name)
    # The module is the user's, and can fail in any way while it is imported; the field must be named in each.
    except Exception as error:
        where = ""
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            where = "; looked up next to the config file, in the current directory and among what is installed"
        accepted = f"a reference to a module that can be imported ({type(error).__name__}: {error}{where})"
        raise ConfigError(field, reference, accepted) from error


def _check_trusted(module: str, reference: str, field: str, trusted: Trusted) -> None:
    if not is_trusted(module, trusted):
        accepted = (
            f"a reference to a method of jopt's: this config is not trusted, and {module!r} would run. If you "
            "trust it, read it with trusted=True (apps: --trust)"
        )
        raise ConfigError(field, reference, accepted)


def name_of(target: object, field: str = "callable") -> str:
    """The reference that `resolve` turns back into `target`.

    Args:
      target: a function or a class at the top level of a module, or inside such a class.
      field: the config field that holds it, for the message.

    Returns:
      `package.module:name`.

    Raises:
      ConfigError: for a lambda, a function defined inside another one, a `functools.partial`, and whatever else its
        module does not have under its own name. The message says how to make it addressable.

    Example:
      >>> from jopt import keys
      >>> name_of(keys.stream)
      'jopt.keys:stream'
      >>> name_of(lambda x: x, "score")
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: score must be a function or class that can be imported by its name (define it with
      `def` or `class` at the top level of a module), got <function <lambda> at ...>
    """
    module, path = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    package = ".".join((module or "").split(".")[:2])
    # By the package that exports it, as users write it, so that files outlast a move inside jopt.
    exported = package.startswith("jopt.") and getattr(sys.modules.get(package), path or "", None) is target
    reference = f"{package if exported else module}:{path}"
    if is_reference(reference):
        try:
            same = resolve(reference, field)
        except ConfigError:
            same = None
        # Every access to a bound method makes a new object, so methods are compared by value.
        if same is target or (inspect.ismethod(target) and same == target):
            return reference
    raise ConfigError(
        field, target, f"a function or class that can be imported by its name ({_remedy(target, path)})"
    )


def _remedy(target: object, path: str | None) -> str:
    if path is not None and "<locals>" in path and "<lambda>" not in path:
        return (
            f"move {path.rpartition('.')[2]!r} out of the function that defines it, to the top level of its module"
        )
    if path is None:
        return f"a {type(target).__name__} has no name of its own: define a function with `def` that calls it"
    return "define it with `def` or `class` at the top level of a module"


def call(function: Callable[..., Any], *args: object, **offered: object) -> Any:
    """Calls a user's function with `args`, and with those keywords of `offered` that it has parameters for.

    So a function of one argument can stay one, and a function that needs more says so by its parameters.

    Example:
      >>> call(lambda w: w + 1, 2, layers={}), call(lambda w, layers: len(layers), 2, layers={})
      (3, 0)
    """
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # of some functions that are written in C
        return function(*args)
    return function(*args, **{name: value for name, value in offered.items() if name in parameters})


def reference_of(target: str | Callable[..., Any], field: str = "callable") -> str:
    """A field that holds a reference or the function itself, as a reference.

    Raises:
      ConfigError: for a function that no reference can name.

    Example:
      >>> reference_of("her_package:load"), reference_of(is_reference)
      ('her_package:load', 'jopt.reference:is_reference')
    """
    return target if isinstance(target, str) else name_of(target, field)
