"""Corrections after training: of biases, and of batch normalizations, by folding and by new statistics."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jopt import coupling
from jopt.coupling import CouplingError
from jopt.layers import Layers, LayoutError, Parameter, parameters
from jopt.rules import named_leaves, path_name
from jopt.transform import Params, State

# So far above any statistic that the batch's share of the update rounds away.
_PROBE = 2.0**60
# A momentum below this is 0 in float32.
_FORGOTTEN = 2.0**-24


def match_statistics(w: jax.Array, quantized: jax.Array, parameter: Parameter | None = None) -> jax.Array:
    """The quantized kernel shifted and scaled to the real one's mean and deviation, by output channel.

        E[w] + s (quantized - E[quantized]),    s = ||w - E[w]|| / ||quantized - E[quantized]||

    so that each channel becomes an affine function of its codes. Entries where `w` is exactly 0 (pruned) stay 0 and
    do not count. A channel whose quantized values are all equal is only shifted. The result is no longer on the
    grid of the `Spec`: integer execution folds s into the scale and the shift into the bias.

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
    rapid-deployment", section 4. Their equation, xi (q + mu), scales the mean too; this keeps it.

    Example:
      >>> w = jnp.array([[1.0], [2.0], [6.0]])
      >>> match_statistics(w, jnp.array([[0.0], [0.0], [6.0]])).round(4).ravel().tolist()
      [1.472499966621399, 1.472499966621399, 6.055099964141846]
    """
    if w.shape != quantized.shape:
        raise ValueError(f"quantized must have the kernel's shape {w.shape}, got {quantized.shape}")
    axes = tuple(range(w.ndim - 1)) if parameter is None else parameter.require_layout("match_statistics").contract
    return _match_statistics(w, quantized, axes)


@functools.partial(jax.jit, static_argnums=2)
def _match_statistics(w: jax.Array, quantized: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    real, seen = w.astype(jnp.float32), quantized.astype(jnp.float32)
    # Pruned weights are exact zeros in both kernels; counted, they would pull the mean to 0.
    counts = (w != 0).astype(jnp.float32)
    n = jnp.maximum(jnp.sum(counts, axes, keepdims=True), 1)

    def centre(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean = jnp.sum(x * counts, axes, keepdims=True) / n
        deviations = (x - mean) * counts
        return mean, deviations, jnp.sqrt(jnp.sum(deviations * deviations, axes, keepdims=True))

    mean, _, norm = centre(real)
    _, deviations, norm_seen = centre(seen)
    # A channel of equal values has no deviation to scale; the inner where keeps its gradient from being NaN.
    flat = norm_seen == 0
    scale = jnp.where(flat, jnp.ones_like(norm), norm / jnp.where(flat, jnp.ones_like(norm), norm_seen))
    return ((mean + scale * deviations) * counts).astype(quantized.dtype)


def output_shift(
    w: jax.Array, quantized: jax.Array, mean_input: jax.Array, parameter: Parameter | None = None
) -> jax.Array:
    """The shift of the layer's mean output that quantizing its kernel causes: E[x] (quantized - w).

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
    # A grouped kernel sees a part of the input channels, so the input has more features than it.
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


@functools.partial(jax.jit, static_argnums=3)
def _output_shift(w: jax.Array, quantized: jax.Array, mean_input: jax.Array, dilation: int) -> jax.Array:
    features, out = w.shape[-2:]
    groups = mean_input.size // features
    error = jnp.sum(quantized - w, 0).reshape(features, groups, out // groups)
    mean = mean_input.astype(jnp.float32).reshape(groups, features)
    # Highest precision: TPUs would otherwise multiply in bfloat16.
    shift = jnp.einsum("gi,igo->go", mean, error, precision=jax.lax.Precision.HIGHEST).reshape(out)
    return shift if dilation == 1 else shift / dilation


def correct_biases(
    params: Params, seen: Params, mean_inputs: Mapping[str, jax.Array], layers: Layers | None = None
) -> Any:
    """The parameters with each bias less the `output_shift` of its kernel.

    Args:
      params: the real parameters, where a layer's `kernel` and `bias` stand side by side.
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
    by_path = {parameter.path: parameter for parameter in parameters(params, layers)}
    for layer, mean in mean_inputs.items():
        kernel, bias = f"{layer}/kernel", f"{layer}/bias"
        if kernel not in real or bias not in real:
            raise ValueError(
                f"layer {layer!r} must have a kernel and a bias; the parameters are: {', '.join(real)}"
            )
        try:
            shift = output_shift(real[kernel], quantized[kernel], mean, by_path[kernel])
            if shift.shape != real[bias].shape:
                raise ValueError(f"the bias must have the shape of the kernel's outputs {shift.shape}")
        except LayoutError:
            raise
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from error
        real[bias] = (real[bias].astype(jnp.float32) - shift).astype(real[bias].dtype)
    return jax.tree.unflatten(jax.tree.structure(params), list(real.values()))


def fold_batch_norm(
    kernel: jax.Array,
    bias: jax.Array | None,
    scale: jax.Array | None,
    offset: jax.Array | None,
    mean: jax.Array,
    var: jax.Array,
    eps: float | jax.Array = 1e-5,
) -> tuple[jax.Array, jax.Array]:
    r"""The kernel and bias of a layer with its batch normalization folded in.

    $(x K + b - \mu) \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} + \beta = x K' + b'$ with
    $K' = K \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}$ along the last axis and
    $b' = (b - \mu) \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} + \beta$.

    Jacob et al. 2018, Quantization and training of neural networks for efficient integer-arithmetic-only inference,
    equation 14. A pruned weight, 0, stays 0.

    Args:
      kernel: [..., out], floating.
      bias: [out], or None for none.
      scale: gamma, [out], or None for 1.
      offset: beta, [out], or None for 0.
      mean: running mean, [out].
      var: running variance, [out], not negative.
      eps: what the normalization adds to the variance, may be traced.

    Returns:
      Kernel and bias, computed in float32, of the dtype of `kernel`.

    Raises:
      ValueError: if a vector's shape is not [out].

    Example:
      >>> kernel, bias = fold_batch_norm(
      ...     jnp.array([[1.0, 2.0]]), None, jnp.array([3.0, 0.5]), jnp.array([1.0, 0.0]),
      ...     mean=jnp.array([2.0, -1.0]), var=jnp.array([4.0, 0.25]), eps=0.0,
      ... )
      >>> kernel.tolist(), bias.tolist()             # factors 3 / 2 and 0.5 / 0.5
      ([[1.5, 2.0]], [-2.0, 1.0])
    """
    units = kernel.shape[-1:]
    vectors = {"bias": bias, "scale": scale, "offset": offset, "mean": mean, "var": var}
    for name, vector in vectors.items():
        if vector is not None and jnp.shape(vector) != units:
            raise ValueError(f"{name} must have shape {units}, one number an output, got {jnp.shape(vector)}")
    f32 = {name: None if v is None else jnp.asarray(v).astype(jnp.float32) for name, v in vectors.items()}
    factor = jax.lax.rsqrt(jnp.asarray(f32["var"]) + jnp.asarray(eps, jnp.float32))
    factor = factor if f32["scale"] is None else factor * f32["scale"]
    # In float32, as the normalization computes it, and cast at the end.
    total = -jnp.asarray(f32["mean"]) if f32["bias"] is None else f32["bias"] - jnp.asarray(f32["mean"])
    total = total * factor if f32["offset"] is None else total * factor + f32["offset"]
    wide = jax.lax.expand_dims(factor, range(kernel.ndim - 1))
    return (kernel.astype(jnp.float32) * wide).astype(kernel.dtype), total.astype(kernel.dtype)


def fold(model: object, params: Params, model_state: State) -> tuple[Any, Params, Any]:
    """The same function in evaluation mode, with every batch normalization folded into the layer before it.

    `f(x) == fold(f)(x)` to rounding. Pure: for a fixed `model` it works under jit on `params` and `model_state`.
    Fold before weights are quantized or shared: a multiplication by channel moves values off their grid.

    Args:
      model: a Linen module of `jopt.models`, or any object with `coupling(x) -> jopt.coupling.Coupling`.
      params: its parameters, nested dictionaries; a layer whose kernel's path is `a/kernel` gets its bias as
        `a/bias`.
      model_state: its state, with the running statistics.

    Returns:
      The model without normalizations, its parameters, and its state without their statistics (`{}` if nothing is
      left). All three are what came in if the model has no batch normalization.

    Raises:
      CouplingError: if there is state and the model does not say which normalization follows which layer, or if
        parameters or statistics that it names are missing.

    Example:
      >>> from jopt.models import ResNet
      >>> model = ResNet(width=2, blocks=(1,), num_classes=3)
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 1)))
      >>> stats = {"batch_stats": variables["batch_stats"]}
      >>> params, state = jax.eval_shape(lambda p, s: fold(model, p, s)[1:], variables["params"], stats)
      >>> sorted(params["Block_0"]), sorted(params["Conv_0"]), state
      (['Conv_0', 'Conv_1'], ['bias', 'kernel'], {})
    """
    # A model without state has no statistics to fold, whether or not it describes its layers.
    if not jax.tree.leaves(model_state) and not callable(getattr(model, "coupling", None)):
        return model, params, model_state
    coupled = coupling.of(model)
    normed = [layer for layer in coupling.layers(coupled) if layer.norm is not None]
    if not normed or coupled.fold is None:
        return model, params, model_state
    new, state = dict(named_leaves(params)), dict(named_leaves(model_state))
    for layer in normed:
        norm, (kernel,) = layer.norm, layer.kernels
        assert norm is not None
        bias = layer.biases[0] if layer.biases else f"{kernel.rpartition('/')[0]}/bias".lstrip("/")
        needed = ((kernel, new), (norm.scale, new), (norm.bias, new), (norm.mean, state), (norm.var, state))
        for path, tree in needed:
            if path not in tree:
                name, follows = type(model).__name__, norm.scale.rpartition("/")[0]
                raise CouplingError(
                    f"{name} says that {follows!r} follows {kernel!r}, but there is no {path!r}; there are: "
                    f"{', '.join([*new, *state])}"
                )
        new[kernel], new[bias] = fold_batch_norm(
            new[kernel],
            new.get(bias),
            new.pop(norm.scale),
            new.pop(norm.bias),
            state.pop(norm.mean),
            state.pop(norm.var),
            norm.epsilon,
        )
    return coupled.fold(), _nested(new), _nested(state)


def _nested(leaves: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *modules, name = path.split("/")
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[name] = leaf
    return tree


def recalibrate(
    model: Any, params: Params, model_state: State, batches: jax.Array, *, key: jax.Array | None = None
) -> Any:
    """Estimates the running statistics of batch normalizations again, for the parameters given.

    `statistic = mean over batches of the batch's mean or variance`, as in Ioffe and Szegedy (2015, algorithm 2) for
    inference, up to the n / (n - 1) of the variance. Once weights have been pruned, shared or quantized, the
    statistics gathered in training belong to other weights; that alone can cost most of the accuracy.

    The momentum of the running average plays no part: its update `new = m old + (1 - m) batch` is linear, so a pass
    from `old = 2**60` gives m, and a pass over each batch from `old = 0` gives `(1 - m) batch`. The result is exact
    but for rounding, a relative 2**-24 / (1 - m). A normalization that is frozen, its statistics not moving in
    training, keeps them. State that a pass replaces instead of averaging, such as the vectors of `nn.SpectralNorm`,
    moves by one training pass.

    Args:
      model: a `jopt.models.Model` whose normalizations use the batch's statistics when `train=True`.
      params: the parameters, as the model sees them: masked, quantized.
      model_state: the state; its statistics are the floating leaves of the collection `batch_stats` (Linen), and
        elsewhere those named `mean` and `var` (NNX).
      batches: [number of batches, batch, ...], inputs as the model takes them.
      key: for a model with dropout, which is on in these passes as in training. Batch i gets `fold_in(key, i)`.

    Returns:
      `model_state` with new statistics, of the same dtypes; everything else in it, 'activation_ranges' too, is
      unchanged. A model without statistics gets its state back unchanged.

    Raises:
      ValueError: if `batches` has no batch, or no batch axis.

    Example:
      >>> from flax import linen as nn
      >>> from jopt.models import from_linen
      >>> class Norm(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, *, train):
      ...         return nn.BatchNorm(use_running_average=not train, momentum=0.75)(x)
      >>> model = from_linen(Norm())
      >>> batches = jnp.array([[[0.0], [2.0]], [[3.0], [9.0]]])        # means 1, 6; variances 1, 9
      >>> params, state = model.init(jax.random.key(0), batches[0])
      >>> new = recalibrate(model, params, state, batches)["batch_stats"]["BatchNorm_0"]
      >>> new["mean"].tolist(), new["var"].tolist()
      ([3.5], [5.0])
    """
    if batches.ndim < 2 or batches.shape[0] < 1 or batches.shape[1] < 1:
        raise ValueError(f"batches must be [number of batches, batch, ...], none of them 0, got {batches.shape}")
    paths, structure = jax.tree_util.tree_flatten_with_path(model_state)
    leaves = [leaf for _, leaf in paths]
    where = [i for i, (path, leaf) in enumerate(paths) if _is_statistic(path_name(path), leaf)]
    if not where:
        return model_state

    def put(statistics: list[jax.Array]) -> Any:
        new = list(leaves)
        for i, value in zip(where, statistics, strict=True):
            new[i] = value
        return jax.tree.unflatten(structure, new)

    def after(statistics: list[jax.Array], number: Any, x: jax.Array) -> list[jax.Array]:
        """The statistics that one training pass makes of `statistics`."""
        # The same noise whenever a batch is seen, so that the probes differ in nothing but the statistics.
        dropout = None if key is None else jax.random.fold_in(key, number)
        _, state = model.apply(params, put(statistics), x, train=True, key=dropout)
        moved = jax.tree.leaves(state)
        return [moved[i].astype(jnp.float32) for i in where]

    old = [leaves[i].astype(jnp.float32) for i in where]
    # The output of a frozen normalization depends on its statistics, so the second probe leaves those unchanged.
    probes = [jnp.full_like(value, _PROBE) for value in old]
    frozen = [jnp.all(new == _PROBE) for new in after(probes, 0, batches[0])]
    probe = [jnp.where(f, value, _PROBE) for f, value in zip(frozen, old, strict=True)]
    momentum = [new / _PROBE for new in after(probe, 0, batches[0])]
    # State that forgets the probe starts from its old value: for an average without momentum that makes no
    # difference, while a power iteration (spectral norm) would never leave 0.
    start = [
        jnp.where(f | (jnp.abs(m) < _FORGOTTEN), value, 0.0)
        for f, m, value in zip(frozen, momentum, old, strict=True)
    ]

    def one_batch(total: list[jax.Array], numbered: tuple[jax.Array, jax.Array]):
        return [t + new for t, new in zip(total, after(start, *numbered), strict=True)], None

    count = batches.shape[0]
    zero = [jnp.zeros_like(value) for value in old]
    total, _ = jax.lax.scan(one_batch, zero, (jnp.arange(count), batches))
    fresh = [
        jnp.where(f, value, t / (count * (1.0 - m))).astype(leaves[i].dtype)
        for i, f, value, t, m in zip(where, frozen, old, total, momentum, strict=True)
    ]
    return put(fresh)


def _is_statistic(path: str, leaf: Any) -> bool:
    first, last = path.split("/")[0], path.split("/")[-1]
    named = first == "batch_stats" or (first != "activation_ranges" and last in ("mean", "var"))
    return named and jnp.issubdtype(leaf.dtype, jnp.floating)
