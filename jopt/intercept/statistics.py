"""The statistics of layers' inputs and outputs by which pruning scores."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import Literal

from jopt.intercept.calls import LayerCall, capture
from jopt.intercept.hooks import ModuleCall, hooked, path_of
from jopt.intercept.nested import NestedLayer, only_outermost
from jopt.intercept.replace import Forward
from jopt.transform import LayerStatistics
from jopt.typing import Activation, ModelState, Number, Params

Axes: TypeAlias = tuple[int, ...]


def statistics(
    apply: Forward,
    params: Params,
    model_state: ModelState,
    x: jax.Array,
    *,
    activation: Activation = nn.relu,
    tolerance: Number = 0.0,
) -> dict[str, LayerStatistics]:
    """What Wanda and APoZ score by: the norm of each layer's input features, the share of its zero outputs.

    `input_norm[i] = sqrt(sum x_i^2)` (Sun et al. 2024, equation 1) and
    `zero_share[j] = mean(|activation(y_j)| <= tolerance)` (Hu et al. 2016, equation 1), both over examples,
    positions, times, and all calls of a layer that is called several times. Features are the axes that the layer
    sums over and those that it makes: the last axis (of images their channels), or heads and dim of an attention's
    projections. `y` is the layer's output or, where a batch normalization takes that output (cast at most), what
    the normalization makes of it. What else stands before the activation (a residual sum) is not seen, and for the
    last layer, which has no activation, `zero_share` means nothing.

    Args:
      apply: `model.apply` of a `jopt.models.Model`; it is called with `train=False`.
      params: the parameters, as the model sees them.
      model_state: the model's state.
      x: one batch of examples.
      activation: the model's; for layers that apply their own, such as recurrent ones, `lambda x: x`.
      tolerance: the largest magnitude that counts as zero; may be traced.

    Returns:
      From a layer's path to its `LayerStatistics`, float32; of a layer with copies with their axes in front.

    Raises:
      ValueError: as `capture`, and for a batch normalization inside a transformation.
      TypeError: for `nn.Einsum`, and a `DenseGeneral` with batch axes.

    Example:
      >>> from flax import linen as nn
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.Dense(2)(x)
      >>> params = {"Dense_0": {"kernel": jnp.array([[1.0, 1.0], [0.0, -1.0]]), "bias": jnp.zeros(2)}}
      >>> apply = lambda params, state, x, train: Net().apply({"params": params}, x)
      >>> stats = statistics(apply, params, {}, jnp.array([[3.0, 1.0], [4.0, 5.0]]))
      >>> stats["Dense_0"].input_norm.round(3).tolist(), stats["Dense_0"].zero_share.tolist()
      ([5.0, 5.099000...], [0.0, 0.5])
    """
    forward = functools.partial(apply, train=False)
    # Two traces: which normalization takes which output is a question to the program, not to its values.
    followers = _norm_calls(forward, params, model_state, x)
    axes: dict[str, tuple[Axes, Axes]] = {}
    calls, norms = _calls_and_norms(forward, axes)(params, model_state, x)
    stats = {}
    for path, layer_calls in calls.items():
        # Counted in integers and divided once: a running mean over calls would round, and 49 of 49 must be 1.
        squares, zeros, others = jnp.float32(0), jnp.int32(0), jnp.int32(0)
        for i, call in enumerate(layer_calls):
            x_in, y = call.input, call.output
            y = norms[followers[path, i]].output if (path, i) in followers else y
            small = jnp.abs(activation(y)).astype(jnp.float32) <= jnp.asarray(tolerance, jnp.float32)
            inputs, outputs = axes[path]
            copies = tuple(range(call.copies))
            squares = squares + _per_feature(jnp.square(x_in.astype(jnp.float32)), copies + inputs)
            zeros = zeros + _per_feature(small.astype(jnp.int32), copies + outputs)
            others = others + _per_feature((~small).astype(jnp.int32), copies + outputs)
        # Not divided by a constant: XLA would multiply with its reciprocal, and 49 of 49 would be less than 1.
        stats[path] = LayerStatistics(jnp.sqrt(squares), zeros / (zeros + others))
    return stats


def _per_feature(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Sums over all but the axes of features, whose order stays that of the array: Flax sorts a layer's axes."""
    features = [axis % x.ndim for axis in axes]
    return x.sum(tuple(axis for axis in range(x.ndim) if axis not in features))


def _feature_axes(module: Any) -> tuple[Axes, Axes]:
    """The axes of features of a layer's input and of its output."""
    # Of Linen's and NNX's layers the same names, as far as they have them; Equinox's know one axis only.
    batched = getattr(module, "batch_dims", None) or getattr(module, "batch_axis", None)
    general = type(module).__name__ in ("DenseGeneral", "LinearGeneral")
    # With batch axes each example of them has weights of its own, and Einsum's axes are in its formula.
    if (general and batched) or type(module).__name__ == "Einsum":
        raise TypeError(
            f"layer {path_of(module)!r} ({type(module).__name__}) chooses the axes that it sums over: it has no "
            "statistics by feature"
        )
    if not general:
        # Equinox has channels before the positions of an image.
        axis = -1 - getattr(module, "num_spatial_dims", 0)
        return (axis,), (axis,)
    features = module.features if isinstance(module, nn.Module) else module.out_features
    return _as_tuple(module.axis), tuple(range(-len(_as_tuple(features)), 0))


def _as_tuple(value: int | Sequence[int]) -> Axes:
    return (value,) if isinstance(value, int) else tuple(value)


def _calls_and_norms(fn: Forward, axes: dict[str, tuple[Axes, Axes]] | None = None) -> Forward:
    """`capture`, without the result and with the calls of batch normalizations, in order.

    The axes of features of each layer go into `axes`, where it is given.
    """

    def run(check: Callable[[str], None], *args: object) -> Any:
        norms = []

        def see(call: ModuleCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            y = call.run(*args, **kwargs)
            if axes is not None and call.kernel is not None:
                axes[call.path] = _feature_axes(call.module)
            if type(call.module).__name__ == "BatchNorm":
                check(call.path)
                norms.append(LayerCall(args[0] if args else kwargs["x"], y))
            return y

        with hooked(see):
            _, calls = capture(fn)(*args)
        return calls, norms

    def only_norms_outside(*args: object) -> Any:
        try:
            return only_outermost(run, fn)(*args)
        except NestedLayer as error:
            raise ValueError(
                f"{error}: what a batch normalization makes of a layer's output is not brought out of there"
            ) from error

    return only_norms_outside


def _norm_calls(fn: Forward, *args: object) -> dict[tuple[str, int], int]:
    """From (path, number of the call) to the number of the batch normalization that takes its output.

    Read from the trace: what is called next in Python may stand behind an activation.
    """
    order: list[tuple[str, int]] = []

    def flat(*args: object) -> list[jax.Array]:
        calls, norms = _calls_and_norms(fn)(*args)
        order.extend((path, i) for path, layer_calls in calls.items() for i in range(len(layer_calls)))
        return [call.output for layer_calls in calls.values() for call in layer_calls] + [n.input for n in norms]

    jaxpr = jax.make_jaxpr(flat)(*args).jaxpr
    cast_from = {e.outvars[0]: e.invars[0] for e in jaxpr.eqns if e.primitive.name == "convert_element_type"}

    # Mixed precision casts the output on its way to the normalization, which is the same values all the same.
    def source(var: object) -> object:
        while not isinstance(var, Literal) and var in cast_from:
            var = cast_from[var]
        return var

    followers = {}
    for number, var in enumerate(map(source, jaxpr.outvars[len(order) :])):
        for position, layer in enumerate(order):
            # The same variable, not an equal one: a normalization of a residual sum reads another.
            if source(jaxpr.outvars[position]) is var:
                followers[layer] = number
    return followers
