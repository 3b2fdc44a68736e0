"""Parameter: what a model says about one of its parameters, and what its name and shape say where no model does.

Nothing here needs JAX: packed files are read without it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

Axes: TypeAlias = tuple[int, ...]
"""Axes of an array, or its shape."""

WEIGHTS = ("kernel", "embedding")
"""The roles whose parameters are weights: what methods change unless a rule says otherwise."""

_KERNEL = re.compile(r"(.+_)?kernel|[wW]|weights?")
_EMBEDDING = re.compile(r"embeddings?")
_BIAS = re.compile(r"(.+_)?bias|b|beta|offset")
_SCALE = re.compile(r"(.+_)?scale|gamma|mean|var")
# Two axes, but no product with data: positions are added, and a class token is one more input.
_OTHER = re.compile(r"(.+_)?pos(ition(al)?)?(_?emb(ed(dings?)?)?)?|cls(_?token)?|(.+_)?tokens?")
# 'LayerNorm_0', 'norm1', 'batch_norm': their 'weight' is a scale.
_NORM = re.compile(r"(.*_|[a-z]*)?norm([_\d].*)?", re.IGNORECASE)
_LIFTED = re.compile(r"(Scan|Vmap)[A-Z]\w*")  # Flax's names of scanned and mapped modules: `ScanBlock_0`
_ATTENTION = re.compile(r".*(attention|attn).*", re.IGNORECASE)
_CONV = re.compile(r"(.*[a-z_])?conv(?!.*transpose)([_\d].*)?", re.IGNORECASE)


class LayoutError(ValueError):
    """A method needs to know which axes of a parameter are inputs and outputs, and nothing says so."""


class Parameter(NamedTuple):
    """One parameter of a model: its layer, its role and what its axes mean.

    The layout of a weight is known where `contract` is not empty; then every axis is in exactly one of `contract`,
    `outputs` and `stack`. A bias and a scale have output units only.

    Attributes:
      path: such as 'encoder/attention/query/kernel'.
      layer: the kind of layer: 'Dense', 'DenseGeneral', 'Conv', 'ConvTranspose', 'Embed', 'LayerNorm', ..., or
        'unknown'.
      role: 'kernel', 'bias', 'scale', 'embedding' or 'other'. `WEIGHTS` are weights.
      contract: the axes that the layer sums over, window included. A lookup in an embedding [rows, features] is a
        product with one-hot rows, so it sums over the rows.
      outputs: the axes of output units: (1, 2), heads and features, for an attention's query [in, heads, dim].
      window: the axes in `contract` that are positions of a convolution's window.
      stack: the axes over copies of the layer (scanned, mapped, or experts), which share no scale and no budget.
      groups: feature groups of a convolution.
      dilation: of a convolution's input, the product over its axes: how many outputs a transposed convolution makes
        of one input. Only one product in so many is not with a hole between the inputs.
      source: 'traced', 'declared' by the model, or 'assumed' from the name and the shape.

    Example:
      >>> query = Parameter("query/kernel", "DenseGeneral", "kernel", contract=(0,), outputs=(1, 2))
      >>> query.is_weight, query.reason
      (True, 'kernel of DenseGeneral, assumed')
    """

    path: str
    layer: str = "unknown"
    role: str = "other"
    contract: Axes = ()
    outputs: Axes = ()
    window: Axes = ()
    stack: Axes = ()
    groups: int = 1
    dilation: int = 1
    source: str = "assumed"

    @property
    def is_weight(self) -> bool:
        """Whether the parameter is a weight, by its role."""
        return self.role in WEIGHTS

    @property
    def inputs(self) -> Axes:
        """The axes of input features: those summed over that are no window."""
        return tuple(axis for axis in self.contract if axis not in self.window)

    @property
    def reason(self) -> str:
        """The role in words, with the layer and how it is known."""
        text = self.role if self.layer == "unknown" else f"{self.role} of {self.layer}"
        return text if self.source == "traced" else f"{text}, {self.source}"

    def require_layout(self, method: str) -> "Parameter":
        """The parameter itself, if its layout is known.

        Args:
          method: what needs the layout, for the message.

        Raises:
          LayoutError: names the layer and how to give its layout.

        Example:
          >>> Parameter("mix/kernel").require_layout("granularity 'channel'")
          Traceback (most recent call last):
          ...
          jopt.layers.parameter.LayoutError: mix/kernel: granularity 'channel' needs to know which axes are inputs
          ...
        """
        if self.contract:
            return self
        layer = self.path.rpartition("/")[0] or self.path
        # A model that was traced and did not say has to declare
        # it; where no model was asked, a trace may be enough.
        traced = self.source == "traced" or self.layer != "unknown"
        remedy = "declare them in Model.layers" if traced else "give layers=jopt.layers.trace(model, x)"
        raise LayoutError(
            f"{self.path}: {method} needs to know which axes are inputs and outputs of layer {layer!r} "
            f"({self.layer}), which nothing says: {remedy}, or a rule ({self.path!r}, None) that leaves it alone"
        )


Layers = Mapping[str, Parameter]
"""From a parameter's path to what is known of it."""


class PlanRow(NamedTuple):
    """What a method makes of one parameter, in words, and why: a weight is changed, a bias is not.

    Attributes:
      path: of the parameter.
      shape: of the parameter.
      what: it gets.
      role: its role and layer, and where that is known from if not from a trace (`Parameter.reason`).
    """

    path: str
    shape: Axes
    what: str
    role: str


def one_copy(shape: Sequence[int], stack: Sequence[int]) -> Axes:
    """The shape of one copy of a stacked layer.

    Example:
      >>> one_copy((3, 8, 16), (0,))
      (8, 16)
    """
    return tuple(n for axis, n in enumerate(shape) if axis not in stack)


def within_copy(parameter: Parameter) -> Parameter:
    """The parameter as one copy of its layer has it: the axes of `stack` are gone.

    Example:
      >>> within_copy(Parameter("k", contract=(1,), outputs=(2,), stack=(0,))).outputs
      (1,)
    """

    def within(axes: Axes) -> Axes:
        # Each axis moves down by the number of copy axes before it.
        return tuple(axis - sum(other < axis for other in parameter.stack) for axis in axes)

    return parameter._replace(
        contract=within(parameter.contract),
        outputs=within(parameter.outputs),
        window=within(parameter.window),
        stack=(),
    )


def role(path: str) -> str | None:
    """The role that a parameter's name gives it, or None for a name that says nothing.

    The last part of the path counts ('value', which ends the paths of an NNX state, aside), and whether the part
    before it is called a norm.

    Example:
      >>> [role(p) for p in ("Dense_0/kernel", "query/bias", "LayerNorm_0/scale", "pos_embedding", "shared/a")]
      ['kernel', 'bias', 'scale', 'other', None]
    """
    parts = _parts(path)
    name, layer = parts[-1], parts[-2] if len(parts) > 1 else ""
    if _BIAS.fullmatch(name):
        return "bias"
    if _SCALE.fullmatch(name) or (_KERNEL.fullmatch(name) and _NORM.fullmatch(layer)):
        return "scale"
    if _KERNEL.fullmatch(name):
        return "kernel"
    if _EMBEDDING.fullmatch(name):
        return "embedding"
    return "other" if _OTHER.fullmatch(name) else None


def is_kernel(path: str) -> bool:
    """Whether a parameter is called a kernel, whatever its layer is called.

    Example:
      >>> is_kernel("norm_out/kernel"), role("norm_out/kernel")
      (True, 'scale')
    """
    return bool(_KERNEL.fullmatch(_parts(path)[-1]))


def assumed(path: str, shape: Sequence[int], *, floating: bool = True) -> Parameter:
    """What is assumed of a parameter from its name and shape.

    A name that says nothing makes a kernel of a floating array of two or more axes. Two axes of a kernel are [in,
    out], as Flax has them, but for one called 'weight', which PyTorch and Equinox hold as [out, in]: that layout is
    left unknown. So is that of three or more axes, unless the names are those that Flax gives: of a convolution,
    [*window, in, out], of an attention's 'query', 'key' and 'value', [in, heads, dim], and its 'out', [heads, dim,
    out]. In a module that Flax names as scanned or mapped, such as 'ScanBlock_0', the first axis is over copies.

    Args:
      path: the parameter's path.
      shape: its shape.
      floating: whether its dtype is.

    Returns:
      A `Parameter` whose source is 'assumed'.

    Example:
      >>> assumed("Dense_0/kernel", (3, 4)).outputs, assumed("Conv_1/kernel", (3, 3, 8, 16)).window
      ((1,), (0, 1))
      >>> assumed("attention/query/bias", (2, 4)).reason, assumed("mix/kernel", (8, 2, 4)).contract
      ('bias, assumed', ())
      >>> assumed("ScanBlock_0/Dense_0/kernel", (3, 8, 16)).stack
      (0,)
    """
    parts = _parts(path)
    if len(shape) > 1 and any(_LIFTED.fullmatch(part) for part in parts[:-1]):
        # What Flax scans or maps has its copies in front, and is otherwise the layer that it names.
        one = _of_one(path, parts, shape[1:], floating)
        moved = {name: tuple(axis + 1 for axis in getattr(one, name)) for name in ("contract", "outputs", "window")}
        return one._replace(**moved, stack=(0,))
    return _of_one(path, parts, shape, floating)


def _of_one(path: str, parts: Sequence[str], shape: Sequence[int], floating: bool) -> Parameter:
    """As `assumed`, of one copy of a layer."""
    kind, rank = role(path), len(shape)
    if kind is None:
        kind = "kernel" if floating and rank >= 2 else "other"
    # A vector multiplies nothing, and integers are codes or indices: neither is pruned or quantized.
    if (kind == "kernel" and rank < 2) or (kind in WEIGHTS and not floating):
        kind = "other"
    parameter = Parameter(path, role=kind)
    if kind in ("bias", "scale"):
        return parameter._replace(outputs=tuple(range(rank)))
    if kind == "embedding" and rank == 2:
        return parameter._replace(layer="Embed", contract=(0,), outputs=(1,))
    if kind != "kernel":
        return parameter
    # 'weight' is [out, in] in PyTorch and Equinox: a wrong guess would be silent, so there is none.
    if rank == 2 and not re.fullmatch(r"weights?", parts[-1]):
        return parameter._replace(contract=(0,), outputs=(1,))
    if rank == 3 and len(parts) > 2 and _ATTENTION.fullmatch(parts[-3]):
        if parts[-2] in ("query", "key", "value"):
            return parameter._replace(layer="DenseGeneral", contract=(0,), outputs=(1, 2))
        if parts[-2] == "out":
            return parameter._replace(layer="DenseGeneral", contract=(0, 1), outputs=(2,))
    if rank >= 3 and any(_CONV.fullmatch(part) for part in parts[-2:]):
        contract = tuple(range(rank - 1))
        return parameter._replace(layer="Conv", contract=contract, outputs=(rank - 1,), window=contract[:-1])
    return parameter


def is_weight(path: str, shape: Sequence[int], layers: Layers | None = None) -> bool:
    """Whether a floating array is a weight, by what the model says about it or, where that is not at hand, its
    name.

    Example:
      >>> is_weight("Dense_0/kernel", (3, 4)), is_weight("query/bias", (2, 4))
      (True, False)
    """
    parameter = (layers or {}).get(path)
    return (assumed(path, shape) if parameter is None else parameter).is_weight


def _parts(path: str) -> list[str]:
    # An NNX state ends every path with the attribute of the variable.
    parts = path.split("/")
    return parts[:-1] if len(parts) > 1 and parts[-1] == "value" else parts
