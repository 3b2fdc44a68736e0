"""From a config to one Optax transform."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.hyper import known
from jopt.layers import Layers
from jopt.optim import schedules
from jopt.optim.clipping import adaptive_grad_clip, clip_by_global_norm
from jopt.optim.config import DECOUPLED_NAMES, Config, complete, validate
from jopt.optim.penalties import add_l1, add_weight_decay, proximal_l1
from jopt.optim.plan import plan
from jopt.optim.scaling import scale_by_optimizer
from jopt.rules import named_leaves


def build(
    config: Config, total_steps: Any = None, layers: Layers | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optimizer that a config describes.

    The order, where each part is absent unless the config asks for it:

    1. gradients of frozen parameters become 0, so they count in no norm and no moment;
    2. `accumulate_steps` gradients are averaged into one;
    3. clipping by value, then by global norm, then unit by unit (`jopt.optim.clipping`);
    4. the penalties' gradients: L2 (not for adamw, lion, muon), then `l1`;
    5. the optimizer's own scaling, `jopt.optim.scaling`;
    6. decoupled decay (adamw, lion, muon);
    7. minus the learning rate: base rate x schedule x the parameter's multiplier;
    8. the proximal step of L1, with the same rate;
    9. updates of frozen parameters become 0.

    Moments, norms and arithmetic are float32 whatever the parameters' dtype (float64 if any parameter is), and the
    updates have their parameter's dtype. Rules are resolved where `init` and `update` meet the parameters.

    Args:
      config: the config. Its numbers may be traced; only its structure (names, rules, what is None) is read in
        Python. Its concrete numbers are validated.
      total_steps: the number of gradients (calls of `update`) in the run, where a schedule without `decay_steps`
        ends, after `total_steps // accumulate_steps` parameter updates. May be traced.
      layers: what the model says about its parameters (`jopt.layers.trace`), which Muon reads; None: what their
        names and shapes say.

    Returns:
      A `GradientTransformationExtraArgs` of pure functions. Its state is made of ordinary NamedTuples over trees of
      the parameters' structure, so `optax.tree.map_params` reaches every moment.

    Raises:
      ConfigError: as `validate`; for a schedule without an end.
      RuleError: in `init` and `update`, if a rule matches no parameter.

    Example:
      >>> optimizer = build(Config("sgd", learning_rate=0.5))
      >>> params = {"w": jnp.array([1.0, 2.0])}
      >>> updates, state = optimizer.update({"w": jnp.array([1.0, -1.0])}, optimizer.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [0.5, 2.5]
    """
    # Here, and not in the middle of a trace.
    validate(known(config), "")
    schedules.require_end(config, total_steps)

    def init(params):
        dtype = _compute_dtype(params)
        with jax.numpy_dtype_promotion("standard"):
            return _chain(config, total_steps, params, dtype, layers).init(_cast(params, dtype))

    def update(updates, state, params=None, **extra_args):
        like = updates if params is None else params
        dtype = _compute_dtype(like)
        wide = None if params is None else _cast(params, dtype)
        # Optax's bias correction raises a float to an integer count, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            transform = optax.with_extra_args_support(_chain(config, total_steps, like, dtype, layers))
            updates, state = transform.update(_cast(updates, dtype), state, wide, **extra_args)
        return jax.tree.map(lambda u, p: u.astype(p.dtype), updates, like), state

    return optax.GradientTransformationExtraArgs(init, update)


def _chain(
    config: Config, total_steps: Any, params: Any, dtype: Any, layers: Layers | None
) -> optax.GradientTransformation:
    c = complete(config, dtype)
    # `optax.tree.map_params` calls `init` with a placeholder that has no leaves, for which no rule could match.
    plans = plan(config, params) if jax.tree.leaves(params) else []
    structure = jax.tree.structure(params)
    rates, decays, frozen = (
        jax.tree.unflatten(structure, column)
        for column in (
            [p.learning_rate for p in plans],
            # A penalty's gradient must not reach the moments of a frozen parameter.
            [0.0 if p.frozen else p.weight_decay for p in plans],
            [p.frozen for p in plans],
        )
    )
    end = total_steps
    if total_steps is not None and c.accumulate_steps is not None:
        end = jnp.maximum(total_steps // jnp.asarray(c.accumulate_steps), 1)

    def rate(count):
        return c.learning_rate * schedules.multiplier(c, count, end, dtype)

    parts = []
    if c.clip_by_value is not None:
        parts.append(optax.clip(c.clip_by_value))
    if c.clip_by_global_norm is not None:
        parts.append(clip_by_global_norm(c.clip_by_global_norm))
    if c.adaptive_clip is not None:
        parts.append(adaptive_grad_clip(c.adaptive_clip, layers))
    decoupled = c.name in DECOUPLED_NAMES
    if c.weight_decay is not None and not decoupled:
        parts.append(add_weight_decay(c.weight_decay, decays))
    if c.l1 is not None:
        parts.append(add_l1(c.l1, decays))
    parts.append(scale_by_optimizer(c, layers))
    if c.weight_decay is not None and decoupled:
        parts.append(add_weight_decay(c.weight_decay, decays))
    if c.learning_rate_rules:
        parts.append(_scale_leaves(rates))
    parts.append(optax.scale_by_schedule(lambda count: -rate(count)))
    if c.proximal_l1 is not None:
        parts.append(proximal_l1(c.proximal_l1, rate, rates, decays))
    transform = optax.chain(*parts)
    if c.accumulate_steps is not None:
        transform = _accumulate(transform, c.accumulate_steps, dtype)
    if c.freeze:
        transform = optax.chain(_zero(frozen), transform, _zero(frozen))
    return transform


def _accumulate(inner: optax.GradientTransformation, steps: Any, dtype: Any) -> optax.GradientTransformation:
    k = jnp.asarray(steps).astype(jnp.int32)
    wrapper: Any = optax.MultiSteps(inner, lambda count: k, accumulator_dtype=dtype)
    return optax.GradientTransformationExtraArgs(wrapper.init, wrapper.update)


def _scale_leaves(multipliers: Any) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: jax.tree.map(lambda u, m: u * m, updates, multipliers))


def _zero(frozen: Any) -> optax.GradientTransformation:
    def zero(updates, params):
        del params
        return jax.tree.map(lambda u, f: jnp.zeros_like(u) if f else u, updates, frozen)

    return optax.stateless(zero)


def _compute_dtype(tree: Any) -> Any:
    for path, leaf in named_leaves(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"parameter {path!r} must be a floating array, got {leaf.dtype}")
    return jnp.float64 if any(x.dtype == jnp.float64 for x in jax.tree.leaves(tree)) else jnp.float32


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), tree)
