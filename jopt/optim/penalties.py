"""Penalties on the parameters' size: L2 or decoupled weight decay, L1, and the proximal step of L1."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.hyper import check_number

Multipliers = Any  # a tree of Python floats, of the parameters' structure


def _require_params(params: Any, what: str) -> None:
    if params is None:
        raise ValueError(f"{what} needs the parameters: call update(grads, state, params)")


def add_weight_decay(strength: Any, multipliers: Multipliers) -> optax.GradientTransformation:
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


def add_l1(strength: Any, multipliers: Multipliers) -> optax.GradientTransformation:
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


def _add(gradient: Callable, multipliers: Multipliers, what: str) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        _require_params(params, what)
        out = jax.tree.map(lambda g, w, r: g + r * gradient(w) if r else g, updates, params, multipliers)
        return out, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def soft_threshold(x: jax.Array, threshold: Any) -> jax.Array:
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
    return jnp.where(jnp.abs(x) <= threshold, 0, x - jnp.sign(x) * threshold)


def proximal_l1(
    strength: Any, rate: Callable[[jax.Array], Any], rates: Multipliers, multipliers: Multipliers
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

    def init(params):
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        _require_params(params, "proximal_l1")
        threshold = rate(state.count) * strength

        def leaf(u, w, q, r):
            return soft_threshold(w + u, q * r * threshold) - w if r else u

        out = jax.tree.map(leaf, updates, params, rates, multipliers)
        return out, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
