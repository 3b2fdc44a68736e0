"""Which axes of which parameters belong together: the declaration of a model that can be shrunk and folded.

A model that can be shrunk or folded has one method, `coupling(x=None) -> Coupling`. `jopt.prune.shrink` and
`jopt.quantize.fold` read it. The models of `jopt.models` have it, and models of users can have it.

A **group** is a set of units that are kept or cut together: the neurons of a hidden layer, the channels of a
convolution or of a residual stream, the state of a recurrent layer. A unit is a slice of the last axis of every
kernel that writes it and of the last axis but one of every kernel that reads it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from jopt.typing import Activation, Batch, Shape


class Norm(NamedTuple):
    """A batch normalization in evaluation mode, `(y - mean) * scale / sqrt(var + epsilon) + bias`, each [units].

    Attributes:
      scale: path of the parameter, such as `BatchNorm_0/scale`.
      bias: path of the parameter.
      mean: path in the model's state, such as `batch_stats/BatchNorm_0/mean`.
      var: path in the model's state.
      epsilon: the number added to the variance.
    """

    scale: str
    bias: str
    mean: str
    var: str
    epsilon: float


class Layer(NamedTuple):
    """An affine map, `norm(sum of inputs @ kernels + bias)`.

    Attributes:
      kernels: paths; each [*window, in, gates * units].
      biases: paths; each [gates * units] or [units].
      norm: the normalization of the sum, or None.
      gates: how many blocks of `units` the last axis of the kernels has, one after the other.
      value_gate: the block that alone decides whether a unit stays at zero.
      zero_only: True if a unit that nothing feeds is constant only where the biases of `value_gate` are all 0 (and
        then is 0), as in a gated recurrent layer.
    """

    # Strings and numbers alone, so that a layer can be a key and two uses of a tied layer are equal.
    kernels: tuple[str, ...]
    biases: tuple[str, ...] = ()
    norm: Norm | None = None
    gates: int = 1
    value_gate: int = 0
    zero_only: bool = False


class Reader(NamedTuple):
    """A kernel that reads a group of `units`: its last axis but one is [positions * units], the units innermost.

    Attributes:
      kernel: path, one of `layer.kernels`.
      layer: into whose bias (or, without one, its norm's mean) a constant input is folded.
      inexact: why a constant other than 0 cannot be folded, as the end of "is constant, but ..."; '' if it can.
    """

    kernel: str
    layer: Layer
    # A reason and not a flag, because the error has to say why a constant unit cannot be cut.
    inexact: str = ""


class Point(NamedTuple):
    """A value of the group's units, `activation(sum of writers (+ the value at the point before))`.

    Attributes:
      writers: layers that are added up.
      readers: the kernels that read the units here.
      activation: elementwise; operations after it (max pooling, mean over pixels, dropout in evaluation mode) do
        not change a constant.
      carries: True in a residual stream: the value at the point before is added.
    """

    writers: tuple[Layer, ...]
    readers: tuple[Reader, ...]
    activation: Activation
    # A unit of a stream is constant only if everything added before it is, so the order of points matters.
    carries: bool = False


class Group(NamedTuple):
    """Units that are cut together.

    Attributes:
      name: of the layer, such as `Dense_0`; unique in the model.
      size: the number of units.
      points: the values that the units take, in the order of computation.
    """

    name: str
    size: int
    points: tuple[Point, ...]


class Coupling(NamedTuple):
    """The result of `model.coupling(x)`.

    Attributes:
      groups: every group that may be cut: all except inputs and outputs.
      resize: `{group name: size} -> model`, the same architecture in those sizes, whose `init(key, x)` returns
        `{'params': ..., **state}` as Flax Linen modules do.
      example: from a function that gives the shape of a parameter by its path, the shape of an input that fits.
      fold: `() -> model` without its batch normalizations, whose layers then have a `bias` next to the kernel; None
        if the model has none.
    """

    groups: tuple[Group, ...]
    resize: Callable[[Mapping[str, int]], Any]
    example: Callable[[Callable[[str], Shape]], Shape]
    fold: Callable[[], Any] | None = None


class CouplingError(ValueError):
    """A model does not declare how its axes are coupled, or its declaration contradicts its parameters."""


def of(model: object, x: Batch | None = None) -> Coupling:
    """The coupling that `model` declares.

    Args:
      model: any object with a method `coupling(x=None) -> Coupling`.
      x: one batch, or its `jax.ShapeDtypeStruct`, for a model whose structure depends on the size of its input.

    Raises:
      CouplingError: if it declares none, naming the model.

    Example:
      >>> of(object())
      Traceback (most recent call last):
      ...
      jopt.coupling.CouplingError: object does not say how its axes are coupled: it needs a method coupling(x=None)
      that returns a jopt.coupling.Coupling, as the Linen modules of jopt.models have
    """
    name = type(model).__name__
    method = getattr(model, "coupling", None)
    if not callable(method):
        # The likeliest mistake: `Model` has functions only, and a smaller module cannot be made of them.
        hint = " (pass the Linen module, not the Model made of it)" if name == "Model" else ""
        raise CouplingError(
            f"{name} does not say how its axes are coupled{hint}: it needs a method coupling(x=None) that returns "
            "a jopt.coupling.Coupling, as the Linen modules of jopt.models have"
        )
    coupling = method(x)
    if not isinstance(coupling, Coupling):
        raise CouplingError(f"{name}.coupling must return a jopt.coupling.Coupling, got {type(coupling).__name__}")
    return coupling


def affine(name: str, norm: Norm | None = None, bias: bool = True) -> Layer:
    """The layer of `name/kernel` and, if it has one, `name/bias`: `flax.linen.Dense` or `Conv`.

    Example:
      >>> affine("Dense_0")[:2]
      (('Dense_0/kernel',), ('Dense_0/bias',))
    """
    return Layer((f"{name}/kernel",), (f"{name}/bias",) if bias else (), norm)


def reads(layer: Layer, inexact: str = "") -> Reader:
    """The reader that is the first kernel of `layer`.

    Example:
      >>> reads(affine("Dense_1")).kernel
      'Dense_1/kernel'
    """
    return Reader(layer.kernels[0], layer, inexact)


def layers(coupling: Coupling) -> Iterator[Layer]:
    """Yields every layer that writes or reads a group, each once, in order of first use."""
    # A dictionary as an ordered set: a layer that reads one
    # group writes the next, and a tied one does so repeatedly.
    seen: dict[Layer, None] = {}
    for group in coupling.groups:
        for point in group.points:
            seen |= dict.fromkeys((*point.writers, *(reader.layer for reader in point.readers)))
    yield from seen
