"""An Equinox module as two pure functions."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt import intercept
from jopt.models.functional import Model, one_array
from jopt.typing import Batch, Key, ModelState, Params

if TYPE_CHECKING:
    import equinox as eqx

AXIS = "batch"
"""The axis over examples, by the name that `equinox.nn.BatchNorm(axis_name=)` must be given."""


class _Parts(NamedTuple):
    """An Equinox module taken apart.

    Attributes:
      structure: of the module as a tree.
      leaves: of the tree, arrays as their shapes, and everything else as it is.
      paths: of the leaves; None for one that is no array.
      state: the structure of `equinox.nn.State`; None for a module that has none.
      kinds: the classes of its modules, by path.
      takes_key: whether its `__call__` takes `key`.
    """

    structure: Any
    leaves: list[Any]
    paths: list[str | None]
    state: Any
    kinds: dict[str, str]
    takes_key: bool

    def is_trained(self, i: int) -> bool:
        """Whether a leaf is a parameter: a floating or complex array."""
        return self.paths[i] is not None and jnp.issubdtype(self.leaves[i].dtype, jnp.inexact)


def from_equinox(module_or_factory: "eqx.Module | Callable[..., eqx.Module]", *, takes: str = "example") -> Model:
    """An Equinox module as a `Model`.

    Args:
      module_or_factory: a module, whose arrays are what training starts from; or `key -> module`, such as
        `lambda key: equinox.nn.MLP(4, 3, 8, 2, key=key)`.
      takes: 'example' for a module whose `__call__` takes one example, as Equinox's layers do: it is mapped over
        the batch, by the axis name 'batch'. 'batch' for one that takes a batch.

    Returns:
      A `Model`: `params` is a nested dictionary of the module's floating arrays, by the names of its fields
      ('layers/0/weight'); `model_state` one of its other arrays and of what `equinox.nn.BatchNorm` keeps. The
      module runs in `equinox.nn.inference_mode` unless it trains. A `__call__` that takes `key` gets one, in
      training and for each example.

    Raises:
      ImportError: without the extra 'equinox'.
      ValueError: for another `takes`. When the model runs: if the factory gives no Equinox module, if the module
        keeps a state and takes a batch, or gives anything but one array.

    Example:
      >>> import equinox
      >>> model = from_equinox(lambda key: equinox.nn.Linear(4, 3, key=key))
      >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
      >>> jax.tree.map(jnp.shape, params), state
      ({'bias': (3,), 'weight': (3, 4)}, {})
      >>> model.apply(params, state, jnp.ones((2, 4)), train=False)[0].shape
      (2, 3)
    """
    eqx = _equinox()
    if takes not in ("example", "batch"):
        raise ValueError(f"takes must be 'example' or 'batch', got {takes!r}")

    def split(key: Key) -> tuple[Any, Any]:
        """The module without the first value of its state, and that state."""
        is_module = isinstance(module_or_factory, eqx.Module)
        module = module_or_factory if is_module else module_or_factory(key)  # type: ignore[operator]
        if not isinstance(module, eqx.Module):
            raise ValueError(f"the factory must give one Equinox module, got {type(module).__name__}")
        indices = [x for x in jax.tree.leaves(module, is_leaf=_is_index) if _is_index(x)]
        if not indices:
            return module, None
        return eqx.nn.delete_init_state(module), eqx.nn.State(module)

    # Cached, because it never changes and every trace of `apply` needs it.
    @functools.cache
    def parts() -> _Parts:
        module, state = eqx.filter_eval_shape(split, jax.random.key(0))
        flat, structure = jax.tree_util.tree_flatten_with_path(module)
        leaves = [leaf for _, leaf in flat]
        paths = [_name(path) if hasattr(leaf, "dtype") else None for path, leaf in flat]
        kinds = {path: type(part).__name__ for path, part in _modules(module)}
        takes_key = "key" in inspect.signature(type(module).__call__).parameters
        return _Parts(structure, leaves, paths, state and jax.tree.structure(state), kinds, takes_key)

    def init(key: Key, x: Batch) -> tuple[Params, ModelState]:
        del x
        module, state = split(key)
        leaves, p = jax.tree.leaves(module), parts()
        named = [(i, path, leaf) for i, (path, leaf) in enumerate(zip(p.paths, leaves, strict=True)) if path]
        params = _nested((path, jnp.asarray(leaf)) for i, path, leaf in named if p.is_trained(i))
        fixed = _nested((path, jnp.asarray(leaf)) for i, path, leaf in named if not p.is_trained(i))
        kept = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        trees = {"constants": fixed, "state": kept}
        return params, {name: tree for name, tree in trees.items() if tree}

    def apply(
        params: Params, model_state: ModelState, x: Batch, *, train: bool, key: Key | None = None
    ) -> tuple[jax.Array, ModelState]:
        p = parts()
        leaves = list(p.leaves)
        for i, path in enumerate(p.paths):
            if path is not None:
                leaves[i] = _look_up(params if p.is_trained(i) else model_state["constants"], path)
        module = jax.tree.unflatten(p.structure, leaves)
        module = eqx.nn.inference_mode(module, value=not train)
        # This trace's own copy, so its classes may change.
        intercept.attach(_modules(module))
        if p.state is not None and takes == "batch":
            raise ValueError("a module that keeps a state must take one example: equinox.nn.BatchNorm is mapped")
        state = () if p.state is None else (jax.tree.unflatten(p.state, list(_in_order(model_state["state"]))),)
        outputs = _run(module, x, state, key if p.takes_key and train else None, p.takes_key, takes)
        if not state:
            return one_array(outputs), model_state
        if not (isinstance(outputs, tuple) and len(outputs) == 2 and isinstance(outputs[1], eqx.nn.State)):
            raise ValueError("a module that keeps a state must give its output and its new state")
        if train:
            kept = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(outputs[1]))}
            model_state = {**model_state, "state": kept}
        return one_array(outputs[0]), model_state

    return Model(init, apply, kinds=lambda: parts().kinds)


def _equinox() -> Any:
    try:
        import equinox
    except ImportError as error:
        raise ImportError(
            "Equinox modules need the package equinox, not installed here: pip install 'jopt[equinox]'"
        ) from error
    return equinox


def _is_index(x: object) -> bool:
    return isinstance(x, _equinox().nn.StateIndex)


def _run(module: Any, x: Batch, state: tuple, key: Key | None, takes_key: bool, takes: str) -> Any:
    keywords: dict[str, Any] = {"key": key} if takes_key else {}
    if takes == "batch":
        return module(x, **keywords)
    if key is not None:
        keywords["key"] = jax.random.split(key, jax.tree.leaves(x)[0].shape[0])

    def one(x: Any, keys: dict[str, Any]) -> Any:
        return module(x, *state, **keys)

    # The state is the same for all examples, since statistics are taken over the axis.
    return jax.vmap(one, axis_name=AXIS, out_axes=(0, None) if state else 0)(x, keywords)


def _modules(module: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The Equinox modules in a module, itself included, with their paths."""
    if isinstance(module, _equinox().Module):
        yield "/".join(path), module
        inner: Sequence[tuple[Any, Any]] = list(vars(module).items())
    elif isinstance(module, Mapping):
        inner = list(module.items())
    else:
        inner = list(enumerate(module)) if isinstance(module, list | tuple) else []
    for name, value in inner:
        yield from _modules(value, (*path, str(name)))


def _name(path: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def _nested(named: Any) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, leaf in named:
        *outer, name = path.split("/")
        inner = nested
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[name] = leaf
    return nested


def _look_up(tree: Mapping[str, Any], path: str) -> jax.Array:
    return functools.reduce(lambda inner, part: inner[part], path.split("/"), tree)  # type: ignore[return-value]


def _in_order(leaves: Mapping[str, jax.Array]) -> Iterator[jax.Array]:
    return (leaves[str(i)] for i in range(len(leaves)))
