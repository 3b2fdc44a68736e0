"""How a stage quantizes weights: one frozen config class a variant."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.config import ConfigError, choice, join_path, require
from jopt.hyper import as_traced, known, swept
from jopt.layers import Layers, Parameter, PlanRow
from jopt.method import Context, Method
from jopt.quantize.binary import binary, ternary
from jopt.quantize.grid import Rounding, rounding_function
from jopt.quantize.ranges import Calibration, Choose, calibration_function
from jopt.quantize.spec import ACCEPTED_OR_NONE, BITS, OUTPUTS, UNTOUCHED, Spec, scale_shape
from jopt.quantize.weights import Assigned, Rules, assign, is_every_step, learn_by, quantize_by, resolve
from jopt.transform import Params, ParamTransform, State, chain

GRANULARITIES = ("tensor", "channel")
BitRules = tuple[tuple[str, int | None], ...]
"""Pairs of a pattern of a parameter's whole path and its bits, None leaving it alone; the first match wins."""

# What a weight without a rule gets from the methods of signs: neither a number of bits nor None.
_SIGNS = "signs"


class Conflict(NamedTuple):
    """A field that another method does not allow.

    Attributes:
      field: its name.
      value: what it holds.
      accepted: what the other method would allow, as the end of a sentence.
    """

    field: str
    value: object
    accepted: str


@dataclasses.dataclass(frozen=True)
class Weights(Method):
    """Integer codes: every weight is rounded to a multiple of its scale, with a straight-through gradient.

    Every weight gets `bits` (`jopt.layers` says which parameters are weights). A rule is a pair of a regular
    expression, which must match a parameter's whole path such as `Dense_0/kernel`, and its bits, or None, which
    leaves it alone; the first match wins, and a rule that changes nothing is an error (`jopt.rules`).

    Attributes:
      bits: 1 to 8, or 16; 32 leaves every value as it is, in the program of the other widths: the control of a
        sweep. None: only what the rules name is quantized. May be traced.
      symmetric: whether codes are centred on 0.
      granularity: what shares a scale: 'tensor' (the array) or 'channel' (an output unit of the layer, on whichever
        axes of its kernel these are). A parameter that is not a weight has one scale. The copies of a stacked layer
        never share one.
      group: splits a channel, its axes flattened, into runs of so many entries with a scale each; it must divide
        the number of entries. None: a channel has one scale.
      calibration: 'absmax': the range of all values, at every step. 'auto': the same, but at 2 to 4 symmetric bits
        with a finer step (`jopt.quantize.auto`). Chosen between segments: 'mse' (the least squared error),
        'percentile' or `Percentile(99.0)`, a function `(values, spec) -> Range`, or 'package.module:name' of one.
      rounding: of `x / scale`: 'nearest' (ties to even), 'floor', a function that gives integers, or
        'package.module:name' of one. Its gradient is 1 in any case.
      rules: pairs of a pattern and bits.

    Example:
      >>> method = Weights(bits=2, granularity="tensor")
      >>> method.validate()
      >>> params = {"bias": jnp.array([0.3]), "kernel": jnp.array([[0.25], [-1.0]])}
      >>> transform = method.build()
      >>> transform.apply(transform.init(params), params)["kernel"].tolist()
      [[0.0], [-0.6666...]]
      >>> for row in method.plan(params):
      ...     print(row.path, row.what)
      bias left as it is
      kernel 2-bit symmetric, auto, 1 scale
    """

    name: ClassVar[str] = "quantize"
    rank: ClassVar[int] = 40

    bits: int | None = swept(8)
    symmetric: bool = True
    granularity: str = "channel"
    group: int | None = None
    calibration: str | Calibration | Choose = "auto"
    rounding: str | Rounding = "nearest"
    rules: BitRules = ()

    def validate(self, path: str = "") -> None:
        """Checks the fields; `Method.validate` says more."""
        path = path or self.name
        super().validate(path)
        _check_bits(join_path(path, "bits"), self.bits)
        choice(join_path(path, "granularity"), self.granularity, GRANULARITIES)
        accepted = "None, or an integer, at least 1, with granularity 'channel'"
        fits = self.group is None or (self.group >= 1 and self.granularity == "channel")
        require(fits, join_path(path, "group"), self.group, accepted)
        field = join_path(path, "calibration")
        calibration_function(self.calibration, field)
        if isinstance(self.calibration, Calibration):
            self.calibration.validate(field)
        rounding_function(self.rounding, join_path(path, "rounding"))
        has_one_bit = self.bits == 1 or any(bits == 1 for _, bits in self.rules)
        accepted = "'auto' or 'absmax' at one bit, where the scale is the mean magnitude"
        # One bit stands for the end of the range, which these calibrations choose to clip outliers.
        fits = not (self.symmetric and has_one_bit and self.chosen_between_segments)
        require(fits, field, self.calibration, accepted)
        check_rules(join_path(path, "rules"), self.rules)

    def build(
        self, *, begin: int = 0, steps: int = 0, last_update: int | None = None, layers: Layers | None = None
    ) -> ParamTransform:
        """The transform `jopt.quantize.weights` of these fields, which may be traced."""
        del begin, steps, last_update
        # Also for configs that never met an app; traced numbers pass every check of size.
        known(self).validate()
        return quantize_by(lambda params: _specs(self, params, layers), self.calibration, self.rounding)

    def plan(self, params: Params, layers: Layers | None = None) -> list[PlanRow]:
        """The codes, the calibration and the number of scales of each parameter."""
        return _plan(self, self.bits, params, layers)

    def check(self, state: State, seen: Params, layers: Layers | None = None) -> list[str]:
        """Which parameters are not on an integer grid of their bits.

        The values that share a scale must be multiples of one step, within the codes (at 16 bits: at most 2^16
        different values). The step is found from the values, so a later method may set some to 0, but not average
        or rescale them.

        Example:
          >>> Weights(bits=2).check((), {"kernel": np.float32([[-0.5], [0.0], [0.5]])})
          []
          >>> Weights(bits=2).check((), {"kernel": np.float32([[-0.5], [0.1], [0.5]])})
          ['kernel: 1 of 1 groups hold values that are no multiples of a 2-bit step']
        """
        del state
        return _check(self, self.bits, seen, layers)

    def spec(self, bits: int | jax.Array, parameter: Parameter, ndim: int) -> Spec:
        """The Spec of a parameter of rank `ndim` that gets so many bits."""
        spec = Spec(bits, self.symmetric)
        # A bias has no channels, and so no groups in them either.
        if self.granularity == "channel" and parameter.is_weight:
            spec = dataclasses.replace(spec, axis=OUTPUTS, group=self.group)
        return resolve(spec, parameter, ndim)

    def describe(self, bits: int) -> str:
        """The codes and their calibration, for the plan."""
        del bits
        return f"{'symmetric' if self.symmetric else 'asymmetric'}, {name_of_calibration(self.calibration)}"

    @property
    def chosen_between_segments(self) -> bool:
        """Whether `init` and `update` choose ranges, which then differ between layers that are tied later."""
        return not is_every_step(self.calibration)

    def splits_shared_values(self) -> Conflict | None:
        """The field by which one array gets several scales, so that k shared values would become more; or None."""
        return _several_scales(self.granularity if self.bits is not None else "tensor")


@dataclasses.dataclass(frozen=True)
class LearnedWeights(Method):
    """Integer codes whose step sizes are trained (LSQ).

    The steps stand under the key 'quantize' of the tree that the optimizer moves: float32, one for each scale, with
    the paper's first value and gradient (`jopt.quantize.learned_weights`).

    Attributes:
      bits: as in `Weights`.
      symmetric: whether codes are centred on 0, from -n to n with n = 2^(bits - 1) - 1. False: the paper's codes,
        from -n - 1 to n. 0 is a code in both.
      granularity: as in `Weights`.
      rules: pairs of a pattern and bits, as in `Weights`.

    Esser et al., 2020, "Learned step size quantization".

    Example:
      >>> transform = LearnedWeights(bits=2).build()
      >>> params = {"kernel": jnp.array([[0.5], [-1.5]])}
      >>> steps = transform.learn((), params)
      >>> steps["kernel"]["step"].tolist(), transform.apply((), params, steps)["kernel"].tolist()
      ([[2.0]], [[0.0], [-2.0]])
    """

    name: ClassVar[str] = "quantize"
    rank: ClassVar[int] = 40

    bits: int | None = swept(8)
    symmetric: bool = True
    granularity: str = "channel"
    rules: BitRules = ()

    # The steps of two layers move apart, also where both hold the same weights.
    chosen_between_segments: ClassVar[bool] = True

    def validate(self, path: str = "") -> None:
        """Checks the fields; `Method.validate` says more."""
        path = path or self.name
        super().validate(path)
        _check_bits(join_path(path, "bits"), self.bits)
        choice(join_path(path, "granularity"), self.granularity, GRANULARITIES)
        check_rules(join_path(path, "rules"), self.rules)

    def validate_with(self, context: Context) -> None:
        """Refuses tied layers, whose steps would get different gradients."""
        accepted = "a class without learned steps where layers are tied, such as Weights"
        tied = any(applied.method.name == "tie" for applied in context.applied)
        require(not tied, join_path(context.mine.path, "class"), type(self).__name__, accepted)

    def build(
        self, *, begin: int = 0, steps: int = 0, last_update: int | None = None, layers: Layers | None = None
    ) -> ParamTransform:
        """The transform `jopt.quantize.learned_weights` of these fields; `bits` may be traced."""
        del begin, steps, last_update
        known(self).validate()
        return learn_by(lambda params: _specs(self, params, layers))

    def plan(self, params: Params, layers: Layers | None = None) -> list[PlanRow]:
        """The codes and the number of learned steps of each parameter."""
        return _plan(self, self.bits, params, layers)

    def check(self, state: State, seen: Params, layers: Layers | None = None) -> list[str]:
        """Which parameters are not on an integer grid of their bits; `Weights.check` says more."""
        del state
        return _check(self, self.bits, seen, layers)

    def spec(self, bits: int | jax.Array, parameter: Parameter, ndim: int) -> Spec:
        """The Spec of a parameter of rank `ndim` that gets so many bits."""
        by_channel = self.granularity == "channel" and parameter.is_weight
        return resolve(Spec(bits, axis=OUTPUTS if by_channel else None, narrow=self.symmetric), parameter, ndim)

    def describe(self, bits: int) -> str:
        """The codes and their calibration, for the plan."""
        return f"{'symmetric' if self.symmetric else f'from {-(2 ** (bits - 1))}'}, learned steps"

    def splits_shared_values(self) -> Conflict | None:
        """The field by which one array gets several scales; or None."""
        return _several_scales(self.granularity if self.bits is not None else "tensor")


class _Signs(Method):
    """What `Binary`, `XNOR` and `Ternary` share: signs for weights, integer codes where rules ask for them."""

    name: ClassVar[str] = "quantize"
    rank: ClassVar[int] = 40
    chosen_between_segments: ClassVar[bool] = False
    description: ClassVar[str] = ""

    def validate(self, path: str = "") -> None:
        """Checks the fields; `Method.validate` says more."""
        path = path or self.name
        super().validate(path)
        check_rules(join_path(path, "rules"), self._integers.rules)

    def build(
        self, *, begin: int = 0, steps: int = 0, last_update: int | None = None, layers: Layers | None = None
    ) -> ParamTransform:
        """The transform of signs, then that of integer codes where rules ask for them."""
        del begin, steps, last_update
        known(self).validate()
        # Integers come last, as their rules name what the signs leave alone.
        integers = self._integers
        # What a rule names gets its bits, or nothing, and in no case a sign.
        signs = self._transform([(pattern, False) for pattern, _ in integers.rules], layers)
        return chain(signs, integers.build(layers=layers)) if integers.rules else signs

    def plan(self, params: Params, layers: Layers | None = None) -> list[PlanRow]:
        """Which parameters have signs, and which integer codes."""
        return _plan(self._integers, _SIGNS, params, layers, self.description)

    def check(self, state: State, seen: Params, layers: Layers | None = None) -> list[str]:
        """Which parameters have other values than signs allow, or are off their integer grid."""
        del state
        return _check(self._integers, _SIGNS, seen, layers, self._problems)

    def splits_shared_values(self) -> Conflict | None:
        """The field by which one array gets several scales, so that k shared values would become more; or None."""
        return None

    @property
    def _integers(self) -> Weights:
        """The method of the parameters that rules name."""
        raise NotImplementedError

    def _transform(self, rules: Rules, layers: Layers | None) -> ParamTransform:
        raise NotImplementedError

    def _problems(self, values: np.ndarray, parameter: Parameter) -> list[str]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Binary(_Signs):
    """Signs: -1 or 1, and 0 for a pruned weight (BinaryConnect).

    Attributes:
      rules: pairs of a pattern and the bits of integer codes that the parameter has instead of a sign, one scale a
        channel; None leaves it alone.

    Courbariaux, Bengio and David, 2015, "BinaryConnect".

    Example:
      >>> transform = Binary(rules=(("out/kernel", 8),)).build()
      >>> params = {"hidden": {"kernel": jnp.array([[0.3, -2.0]])}, "out": {"kernel": jnp.array([[0.3], [-1.0]])}}
      >>> transform.apply(transform.init(params), params)["hidden"]["kernel"].tolist()
      [[1.0, -1.0]]
    """

    description: ClassVar[str] = "sign"

    rules: BitRules = ()

    @property
    def _integers(self) -> Weights:
        return Weights(bits=None, rules=self.rules)

    def _transform(self, rules: Rules, layers: Layers | None) -> ParamTransform:
        return binary(rules, layers=layers)

    def _problems(self, values: np.ndarray, parameter: Parameter) -> list[str]:
        wrong = ~np.isin(values, (-1.0, 0.0, 1.0))
        return [f"{wrong.sum()} weights are not -1, 0 or 1"] if wrong.any() else []


@dataclasses.dataclass(frozen=True)
class XNOR(_Signs):
    """Signs times the mean magnitude of their output channel (XNOR-Net); 0 for a pruned weight.

    Attributes:
      rules: as in `Binary`.

    Rastegari et al., 2016, "XNOR-Net".

    Example:
      >>> transform = XNOR().build()
      >>> params = {"kernel": jnp.array([[-0.25], [0.75]])}
      >>> transform.apply(transform.init(params), params)["kernel"].tolist()
      [[-0.5], [0.5]]
    """

    description: ClassVar[str] = "sign times the mean magnitude of the channel"

    rules: BitRules = ()

    def splits_shared_values(self) -> Conflict:
        """The class itself: every channel has a scale."""
        return Conflict("class", type(self).__name__, "a class with one scale for an array, such as Binary")

    @property
    def _integers(self) -> Weights:
        return Weights(bits=None, rules=self.rules)

    def _transform(self, rules: Rules, layers: Layers | None) -> ParamTransform:
        return binary(rules, scaled=True, layers=layers)

    def _problems(self, values: np.ndarray, parameter: Parameter) -> list[str]:
        return _scaled_sign_problems(values, parameter, OUTPUTS)


@dataclasses.dataclass(frozen=True)
class Ternary(_Signs):
    """Three values, -alpha, 0 and alpha (ternary weight networks).

    Attributes:
      threshold: magnitudes up to this many times their mean become 0; at least 0; traced.
      granularity: what shares a threshold and an alpha: 'tensor', as in the paper, or 'channel'.
      rules: as in `Binary`; integer codes have scales of the same granularity.

    Li, Zhang and Liu, 2016, "Ternary weight networks".

    Example:
      >>> transform = Ternary(granularity="tensor").build()
      >>> params = {"kernel": jnp.array([[0.5, 0.1], [-1.0, 0.0]])}
      >>> transform.apply(transform.init(params), params)["kernel"].tolist()
      [[0.75, 0.0], [-0.75, 0.0]]
    """

    description: ClassVar[str] = "-alpha, 0 or alpha"

    threshold: float = 0.7
    granularity: str = "channel"
    rules: BitRules = ()

    def validate(self, path: str = "") -> None:
        """Checks the fields; `Method.validate` says more."""
        path = path or self.name
        super().validate(path)
        # In the program the number is a float32, which may be infinite where the Python number is not.
        good = all(math.isfinite(x) and x >= 0 for x in (self.threshold, as_traced(self.threshold)))
        require(good, join_path(path, "threshold"), self.threshold, "a finite number, at least 0")
        choice(join_path(path, "granularity"), self.granularity, GRANULARITIES)

    def splits_shared_values(self) -> Conflict | None:
        """The field by which one array gets several scales; or None."""
        return _several_scales(self.granularity)

    @property
    def _axis(self) -> str | None:
        return OUTPUTS if self.granularity == "channel" else None

    @property
    def _integers(self) -> Weights:
        return Weights(bits=None, granularity=self.granularity, rules=self.rules)

    def _transform(self, rules: Rules, layers: Layers | None) -> ParamTransform:
        return ternary(rules, axis=self._axis, threshold=self.threshold, layers=layers)

    def _problems(self, values: np.ndarray, parameter: Parameter) -> list[str]:
        return _scaled_sign_problems(values, parameter, self._axis)


def check_rules(field: str, rules: BitRules) -> None:
    """Raises `ConfigError` for a pattern that is not a regular expression, or bits that there are not.

    Args:
      field: where the rules stand, for messages.
      rules: pairs of a pattern and bits, or None.

    Example:
      >>> check_rules("quantize.rules", (("Dense_0/.*", 4), (".*", None)))
    """
    for i, (pattern, bits) in enumerate(rules):
        _check_bits(f"{field}[{i}]", bits)
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{field}[{i}]", pattern, f"a regular expression ({error})") from error


def name_of_calibration(calibration: object) -> str:
    """The name of a calibration in a plan.

    Example:
      >>> from jopt.quantize import Percentile
      >>> name_of_calibration("auto"), name_of_calibration(Percentile(99.0))
      ('auto', 'percentile')
    """
    if isinstance(calibration, str):
        return calibration
    return getattr(calibration, "__name__", type(calibration).__name__.lower())


def _check_bits(field: str, bits: int | None) -> None:
    require(bits is None or bits in (*BITS, UNTOUCHED), field, bits, ACCEPTED_OR_NONE)


def _several_scales(granularity: str) -> Conflict | None:
    accepted = "'tensor' where weights are shared: several scales would split the k shared values"
    return None if granularity == "tensor" else Conflict("granularity", granularity, accepted)


def _specs(method: Weights | LearnedWeights, params: Params, layers: Layers | None) -> list[Assigned]:
    """The Spec of each leaf, None where it is left alone."""
    return [
        a if a.value is None else a._replace(value=method.spec(a.value, a.parameter, len(a.leaf.shape)))
        for a in assign(method.rules, params, method.bits, layers)
    ]


def _plan(
    method: Weights | LearnedWeights,
    default: int | str | None,
    params: Params,
    layers: Layers | None,
    signs: str = "",
) -> list[PlanRow]:
    """A row for each leaf: `method.describe` where it gets bits, `signs` where it gets the default `_SIGNS`."""
    rows = []
    for path, leaf, value, parameter in assign(method.rules, params, default, layers):
        shape = tuple(leaf.shape)
        if value in (None, UNTOUCHED):
            text = "left as it is"
        elif value == _SIGNS:
            text = signs
        else:
            spec = method.spec(value, parameter, len(shape))
            try:
                scales = math.prod(scale_shape(shape, spec))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            shared = "1 scale" if scales == 1 else f"{scales} scales of {math.prod(shape) // scales} values"
            text = f"{value}-bit {method.describe(value)}, {shared}"
        rows.append(PlanRow(path, shape, text, parameter.reason))
    return rows


def _check(
    method: Weights | LearnedWeights,
    default: int | str | None,
    seen: Params,
    layers: Layers | None,
    sign_problems: Callable[[np.ndarray, Parameter], list[str]] | None = None,
) -> list[str]:
    """A sentence for each leaf that is not as it should be: on a grid of its bits, or by `sign_problems`."""
    sentences = []
    for path, array, value, parameter in assign(method.rules, seen, default, layers):
        values = np.asarray(array).astype(np.float64)
        problems = []
        if not np.isfinite(values).all():
            problems = [f"{int((~np.isfinite(values)).sum())} values are not finite"]
        elif value == _SIGNS and sign_problems is not None:
            problems = sign_problems(values, parameter)
        elif value not in (None, UNTOUCHED):
            # A value is off by half of the parameters' precision, and so is the largest, which gives the step.
            precision = max(float(jnp.finfo(array.dtype).eps), 2.0**-22)
            problems = _integer_problems(method.spec(int(value), parameter, values.ndim), values, precision)
        sentences += [f"{path}: {text}" for text in problems]
    return sentences


def _scaled_sign_problems(values: np.ndarray, parameter: Parameter, axis: str | None) -> list[str]:
    rows = np.abs(_rows(values, resolve(Spec(axis=axis), parameter, values.ndim)))
    alpha = rows.max(axis=1, keepdims=True, initial=0.0)
    wrong = ((rows != 0) & (rows != alpha)).any(axis=1)
    return [f"{wrong.sum()} of {len(rows)} scales have more values than -alpha, 0 and alpha"] if wrong.any() else []


def _integer_problems(spec: Spec, values: np.ndarray, precision: float) -> list[str]:
    rows, bits = _rows(values, spec), int(spec.bits)
    if bits > 8:
        # With so many codes every value is near one: only their number tells.
        wrong = np.array([len(np.unique(row)) > 2**bits for row in rows], bool)
        return [f"{wrong.sum()} of {len(rows)} groups hold more than 2^{bits} values"] if wrong.any() else []
    low, high = rows.min(axis=1, initial=0.0), rows.max(axis=1, initial=0.0)
    if spec.symmetric:
        largest, width = max(2 ** (bits - 1) - spec.narrow, 1), np.maximum(-low, high)
    else:
        largest, width = 2**bits - 1, high - low
    wrong = ~np.array([_is_on_grid(row, w, largest, precision) for row, w in zip(rows, width, strict=True)], bool)
    if not wrong.any():
        return []
    return [f"{wrong.sum()} of {len(rows)} groups hold values that are no multiples of a {bits}-bit step"]


def _rows(values: np.ndarray, spec: Spec) -> np.ndarray:
    """[groups, entries]: a row for each scale."""
    channel_axes = spec.kept_axes(values.ndim)
    entry_axes = [i for i in range(values.ndim) if i not in channel_axes]
    channels = int(np.prod([values.shape[i] for i in channel_axes], dtype=int))
    rows = values.transpose(*channel_axes, *entry_axes).reshape(channels, -1)
    return rows.reshape(-1, rows.shape[1] if spec.group is None else spec.group)


def _is_on_grid(row: np.ndarray, width: float, largest: int, precision: float) -> bool:
    """Whether all values are multiples of width / k for some k up to `largest`.

    The outermost code need not be in use: a later method may have set it to 0.
    """
    values = np.unique(row)
    if width == 0 or len(values) > largest * 2 + 1:
        return width == 0
    for k in range(largest, 0, -1):
        codes = values / (width / k)
        if (np.abs(codes - np.round(codes)) <= np.minimum(np.abs(codes) * precision + precision, 0.49)).all():
            return True
    return False
