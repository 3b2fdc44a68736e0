"""How a stage quantizes activations: one frozen config class a variant."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jopt.config import CLASS, ConfigError, choice, from_dict, join_path, require
from jopt.hyper import as_traced
from jopt.method import Method
from jopt.quantize.activations import ActivationMethod, LayerGrid, LayerRange, Numbers
from jopt.quantize.grid import Range, fit_range, grid, stored_grid
from jopt.quantize.learned import lsq, lsq_step, pact
from jopt.quantize.methods import name_of_calibration
from jopt.quantize.ranges import (
    Calibration,
    Choose,
    Percentile,
    calibration_function,
    check_percentile,
    dynamic,
    percentile,
)
from jopt.quantize.spec import Spec
from jopt.quantize.tensors import fake_quantize
from jopt.reference import is_reference, resolve

CALIBRATIONS = ("absmax", "mse", "percentile")
_DEFAULT_CALIBRATION = Percentile(99.9)


class _FixedRange(ActivationMethod):
    """A range of two numbers in `model_state`: low and high, equal where there is none yet."""

    def fresh(self) -> LayerRange:
        """An empty range."""
        return LayerRange({}, {"low": jnp.float32(0), "high": jnp.float32(0)})

    def see(self, x: jax.Array, spec: Spec, layer: LayerRange) -> jax.Array:
        """`fake_quantize` in the range."""
        range = Range(**layer.fixed)
        # An empty range means that nothing was calibrated yet.
        return jnp.where(range.low == range.high, x, fake_quantize(x, spec, range))

    def layer_grid(self, spec: Spec, layer: LayerRange, path: str) -> LayerGrid:
        """The grid of the range."""
        del path
        range = Range(**layer.fixed)
        return LayerGrid(spec, grid(spec, range), range.low != range.high)


@dataclasses.dataclass(frozen=True)
class Activations(_FixedRange):
    """The inputs of layers in a range that calibration chooses once.

    Attributes:
      bits: as in `ActivationMethod`, like symmetric, examples, rules and state.
      calibration: 'absmax' (all inputs), 'mse' (the least squared error), 'percentile' or `Percentile(99.0)`, a
        function `(values, spec) -> Range`, or 'package.module:name' of one.

    Example:
      >>> Activations(bits=4, calibration="mse", rules=(("Dense_0", None),)).validate()
      >>> Activations(bits=9).validate()
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: activations.bits must be 1 to 8, 16, 32 (which changes nothing) or None, got 9
    """

    calibration: str | Calibration | Choose = _DEFAULT_CALIBRATION

    def validate(self, path: str = "") -> None:
        """Checks the fields; `Method.validate` says more."""
        path = path or self.name
        super().validate(path)
        field = join_path(path, "calibration")
        calibration_function(self.calibration, field, CALIBRATIONS)
        if isinstance(self.calibration, Percentile):
            # Below the median a range would hold fewer inputs than it clips.
            check_percentile(join_path(field, "percentile"), self.calibration.percentile, above=50)
        elif isinstance(self.calibration, Calibration):
            self.calibration.validate(field)

    def choose(self, values: jax.Array, spec: Spec) -> LayerRange:
        """The range that the calibration gives."""
        range = calibration_function(self.calibration, names=CALIBRATIONS)(values, spec)
        return LayerRange({}, fit_range(range, values.shape, spec)._asdict())

    def describe(self) -> str:
        """The calibration."""
        return name_of_calibration(self.calibration)


@dataclasses.dataclass(frozen=True)
class MovingAverageActivations(_FixedRange):
    """The inputs of layers in a range that follows the batches' extremes in training: r <- m r + (1 - m) batch.

    Attributes:
      bits: as in `ActivationMethod`, like symmetric, examples, rules and state.
      momentum: m, in [0, 1); traced.

    Jacob et al., 2018, section 3.1.

    Example:
      >>> method = MovingAverageActivations(momentum=0.75)
      >>> old = {"low": jnp.float32(0), "high": jnp.float32(4)}
      >>> float(method.moved(old, Range(jnp.float32(0), jnp.float32(8)))["high"])
      5.0
    """

    moves: ClassVar[bool] = True

    momentum: float = 0.9

    def validate(self, path: str = "") -> None:
        """Checks the fields; `Method.validate` says more."""
        path = path or self.name
        super().validate(path)
        # In the program the number is a float32: one just below 1 would become 1.
        good = math.isfinite(self.momentum) and 0 <= as_traced(self.momentum) < 1
        require(good, join_path(path, "momentum"), self.momentum, "a number in [0, 1)")

    def choose(self, values: jax.Array, spec: Spec) -> LayerRange:
        """The range of all inputs, where the average starts."""
        return LayerRange({}, dynamic(values, spec)._asdict())

    def moved(self, fixed: Numbers, seen: Range) -> Numbers:
        """The average's next range; the batch's where there is none yet."""
        old, momentum = Range(**fixed), jnp.asarray(self.momentum, jnp.float32)
        absent = old.low == old.high
        ends = zip(old, seen, strict=True)
        return Range(*(jnp.where(absent, b, momentum * o + (1 - momentum) * b) for o, b in ends))._asdict()

    def describe(self) -> str:
        """'moving_average'."""
        return "moving_average"


class _TrainedRange(ActivationMethod):
    """One number in `params` that is trained, 0 where there is none yet, and in `model_state` whether it is signed.

    Unsigned codes have no zero point here, so they would lose negative inputs (those of the first layer, or behind
    a tanh): where calibration meets any, the layer gets signed codes.
    """

    number: ClassVar[str]
    """Its name."""

    def start(self, values: jax.Array, spec: Spec) -> jax.Array:
        """The number's first value, from the layer's inputs."""
        raise NotImplementedError

    def quantize(self, x: jax.Array, number: jax.Array, spec: Spec) -> jax.Array:
        """What the layer sees; `number` is above 0."""
        raise NotImplementedError

    def fresh(self) -> LayerRange:
        """The number 0."""
        return LayerRange({self.number: jnp.float32(0)}, {} if self.symmetric else {"signed": jnp.bool_(False)})

    def choose(self, values: jax.Array, spec: Spec) -> LayerRange:
        """The number's first value, and whether any input is negative."""
        number = self.start(values, spec)
        if self.symmetric:
            return LayerRange({self.number: number}, {})
        # Decided once, from the examples: codes that change their sign in training would be another network.
        signed = values.min() < 0
        # Both are computed, since under jit the sign is not known.
        number = jnp.where(signed, self.start(values, Spec(spec.bits)), number)
        return LayerRange({self.number: number}, {"signed": signed})

    def see(self, x: jax.Array, spec: Spec, layer: LayerRange) -> jax.Array:
        """`quantize` by the number's magnitude, so that no optimizer step makes it meaningless."""
        number = jnp.abs(layer.trained[self.number])
        absent = number == 0
        # Where there is no number yet its gradient must be 0, not NaN.
        safe = jnp.where(absent, jnp.float32(1), number)
        y = self.quantize(x, safe, spec)
        if not self.symmetric:
            y = jnp.where(layer.fixed["signed"], self.quantize(x, safe, Spec(spec.bits, symmetric=True)), y)
        return jnp.where(absent, x, y)

    def signed_spec(self, spec: Spec, layer: LayerRange, path: str) -> Spec:
        """The Spec with the sign that calibration found.

        Raises:
          ValueError: if it is traced.
        """
        if self.symmetric:
            return spec
        signed = layer.fixed["signed"]
        if isinstance(signed, Tracer):
            raise ValueError(
                f"whether the input of layer {path!r} is signed must not be traced: its codes depend on it"
            )
        return dataclasses.replace(spec, symmetric=bool(signed))


@dataclasses.dataclass(frozen=True)
class LSQActivations(_TrainedRange):
    """The inputs of layers with a step size that is trained: [0, (2^b - 1) step], or signed.

    Attributes:
      bits: as in `ActivationMethod`, like symmetric, examples, rules and state.

    Esser et al., 2020, "Learned step size quantization".

    Example:
      >>> method = LSQActivations(bits=2)
      >>> layer = LayerRange({"step": jnp.float32(0.5)}, {"signed": jnp.bool_(False)})
      >>> method.see(jnp.array([[0.6, 9.0]]), Spec(2, symmetric=False), layer).tolist()
      [[0.5, 1.5]]
    """

    number: ClassVar[str] = "step"

    def start(self, values: jax.Array, spec: Spec) -> jax.Array:
        """2 mean|v| / sqrt(largest code), the mean over what is not 0."""
        return jnp.where(jnp.any(values != 0), lsq_step(values, spec), jnp.float32(0))

    def quantize(self, x: jax.Array, number: jax.Array, spec: Spec) -> jax.Array:
        """`jopt.quantize.lsq`."""
        # The gradient's scale counts features, not the batch (Esser et al., 2020, section 2.2).
        return lsq(x, number, spec, count=x.size // x.shape[0])

    def layer_grid(self, spec: Spec, layer: LayerRange, path: str) -> LayerGrid:
        """The grid whose codes stand for their products with the step."""
        spec, number = self.signed_spec(spec, layer, path), jnp.abs(layer.trained[self.number])
        step = jnp.maximum(jnp.where(number == 0, jnp.float32(1), number), jnp.finfo(jnp.float32).tiny)
        return LayerGrid(spec, stored_grid(spec, step, jnp.int32(0)), number != 0)

    def describe(self) -> str:
        """'lsq'."""
        return "lsq"


@dataclasses.dataclass(frozen=True)
class PACTActivations(_TrainedRange):
    """The inputs of layers with a clipping level that is trained: [0, alpha], or signed.

    Attributes:
      bits: as in `ActivationMethod`, like symmetric, examples, rules and state.
      percentile: of the inputs (of their magnitudes where signed), where alpha starts; in (50, 100]; traced.

    Choi et al., 2018, "PACT".

    Example:
      >>> method = PACTActivations(bits=2)
      >>> layer = LayerRange({"alpha": jnp.float32(3)}, {"signed": jnp.bool_(False)})
      >>> method.see(jnp.array([[0.6, 9.0]]), Spec(2, symmetric=False), layer).tolist()
      [[1.0, 3.0]]
    """

    number: ClassVar[str] = "alpha"

    percentile: float = 99.9

    def validate(self, path: str = "") -> None:
        """Checks the fields; `Method.validate` says more."""
        path = path or self.name
        super().validate(path)
        check_percentile(join_path(path, "percentile"), self.percentile, above=50)

    def start(self, values: jax.Array, spec: Spec) -> jax.Array:
        """The percentile."""
        return percentile(values, spec, self.percentile).high

    def quantize(self, x: jax.Array, number: jax.Array, spec: Spec) -> jax.Array:
        """`jopt.quantize.pact`."""
        return pact(x, number, spec)

    def layer_grid(self, spec: Spec, layer: LayerRange, path: str) -> LayerGrid:
        """The grid of [0, alpha], or [-alpha, alpha]."""
        spec, number = self.signed_spec(spec, layer, path), jnp.abs(layer.trained[self.number])
        high = jnp.where(number == 0, jnp.float32(1), number)
        range = Range(-high if spec.symmetric else jnp.zeros_like(high), high)
        return LayerGrid(spec, grid(spec, range), number != 0)

    def describe(self) -> str:
        """'pact'."""
        return "pact"


_SHARED_FIELDS = ("bits", "symmetric", "examples", "rules", "state")
_OLD_CLASSES: dict[str, type[ActivationMethod]] = {
    "moving_average": MovingAverageActivations,
    "lsq": LSQActivations,
    "pact": PACTActivations,
    **dict.fromkeys(CALIBRATIONS, Activations),
}


def activations_from_metadata(
    metadata: Mapping[str, Any], field: str = "activations", *, trusted: bool = False
) -> Method:
    """The method that a packed file's metadata describe.

    Args:
      metadata: the fields that differ from their defaults. With 'class', as `jopt.config` writes them; or without,
        as in files of earlier versions, where one class held all variants and its field `method` named one.
      field: where they stand, for messages.
      trusted: whether modules that they name may be imported (`jopt.reference.resolve`).

    Raises:
      ConfigError: naming the field, the value and what is accepted.

    Example:
      >>> activations_from_metadata({"method": "lsq", "bits": 4, "rules": [["Dense_0", None]]})
      LSQActivations(bits=4, symmetric=False, examples=512, rules=(('Dense_0', None),), state=False, products=False)
      >>> activations_from_metadata({"percentile": 99.0}).calibration
      Percentile(percentile=99.0)
      >>> activations_from_metadata({"class": "jopt.quantize:PACTActivations", "bits": 2}).bits
      2
    """
    require(isinstance(metadata, Mapping), field, metadata, "an object")
    for name, value in metadata.items():
        # A file from elsewhere must not make us import a module: the check comes before anything is built.
        if name != CLASS and is_reference(value):
            resolve(value, join_path(field, name), trusted=trusted)
    if CLASS in metadata:
        cls = resolve(metadata[CLASS], join_path(field, CLASS), trusted=trusted)
        accepted = "a class that derives from Method"
        fits = isinstance(cls, type) and issubclass(cls, Method)
        require(fits, join_path(field, CLASS), metadata[CLASS], accepted)
        values = {name: value for name, value in metadata.items() if name != CLASS}
    else:
        cls, values = _from_old_fields(metadata, field)
    method = from_dict(cls, values, field, trusted=trusted)
    method.validate(field)
    return method


def _from_old_fields(metadata: Mapping[str, Any], field: str) -> tuple[type[ActivationMethod], dict[str, Any]]:
    kind = metadata.get("method", "percentile")
    choice(join_path(field, "method"), kind, _OLD_CLASSES)
    for name in metadata:
        if name not in ("method", "percentile", "momentum", *_SHARED_FIELDS):
            accepted = f"absent: there are only {', '.join(('method', 'percentile', 'momentum', *_SHARED_FIELDS))}"
            raise ConfigError(join_path(field, name), metadata[name], accepted)
    # Numbers that the variant did not read are dropped: the one class of old held those of all variants.
    values = {name: metadata[name] for name in _SHARED_FIELDS if name in metadata}
    level = {"percentile": metadata["percentile"]} if "percentile" in metadata else {}
    if kind == "pact":
        values |= level
    elif kind == "moving_average" and "momentum" in metadata:
        values["momentum"] = metadata["momentum"]
    elif kind == "percentile":
        values["calibration"] = {CLASS: "jopt.quantize:Percentile", **level}
    elif kind in CALIBRATIONS:
        values["calibration"] = kind
    return _OLD_CLASSES[kind], values
