"""The config of weight quantization, its check, and the plan that is printed before a run."""

import dataclasses
import math
import re
from typing import Any

from jopt.config import check_types, choice, join_path, require
from jopt.hyper import as_traced, known, swept
from jopt.layers import Layers, Parameter
from jopt.quantize.assign import Assigned, assign, resolve
from jopt.quantize.binary import binary, ternary
from jopt.quantize.spec import ACCEPTED, ACCEPTED_OR_NONE, BITS, OUTPUTS, UNTOUCHED, Spec
from jopt.quantize.weights import CALIBRATIONS, OF_THE_MOMENT, quantize_assigned
from jopt.transform import Params, ParamTransform, chain

SCHEMES = ("integer", "binary", "xnor", "ternary", "identity")
GRANULARITIES = ("tensor", "channel", "group")


@dataclasses.dataclass
class Config:
    """How weights are quantized.

    Without a rule, every weight gets the scheme (`jopt.layers` says which these are). A rule is a pair of a regular
    expression, which must match a parameter's whole path such as `Dense_0/kernel`, and that parameter's bits as an
    integer, whatever the scheme, or None, which leaves it alone; the first match wins, and a rule that changes
    nothing is an error (`jopt.rules`). Binary hidden layers between 8-bit outer ones are
    `Config("xnor", rules=(("Dense_0/kernel", 8), ("Dense_2/kernel", 8)))`.

    Attributes:
      scheme: 'integer'; 'binary' (BinaryConnect's signs), 'xnor' (signs times the mean magnitude of a channel),
        'ternary' (three values), 'identity' (nothing but what the rules name).
      bits: integer: 1 to 8, or 16; 32 leaves every value as it is, in the program of the other widths: the control
        of a sweep. May be traced.
      symmetric: integer: whether codes are centred on 0.
      granularity: what shares a scale. Integer: 'tensor' (the whole), 'channel' (an output unit of the layer, on
        whichever axes of its kernel these are), 'group' (`group` consecutive entries of a channel, its axes
        flattened). Ternary: 'tensor', as in the paper, or 'channel'. What is no weight has one scale. The copies of
        a stacked layer never share one.
      group: the size of a group, which must divide the entries of each channel; read for 'group' only.
      calibration: integer: 'absmax', the whole range at every step; 'auto', the same, but at 2 to 4 symmetric bits
        with a finer step (`jopt.quantize.auto`); 'percentile' or 'mse' (the least squared error), chosen between
        segments.
      percentile: of the magnitudes that are not 0; in (0, 100].
      threshold: ternary: magnitudes up to this many times their mean become 0; at least 0.
      rules: pairs of a pattern and bits.

    Example:
      >>> validate(Config(bits=4, granularity="group", group=32))
    """

    scheme: str = "integer"
    bits: int = swept(8)
    symmetric: bool = True
    granularity: str = "channel"
    group: int | None = None
    calibration: str = "auto"
    percentile: float = 99.9
    threshold: float = 0.7
    rules: tuple[tuple[str, int | None], ...] = ()


def validate(config: Config, path: str = "quantize") -> None:
    """Checks a config of plain Python values, once, before anything compiles.

    Whether the rules match, and the groups divide, is known only with parameters: `plan` raises for that.

    Args:
      config: the config.
      path: where it stands in the tree, for messages.

    Raises:
      ConfigError: names the field, the value and what would be accepted.

    Example:
      >>> validate(Config(bits=9))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: quantize.bits must be 1 to 8, 16, or 32, which changes nothing, got 9
    """
    check_types(config, path)
    choice(join_path(path, "scheme"), config.scheme, SCHEMES)
    choice(join_path(path, "granularity"), config.granularity, GRANULARITIES)
    choice(join_path(path, "calibration"), config.calibration, CALIBRATIONS)
    widths = (*BITS, UNTOUCHED)
    require(config.bits in widths, join_path(path, "bits"), config.bits, ACCEPTED)
    # In the program the number is a float32.
    for name, good, accepted in (
        ("percentile", lambda x: 0 < x <= 100, "a number in (0, 100]"),
        ("threshold", lambda x: math.isfinite(x) and x >= 0, "a finite number, at least 0"),
    ):
        value = getattr(config, name)
        require(good(value) and good(as_traced(value)), join_path(path, name), value, accepted)
    if config.granularity == "group":
        fine = config.group is not None and config.group >= 1
        require(fine, join_path(path, "group"), config.group, "an integer, at least 1, for granularity 'group'")
        what = "'tensor' or 'channel' for scheme 'ternary'"
        require(config.scheme != "ternary", join_path(path, "granularity"), config.granularity, what)
    one_bit = (
        config.symmetric
        and config.calibration not in OF_THE_MOMENT
        and ((config.scheme == "integer" and config.bits == 1) or any(bits == 1 for _, bits in config.rules))
    )
    what = "'auto' or 'absmax' at one bit, where the scale is the mean magnitude"
    require(not one_bit, join_path(path, "calibration"), config.calibration, what)
    for i, (pattern, bits) in enumerate(config.rules):
        field = f"{join_path(path, 'rules')}[{i}]"
        require(bits is None or bits in widths, field, bits, ACCEPTED_OR_NONE)
        try:
            re.compile(pattern)
        except re.error as error:
            require(False, field, pattern, f"a regular expression ({error})")


def build(config: Config, *, begin: int = 0, steps: int = 0, layers: Layers | None = None) -> ParamTransform:
    """The transform that a config describes.

    Args:
      config: the config; `bits`, `percentile` and `threshold` may be traced.
      begin: the step at which the stage starts; not read: weights are quantized from the first step on.
      steps: the stage's length; not read.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A `ParamTransform`.

    Raises:
      RuleError: where parameters come in, if a rule matches none.
      ValueError: there, for groups that do not come out even, or concrete values that are not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> t = build(Config(bits=2, granularity="tensor"), begin=0, steps=100)
      >>> params = {"bias": jnp.array([0.3]), "kernel": jnp.array([[0.25], [-1.0]])}
      >>> t.apply(t.init(params), params)["kernel"].tolist()
      [[0.0], [-0.6666...]]
    """
    del begin, steps
    validate(known(config), "")
    integers = quantize_assigned(
        lambda params: specs(config, params, layers), config.calibration, config.percentile
    )
    if config.scheme in ("integer", "identity"):
        return integers
    others = [(pattern, False) for pattern, _ in config.rules]
    if config.scheme == "ternary":
        axis = None if config.granularity == "tensor" else OUTPUTS
        base = ternary(others, axis=axis, threshold=config.threshold, layers=layers)
    else:
        base = binary(others, scaled=config.scheme == "xnor", layers=layers)
    return chain(base, integers) if config.rules else base


def specs(config: Config, params: Params, layers: Layers | None = None) -> list[Assigned]:
    """The Spec that each parameter is quantized to integers by, None where it is not, as `jopt.quantize.assign`."""
    default = config.bits if config.scheme == "integer" else None
    return [
        a._replace(value=None if a.value is None else spec_of(config, a.value, a.parameter, len(a.leaf.shape)))
        for a in assign(config.rules, params, default, layers)
    ]


def spec_of(config: Config, bits: Any, parameter: Parameter, ndim: int) -> Spec:
    """The Spec of a parameter of rank `ndim`."""
    if config.granularity == "tensor" or not parameter.is_weight:
        return resolve(Spec(bits, config.symmetric), parameter, ndim)
    group = config.group if config.granularity == "group" else None
    return resolve(Spec(bits, config.symmetric, axis=OUTPUTS, group=group), parameter, ndim)
