"""Batch-norm folding: a convolution and the normalization behind it are one affine map in evaluation mode."""

from typing import Any

import jax
import jax.numpy as jnp

from jopt import coupling
from jopt.coupling import CouplingError
from jopt.rules import named_leaves

Params = Any


def fold_batch_norm(
    kernel: jax.Array,
    bias: jax.Array | None,
    scale: jax.Array | None,
    offset: jax.Array | None,
    mean: jax.Array,
    var: jax.Array,
    eps: float | jax.Array = 1e-5,
) -> tuple[jax.Array, jax.Array]:
    r"""The kernel and bias of a layer that has taken its batch normalization in.

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
    total = -jnp.asarray(f32["mean"]) if f32["bias"] is None else f32["bias"] - jnp.asarray(f32["mean"])
    total = total * factor if f32["offset"] is None else total * factor + f32["offset"]
    wide = jax.lax.expand_dims(factor, range(kernel.ndim - 1))
    return (kernel.astype(jnp.float32) * wide).astype(kernel.dtype), total.astype(kernel.dtype)


def fold(model: Any, params: Params, model_state: Any) -> tuple[Any, Params, Any]:
    """The same function in evaluation mode, with every batch normalization taken into the layer before it.

    `f(x) == fold(f)(x)` to rounding. Pure: for given `model` it works under jit on `params` and `model_state`. To
    be done before weights are quantized or shared: what is on a grid is not after a multiplication by channel.

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
    if not jax.tree.leaves(model_state) and not callable(getattr(model, "coupling", None)):
        return model, params, model_state
    found = coupling.of(model)
    normed = [layer for layer in coupling.layers(found) if layer.norm is not None]
    if not normed or found.fold is None:
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
    return found.fold(), _nested(new), _nested(state)


def _nested(leaves: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *outer, name = path.split("/")
        inner = out
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[name] = leaf
    return out
