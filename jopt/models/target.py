"""A model of whatever somebody has: a class of modules, a module, or a function that makes one."""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from jopt.models.equinox import from_equinox
from jopt.models.functional import Model, from_linen, from_nnx
from jopt.typing import Batch, Key, ModelState, Params

ACCEPTED = (
    "a class of Linen, NNX or Equinox modules, or a function that gives a module, a jopt.models.Model or a pair of "
    "functions (init, apply)"
)


def from_functions(init: Callable[..., Any], apply: Callable[..., Any]) -> Model:
    """Two functions as a `Model`, with the arguments that they take.

    Args:
      init: `(key, x)` or `(key)` to the parameters; to `(params, model_state)` where `apply` takes a state.
      apply: `(params, x)` to the outputs; or `(params, model_state, x)` to `(outputs, new model_state)`. `train`
        and `key` are given if it takes them by name.

    Raises:
      ValueError: if `apply` takes neither two nor three arguments by position.

    Example:
      >>> import jax.numpy as jnp
      >>> model = from_functions(lambda key: {"w": jnp.ones((3, 2))}, lambda params, x: x @ params["w"])
      >>> params, state = model.init(jax.random.key(0), jnp.ones((4, 3)))
      >>> model.apply(params, state, jnp.ones((4, 3)), train=True)[0].shape
      (4, 2)
    """
    required, keywords = _positional(apply), _keywords(apply, ("train", "key"))
    if required not in (2, 3):
        raise ValueError(
            f"apply must take (params, x), or (params, model_state, x), by position, got {_signature(apply)}"
        )
    with_x = _positional(init) > 1

    def start(key: Key, x: Batch) -> tuple[Params, ModelState]:
        result = init(key, x) if with_x else init(key)
        return result if required == 3 else (result, {})

    def run(
        params: Params, model_state: ModelState, x: Batch, *, train: bool, key: Key | None = None
    ) -> tuple[jax.Array, ModelState]:
        options = {name: value for name, value in (("train", train), ("key", key)) if name in keywords}
        if required == 3:
            return apply(params, model_state, x, **options)
        return apply(params, x, **options), model_state

    return Model(start, run)


def from_any(target: Any, options: Mapping[str, Any] | None = None, *, mode: str | None = "auto") -> Model:
    """A model of a class of modules, a module, or a function that gives one.

    | `target` | the model |
    |---|---|
    | a class of Linen modules | `from_linen(target(**options))` |
    | a class of NNX modules | `from_nnx(lambda rngs: target(**options, rngs=rngs))` |
    | a function that takes `rngs` | the same |
    | a class of Equinox modules | `from_equinox(lambda key: target(**options, key=key))` |
    | a function that takes `key` | the same |
    | another function | of what `target(**options)` gives: a `Model`, a module, or a pair `(init, apply)` |
    | a `Model`, a module, or such a pair | itself; there are no options |

    Args:
      target: what it is made of.
      options: the arguments, by name.
      mode: as for `from_linen`.

    Raises:
      ValueError: in one sentence: for a target that is none of these, an option that it does not take (naming those
        that it takes), and one that it needs.

    Example:
      >>> from_any(nn.Dense, {"features": 3}).init(jax.random.key(0), jax.numpy.ones((2, 4)))[0]["kernel"].shape
      (4, 3)
      >>> from_any(nn.Dense, {"feature": 3})
      Traceback (most recent call last):
      ...
      ValueError: Dense takes no option 'feature'; it takes: features, use_bias, dtype, ...
    """
    options = dict(options or {})
    if not isinstance(target, type) and (model := _of_value(target, mode)) is not None:
        if options:
            raise ValueError(f"{_name(target)} is made already and takes no options, got {', '.join(options)}")
        return model
    if _is(target, nn.Module):
        _check(target, options, dataclass_fields=True)
        return from_linen(target(**options), mode=mode)
    if not callable(target) or (isinstance(target, type) and not _is_module(target)):
        raise ValueError(f"{_name(target)} must be {ACCEPTED}, got {type(target).__name__}")
    given = next((name for name in ("rngs", "key") if name in _named(target)), None)
    _check(target, options, without=given)

    def build(source: Any) -> Any:
        return target(**options, **({} if given is None else {given: source}))

    if _is(target, *_classes("flax.nnx")) or (given == "rngs" and not _is_module(target)):
        return from_nnx(build, mode=mode)
    if given == "key" or _is_module(target):
        return from_equinox(build)
    result = target(**options)
    model = _of_value(result, mode)
    if model is None:
        raise ValueError(
            f"{_name(target)} must give a module, a Model or a pair (init, apply), got {_kind(result)}"
        )
    return model


def _of_value(value: Any, mode: str | None) -> Model | None:
    """The model of something that is made; None for anything else."""
    if isinstance(value, Model):
        return value
    if isinstance(value, nn.Module):
        return from_linen(value, mode=mode)
    if isinstance(value, _classes("equinox")):
        return from_equinox(value)
    if isinstance(value, _classes("flax.nnx")):
        return from_nnx(lambda rngs: value, mode=mode)
    if isinstance(value, tuple) and len(value) == 2 and all(map(callable, value)):
        return from_functions(*value)
    return None


def _classes(module: str) -> tuple[type, ...]:
    """The class of a framework's modules. One that nobody imported has none that could be met."""
    loaded = sys.modules.get(module)
    return () if loaded is None else (loaded.Module,)


def _is(target: object, *classes: type) -> bool:
    return isinstance(target, type) and issubclass(target, classes)


def _is_module(target: object) -> bool:
    return _is(target, *_classes("flax.nnx"), *_classes("equinox"))


def _check(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    without: str | None = None,
    dataclass_fields: bool = False,
) -> None:
    """Raises ValueError for options that the target does not take, and without those that it needs."""
    parameters = {name: p for name, p in _named(target).items() if name != without}
    if dataclass_fields:  # Linen's own fields are not the network's.
        parameters = {name: p for name, p in parameters.items() if name not in ("parent", "name")}
    takes = ", ".join(parameters) or "none"
    catch_all = any(p.kind is p.VAR_KEYWORD for p in _parameters(target).values())
    for name in options:
        if name == without:
            raise ValueError(f"{_name(target)} gets its {name!r} from the run's seed: it is no option")
        if name not in parameters and not catch_all:
            raise ValueError(f"{_name(target)} takes no option {name!r}; it takes: {takes}")
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in options]
    if missing:
        raise ValueError(f"{_name(target)} needs the option{'s' * (len(missing) > 1)} {', '.join(missing)}")


def _parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    if not isinstance(target, type):
        return inspect.signature(target).parameters
    # The class itself says nothing where a metaclass makes the objects, as that of NNX does.
    return dict(list(inspect.signature(target.__init__).parameters.items())[1:])


def _named(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by name."""
    parameters = _parameters(target)
    return {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _positional(function: Callable[..., Any]) -> int:
    """How many arguments it needs by position."""
    parameters = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _keywords(function: Callable[..., Any], names: tuple[str, ...]) -> set[str]:
    parameters = inspect.signature(function).parameters
    catch_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name for name in names if catch_all or name in parameters}


def _signature(function: Callable[..., Any]) -> str:
    return f"{_name(function)}{inspect.signature(function)}"


def _name(target: object) -> str:
    return getattr(target, "__name__", type(target).__name__)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" if not isinstance(value, type) else f"the class {value.__name__}"
