"""From a config to what its rules give each parameter, and to one Optax transform."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import PyTree

from jopt import rules
from jopt.config import leaves
from jopt.hyper import known
from jopt.layers import Layers
from jopt.optim import schedules
from jopt.optim.config import Config, complete, decouples, validate
from jopt.optim.gradients import (
    Multipliers,
    adaptive_grad_clip,
    add_l1,
    add_weight_decay,
    clip_by_global_norm,
    proximal_l1,
)
from jopt.optim.scaling import scale_by_optimizer
from jopt.rules import named_leaves
from jopt.typing import Number, OptState, Params, Updates

V = TypeVar("V")


class ParameterPlan(NamedTuple):
    """What one parameter gets from a config's rules."""

    path: str
    shape: tuple[int, ...]
    learning_rate: float  # multiplier of the learning rate.
    weight_decay: float  # multiplier of weight_decay, l1 and proximal_l1.
    frozen: bool


def plan(config: Config, params: Params) -> list[ParameterPlan]:
    """Resolves the config's rules over the parameters.

    Args:
      config: the config; only its rules are read.
      params: a pytree of arrays (or shapes, as `jax.eval_shape` gives them).

    Returns:
      A `ParameterPlan` for each leaf, in leaf order.

    Raises:
      RuleError: if a rule matches no parameter, or is hidden behind those before it.

    Example:
      >>> params = {"Dense_0": {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}}
      >>> for p in plan(Config(weight_decay_rules=((".*bias", 0.0),), freeze=(".*kernel",)), params):
      ...     print(p)
      ParameterPlan(path='Dense_0/bias', shape=(2,), learning_rate=1.0, weight_decay=0.0, frozen=False)
      ParameterPlan(path='Dense_0/kernel', shape=(3, 2), learning_rate=1.0, weight_decay=1.0, frozen=True)
    """
    rates = _assign("learning_rate_rules", config.learning_rate_rules, params, 1.0)
    decays = _assign("weight_decay_rules", config.weight_decay_rules, params, 1.0)
    frozen = _assign("freeze", [(pattern, True) for pattern in config.freeze], params, False)
    leaves = jax.tree.leaves(params)
    return [
        ParameterPlan(rate.path, tuple(leaf.shape), rate.value, decay.value, freeze.value)
        for leaf, rate, decay, freeze in zip(leaves, rates, decays, frozen, strict=True)
    ]


def _assign(
    field: str, field_rules: Sequence[tuple[str, V]], params: Params, default: V
) -> list[rules.Assignment[V]]:
    """As `jopt.rules.plan`; an error begins with the config field that holds the rules."""
    try:
        return rules.plan(field_rules, params, default)
    except rules.RuleError as error:
        raise rules.RuleError(f"{field}: {error}") from error


def describe(config: Config, params: Params) -> str:
    """The plan as a table to print.

    Args:
      config: the config; only its rules are read.
      params: a pytree of arrays.

    Returns:
      A line for each parameter, under a heading.

    Raises:
      RuleError: as `plan`.

    Example:
      >>> print(describe(Config(learning_rate_rules=(("w", 0.1),)), {"b": jnp.zeros(2), "w": jnp.zeros((3, 2))}))
      parameter  shape  learning rate  decay
      b          2      x1             x1
      w          3x2    x0.1           x1
    """
    rows: list[tuple[str, ...]] = [("parameter", "shape", "learning rate", "decay")]
    for p in plan(config, params):
        shape = "x".join(map(str, p.shape)) or "scalar"
        cells = ("frozen", "") if p.frozen else (f"x{p.learning_rate:g}", f"x{p.weight_decay:g}")
        rows.append((p.path, shape, *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def summary(config: Config) -> str:
    """The optimizer on one line: its name, its rate and the fields that differ from their defaults.

    Example:
      >>> summary(Config("sgd", learning_rate=0.5, warmup_steps=10))
      'sgd, learning_rate 0.5, warmup_steps 10'
    """
    defaults = dict(leaves(Config()))
    parts = [_shown(config.name), f"learning_rate {config.learning_rate:g}"]
    for path, value in leaves(config):
        # A dataclass of the user's in `custom` has fields that no default is known for.
        if path not in ("name", "learning_rate") and value != defaults.get(path):
            parts.append(f"{path} {value:g}" if isinstance(value, float) else f"{path} {_shown(value)}")
    return ", ".join(parts)


def _shown(value: object) -> str:
    return getattr(value, "__qualname__", repr(value)) if callable(value) else str(value)


def build(
    config: Config, total_steps: Number | None = None, layers: Layers | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optimizer that a config describes.

    The order, where each part is absent unless the config asks for it:

    1. gradients of frozen parameters become 0, so they count in no norm and no moment;
    2. `accumulate_steps` gradients are averaged into one;
    3. clipping by value, then by global norm, then unit by unit (`jopt.optim.gradients`);
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
    # Errors come here, where the config is made, and not in the middle of a trace.
    validate(known(config), "")
    schedules.require_end(config, total_steps)

    # Rules become multipliers of single parameters only where the parameters are at hand, so the chain is built
    # inside `init` and `update`. Both run while a program is traced: it costs no time in a step.
    def init(params: Params) -> OptState:
        dtype = _compute_dtype(params)
        with jax.numpy_dtype_promotion("standard"):
            return _chain(config, total_steps, params, dtype, layers).init(_cast(params, dtype))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: object
    ) -> tuple[Updates, OptState]:
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
    config: Config, total_steps: Number | None, params: Params, dtype: DTypeLike, layers: Layers | None
) -> optax.GradientTransformation:
    """The transforms that `build` lists, in its order, for parameters of this structure."""
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
    # A schedule counts parameter updates, of which accumulation makes fewer than there are gradients.
    end = total_steps
    if total_steps is not None and c.accumulate_steps is not None:
        end = jnp.maximum(total_steps // jnp.asarray(c.accumulate_steps), 1)

    def rate(count: ArrayLike) -> jax.Array:
        return c.learning_rate * schedules.multiplier(c, count, end, dtype)

    parts = []
    if c.clip_by_value is not None:
        parts.append(optax.clip(c.clip_by_value))
    if c.clip_by_global_norm is not None:
        parts.append(clip_by_global_norm(c.clip_by_global_norm))
    if c.adaptive_clip is not None:
        parts.append(adaptive_grad_clip(c.adaptive_clip, layers))
    if c.weight_decay is not None and not decouples(c):
        parts.append(add_weight_decay(c.weight_decay, decays))
    if c.l1 is not None:
        parts.append(add_l1(c.l1, decays))
    parts.append(scale_by_optimizer(c, layers))
    if c.weight_decay is not None and decouples(c):
        parts.append(add_weight_decay(c.weight_decay, decays))
    if c.learning_rate_rules:
        parts.append(_scale_leaves(rates))
    parts.append(optax.scale_by_schedule(lambda count: -rate(count)))
    # Last, because its threshold applies to where the step ends: any later change would move weights off 0 again.
    if c.proximal_l1 is not None:
        parts.append(proximal_l1(c.proximal_l1, rate, rates, decays))
    transform = optax.chain(*parts)
    if c.accumulate_steps is not None:
        transform = _accumulate(transform, c.accumulate_steps, dtype)
    # Before everything, so that a frozen gradient counts in no
    # norm; and after it, so that no decay moves a frozen weight.
    if c.freeze:
        transform = optax.chain(_zero(frozen), transform, _zero(frozen))
    return transform


def _accumulate(
    inner: optax.GradientTransformation, steps: Number, dtype: DTypeLike
) -> optax.GradientTransformation:
    k = jnp.asarray(steps).astype(jnp.int32)
    # As a schedule, because MultiSteps takes a plain number only if it is Python's.
    wrapper: Any = optax.MultiSteps(inner, lambda count: k, accumulator_dtype=dtype)
    return optax.GradientTransformationExtraArgs(wrapper.init, wrapper.update)


def _scale_leaves(multipliers: Multipliers) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: jax.tree.map(lambda u, m: u * m, updates, multipliers))


def _zero(frozen: PyTree[bool]) -> optax.GradientTransformation:
    def zero(updates: Updates, params: Params) -> Updates:
        del params
        return jax.tree.map(lambda u, f: jnp.zeros_like(u) if f else u, updates, frozen)

    return optax.stateless(zero)


def _compute_dtype(tree: Params) -> DTypeLike:
    """The dtype of moments and arithmetic: float32 for bfloat16 too, in which 1 - b2 = 0.001 would vanish."""
    for path, leaf in named_leaves(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"parameter {path!r} must be a floating array, got {leaf.dtype}")
    return jnp.float64 if any(x.dtype == jnp.float64 for x in jax.tree.leaves(tree)) else jnp.float32


def _cast(tree: Params, dtype: DTypeLike) -> Params:
    return jax.tree.map(lambda x: x.astype(dtype), tree)
