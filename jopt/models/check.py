"""Whether a model keeps to the contract of `Model`, before anything compiles."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from jopt import keys
from jopt.models.functional import Model
from jopt.rules import named_leaves


def check(model: Model, x: Any) -> jax.ShapeDtypeStruct:
    """Checks what a model gives in training and evaluation, by shapes alone: nothing is computed or compiled.

    Args:
      model: any model: `from_linen`, `from_nnx` or a pair of functions.
      x: one batch [batch, ...], or its `jax.ShapeDtypeStruct`.

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
      >>> check(Model(init, lambda *args, **more: (apply(*args, **more), {})), jnp.ones((4, 3)))
      Traceback (most recent call last):
      ...
      ValueError: with train=True the model must give one floating array of logits for its 4 examples, got a tuple
    """
    x = jax.ShapeDtypeStruct(jnp.shape(x), x.dtype)

    def start(seed: jax.Array, x: jax.Array) -> Any:
        return _pair("init", "(params, model_state)", model.init(keys.root(seed), x))

    def run(seed: jax.Array, x: jax.Array, *, train: bool) -> Any:
        params, state = start(seed, x)
        key = keys.stream(keys.root(seed), "dropout") if train else None
        return _pair("apply", "(logits, model_state)", model.apply(params, state, x, train=train, key=key))

    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    _, state = jax.eval_shape(start, seed, x)
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


def _pair(function: str, what: str, given: Any) -> Any:
    if not isinstance(given, tuple) or len(given) != 2:
        raise ValueError(f"{function} must give a pair, {what}, got {type(given).__name__}")
    return given


def _one_array(logits: Any, x: jax.ShapeDtypeStruct, train: bool) -> jax.ShapeDtypeStruct:
    accepted = f"with train={train} the model must give one floating array of logits for its {x.shape[0]} examples"
    if not isinstance(logits, jax.ShapeDtypeStruct):
        raise ValueError(f"{accepted}, got a {type(logits).__name__}")
    if logits.shape[:1] != x.shape[:1] or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"{accepted}, got {logits.dtype}{list(logits.shape)}")
    return logits


def _same_state(before: Any, after: Any, train: bool) -> None:
    old, new = dict(named_leaves(before)), dict(named_leaves(after))
    if jax.tree.structure(before) != jax.tree.structure(after):
        gets, loses = sorted(new.keys() - old), sorted(old.keys() - new)
        changes = [f"{verb} {', '.join(names)}" for verb, names in (("gets", gets), ("loses", loses)) if names]
        what = " and ".join(changes) or "gets other containers"
        # The usual reason in Flax: a sown tuple grows with each call.
        hint = "; values that are sown belong in 'intermediates', which is not part of it" if gets else ""
        raise ValueError(
            f"with train={train} the model's state {what}: it must keep the structure that init gave it{hint}"
        )
    for name, leaf in old.items():
        kinds = [f"{a.dtype}{list(a.shape)}" for a in (leaf, new[name])]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"with train={train} the model's state {name} becomes {kinds[1]}: init gave {kinds[0]}"
            )
