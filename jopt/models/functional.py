"""A model as two pure functions, and how to get them from Flax Linen and Flax NNX."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jopt import keys
from jopt.models.modes import mode_keywords, no_hidden_modes

if TYPE_CHECKING:
    from flax import nnx

    from jopt.layers import Parameter


class Model(NamedTuple):
    """All that training sees of a model: two pure functions.

    Anything can be one: `Model(init, apply)` of two functions, `from_linen(module)`, `from_nnx(factory)`.

    Attributes:
      init: `(key, x) -> (params, model_state)`. `x` is one batch, such as float32 [batch, height, width, channels];
        only its shape and dtype matter. `params` is what is trained, `model_state` what the forward pass itself
        updates, such as batch statistics; each is a pytree, `{}` if there is none.
      apply: `(params, model_state, x, *, train, key=None) -> (logits, new model_state)`. `logits` are float32
        [batch, classes]. `train` is a Python bool: it chooses batch statistics and dropout, and so the program.
        With `train=False` the state comes back as it went in. `key` feeds dropout.
      layers: what the model declares about its parameters, from their paths to `jopt.layers.Parameter`s. What is
        not declared is traced (`jopt.layers.trace`).
      kinds: gives the classes of the layers, from their paths to names, where no Linen module tells.

    Example:
      >>> def init(key, x):
      ...     return {"w": jnp.zeros((x.shape[-1], 2))}, {}
      >>> def apply(params, state, x, *, train, key=None):
      ...     return x @ params["w"], state
      >>> linear = Model(init, apply)
      >>> params, state = linear.init(jax.random.key(0), jnp.ones((4, 3)))
      >>> linear.apply(params, state, jnp.ones((4, 3)), train=True)[0].shape
      (4, 2)
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[jax.Array, Any]]
    layers: "Mapping[str, Parameter] | None" = None
    kinds: Callable[[], Mapping[str, str]] | None = None


def from_linen(module: nn.Module, *, mode: str | None = "auto") -> Model:
    """A Flax Linen module as a `Model`.

    Args:
      module: a module whose `__call__` takes one batch and gives the logits, one array.
      mode: the keyword of its `__call__` that says whether it trains. 'auto' finds `train`, `training`,
        `is_training`, and `deterministic` and `use_running_average`, which are the opposite. For a keyword of
        another name, or in `**kwargs`, give that name. None: the module is the same in training and in evaluation.

    Returns:
      A `Model`: `params` is the collection of that name, `model_state` a dictionary of all the others
      (`batch_stats`), mutable in training only. `key` becomes the random stream `dropout`; streams of other names
      get another key, folded from it.

    Raises:
      ValueError: if it does not take the keyword `mode`. When the model runs: if the module has no keyword for its
        mode, and a layer inside it, such as `Dropout` or `BatchNorm`, has two modes; if it gives anything but one
        array.

    Example:
      >>> model = from_linen(nn.Dense(3))
      >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
      >>> jax.tree.map(jnp.shape, params), state
      ({'bias': (3,), 'kernel': (4, 3)}, {})
    """
    keywords = mode_keywords(type(module), mode)
    hidden = mode == "auto" and not keywords

    def modes(train: bool) -> dict[str, bool]:
        return {name: value if train else not value for name, value in keywords.items()}

    def guard() -> contextlib.AbstractContextManager[None]:
        return no_hidden_modes(type(module)) if hidden else contextlib.nullcontext()

    def init(key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
        start = functools.partial(module.init, **modes(False))
        with guard():
            variables = dict(start(key, x))
        params = variables.pop("params", {})
        return params, variables

    def apply(params: Any, model_state: Any, x: jax.Array, *, train: bool, key: jax.Array | None = None):
        # Flax draws the streams that it is not given from the one called 'params'.
        rngs = None if key is None else {"dropout": key, "params": keys.stream(key, "params")}
        forward = functools.partial(module.apply, {"params": params, **model_state}, x, rngs=rngs, **modes(train))
        with guard():
            if train and model_state:
                logits, updated = forward(mutable=list(model_state))
                return _logits(logits), {**model_state, **updated}
            return _logits(forward()), model_state

    return Model(init, apply)


def from_nnx(factory: "Callable[[nnx.Rngs], nnx.Module]", *, mode: str | None = "auto") -> Model:
    """A Flax NNX module as a `Model`.

    Args:
      factory: `rngs -> module`, such as `lambda rngs: nnx.Linear(4, 3, rngs=rngs)`. The module's `__call__` takes
        one batch and gives the logits, one array; it is put into `train()` or `eval()` mode first.
      mode: as for `from_linen`, where `__call__` takes a keyword as well.

    Returns:
      A `Model`: `params` is a plain nested dictionary of the module's `nnx.Param`s, `model_state` one of all its
      other variables (`nnx.BatchStat`), without `nnx.Intermediate`. Random streams belong to neither: `apply` gives
      every stream a key of its own, folded from `key`, so that the same key gives the same output.

    Raises:
      ValueError: if it does not take the keyword `mode`; when the model runs, if it gives anything but one array.

    Example:
      >>> from flax import nnx
      >>> model = from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
      >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
      >>> jax.tree.map(jnp.shape, params), state
      ({'bias': (3,), 'kernel': (4, 3)}, {})
    """
    from flax import nnx  # a sixth of a second that those who use Linen need not wait for

    @functools.cache
    def skeleton() -> tuple[Any, list[list[tuple]], dict[str, bool]]:
        """The static part, the paths of parameters, random streams and other variables, the mode's keywords."""
        abstract = nnx.eval_shape(lambda: factory(nnx.Rngs(0)))
        graph, *states = nnx.split(abstract, nnx.Param, nnx.RngState, ...)
        paths = [[path for path, _ in nnx.to_flat_state(state)] for state in states]
        return graph, paths, mode_keywords(type(abstract), mode)

    def kinds() -> dict[str, str]:
        module = nnx.eval_shape(lambda: factory(nnx.Rngs(0)))
        return {"/".join(map(str, path)): type(part).__name__ for path, part in nnx.iter_modules(module)}

    def init(key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
        del x
        _, params, _, rest = nnx.split(factory(nnx.Rngs(key)), nnx.Param, nnx.RngState, ...)
        return _to_dict(params), _to_dict(rest)

    def apply(params: Any, model_state: Any, x: jax.Array, *, train: bool, key: jax.Array | None = None):
        graph, (param_paths, rng_paths, rest_paths), keywords = skeleton()
        key = jax.random.key(0) if key is None else key
        flat = {path: _look_up(params, path) for path in param_paths}
        flat |= {path: _look_up(model_state, path) for path in rest_paths}
        for i, path in enumerate(rng_paths):
            flat[path] = jnp.zeros((), jnp.uint32) if path[-1] == "count" else jax.random.fold_in(key, i)
        module = nnx.merge(graph, nnx.from_flat_state(flat))
        if train:
            module.train()
        else:
            module.eval()
        logits = module(x, **{name: value if train else not value for name, value in keywords.items()})
        if train:
            model_state = _to_dict(nnx.split(module, nnx.Param, nnx.RngState, nnx.Intermediate, ...)[4])
        return _logits(logits), model_state

    return Model(init, apply, kinds=kinds)


def _logits(outputs: Any) -> jax.Array:
    if not isinstance(outputs, jax.Array):
        raise ValueError(
            f"the module must give one array, its logits, got a {type(outputs).__name__}; wrap it in a module that "
            "gives the logits alone"
        )
    return outputs.astype(jnp.float32)


def _to_dict(state: Any) -> dict[str, Any]:
    """An NNX state as nested dictionaries of arrays; list indices become strings, so that keys sort and save."""
    from flax import nnx

    out: dict[str, Any] = {}
    for path, variable in nnx.to_flat_state(state):
        inner = out
        for part in path[:-1]:
            inner = inner.setdefault(str(part), {})
        inner[str(path[-1])] = variable[...]
    return out


def _look_up(tree: Any, path: tuple) -> Any:
    return functools.reduce(lambda inner, part: inner[str(part)], path, tree)
