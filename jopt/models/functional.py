"""A model as two pure functions: made of Flax Linen and NNX modules, and checked before anything compiles."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import FlaxError
from jaxtyping import PyTree

from jopt import intercept, keys
from jopt.models import sown
from jopt.rules import named_leaves
from jopt.typing import Key, ModelState, Params

if TYPE_CHECKING:
    from flax import nnx

    from jopt.layers import Parameter


class Model(NamedTuple):
    """All that training sees of a model: two pure functions.

    Anything can be one: `Model(init, apply)` of two functions, `from_linen(module)`, `from_nnx(factory)`,
    `from_equinox(module)`; `from_any` finds out which.

    Attributes:
      init: `(key, x) -> (params, model_state)`. `x` is one batch, such as float32 [batch, height, width, channels]
        or int32 tokens [batch, length], or a pytree of such arrays; only shapes and dtypes matter. `params` is what
        is trained, `model_state` what the forward pass itself updates, such as batch statistics; each is a pytree,
        `{}` if there is none.
      apply: `(params, model_state, x, *, train, key=None) -> (logits, new model_state)`. `logits` are float32
        [batch, classes], or [batch, ...] as the task wants them. `train` is a Python bool: it chooses batch
        statistics and dropout, and so the program. With `train=False` the state comes back as it went in. `key`
        feeds dropout. What training leaves under `model_state['losses']` is added to the loss.
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

    init: Callable[..., tuple[Params, ModelState]]
    apply: Callable[..., tuple[jax.Array, ModelState]]
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
      (`batch_stats`), mutable in training only; what is sown into `losses` is added to the loss. `key` becomes the
      random stream `dropout`; streams of other names get another key, folded from it.

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

    def init(key: Key, x: jax.Array) -> tuple[Params, ModelState]:
        start = functools.partial(module.init, **modes(False))
        with guard():
            variables = dict(start(key, x))
        params = variables.pop("params", {})
        if sown.LOSSES in variables:
            variables[sown.LOSSES] = jax.tree.map(jnp.zeros_like, sown.summed(variables[sown.LOSSES]))
        return params, variables

    def apply(
        params: Params, model_state: ModelState, x: jax.Array, *, train: bool, key: Key | None = None
    ) -> tuple[jax.Array, ModelState]:
        # Flax draws the streams that it is not given from the one called 'params'.
        rngs = None if key is None else {"dropout": key, "params": keys.stream(key, "params")}
        # Without the losses of the last step, to which those of this one would be appended.
        collections = {name: value for name, value in model_state.items() if name != sown.LOSSES}
        forward = functools.partial(module.apply, {"params": params, **collections}, x, rngs=rngs, **modes(train))
        with guard():
            # Mutable only in training: an evaluation that changed batch statistics would depend on its order.
            if train:
                logits, updated = forward(mutable=[*collections, sown.LOSSES])
                if sown.LOSSES in updated:
                    updated = {**updated, sown.LOSSES: sown.summed(updated[sown.LOSSES])}
                return one_array(logits), {**model_state, **updated}
            return one_array(forward()), model_state

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

    # Cached, because these never change and every trace of `apply` needs them.
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

    def init(key: Key, x: jax.Array) -> tuple[Params, ModelState]:
        _, params, _, state = nnx.split(factory(nnx.Rngs(key)), nnx.Param, nnx.RngState, ...)
        params, state = _to_dict(params), _to_dict(state)
        # What a module sows is known only when it runs; the state must have its place from the start.
        after = jax.eval_shape(functools.partial(apply, train=True), params, state, x)[1]
        losses = {k: v for k, v in after.items() if k == sown.LOSSES and k not in state}
        return params, state | jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), losses)

    def apply(
        params: Params, model_state: ModelState, x: jax.Array, *, train: bool, key: Key | None = None
    ) -> tuple[jax.Array, ModelState]:
        graph, (param_paths, rng_paths, state_paths), keywords = skeleton()
        key = jax.random.key(0) if key is None else key
        flat = {path: _look_up(params, path) for path in param_paths}
        flat |= {path: _look_up(model_state, path) for path in state_paths}
        # Each stream starts at count 0 with a key of its own, so
        # that what is drawn depends on `key` and nothing else.
        for i, path in enumerate(rng_paths):
            flat[path] = jnp.zeros((), jnp.uint32) if path[-1] == "count" else jax.random.fold_in(key, i)
        module = nnx.merge(graph, nnx.from_flat_state(flat))
        # This trace's own copy, so its classes may change.
        intercept.attach(("/".join(map(str, path)), part) for path, part in nnx.iter_modules(module))
        if train:
            module.train()
        else:
            module.eval()
        modes = {name: value if train else not value for name, value in keywords.items()}
        # Before it had `capture`, NNX kept what is sown in the module.
        capture = getattr(nnx, "capture", None)
        logits, captured = capture(module, nnx.Intermediate)(x, **modes) if capture else (module(x, **modes), None)
        if train:
            _, _, _, inside, state = nnx.split(module, nnx.Param, nnx.RngState, nnx.Intermediate, ...)
            losses = [
                item
                for item in nnx.to_flat_state(inside if captured is None else captured)
                if item[0][-1] == sown.LOSSES
            ]
            model_state = _to_dict(state)
            if losses:
                values = {"/".join(map(str, path[:-1])) or "network": v.get_value() for path, v in losses}
                model_state[sown.LOSSES] = sown.summed(values)
        return one_array(logits), model_state

    return Model(init, apply, kinds=kinds)


def one_array(outputs: object) -> jax.Array:
    """The outputs of a network as float32, if they are one array.

    Raises:
      ValueError: if they are anything else.
    """
    if not isinstance(outputs, jax.Array):
        raise ValueError(
            f"the module must give one array, its logits, got a {type(outputs).__name__}; wrap it in a module "
            "that gives the logits alone"
        )
    # A model may compute in bfloat16, but a loss over logits of 8 bits would lose most of its digits.
    return outputs.astype(jnp.float32)


def _to_dict(state: PyTree) -> dict[str, Any]:
    """An NNX state as nested dictionaries of arrays; list indices become strings, so that keys sort and save."""
    from flax import nnx

    nested: dict[str, Any] = {}
    for path, variable in nnx.to_flat_state(state):
        inner = nested
        for part in path[:-1]:
            inner = inner.setdefault(str(part), {})
        inner[str(path[-1])] = variable[...]
    return nested


def _look_up(tree: PyTree, path: tuple) -> jax.Array:
    return functools.reduce(lambda inner, part: inner[str(part)], path, tree)


MODES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}
"""The keywords that choose the mode, and their value in training."""


def mode_keywords(module_class: type, mode: str | None) -> dict[str, bool]:
    """The keywords that `module_class.__call__` takes for its mode, and their values in training.

    Args:
      module_class: a class of Linen or NNX modules.
      mode: 'auto' for those of `MODES` that it takes by name; the name of its keyword; None for none.

    Raises:
      ValueError: if it does not take the keyword that `mode` names.

    Example:
      >>> mode_keywords(nn.Dropout, "auto"), mode_keywords(nn.Dense, "auto")
      ({'deterministic': False}, {})
    """
    # The class is asked, not an instance: a module may be built only when the model is initialized.
    parameters = inspect.signature(module_class.__call__).parameters
    if mode is None:
        return {}
    if mode == "auto":
        return {name: value for name, value in MODES.items() if name in parameters}
    if mode not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        takes = ", ".join(name for name in parameters if name != "self")
        raise ValueError(
            f"mode must be 'auto', None or a keyword of {module_class.__name__}.__call__ ({takes}), got {mode!r}"
        )
    return {mode: MODES.get(mode, True)}


@contextlib.contextmanager
def no_hidden_modes(module_class: type) -> Iterator[None]:
    """Raises ValueError where a Linen layer runs that has two modes, inside a module without a keyword for them."""

    # Found while the model runs, because only then are all its submodules known.
    def intercept(
        call: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext
    ) -> Any:
        if context.method_name == "__call__" and _has_modes(context.module):
            layer = "/".join(context.module.path) or "it"
            raise ValueError(
                f"{layer} ({type(context.module).__name__}) differs between training and evaluation, but "
                f"{module_class.__name__}.__call__ takes none of {', '.join(MODES)} by name: from_linen(module, "
                "mode='...') names its keyword, and mode=None says that the layer stays as it is"
            )
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def _has_modes(layer: nn.Module) -> bool:
    # Dropout with a rate of 0 does the same in both modes, and is often left in a network that way.
    rates = [getattr(layer, name, None) for name in ("rate", "dropout_rate")]
    if any(isinstance(rate, int | float) and rate == 0 for rate in rates):
        return False
    return bool(mode_keywords(type(layer), "auto"))


def check(model: Model, x: PyTree) -> jax.ShapeDtypeStruct:
    """Checks what a model gives in training and evaluation, by shapes alone: nothing is computed or compiled.

    Args:
      model: any model: `from_linen`, `from_nnx` or a pair of functions.
      x: one batch [batch, ...], or a pytree of such arrays; or their `jax.ShapeDtypeStruct`s.

    Returns:
      The shape and dtype of its logits.

    Raises:
      ValueError: unless `init` and `apply` give pairs, `apply` one floating array [batch, ...] of the same shape in
        both modes, and a state of the structure, shapes and dtypes of the one that `init` gave. Errors of the
        model itself come through as they are, those of Flax with the mode in which they appeared.

    Example:
      >>> def init(key, x):
      ...     return {"w": jnp.zeros((x.shape[-1], 2))}, {}
      >>> def apply(params, state, x, *, train, key=None):
      ...     return x @ params["w"], state
      >>> check(Model(init, apply), jnp.ones((4, 3)))
      ShapeDtypeStruct(shape=(4, 2), dtype=float32)
      >>> check(Model(init, lambda *args, **kwargs: (apply(*args, **kwargs), {})), jnp.ones((4, 3)))
      Traceback (most recent call last):
      ...
      ValueError: with train=True the model must give one floating array of logits for its 4 examples, got a tuple
    """
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), a.dtype), x)

    def start(seed: jax.Array, x: jax.Array) -> tuple[Params, ModelState]:
        return _pair("init", "(params, model_state)", model.init(keys.root(seed), x))

    def run(seed: jax.Array, x: jax.Array, *, train: bool) -> tuple[PyTree, ModelState]:
        params, state = start(seed, x)
        key = keys.stream(keys.root(seed), "dropout") if train else None
        return _pair("apply", "(logits, model_state)", model.apply(params, state, x, train=train, key=key))

    # A seed, from which the key is made inside of the trace: a key's dtype depends on its generator.
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    params, state = jax.eval_shape(start, seed, x)
    _plain("params", params)
    _plain("model_state", state)
    shapes = []
    for train in (True, False):
        try:
            logits, new = jax.eval_shape(lambda seed, x, train=train: run(seed, x, train=train), seed, x)
        except FlaxError as error:
            raise ValueError(f"with train={train}: {error}") from error
        shapes.append(_one_array(logits, x, train))
        _same_state(state, new, train)
    if shapes[0] != shapes[1]:
        raise ValueError(f"the logits have shape {shapes[0].shape} with train=True and {shapes[1].shape} without")
    return shapes[1]


def _pair(function: str, names: str, result: object) -> tuple[PyTree, ModelState]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"{function} must give a pair, {names}, got {type(result).__name__}")
    return result


def _plain(name: str, tree: PyTree, path: str = "") -> None:
    """Raises ValueError unless a tree is made of dictionaries, lists and tuples: files have no other containers."""
    if isinstance(tree, Mapping | list | tuple):
        for key, inner in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            _plain(name, inner, f"{path}/{key}".lstrip("/"))
    elif tree is not None and not isinstance(tree, jax.ShapeDtypeStruct):
        raise ValueError(
            f"init must give {name} as a nested dictionary of arrays, got a {type(tree).__name__} at {path!r} "
            "(jopt.models.from_equinox makes a model of an Equinox module)"
        )


def _one_array(logits: object, x: PyTree, train: bool) -> jax.ShapeDtypeStruct:
    examples = jax.tree.leaves(x)[0].shape[0]
    accepted = f"with train={train} the model must give one floating array of logits for its {examples} examples"
    if not isinstance(logits, jax.ShapeDtypeStruct):
        raise ValueError(f"{accepted}, got a {type(logits).__name__}")
    if logits.shape[:1] != (examples,) or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"{accepted}, got {logits.dtype}{list(logits.shape)}")
    return logits


def _same_state(before: ModelState, after: ModelState, train: bool) -> None:
    # A state that grew or changed its dtype could not be carried through `lax.scan`, whose message names no model.
    old, new = dict(named_leaves(before)), dict(named_leaves(after))
    if jax.tree.structure(before) != jax.tree.structure(after):
        gets, loses = sorted(new.keys() - old), sorted(old.keys() - new)
        changes = [f"{verb} {', '.join(names)}" for verb, names in (("gets", gets), ("loses", loses)) if names]
        difference = " and ".join(changes) or "gets other containers"
        # The usual reason in Flax: a sown tuple grows with each call.
        hint = "; values that are sown belong in 'intermediates', which is not part of it" if gets else ""
        if any(sown.LOSSES in name.split("/") for name in [*gets, *loses]):
            hint = "; losses must be sown in both modes, so that the state has a place for them from the start"
        raise ValueError(
            f"with train={train} the model's state {difference}: it must keep the structure that init gave it{hint}"
        )
    for name, leaf in old.items():
        kinds = [f"{a.dtype}{list(a.shape)}" for a in (leaf, new[name])]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"with train={train} the model's state {name} becomes {kinds[1]}: init gave {kinds[0]}"
            )
