"""Integer weights: which parameter is quantized by which Spec, and the ParamTransforms that do it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt import rules as path_rules
from jopt.layers import Layers, Parameter, parameters
from jopt.quantize.grid import Range, Rounding, fit_range, rounding_function
from jopt.quantize.learned import lsq_step, lsq_weights, step_range
from jopt.quantize.ranges import Choose, Percentile, calibration_function, of_weights
from jopt.quantize.spec import OUTPUTS, UNTOUCHED, Spec
from jopt.quantize.tensors import fake_quantize, fake_quantize_all, is_quantized
from jopt.transform import Params, ParamTransform, Storage

EVERY_STEP = ("auto", "absmax")
"""The calibrations whose range follows from the weights at every step; `init` and `update` choose the others'."""

Rules = Sequence[tuple[str, Any]]
Ranges = dict[str, Range]
Steps = dict[str, dict[str, jax.Array]]
SpecsOf = Callable[[Params], "list[Assigned]"]

# Not None, which is the value of a rule that leaves a parameter alone.
_NO_RULE = object()


class Assigned(NamedTuple):
    """What one parameter gets.

    Attributes:
      path: its path.
      leaf: the array, or its shape and dtype.
      value: what it gets; None: it is left alone.
      parameter: what the model says about it.
    """

    path: str
    leaf: Any
    value: Any
    parameter: Parameter


def assign(rules: Rules, params: Params, default: object, layers: Layers | None = None) -> list[Assigned]:
    """What each parameter gets: the first matching rule's value, else `default` for floating weights.

    Args:
      rules: pairs of a pattern (`jopt.rules`) and a value; None leaves the parameter alone.
      params: a pytree of arrays (or shapes).
      default: the value for a weight that no rule matches.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      An `Assigned` for every leaf, in leaf order.

    Raises:
      RuleError: if a rule matches nothing.

    Example:
      >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}
      >>> [(a.path, a.value) for a in assign([("bias", 16)], params, 8)]
      [('bias', 16), ('kernel', 8)]
    """
    assigned = []
    by_rule = path_rules.plan(rules, params, _NO_RULE)
    for rule, leaf, parameter in zip(by_rule, jax.tree.leaves(params), parameters(params, layers), strict=True):
        value = rule.value
        if value is _NO_RULE:
            value = default if parameter.is_weight and jnp.issubdtype(leaf.dtype, jnp.floating) else None
        assigned.append(Assigned(rule.path, leaf, value, parameter))
    return assigned


def resolve(spec: Spec, parameter: Parameter, ndim: int) -> Spec:
    """The Spec with a parameter's axes in the place of 'outputs', and with the axes over its copies.

    The copies of a stacked layer never share a scale, whatever the Spec says. A parameter that is not a weight has
    no channels: along 'outputs' it has one scale (for each copy).

    Args:
      spec: the Spec.
      parameter: what the model says about the parameter.
      ndim: its rank.

    Raises:
      LayoutError: for 'outputs' of a weight whose axes are not known, naming its layer.

    Example:
      >>> query = Parameter("query/kernel", "DenseGeneral", "kernel", contract=(1,), outputs=(2, 3), stack=(0,))
      >>> resolve(Spec(8, axis="outputs"), query, 4).axis, resolve(Spec(8), query, 4).axis
      ((0, 2, 3), 0)
    """
    if spec.bits is None:
        return spec
    if spec.axis == OUTPUTS:
        is_weight = parameter.is_weight
        channels = parameter.require_layout("a scale for each output channel").outputs if is_weight else ()
    elif parameter.stack:
        channels = spec.kept_axes(ndim)
    else:
        return spec
    axes = tuple(sorted({*channels, *parameter.stack}))
    # The last axis as -1 and a single one as an integer: the forms that users write, and that files hold.
    if axes == (ndim - 1,) and not parameter.stack:
        return dataclasses.replace(spec, axis=-1)
    return dataclasses.replace(spec, axis=None if not axes else axes[0] if len(axes) == 1 else axes)


def change(params: Params, assigned: Sequence[Assigned], function: Callable[[str, Any, Any], Any]) -> Params:
    """The tree with `function(path, leaf, value)` in the place of every leaf whose value is not None.

    Raises:
      ValueError: what `function` raises, with the path in front.
    """
    leaves = []
    for path, leaf, value, _ in assigned:
        try:
            leaves.append(leaf if value is None else function(path, leaf, value))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def weights(
    spec: Spec | None = None,
    rules: Rules = (),
    *,
    calibration: str | Choose = "auto",
    percentile: Any = 99.9,
    rounding: str | Rounding = "nearest",
    layers: Layers | None = None,
) -> ParamTransform:
    """Fake-quantizes parameters, with straight-through gradients.

    Used in training it is quantization-aware training; after training, post-training quantization.

    Args:
      spec: for every floating weight that no rule matches; None: `Spec(8)`. With the identity only what the rules
        name is quantized. `Spec(b, axis="outputs")` gives each output unit of a layer a scale.
      rules: pairs of a pattern (`jopt.rules`) and a Spec, or None for a parameter that is left alone.
      calibration: 'absmax': the range of all values, at every step (asymmetric: from the smallest value to the
        largest). 'auto': the same, but at 2 to 4 symmetric bits with a finer step, that of `jopt.quantize.auto`.
        'mse', 'percentile', a function `(values, spec) -> Range` or a reference to one: `init` and `update` choose
        the ranges and the state holds them; values outside are clipped and have no gradient.
      percentile: for 'percentile', of the values that are not 0; in (0, 100], may be traced.
      rounding: of `x / scale`, as for `jopt.quantize.fake_quantize`.
      layers: what the model says about its parameters (`jopt.layers.trace`): which are weights, along which axes
        'outputs' run, and which axes are copies of a layer, which never share a scale. None: what names and shapes
        say.

    Returns:
      A `ParamTransform`, whose `storage` says which integers the values are. Its state is a dictionary from path to
      `Range`, empty for 'auto' and 'absmax'.

    Raises:
      ValueError: for an unknown calibration or rounding; where parameters come in, for axes or groups that do not
        fit their shape, or concrete values that are not finite, naming the path.
      RuleError: where parameters come in, if a rule matches none.

    Jacob et al., 2018, section 3; Wu et al., 2020, section 3.3 (calibration).

    Example:
      >>> params = {"bias": jnp.array([0.1]), "kernel": jnp.array([[0.31], [-0.7]])}
      >>> t = weights(Spec(3))
      >>> t.apply(t.init(params), params)["kernel"].round(4).tolist()  # a step of 0.7 / 3.5
      [[0.3999999761581421], [-0.5999999642372131]]
      >>> t = weights(Spec(3), calibration="absmax")
      >>> t.apply(t.init(params), params)["kernel"].round(4).tolist()
      [[0.23330000042915344], [-0.699999988079071]]
    """
    default = Spec(8) if spec is None else spec
    calibration = Percentile(percentile) if calibration == "percentile" else calibration
    return quantize_by(lambda params: assign_specs(rules, params, default, layers), calibration, rounding)


def quantize_by(
    specs: SpecsOf, calibration: str | Choose = "auto", rounding: str | Rounding = "nearest"
) -> ParamTransform:
    """`weights` for the Specs that `specs(params)` gives the leaves, in leaf order."""
    choose = calibration_function(calibration)
    to_integer = rounding_function(rounding)

    def ranges(params: Params) -> Ranges:
        assigned = specs(params)  # Rules that match nothing fail here, with or without ranges to choose.
        chosen: Ranges = {}
        if is_every_step(calibration):
            return chosen

        def calibrate(path: str, leaf: jax.Array, spec: Spec) -> jax.Array:
            if spec.bits is not None:
                # A user's function may give numbers, or one range for all channels.
                chosen[path] = fit_range(of_weights(choose, leaf, spec), leaf.shape, spec)
            return leaf

        change(params, assigned, calibrate)
        return chosen

    def apply(state: Ranges, params: Params) -> Params:
        assigned = specs(params)
        unclipped: dict[str, tuple[jax.Array, Spec]] = {}

        def collect(path: str, leaf: jax.Array, spec: Spec) -> jax.Array:
            if path not in state and is_quantized(leaf, spec):
                unclipped[path] = leaf, spec
            return leaf

        change(params, assigned, collect)
        # Not in a range: nothing is clipped, so the gradient is 1 at the ends too; a range would cut it off.
        arrays, array_specs = zip(*unclipped.values(), strict=True) if unclipped else ((), ())
        auto = calibration == "auto"
        quantized = fake_quantize_all(arrays, array_specs, auto=auto, rounding=to_integer)
        by_path = dict(zip(unclipped, quantized, strict=True))

        def see(path: str, leaf: jax.Array, spec: Spec) -> jax.Array:
            if path in state:
                return fake_quantize(leaf, spec, state[path], rounding=to_integer)
            return by_path.get(path, leaf)

        return change(params, assigned, see)

    def storage(state: Ranges, params: Params) -> dict[str, Storage]:
        def range_of(path: str, leaf: jax.Array, spec: Spec) -> Range:
            return state[path] if path in state else choose(leaf, spec)

        return storage_of(specs(params), range_of)

    return ParamTransform(
        init=ranges,
        update=lambda state, params, *, step, grads=None, key=None: ranges(params),
        apply=apply,
        storage=storage,
    )


def learned_weights(spec: Spec | None = None, rules: Rules = (), *, layers: Layers | None = None) -> ParamTransform:
    """Fake-quantizes parameters with step sizes that are trained: LSQ (Esser et al., 2020) for weights.

    The steps are the transform's trainable parameters (`ParamTransform.learn`): from path to `{"step": s}`, s
    float32 of the scales' shape. They start at 2 mean|w| / sqrt(n), with n the largest code and the mean over what
    is not 0, and get the paper's gradient, times 1 / sqrt(count n), with count the number of weights that share a
    step. A step counts by its magnitude.

    Args:
      spec: for every floating weight that no rule matches, symmetric; None: `Spec(8)`. With `narrow=False` the
        codes are the paper's, from -n - 1 to n.
      rules: pairs of a pattern (`jopt.rules`) and such a Spec, or None for a parameter that is left alone.
      layers: as for `weights`.

    Returns:
      A `ParamTransform` without state, whose `apply` and `storage` take the steps last.

    Raises:
      ValueError: for an asymmetric Spec; where parameters come in, as `weights`.
      RuleError: where parameters come in, if a rule matches none.

    Esser et al., 2020, "Learned step size quantization", section 2.

    Example:
      >>> params = {"bias": jnp.array([0.1]), "kernel": jnp.array([[0.5], [-1.5]])}
      >>> t = learned_weights(Spec(2))
      >>> state = t.init(params)
      >>> steps = t.learn(state, params)
      >>> {path: float(own["step"]) for path, own in steps.items()}
      {'kernel': 2.0}
      >>> t.apply(state, params, {"kernel": {"step": jnp.float32(0.5)}})["kernel"].tolist()
      [[0.5], [-0.5]]
    """
    default = Spec(8) if spec is None else spec
    for symmetric in (default, *(value for _, value in rules if value is not None)):
        if not symmetric.symmetric:
            raise ValueError(f"spec must be symmetric where steps are learned, so that 0 stays 0, got {symmetric}")

    return learn_by(lambda params: assign_specs(rules, params, default, layers))


def learn_by(specs: SpecsOf) -> ParamTransform:
    """`learned_weights` for the Specs that `specs(params)` gives the leaves, in leaf order."""

    def init(params: Params) -> tuple[()]:
        specs(params)  # Rules that match nothing should fail here, not in the first step.
        return ()

    def learn(state: tuple[()], params: Params) -> Steps:
        del state
        steps: Steps = {}

        def start(path: str, leaf: jax.Array, spec: Spec) -> jax.Array:
            # A parameter at 32 bits has no step: it would get no gradient and be stored for nothing.
            if not spec.is_identity:
                # Named, so that no rule for kernels takes the step of a kernel for one.
                steps[path] = {"step": lsq_step(leaf, spec)}
            return leaf

        change(params, specs(params), start)
        return steps

    def apply(state: tuple[()], params: Params, learned: Steps) -> Params:
        del state

        def see(path: str, leaf: jax.Array, spec: Spec) -> jax.Array:
            return leaf if spec.is_identity else lsq_weights(leaf, learned[path]["step"], spec)

        return change(params, specs(params), see)

    def storage(state: tuple[()], params: Params, learned: Steps) -> dict[str, Storage]:
        del state
        return storage_of(specs(params), lambda path, leaf, spec: step_range(learned[path]["step"], spec))

    return ParamTransform(
        init=init,
        # The steps follow gradients; nothing is chosen between segments.
        update=lambda state, params, *, step, grads=None, key=None, learned=None: state,
        apply=apply,  # type: ignore[arg-type]
        storage=storage,
        learn=learn,
    )


def is_every_step(calibration: str | Choose) -> bool:
    """Whether a calibration is one of `EVERY_STEP`."""
    return isinstance(calibration, str) and calibration in EVERY_STEP


def assign_specs(rules: Rules, params: Params, default: Spec, layers: Layers | None) -> list[Assigned]:
    """`assign` of Specs, each resolved for its parameter."""
    return [
        a if a.value is None else a._replace(value=resolve(a.value, a.parameter, len(a.leaf.shape)))
        for a in assign(rules, params, default, layers)
    ]


def storage_of(
    assigned: Sequence[Assigned], range_of: Callable[[str, jax.Array, Spec], Range]
) -> dict[str, Storage]:
    """How each assigned parameter is stored: its Spec with concrete bits, and `range_of(path, leaf, spec)`."""
    formats = {}
    for path, leaf, spec, _ in assigned:
        if spec is not None and spec.bits is not None and int(spec.bits) != UNTOUCHED:
            spec = dataclasses.replace(spec, bits=int(spec.bits))
            formats[path] = Storage(spec, range_of(path, leaf, spec))
    return formats
