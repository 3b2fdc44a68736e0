"""Weights of one sign or of three values: BinaryConnect, XNOR-Net and ternary weights."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jopt.layers import Layers
from jopt.quantize.arithmetic import count_nonzero, divide, ordered_sum
from jopt.quantize.magnitudes import mean_magnitude
from jopt.quantize.ranges import absmax
from jopt.quantize.spec import OUTPUTS, Spec, check_array, scale_shape, shared_axes
from jopt.quantize.weights import Assigned, Rules, assign, change, resolve
from jopt.transform import Params, ParamTransform, Storage

Axis = int | tuple[int, ...] | str | None
"""The kept axes, whose entries have a scale each: of an array numbers, of a layer also 'outputs'."""


def binarize(w: jax.Array) -> jax.Array:
    """The sign of each weight, -1 or 1; 0 stays 0. The gradient is 1 where |w| <= 1, else 0.

    Args:
      w: floating array.

    Returns:
      An array of the shape and dtype of `w`.

    Raises:
      ValueError: if it is not floating or (unless traced) not finite.

    Courbariaux, Bengio and David, 2015, "BinaryConnect", equation 1 and section 2.4. The paper also clips the
    weights that are updated to [-1, 1], which `jopt.clip` does.

    Example:
      >>> w = jnp.array([-0.3, 0.0, 1.0, 1.5])
      >>> binarize(w).tolist(), jax.grad(lambda w: binarize(w).sum())(w).tolist()
      ([-1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0])
    """
    check_array(w, "w")
    return _binarize(w)


@jax.custom_vjp
def _binarize(w: jax.Array) -> jax.Array:
    return jnp.sign(w)


def _binarize_backward(w: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # Beyond 1 a weight would grow without effect on its sign (BinaryConnect, section 2.4).
    return (jnp.where(jnp.abs(w) <= 1, gradient, jnp.zeros_like(gradient)),)


_binarize.defvjp(lambda w: (_binarize(w), w), _binarize_backward)


def xnor(w: jax.Array, axis: Axis = -1) -> jax.Array:
    """Sign times alpha, the mean |w| of an output channel over what is not 0; 0 stays 0.

    The gradient is the paper's: that of the result times 1/n + alpha 1[|w| <= 1], n the weights of the channel that
    are not 0.

    Args:
      w: floating array.
      axis: the kept axes, whose entries have an alpha each; None: one alpha.

    Returns:
      An array of the shape and dtype of `w`.

    Raises:
      ValueError: if it is not floating or (unless traced) not finite, or the axes do not fit.

    Rastegari et al., 2016, "XNOR-Net", equation 6 and section 3.1 (training).

    Example:
      >>> w = jnp.array([[-0.25], [0.75], [0.0], [2.0]])
      >>> xnor(w).ravel().tolist()
      [-1.0, 1.0, 0.0, 1.0]
      >>> [round(g, 3) for g in jax.grad(lambda w: xnor(w).sum())(w).ravel().tolist()]      # 1/3 + 1, 1/3
      [1.333, 1.333, 1.333, 0.333]
    """
    check_array(w, "w")
    return _xnor_compiled(_reduced(w, axis), w)


@functools.partial(jax.jit, static_argnums=0)
def _xnor_compiled(axes: tuple[int, ...], w: jax.Array) -> jax.Array:
    return _xnor(axes, w)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _xnor(axes: tuple[int, ...], w: jax.Array) -> jax.Array:
    wide = w.astype(jnp.float32)
    return (jnp.sign(wide) * mean_magnitude(wide, axes)).astype(w.dtype)


def _xnor_forward(axes: tuple[int, ...], w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = w.astype(jnp.float32)
    alpha = mean_magnitude(wide, axes)
    return (jnp.sign(wide) * alpha).astype(w.dtype), (w, alpha, count_nonzero(wide, axes))


def _xnor_backward(
    axes: tuple[int, ...], residuals: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array]:
    w, alpha, count = residuals
    wide = w.astype(jnp.float32)
    # 1/n is the derivative of alpha in w; the other term passes straight through the sign.
    slope = divide(jnp.ones_like(alpha), count) + jnp.where(jnp.abs(wide) <= 1, alpha, jnp.zeros_like(alpha))
    return ((gradient.astype(jnp.float32) * slope).astype(gradient.dtype),)


_xnor.defvjp(_xnor_forward, _xnor_backward)


def ternarize(w: jax.Array, axis: Axis = None, threshold: jax.Array | float = 0.7) -> jax.Array:
    """-alpha, 0 or alpha: 0 where |w| <= threshold mean|w|, alpha the mean |w| of the others. The gradient is 1.

    Both means are over what is not 0, so that pruned weights do not count.

    Args:
      w: floating array.
      axis: the kept axes, whose entries have a threshold and an alpha each; None: one for all, as in the paper.
      threshold: at least 0; may be traced.

    Returns:
      An array of the shape and dtype of `w`.

    Raises:
      ValueError: if it is not floating or (unless traced) not finite, the axes do not fit, or the threshold is
        below 0 (unless traced).

    Li, Zhang and Liu, 2016, "Ternary weight networks", equations 5 and 6.

    Example:
      >>> ternarize(jnp.array([-0.5, 0.125, 0.25, 0.0, 1.0, -0.75])).tolist()        # threshold 0.7 x 0.525
      [-0.75, 0.0, 0.0, 0.0, 0.75, -0.75]
    """
    check_array(w, "w")
    if isinstance(threshold, int | float) and not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold!r}")
    return _ternarize_compiled(_reduced(w, axis), w, jnp.asarray(threshold, jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def _ternarize_compiled(axes: tuple[int, ...], w: jax.Array, threshold: jax.Array) -> jax.Array:
    return _ternarize(axes, w, threshold)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ternarize(axes: tuple[int, ...], w: jax.Array, threshold: jax.Array) -> jax.Array:
    wide = w.astype(jnp.float32)
    mean = divide(ordered_sum(wide, axes, of=jnp.abs), count_nonzero(wide, axes))
    # Strictly above: with a threshold of 0, zeros stay zeros.
    large = jnp.where(jnp.abs(wide) > mean * threshold, wide, jnp.zeros_like(wide))
    return (jnp.sign(large) * mean_magnitude(large, axes)).astype(w.dtype)


_ternarize.defvjp(
    lambda axes, w, threshold: (_ternarize(axes, w, threshold), None),
    lambda axes, residuals, gradient: (gradient, None),
)


def _reduced(w: jax.Array, axis: Axis) -> tuple[int, ...]:
    spec = Spec(axis=axis)
    scale_shape(jnp.shape(w), spec)
    return shared_axes(jnp.ndim(w), spec)


def binary(
    rules: Rules = (),
    *,
    scaled: bool = False,
    axis: Axis = OUTPUTS,
    layers: Layers | None = None,
) -> ParamTransform:
    """Binary weights: BinaryConnect's signs, or XNOR-Net's signs with a scale for each output channel.

    Args:
      rules: pairs of a pattern (`jopt.rules`) and whether to binarize. Else every floating weight is.
      scaled: False: `binarize`; True: `xnor`.
      axis: of `xnor`; 'outputs': those of the layer.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A `ParamTransform` without state.

    Raises:
      RuleError: where parameters come in, if a rule matches none.
      ValueError: there, if concrete values are not finite, naming the path.

    Example:
      >>> t = binary()
      >>> t.apply(t.init({}), {"bias": jnp.array([0.1]), "kernel": jnp.array([[0.3], [-0.7]])})["kernel"].tolist()
      [[1.0], [-1.0]]
    """
    if not scaled:
        return _stateless(rules, lambda w, axis: binarize(w), Spec(1), layers)
    return _stateless(rules, xnor, Spec(1, axis=axis), layers)


def ternary(
    rules: Rules = (),
    *,
    axis: Axis = None,
    threshold: jax.Array | float = 0.7,
    layers: Layers | None = None,
) -> ParamTransform:
    """Ternary weights: `ternarize` on every floating weight, or as the rules say.

    Args:
      rules: pairs of a pattern (`jopt.rules`) and whether to ternarize.
      axis: of `ternarize`; 'outputs': those of the layer. The copies of a stacked layer share nothing either way.
      threshold: of `ternarize`; may be traced.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A `ParamTransform` without state.

    Raises:
      RuleError: where parameters come in, if a rule matches none.
      ValueError: there, if concrete values are not finite, naming the path.

    Example:
      >>> t = ternary()
      >>> t.apply(t.init({}), {"kernel": jnp.array([[0.5, 0.1], [-1.0, 0.0]])})["kernel"].tolist()
      [[0.75, 0.0], [-0.75, 0.0]]
    """
    return _stateless(rules, lambda w, axis: ternarize(w, axis, threshold), Spec(2, axis=axis), layers)


def _stateless(
    rules: Rules, function: Callable[[jax.Array, Axis], jax.Array], spec: Spec, layers: Layers | None
) -> ParamTransform:
    """The transform by `function(weights, axis)`, the axis being that of the parameter's Spec.

    Args:
      rules: pairs of a pattern and whether to quantize.
      function: what the model sees of an array.
      spec: the Spec of its codes, before `resolve`.
      layers: what the model says about its parameters.
    """
    # `assign` leaves alone what has None; False would be a value.
    flags = [(pattern, selected or None) for pattern, selected in rules]

    def assigned(params: Params) -> list[Assigned]:
        return [
            a if a.value is None else a._replace(value=resolve(spec, a.parameter, len(a.leaf.shape)))
            for a in assign(flags, params, True, layers)
        ]

    def init(params: Params) -> tuple[()]:
        assigned(params)  # Rules that match nothing should fail here, not in the first step.
        return ()

    def storage(state: tuple[()], params: Params) -> dict[str, Storage]:
        formats: dict[str, Storage] = {}

        def store(path: str, leaf: jax.Array, spec: Spec) -> jax.Array:
            # Each scale has one magnitude, which is what its codes -1 and 1 stand for. Taken at 8 bits, because at
            # one bit `absmax` is a mean.
            formats[path] = Storage(spec, absmax(function(leaf, spec.axis), dataclasses.replace(spec, bits=8)))
            return leaf

        change(params, assigned(params), store)
        return formats

    return ParamTransform(
        init=init,
        update=lambda state, params, *, step, grads=None, key=None: state,
        apply=lambda state, params: change(
            params, assigned(params), lambda path, leaf, spec: function(leaf, spec.axis)
        ),
        storage=storage,
    )
