"""Integer weights: the ParamTransform that fake-quantizes parameters."""

from collections.abc import Callable
from typing import Any

from jopt.layers import Layers
from jopt.quantize.assign import Assigned, Rules, assign, change, resolve
from jopt.quantize.fake import fake_quantize
from jopt.quantize.grid import Range
from jopt.quantize.ranges import mse, percentile
from jopt.quantize.spec import Spec
from jopt.transform import Params, ParamTransform, State

CALIBRATIONS = ("absmax", "percentile", "mse")


def weights(
    spec: Spec | None = None,
    rules: Rules = (),
    *,
    calibration: str = "absmax",
    percentile: Any = 99.9,
    layers: Layers | None = None,
) -> ParamTransform:
    """Fake-quantizes parameters, with straight-through gradients.

    Used in training it is quantization-aware training; after training, post-training quantization.

    Args:
      spec: for every floating weight that no rule matches; None: `Spec(8)`. With the identity only what the rules
        name is quantized. `Spec(b, axis="outputs")` gives each output unit of a layer a scale.
      rules: pairs of a pattern (`jopt.rules`) and a Spec, or None for a parameter that is left alone.
      calibration: 'absmax': the whole range, of the moment (asymmetric: from the smallest value to the largest).
        'percentile', 'mse': ranges that `init` and `update` choose and the state holds; what lies outside is
        clipped and has no gradient.
      percentile: for 'percentile', of the values that are not 0; in (0, 100], may be traced.
      layers: what the model says about its parameters (`jopt.layers.trace`): which are weights, along which axes
        'outputs' run, and which axes are copies of a layer, which never share a scale. None: what names and shapes
        say.

    Returns:
      A `ParamTransform`. Its state is a dictionary from path to `Range`, empty for 'absmax'.

    Raises:
      ValueError: for an unknown calibration; where parameters come in, for axes or groups that do not fit their
        shape, or concrete values that are not finite, naming the path.
      RuleError: where parameters come in, if a rule matches none.

    Jacob et al., 2018, section 3; Wu et al., 2020, section 3.3 (calibration).

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"bias": jnp.array([0.1]), "kernel": jnp.array([[0.31], [-0.7]])}
      >>> t = weights(Spec(3))
      >>> t.apply(t.init(params), params)["kernel"].round(4).tolist()
      [[0.23330000042915344], [-0.699999988079071]]
    """
    default = Spec(8) if spec is None else spec
    if calibration not in CALIBRATIONS:
        raise ValueError(f"calibration must be one of {', '.join(map(repr, CALIBRATIONS))}, got {calibration!r}")

    def assigned(params: Params) -> list[Assigned]:
        return [
            a if a.value is None else a._replace(value=resolve(a.value, a.parameter, len(a.leaf.shape)))
            for a in assign(rules, params, default, layers)
        ]

    return quantize_assigned(assigned, calibration, percentile)


def quantize_assigned(assigned: Callable[[Params], list[Assigned]], calibration: str, q: Any) -> ParamTransform:
    """`weights` for Specs (or None) that `assigned(params)` gives the leaves, in leaf order."""

    def ranges(params: Params) -> dict[str, Range]:
        found = assigned(params)  # whose errors should come at the start, ranges or not
        chosen: dict[str, Range] = {}
        if calibration == "absmax":
            return chosen

        def choose(path: str, leaf: Any, spec: Spec) -> Any:
            if spec.bits is not None:
                chosen[path] = (
                    mse(leaf, spec) if calibration == "mse" else percentile(leaf, spec, q, skip_zeros=True)
                )
            return leaf

        change(params, found, choose)
        return chosen

    def apply(state: State, params: Params) -> Params:
        return change(params, assigned(params), lambda path, leaf, spec: fake_quantize(leaf, spec, state.get(path)))

    return ParamTransform(
        init=ranges, update=lambda state, params, *, step, grads=None, key=None: ranges(params), apply=apply
    )
