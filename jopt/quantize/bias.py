"""Bias correction: takes out what quantization adds to a layer's mean output, or a kernel's mean and spread."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jopt.layers import Layers, LayoutError, Parameter, parameters
from jopt.rules import named_leaves


def match_statistics(w: jax.Array, quantized: jax.Array, parameter: Parameter | None = None) -> jax.Array:
    """The quantized kernel moved and stretched to the real one's mean and deviation, by output channel.

        E[w] + s (quantized - E[quantized]),    s = ||w - E[w]|| / ||quantized - E[quantized]||

    so that each channel becomes an affine function of its codes. Entries where `w` is exactly 0 (pruned) stay 0 and
    do not count. A channel whose quantized values are all equal is only moved. The result has no scale and zero
    point of the `Spec` any more: integer execution folds s into the scale and the shift into the bias.

    Args:
      w: the kernel, floating [..., channels], or any where `parameter` tells.
      quantized: what the model sees instead, of the same shape.
      parameter: the kernel's axes; each copy of a stacked layer has its own mean and deviation. None: channels are
        the last axis.

    Returns:
      An array of the shape and dtype of `quantized`.

    Raises:
      ValueError: if the shapes differ.

    Banner, Nahshan and Soudry, 2019, "Post training 4-bit quantization of convolutional networks for
    rapid-deployment", section 4. Their equation, xi (q + mu), stretches the mean too; this keeps it.

    Example:
      >>> w = jnp.array([[1.0], [2.0], [6.0]])
      >>> match_statistics(w, jnp.array([[0.0], [0.0], [6.0]])).round(4).ravel().tolist()
      [1.472499966621399, 1.472499966621399, 6.055099964141846]
    """
    if w.shape != quantized.shape:
        raise ValueError(f"quantized must have the kernel's shape {w.shape}, got {quantized.shape}")
    axes = tuple(range(w.ndim - 1)) if parameter is None else parameter.require_layout("match_statistics").contract
    return _match_statistics(w, quantized, axes)


@partial(jax.jit, static_argnums=2)
def _match_statistics(w: jax.Array, quantized: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    real, seen = w.astype(jnp.float32), quantized.astype(jnp.float32)
    counts = (w != 0).astype(jnp.float32)
    n = jnp.maximum(jnp.sum(counts, axes, keepdims=True), 1)

    def centre(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean = jnp.sum(x * counts, axes, keepdims=True) / n
        apart = (x - mean) * counts
        return mean, apart, jnp.sqrt(jnp.sum(apart * apart, axes, keepdims=True))

    mean, _, spread = centre(real)
    _, apart, spread_seen = centre(seen)
    flat = spread_seen == 0
    stretch = jnp.where(flat, jnp.ones_like(spread), spread / jnp.where(flat, jnp.ones_like(spread), spread_seen))
    return ((mean + stretch * apart) * counts).astype(quantized.dtype)


def output_shift(
    w: jax.Array, quantized: jax.Array, mean_input: jax.Array, parameter: Parameter | None = None
) -> jax.Array:
    """What quantizing a kernel adds to the layer's mean output: E[x] (quantized - w).

    Args:
      w: the kernel: [features in, features out], or a convolution's [*window, channels in, channels out], or any
        where `parameter` tells.
      quantized: what the model sees instead, of the same shape.
      mean_input: the mean of each input feature over examples (and positions), of the shape of the kernel's input
        axes or flat. With feature groups the kernel has a part of the input channels only; the groups follow one
        another.
      parameter: the kernel's axes; None: as written above.

    Returns:
      float32, of the shape of the kernel's output axes. For a convolution exact where the window lies inside of the
      image; of a transposed one with strides, the mean over the outputs that one input makes.

    Raises:
      ValueError: if the shapes do not fit.
      LayoutError: if the parameter's axes are not known, naming its layer.

    Nagel et al., 2019, "Data-free quantization through weight equalization and bias correction", section 4.2.

    Example:
      >>> output_shift(jnp.array([[1.0], [2.0]]), jnp.array([[1.5], [2.0]]), jnp.array([4.0, 1.0])).tolist()
      [2.0]
    """
    if w.shape != quantized.shape or w.ndim < 1:
        raise ValueError(f"w and quantized must be kernels of one shape, got {w.shape} and {quantized.shape}")
    if parameter is None:
        if w.ndim < 2:
            raise ValueError(f"w and quantized must be kernels of one shape, got {w.shape}")
        contract = tuple(range(w.ndim - 1))
        parameter = Parameter("", "Conv", "kernel", contract, (w.ndim - 1,), contract[:-1])
    parameter = parameter.require_layout("bias correction")
    if parameter.stack:
        raise ValueError(f"bias correction must be of one layer at a time, got {parameter.path} of stacked layers")
    features, out = (math.prod(w.shape[axis] for axis in side) for side in (parameter.inputs, parameter.outputs))
    groups = mean_input.size // max(features, 1)
    declared = parameter.groups if parameter.source != "assumed" else groups
    if groups * features != mean_input.size or groups < 1 or out % groups or groups != declared:
        raise ValueError(
            f"mean_input must have one entry for each input feature of the kernel {w.shape}, "
            f"got shape {mean_input.shape}"
        )
    order = (*parameter.window, *parameter.inputs, *parameter.outputs)
    sizes = tuple(w.shape[axis] for axis in parameter.outputs)
    matrix = (x.astype(jnp.float32).transpose(order).reshape(-1, features, out) for x in (w, quantized))
    return _output_shift(*matrix, mean_input.reshape(-1), parameter.dilation).reshape(sizes)


@partial(jax.jit, static_argnums=3)
def _output_shift(w: jax.Array, quantized: jax.Array, mean_input: jax.Array, dilation: int) -> jax.Array:
    features, out = w.shape[-2:]
    groups = mean_input.size // features
    error = jnp.sum(quantized - w, 0).reshape(features, groups, out // groups)
    mean = mean_input.astype(jnp.float32).reshape(groups, features)
    shift = jnp.einsum("gi,igo->go", mean, error, precision=jax.lax.Precision.HIGHEST).reshape(out)
    return shift if dilation == 1 else shift / dilation


def correct_biases(
    params: Any, seen: Any, mean_inputs: Mapping[str, jax.Array], layers: Layers | None = None
) -> Any:
    """The parameters with each bias less the `output_shift` of its kernel.

    Args:
      params: the real parameters, where a layer's `kernel` and `bias` are beside each other.
      seen: what the model sees of them, as `ParamTransform.apply` gives.
      mean_inputs: from a layer's path, such as `Dense_0`, to the mean of its input features, of the shape of the
        kernel's input axes or flat.
      layers: what the model says about its parameters (`jopt.layers.trace`); None: what their names and shapes say.

    Returns:
      A tree of the structure, shapes and dtypes of `params`.

    Raises:
      ValueError: if a layer has no kernel or no bias, or its shapes do not fit, naming the path.
      LayoutError: if the axes of a kernel are not known, naming the layer.

    Example:
      >>> params = {"Dense_0": {"bias": jnp.array([1.0]), "kernel": jnp.array([[1.0], [2.0]])}}
      >>> seen = {"Dense_0": {"bias": jnp.array([1.0]), "kernel": jnp.array([[1.5], [2.0]])}}
      >>> correct_biases(params, seen, {"Dense_0": jnp.array([4.0, 1.0])})["Dense_0"]["bias"].tolist()
      [-1.0]
    """
    real, quantized = dict(named_leaves(params)), dict(named_leaves(seen))
    known = {parameter.path: parameter for parameter in parameters(params, layers)}
    for layer, mean in mean_inputs.items():
        kernel, bias = f"{layer}/kernel", f"{layer}/bias"
        if kernel not in real or bias not in real:
            raise ValueError(
                f"layer {layer!r} must have a kernel and a bias; the parameters are: {', '.join(real)}"
            )
        try:
            shift = output_shift(real[kernel], quantized[kernel], mean, known[kernel])
            if shift.shape != real[bias].shape:
                raise ValueError(f"the bias must have the shape of the kernel's outputs {shift.shape}")
        except LayoutError:
            raise
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from error
        real[bias] = (real[bias].astype(jnp.float32) - shift).astype(real[bias].dtype)
    return jax.tree.unflatten(jax.tree.structure(params), list(real.values()))
