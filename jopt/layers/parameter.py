"""Parameter: what a model says about one of its parameters."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

WEIGHTS = ("kernel", "embedding")
"""The roles whose parameters are weights: what methods change unless a rule says otherwise."""


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
    contract: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    window: tuple[int, ...] = ()
    stack: tuple[int, ...] = ()
    groups: int = 1
    dilation: int = 1
    source: str = "assumed"

    @property
    def is_weight(self) -> bool:
        """Whether the parameter is a weight, by its role."""
        return self.role in WEIGHTS

    @property
    def inputs(self) -> tuple[int, ...]:
        """The axes of input features: those summed over that are no window."""
        return tuple(axis for axis in self.contract if axis not in self.window)

    @property
    def reason(self) -> str:
        """The role in words, with the layer and how it is known."""
        text = self.role if self.layer == "unknown" else f"{self.role} of {self.layer}"
        return text if self.source == "traced" else f"{text}, {self.source}"

    def require_layout(self, what: str) -> "Parameter":
        """The parameter itself, if its layout is known.

        Args:
          what: what needs the layout, for the message.

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
        traced = self.source == "traced" or self.layer != "unknown"
        remedy = "declare them in Model.layers" if traced else "give layers=jopt.layers.trace(model, x)"
        raise LayoutError(
            f"{self.path}: {what} needs to know which axes are inputs and outputs of layer {layer!r} "
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
    shape: tuple[int, ...]
    what: str
    role: str


def one_copy(shape: Sequence[int], stack: Sequence[int]) -> tuple[int, ...]:
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

    def within(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(axis - sum(other < axis for other in parameter.stack) for axis in axes)

    return parameter._replace(
        contract=within(parameter.contract),
        outputs=within(parameter.outputs),
        window=within(parameter.window),
        stack=(),
    )
