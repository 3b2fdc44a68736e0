"""What acts on gradients and steps around an optimizer: clipping, weight decay, L1. By value: `optax.clip`."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jopt.hyper import check_number
from jopt.layers import Layers, Parameter, parameters
from jopt.typing import Activation, Number, OptState, Params, Shape, Updates

Multipliers: TypeAlias = PyTree[float]
"""A tree of Python numbers, of the parameters' structure: what rules give each parameter."""


def global_norm(tree: Updates) -> Float[Array, ""]:
    r"""$\lVert g \rVert = \sqrt{\sum_i g_i^2}$ over all leaves, in float32 (float64 if a leaf is float64).

    One pass, no scaling: where the squares overflow (a norm above 1.8e19 in float32) the norm is infinite.

    Args:
      tree: a pytree of floating arrays of any shapes.

    Returns:
      A scalar; 0 for an empty tree.

    Example:
      >>> float(global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}))
      5.0
    """
    leaves = jax.tree.leaves(tree)
    wide = jnp.float64 if any(x.dtype == jnp.float64 for x in leaves) else jnp.float32
    leaves = [x.astype(wide) for x in leaves if x.size]
    if not leaves:
        return jnp.zeros((), wide)
    # A product of a vector with itself, where a sum of squares would first write the squares down.
    squares = [jnp.vdot(x, x, precision=jax.lax.Precision.HIGHEST) for x in leaves]
    return jnp.sqrt(jnp.stack(squares).sum())


def clip_by_global_norm(max_norm: Number) -> optax.GradientTransformation:
    r"""Scales the gradient by $\min(1, c / \lVert g \rVert)$.

    Pascanu, Mikolov and Bengio, 2013, On the difficulty of training recurrent neural networks, Algorithm 1. Unlike
    `optax.clip_by_global_norm` the norm is in float32 for every dtype, and a gradient whose norm is exactly $c$
    passes unchanged. A finite gradient whose norm overflows becomes zero: that step is skipped.

    Args:
      max_norm: $c$ above 0, a scalar that may be traced.

    Returns:
      A stateless `GradientTransformation`. Bits are unchanged where the norm is at most $c$; zero stays zero.

    Raises:
      ConfigError: for a concrete `max_norm` that is not above 0.

    Example:
      >>> clip = clip_by_global_norm(2.5)
      >>> clip.update({"w": jnp.array([3.0, 4.0])}, clip.init({}))[0]["w"].tolist()
      [1.5, 2.0]
    """
    check_number("max_norm", max_norm, lambda x: x > 0, "a finite number above 0")

    def update(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, OptState]:
        del params
        norm = global_norm(updates)
        limit = jnp.asarray(max_norm, norm.dtype)
        # Where nothing is clipped the factor is the constant 1, not limit / limit: bits stay, and 0 / 0 never is.
        clipped = norm > limit
        scale = jnp.where(clipped, limit / jnp.where(clipped, norm, 1), 1)
        return jax.tree.map(lambda g: (g.astype(norm.dtype) * scale).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def adaptive_grad_clip(
    clipping: Number, layers: Layers | None = None, eps: float = 1e-3
) -> optax.GradientTransformation:
    r"""Scales the gradient of each unit to at most $c \max(\lVert w \rVert, \epsilon)$, w the unit's weights.

    A unit of a kernel is an output unit of its layer, whichever axes these are; a parameter that is not a weight,
    such as a bias or a scale, is one unit (in a stacked layer, one for each copy). Brock, De, Smith and Simonyan,
    2021, High-performance large-scale image recognition without normalization, equation 3.
    `optax.adaptive_grad_clip` finds units by the rank of the array, which is the same for dense layers and
    convolutions.

    Args:
      clipping: c, above 0, a scalar that may be traced.
      layers: what the model says about its parameters; None: what their names and shapes say.
      eps: the least norm of weights that counts, so that units that start at zero can move.

    Returns:
      A stateless `GradientTransformation`, whose `update` needs `params`.

    Raises:
      LayoutError: in `update`, for a weight whose input and output axes are not known, naming its layer.

    Example:
      >>> clip = adaptive_grad_clip(0.5)
      >>> params = {"kernel": jnp.array([[3.0, 1.0], [4.0, 0.0]])}                    # units of norm 5 and 1
      >>> clip.update({"kernel": jnp.full((2, 2), 3.0)}, clip.init(params), params)[0]["kernel"].round(3).tolist()
      [[1.768..., 0.354...], [1.768..., 0.354...]]
    """

    def unit_norm(axes: Shape, x: jax.Array) -> jax.Array:
        # The norm of a unit at each of its entries, because the factor below is applied entry by entry.
        return jnp.broadcast_to(jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True)), x.shape)

    def update(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, OptState]:
        if params is None:
            raise ValueError("adaptive_grad_clip reads the weights: update(updates, state, params) must have them")
        units = [
            _within_unit(p, jnp.ndim(w))
            for p, w in zip(parameters(params, layers), jax.tree.leaves(params), strict=True)
        ]
        clipped = []
        for axes, g, w in zip(units, jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
            size, limit = unit_norm(axes, g), clipping * jnp.maximum(unit_norm(axes, w), eps)
            clipped.append(jnp.where(size < limit, g, g * (limit / jnp.maximum(size, 1e-6))))
        return jax.tree.unflatten(jax.tree.structure(updates), clipped), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _within_unit(parameter: Parameter, ndim: int) -> Shape:
    """The axes that run within a unit."""
    if parameter.is_weight:
        return parameter.require_layout("adaptive clipping").contract
    return tuple(axis for axis in range(ndim) if axis not in parameter.stack)


def _require_params(params: Params | None, field: str) -> None:
    if params is None:
        raise ValueError(f"{field} needs the parameters: call update(grads, state, params)")


def add_weight_decay(strength: Number, multipliers: Multipliers) -> optax.GradientTransformation:
    r"""Adds $\lambda r_j w$ to each leaf $j$.

    In front of the optimizer this is the gradient of the penalty $\frac{\lambda}{2} \lVert w \rVert^2$; behind it,
    decoupled decay (Loshchilov and Hutter, 2019, Decoupled Weight Decay Regularization, Algorithm 2, line 12).

    Args:
      strength: $\lambda$, a scalar that may be traced.
      multipliers: $r_j$; a leaf with 0 is left out.

    Returns:
      A stateless `GradientTransformation`, which needs `params`.

    Example:
      >>> t = add_weight_decay(0.5, {"w": 1.0, "b": 0.0})
      >>> params = {"w": jnp.array(2.0), "b": jnp.array(2.0)}
      >>> {k: float(v) for k, v in t.update(jax.tree.map(jnp.zeros_like, params), (), params)[0].items()}
      {'b': 0.0, 'w': 1.0}
    """
    check_number("strength", strength, lambda x: x >= 0, "a finite number, at least 0")
    return _add(lambda w: strength * w, multipliers, "weight_decay")


def add_l1(strength: Number, multipliers: Multipliers) -> optax.GradientTransformation:
    r"""Adds $\lambda r_j \mathrm{sign}(w)$ to each leaf: a subgradient of $\lambda r_j \lVert w \rVert_1$, 0 at 0.

    Tibshirani, 1996, Regression shrinkage and selection via the lasso. It shrinks weights towards 0 but oscillates
    around it; `proximal_l1` reaches it.

    Args:
      strength: $\lambda$, a scalar that may be traced.
      multipliers: $r_j$; a leaf with 0 is left out.

    Returns:
      A stateless `GradientTransformation`, which needs `params`.

    Example:
      >>> t = add_l1(0.5, {"w": 1.0})
      >>> t.update({"w": jnp.zeros(3)}, (), {"w": jnp.array([2.0, -3.0, 0.0])})[0]["w"].tolist()
      [0.5, -0.5, 0.0]
    """
    check_number("strength", strength, lambda x: x >= 0, "a finite number, at least 0")
    return _add(lambda w: strength * jnp.sign(w), multipliers, "l1")


def _add(gradient: Activation, multipliers: Multipliers, field: str) -> optax.GradientTransformation:
    def update(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, OptState]:
        _require_params(params, field)
        # Multipliers are Python numbers, so a leaf with 0 adds nothing to the program, not a product with 0.
        updates = jax.tree.map(lambda g, w, r: g + r * gradient(w) if r else g, updates, params, multipliers)
        return updates, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def soft_threshold(x: jax.Array, threshold: Number) -> jax.Array:
    r"""$\mathrm{sign}(x) \max(|x| - t, 0)$, the proximal map of $t \lVert x \rVert_1$; exactly 0 where $|x| \le t$.

    Args:
      x: a floating array of any shape.
      threshold: $t$, at least 0, a scalar that may be traced.

    Returns:
      An array of the shape and dtype of `x`.

    Example:
      >>> soft_threshold(jnp.array([2.0, -0.5, -1.5]), 0.5).tolist()
      [1.5, 0.0, -1.0]
    """
    check_number("threshold", threshold, lambda x: x >= 0, "a finite number, at least 0")
    # `where`, because sign(x) * max(|x| - t, 0) would make -0.0 of a negative weight.
    return jnp.where(jnp.abs(x) <= threshold, 0, x - jnp.sign(x) * threshold)


def proximal_l1(
    strength: Number, rate: Callable[[ArrayLike], Number], rates: Multipliers, multipliers: Multipliers
) -> optax.GradientTransformation:
    r"""The proximal step of the L1 penalty: $w \leftarrow \mathrm{soft}(w + u, \alpha_t q_j \lambda r_j)$.

    Proximal gradient descent, ISTA (Beck and Teboulle, 2009, equation 1.4), for whichever optimizer made $u$.
    A weight that it thresholds moves by exactly $-w$, so `optax.apply_updates` leaves exactly 0.

    Args:
      strength: $\lambda$, a scalar that may be traced.
      rate: the learning rate $\alpha_t$ from the count of updates.
      rates: $q_j$, learning-rate multipliers; the threshold follows them.
      multipliers: $r_j$; a leaf with 0 is left out.

    Returns:
      A `GradientTransformation` that needs `params`; its state is an `optax.ScaleByScheduleState`.

    Example:
      >>> t = proximal_l1(1.0, lambda count: 0.5, {"w": 1.0}, {"w": 1.0})
      >>> params = {"w": jnp.array([2.0, 0.25])}
      >>> updates, _ = t.update({"w": jnp.zeros(2)}, t.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [1.5, 0.0]
    """
    check_number("strength", strength, lambda x: x >= 0, "a finite number, at least 0")

    def init(params: Params) -> OptState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, OptState]:
        _require_params(params, "proximal_l1")
        threshold = rate(state.count) * strength

        def leaf(u: jax.Array, w: jax.Array, q: float, r: float) -> jax.Array:
            # The step is returned, not the weight: where the result is 0 it is exactly -w, and w - w is exactly 0.
            return soft_threshold(w + u, q * r * threshold) - w if r else u

        updates = jax.tree.map(leaf, updates, params, rates, multipliers)
        return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
