"""Scores: how much each weight matters. The higher, the longer it is kept.

A score is a function that gives float32 of the weight's shape. The names of its parameters say what it reads, and
so what `update` needs (`READABLE` lists them). Ours and anybody else's are the same kind of function, so
`score="magnitude"`, `score=magnitude` and `score="my_package.scores:taylor"` work alike. Patterns add scores up.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jopt import keys
from jopt.checks import OpenFunction, open_function
from jopt.layers import Parameter, to_copies, within_copy
from jopt.layers.copies import from_copies
from jopt.prune.masks import Moment, Pruned
from jopt.transform import LayerStatistics, Params

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
STATISTICS = LayerStatistics._fields
READABLE = (
    "weight", "grad", "movement", "mask", "key", "step", "parameter", "input_axes", "output_axes", *STATISTICS
)  # fmt: skip
"""What a score may read, by parameter names.

- `weight`: the weights, with 0 where they are pruned already.
- `grad`: their mean gradient over training examples.
- `movement`: float32, the sum of -w g over all steps so far, with 0 where a weight is pruned.
- `mask`: bool, what is kept so far.
- `key`: a PRNG key of this parameter's own.
- `step`: the optimizer step.
- `parameter`: the `jopt.layers.Parameter`; where its `stack` is not empty, arrays hold several copies of a layer
  (with statistics a score is called for each copy by itself).
- `input_axes`, `output_axes`: the axes of the layer's inputs (without a window) and outputs.
- `input_norm`, `zero_share`: statistics of the layer, see `jopt.transform.LayerStatistics`.
"""


def magnitude(weight: jax.Array) -> jax.Array:
    r"""$|w|$. A group's score is its L1 norm.

    Han, Pool, Tran and Dally, 2015, Learning both weights and connections for efficient neural networks, section 3.

    Args:
      weight: any shape, floating.

    Returns:
      float32, the shape of `weight`.

    Example:
      >>> magnitude(jnp.array([-2.0, 0.5])).tolist()
      [2.0, 0.5]
    """
    return jnp.abs(_float32(weight, "weight"))


def l2(weight: jax.Array) -> jax.Array:
    r"""$w^2$. A group's score is its squared L2 norm, which orders groups of one size as the norm does.

    Entry by entry the order is that of `magnitude`, except that squares below 1e-38 underflow and tie.

    Args:
      weight: any shape, floating.

    Returns:
      float32, the shape of `weight`.

    Example:
      >>> l2(jnp.array([-2.0, 0.5])).tolist()
      [4.0, 0.25]
    """
    return jnp.square(_float32(weight, "weight"))


def saliency(weight: jax.Array, grad: jax.Array) -> jax.Array:
    r"""$|w \, \partial L / \partial w|$: by how much the loss would change, to first order, if w became 0.

    Molchanov, Tyree, Karras, Aila and Kautz, 2017, Pruning convolutional neural networks for resource efficient
    inference, section 2.2, for single weights. At initialization it is the connection sensitivity of Lee, Ajanthan
    and Torr, 2019, SNIP: single-shot network pruning based on connection sensitivity, section 4.1, before that is
    divided by its sum over the network (`snip_scores`); `snip` is another name for it.

    Args:
      weight: any shape, floating.
      grad: the loss's gradient at `weight`, of its shape.

    Returns:
      float32, the shape of `weight`.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> saliency(jnp.array([2.0, -3.0]), jnp.array([0.5, 2.0])).tolist()
      [1.0, 6.0]
    """
    _require_shape("grad", grad, jnp.shape(weight), "that of weight")
    return jnp.abs(_float32(weight, "weight") * _float32(grad, "grad"))


# SNIP's formula is saliency's; its point is that the gradient is that at initialization.
snip = saliency


def snip_scores(params: Params, grads: Params) -> Params:
    r"""$|w_j g_j| / \sum_k |w_k g_k|$, summed over the whole tree.

    Lee, Ajanthan and Torr, 2019, section 4.1. The division keeps the order, and makes scores of different networks
    and batches comparable.

    Args:
      params: a tree of weights; None leaves pass through.
      grads: their gradients, a tree of the same structure.

    Returns:
      A tree of float32 scores that add up to 1 (or are all 0, where every product is 0).

    Example:
      >>> params = {"a": jnp.array([2.0]), "b": jnp.array([-3.0])}
      >>> grads = {"a": jnp.array([1.0]), "b": jnp.array([2.0])}
      >>> {name: score.tolist() for name, score in snip_scores(params, grads).items()}
      {'a': [0.25], 'b': [0.75]}
    """
    scores = jax.tree.map(saliency, params, grads)
    total = sum((jnp.sum(s) for s in jax.tree.leaves(scores)), jnp.zeros((), jnp.float32))
    total = jnp.where(total > 0, total, jnp.ones((), jnp.float32))
    return jax.tree.map(lambda s: s / total, scores)


def random(key: jax.Array, weight: jax.Array) -> jax.Array:
    """Uniform in [0, 1): the baseline that every other score has to beat.

    Args:
      key: a PRNG key.
      weight: an array of any shape; only its shape is read.

    Returns:
      float32, the shape of `weight`.

    Example:
      >>> random(jax.random.key(0), jnp.zeros((2, 3))).shape
      (2, 3)
    """
    return jax.random.uniform(key, jnp.shape(weight), jnp.float32)


def wanda(weight: jax.Array, input_norm: jax.Array, input_axes: Sequence[int] | None = None) -> jax.Array:
    r"""$|w_{ij}| \, \lVert x_i \rVert_2$: a weight counts as much as the input that it meets is large.

    Sun, Liu, Bair and Kolter, 2024, A simple and effective pruning approach for large language models, equation 1.
    They compare weights of one output with each other only: `jax.vmap(top_k_mask, (1, None), 1)` on a kernel [in,
    out], or `NM(n, m, axis=-2)`.

    Args:
      weight: a kernel, floating: [in, out] or [*window, in, out], or any where `input_axes` tells.
      input_norm: the L2 norm of each input feature over examples and positions, of the shape of the kernel's input
        axes.
      input_axes: the kernel's input axes, in order; None: the last but one.

    Returns:
      float32, the shape of `weight`.

    Raises:
      ValueError: if `input_norm` is not of the shape of the input axes, or `weight` has none.

    Example:
      >>> wanda(jnp.array([[1.0, -2.0], [3.0, 0.0]]), jnp.array([10.0, 1.0])).tolist()
      [[10.0, 20.0], [3.0, 0.0]]
      >>> wanda(jnp.array([[1.0, -2.0], [3.0, 0.0]]), jnp.array([10.0, 1.0]), (1,)).tolist()  # [out, in]
      [[10.0, 2.0], [30.0, 0.0]]
    """
    shape = jnp.shape(weight)
    if len(shape) < 2:
        raise ValueError(f"weight must be a kernel of 2 or more axes, [*window, in, out], got shape {shape}")
    axes = (len(shape) - 2,) if input_axes is None else tuple(input_axes)
    expected = tuple(shape[axis] for axis in axes)
    _require_shape("input_norm", input_norm, expected, f"that of the input axes {axes} of weight")
    norms = jax.lax.broadcast_in_dim(_float32(input_norm, "input_norm"), shape, axes)
    return jnp.abs(_float32(weight, "weight")) * norms


def movement(movement: jax.Array) -> jax.Array:
    r"""$S = - \sum_t w_t g_t$, as accumulated over the steps: how far weights have moved away from 0.

    Sanh, Wolf and Rush, 2020, Movement pruning: adaptive sparsity by fine-tuning, section 4. A weight
    that gradient descent shrinks has a negative score, however large it is.

    Args:
      movement: the sum $-\sum_t w_t g_t$, any shape.

    Returns:
      The sum itself, as float32.

    Example:
      >>> w, g = jnp.array([1.0, 1.0]), jnp.array([-0.5, 0.5])  # descent makes the first weight larger
      >>> movement(-w * g).tolist()
      [0.5, -0.5]
    """
    return _float32(movement, "movement")


def per_output_unit(score: F) -> F:
    """Marks a score as one number an output unit: a stage's config accepts it for channels of outputs alone."""
    # Chosen by single weights it would keep or prune whole units by their index alone, as all of them tie.
    vars(score)["per_output_unit"] = True
    return score


@per_output_unit
def activation(weight: jax.Array, zero_share: jax.Array, output_axes: Sequence[int] | None = None) -> jax.Array:
    r"""$1 - z_j$ for every weight into output j, where $z_j$ is the share of its outputs that are (nearly) zero.

    Hu, Peng, Tai and Tang, 2016, Network trimming: a data-driven neuron pruning approach, equation 1 (APoZ). For
    `Channel("outputs")`: neurons that hardly ever fire go first.

    Args:
      weight: a kernel [..., out], or any where `output_axes` tells; only its shape is read.
      zero_share: in [0, 1], of the shape of the kernel's output axes.
      output_axes: the kernel's output axes, in order; None: the last.

    Returns:
      float32, the shape of `weight`.

    Raises:
      ValueError: if `zero_share` is not of the shape of the output axes.

    Example:
      >>> activation(jnp.ones((2, 3)), jnp.array([0.0, 0.25, 1.0])).tolist()
      [[1.0, 0.75, 0.0], [1.0, 0.75, 0.0]]
    """
    shape = jnp.shape(weight)
    if not shape:
        raise ValueError("weight must have an axis of outputs, got a scalar")
    axes = (len(shape) - 1,) if output_axes is None else tuple(output_axes)
    expected = tuple(shape[axis] for axis in axes)
    _require_shape("zero_share", zero_share, expected, f"that of the output axes {axes} of weight")
    return jax.lax.broadcast_in_dim(1 - _float32(zero_share, "zero_share"), shape, axes)


def _float32(x: jax.Array, name: str) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} must be a floating array, got dtype {x.dtype}")
    return x.astype(jnp.float32)


def _require_shape(name: str, x: jax.Array, shape: tuple[int, ...], meaning: str) -> None:
    if jnp.shape(x) != shape:
        raise ValueError(f"{name} must have shape {shape} ({meaning}), got {jnp.shape(x)}")


BUILT_IN: dict[str, Callable[..., jax.Array]] = {
    "magnitude": magnitude,
    "l2": l2,
    "random": random,
    "movement": movement,
    "saliency": saliency,
    "snip": snip,
    "wanda": wanda,
    "activation": activation,
}
SCORES = tuple(BUILT_IN)


def score_of(score: str | Callable[..., jax.Array], field: str = "score") -> OpenFunction:
    """The score that a config's field or a function's argument says, and what it reads.

    Args:
      score: one of `SCORES`, a function of some of `READABLE`, or 'package.module:name' of one.
      field: its path, for the message.

    Raises:
      ConfigError: for anything else.

    Example:
      >>> sorted(score_of("wanda").required)
      ['input_norm', 'weight']
    """
    return open_function(field, score, BUILT_IN, READABLE)


def needs_of(score: OpenFunction) -> frozenset[str]:
    """What `update` needs for a score, as `ParamTransform.needs` says it.

    Example:
      >>> needs_of(score_of("saliency")), needs_of(score_of("activation"))
      (frozenset({'grads'}), frozenset({'layers'}))
    """
    grads = {"grads"} if "grad" in score.required else set()
    layers = {"layers"} if score.required.intersection(STATISTICS) else set()
    return frozenset(grads | layers)


def rank(score: OpenFunction, moment: Moment) -> list[jax.Array]:
    """The scores of the pruned parameters; pruned weights count as 0, whatever they hold.

    Args:
      score: the score.
      moment: what the update looks at.

    Returns:
      float32 arrays of the parameters' shapes.

    Raises:
      ValueError: if what the score reads is missing, or does not fit a parameter, or the score has another shape.
    """
    # Before any score is computed, so that the message says what `update` lacks and not what broke.
    for name, argument in (("grad", "grads"), ("key", "key"), ("movement", "movement")):
        if name in score.required:
            require(getattr(moment, argument), score.name, argument)
    if "layers" in needs_of(score):
        require(moment.layers, score.name, "layers")
    return [_score(score, p, _readable(moment, i)) for i, p in enumerate(moment.pruned)]


def noise(key: jax.Array, moment: Moment) -> list[jax.Array]:
    """Uniform scores: of each parameter from its own stream of `key`, so that no other parameter changes them."""
    return rank(score_of("random"), moment._replace(key=key))


def require(value: T | None, reader: str, argument: str) -> T:
    """`value`, or a ValueError if it is missing.

    Example:
      >>> require(None, "saliency", "grads")
      Traceback (most recent call last):
      ...
      ValueError: 'saliency' reads grads: update(..., grads=...) must have it, got None
    """
    if value is None:
        raise ValueError(f"{reader!r} reads {argument}: update(..., {argument}=...) must have it, got None")
    return value


def _readable(moment: Moment, i: int) -> dict[str, Any]:
    """What there is to read of one parameter, but for what belongs to its layer."""
    p, weight, mask = moment.pruned[i], moment.weights[i], moment.masks[i]
    values: dict[str, Any] = {"step": moment.step, "parameter": p.parameter, "mask": mask}
    # Where a loop does not hold parameters projected, pruned entries hold anything; a group's sum must not see it.
    values["weight"] = jnp.where(mask, weight, jnp.zeros((), weight.dtype))
    if moment.grads is not None:
        values["grad"] = moment.grads[i]
    if moment.key is not None:
        values["key"] = keys.stream(moment.key, p.path)
    if moment.movement is not None:
        values["movement"] = jnp.where(mask, moment.movement[i], jnp.float32(0))
    if moment.layers is not None:
        values["layers"] = moment.layers
    return values


def _score(score: OpenFunction, p: Pruned, values: dict[str, Any]) -> jax.Array:
    if "layers" in needs_of(score):
        layer = _nearest_layer(score.name, p, values["layers"])
        statistics = values["layers"][layer]
        parameter = _with_layout(score, p, statistics, layer)
        values |= statistics._asdict()
    else:
        layer, parameter = "", p.parameter
        # Where they are options they may be unknown, and stay at their defaults.
        if score.required & {"input_axes", "output_axes"}:
            parameter = parameter.require_layout(f"score {score.name!r}")
    try:
        if layer and parameter.stack:
            result = _by_copy(score, parameter, values)
        else:
            result = score.call(values | _axes(parameter))
    except ValueError as error:
        where = f"{p.path} does not fit the statistics of layer {layer!r}" if layer else p.path
        raise ValueError(f"{where}: {error}") from error
    if jnp.shape(result) != p.shape:
        # A score that broadcasts would choose other weights than it was meant for, without a word.
        raise ValueError(
            f"{p.path}: score {score.name!r} must have the weight's shape {p.shape}, got {jnp.shape(result)}"
        )
    return jnp.asarray(result).astype(jnp.float32)


def _axes(parameter: Parameter) -> dict[str, Any]:
    if not parameter.contract:
        return {}
    return {"input_axes": parameter.inputs, "output_axes": parameter.outputs}


def _by_copy(score: OpenFunction, parameter: Parameter, values: Mapping[str, Any]) -> jax.Array:
    """The score of each copy of a stacked layer, by the copy's own statistics."""
    weights = {name: values[name] for name in ("weight", "grad", "movement", "mask") if name in values}
    sizes = [values["weight"].shape[axis] for axis in parameter.stack]
    mapped = {name: to_copies(value, parameter.stack) for name, value in weights.items()}
    mapped |= {name: values[name] for name in LayerStatistics._fields}
    copy = within_copy(parameter)
    scores = jax.vmap(lambda one: score.call({**values, **_axes(copy), **one, "parameter": copy}))(mapped)
    return from_copies(scores, parameter.stack, sizes)


def _nearest_layer(name: str, p: Pruned, statistics: Mapping[str, LayerStatistics]) -> str:
    parts = p.path.split("/")
    # The nearest: the paths of an NNX state end in 'kernel/value'.
    prefixes = ("/".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
    layer = next((prefix for prefix in prefixes if prefix in statistics), None)
    if layer is None:
        raise ValueError(
            f"{p.path}: {name!r} reads its layer's statistics; there are those of {', '.join(statistics) or 'none'}"
        )
    return layer


def _with_layout(score: OpenFunction, p: Pruned, statistics: LayerStatistics, layer: str) -> Parameter:
    """The parameter, whose axes are known and whose layer's statistics are its own."""
    parameter = p.parameter
    inputs, outputs = jnp.ndim(statistics.input_norm), jnp.ndim(statistics.zero_share)
    if not parameter.contract and inputs + outputs == len(p.shape):
        # Statistics are of Linen layers, whose kernels, where they have no window, are [*inputs, *outputs].
        axes = tuple(range(len(p.shape)))
        parameter = parameter._replace(contract=axes[:inputs], outputs=axes[inputs:])
    parameter = parameter.require_layout(f"score {score.name!r}")
    # Of several transformations, the order of the copies in the statistics need not be that of the kernel's axes.
    features = inputs == len(parameter.stack) + len(parameter.inputs)
    if len(parameter.stack) > 1 or (parameter.stack and not features):
        raise ValueError(f"{p.path}: {score.name!r} reads statistics of each copy, which are not known here")
    name = p.path.split("/")[layer.count("/") + 1]
    if "input_norm" in score.required and name.endswith("_kernel"):
        # Of a recurrence: the layer's statistics are those of its input, which only 'kernel' multiplies.
        raise ValueError(
            f"{p.path}: {score.name!r} has no statistics of what it multiplies, the state of layer {layer!r}; a "
            f"rule ({p.path!r}, None) would leave it alone"
        )
    return parameter
