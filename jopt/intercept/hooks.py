"""One hook for the calls of modules, whatever framework they are from.

Flax Linen has a hook of its own, `flax.linen.intercept_methods`. Modules of NNX and of Equinox are plain objects,
and get one from us: `attach` gives each module of a network a class of its own, derived from the module's class,
whose `__call__` goes through the hooks. It is called on the copy of the network that `jopt.models` makes in each
trace, so the user's own objects never change.
"""

import contextlib
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import jax
from flax import linen as nn

_VARIANT = "_jopt_variant"
_PATH = "_jopt_path"


class ModuleCall(NamedTuple):
    """The `__call__` of a module that runs.

    Attributes:
      module: the module itself.
      path: its path, as in the names of its parameters.
      run: goes on with the call: `run(*args, **kwargs)`.
      kernel: the array that it multiplies its input with; None: it has none, or stands for a layer that was seen.
    """

    module: Any
    path: str
    run: Callable[..., Any]
    kernel: Any


Hook: TypeAlias = Callable[[ModuleCall, tuple[Any, ...], dict[str, Any]], Any]
"""`(call, args, kwargs) -> result`: called in place of each call of a module."""

_HOOKS: ContextVar[tuple[Hook, ...]] = ContextVar("hooks", default=())
_SCOPE: ContextVar[str] = ContextVar("scope", default="")


@contextlib.contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """Within the context each call of a module goes through `hook`; of nested contexts the outer hook comes first.

    Example:
      >>> import jax.numpy as jnp
      >>> def show(call, args, kwargs):
      ...     print(call.path or "the module itself", args[0].shape)
      ...     return call.run(*args, **kwargs)
      >>> with hooked(show):
      ...     _ = nn.Dense(2).init(jax.random.key(0), jnp.ones((1, 3)))
      the module itself (1, 3)
    """

    def linen(
        run: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ) -> Any:
        if context.method_name != "__call__":
            return run(*args, **kwargs)
        module = context.module
        return hook(ModuleCall(module, "/".join(module.path), run, _linen_kernel(module)), args, kwargs)

    token = _HOOKS.set((*_HOOKS.get(), hook))
    try:
        with nn.intercept_methods(linen):
            yield
    finally:
        _HOOKS.reset(token)


def attach(modules: Iterable[tuple[str, Any]]) -> None:
    """Lets calls of these modules, which are no Linen modules, go through the hooks, each in a scope of its name.

    Args:
      modules: pairs of a path and a module. Their classes change, so they must belong to nobody else.
    """
    for path, module in modules:
        cls = type(module)
        if callable(module) and not hasattr(cls, _PATH):
            # Frozen dataclasses, as Equinox has them, refuse a plain assignment.
            object.__setattr__(module, "__class__", _hooked_class(cls, path))


@functools.lru_cache(maxsize=4096)
def _hooked_class(cls: type, path: str) -> type:
    """A class for the module at a path, which is the class's and so survives what copies or splits the module."""
    options = {"pytree": cls._pytree__is_pytree} if hasattr(cls, "_pytree__is_pytree") else {}
    body = {"__call__": _through_hooks(cls), _PATH: path, "__module__": cls.__module__}
    return types.new_class(cls.__name__, (cls,), options, lambda namespace: namespace.update(body))


def _through_hooks(cls: type) -> Callable[..., Any]:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        path, outer = path_of(self), _SCOPE.get()
        token = _SCOPE.set(path)

        def run(*args: Any, **kwargs: Any) -> Any:
            # Linen opens such scopes itself; FLOPs by layer are counted in them.
            with jax.named_scope(path.removeprefix(f"{outer}/") or cls.__name__):
                return cls.__call__(self, *args, **kwargs)

        for hook in reversed(_HOOKS.get()):
            run = functools.partial(_call_hook, hook, self, path, run)
        try:
            return run(*args, **kwargs)
        finally:
            _SCOPE.reset(token)

    return __call__


def _call_hook(hook: Hook, module: Any, path: str, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return hook(ModuleCall(module, path, run, _attribute_kernel(module)), args, kwargs)


def path_of(module: Any) -> str:
    """The path of a module that runs.

    Example:
      >>> from jopt.intercept import replace_layers
      >>> import jax.numpy as jnp
      >>> module = nn.Dense(2)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> replace_layers(module.apply, lambda module, call, x: path_of(module))(variables, jnp.ones((1, 3)))
      ''
    """
    return "/".join(module.path) if isinstance(module, nn.Module) else getattr(type(module), _PATH)


def _linen_kernel(module: nn.Module) -> Any:
    # A variant is what a hook itself runs: to intercept it again would never end.
    if getattr(module, _VARIANT, False) or not module.has_variable("params", "kernel"):
        return None
    return module.get_variable("params", "kernel")


def _attribute_kernel(module: Any) -> Any:
    """The attribute `kernel`, or an Equinox layer's `weight`: a matrix, or more, that makes outputs of inputs."""
    if "kernel" in vars(module):
        return vars(module)["kernel"]
    # `weight` is also the scale of a normalization, and the table of an embedding, which sees no floats.
    makes_outputs = any(name in vars(module) for name in ("out_features", "out_channels"))
    return vars(module).get("weight") if makes_outputs else None


def variant(module: Any, run: Callable[..., Any], attributes: Mapping[str, Any]) -> Callable[..., Any]:
    """The call of a layer with other attributes, on the same parameters; it is not intercepted again.

    Raises:
      TypeError: if it has no such attribute.
    """
    for name in attributes:
        if not hasattr(module, name):
            raise TypeError(f"layer {path_of(module)!r} ({type(module).__name__}) has no attribute {name!r}")
    if not attributes:
        return run
    if not isinstance(module, nn.Module):
        return functools.partial(_with_attributes, module, run, attributes)
    # On the scope itself, so that it has the parameters and the random streams of the layer that it stands for.
    clone = module.clone(parent=module.scope, **attributes)
    # Linen modules are frozen once they run.
    object.__setattr__(clone, _VARIANT, True)
    return clone


def _with_attributes(
    module: Any, run: Callable[..., Any], attributes: Mapping[str, Any], *args: Any, **kwargs: Any
) -> Any:
    values = vars(module)
    before = {name: values[name] for name in attributes if name in values}
    # The dictionary itself: NNX refuses a function where it expects data, and Equinox any assignment.
    values.update(attributes)
    try:
        return run(*args, **kwargs)
    finally:
        for name in attributes.keys() - before.keys():
            del values[name]
        values.update(before)
