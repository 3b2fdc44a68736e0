"""Integer weights: the ParamTransform that fake-quantizes parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jopt.layers import Layers
from jopt.quantize.assign import Assigned, Rules, assign, change, resolve
from jopt.quantize.fake import auto_quantize, fake_quantize
from jopt.quantize.grid import Range
from jopt.quantize.ranges import absmax, auto, minmax, mse, percentile
from jopt.quantize.spec import UNTOUCHED, Spec
from jopt.transform import Params, ParamTransform, State, Storage

CALIBRATIONS = ("auto", "absmax", "percentile", "mse")
OF_THE_MOMENT = ("auto", "absmax")
"""Those whose range follows from the weights at every step; the others' is chosen by `init` and `update`."""


def weights(
    spec: Spec | None = None,
    rules: Rules = (),
    *,
    calibration: str = "auto",
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
        'auto': the same, but at 2 to 4 symmetric bits with a finer step, that of `jopt.quantize.auto`.
        'percentile', 'mse': ranges that `init` and `update` choose and the state holds; what lies outside is
        clipped and has no gradient.
      percentile: for 'percentile', of the values that are not 0; in (0, 100], may be traced.
      layers: what the model says about its parameters (`jopt.layers.trace`): which are weights, along which axes
        'outputs' run, and which axes are copies of a layer, which never share a scale. None: what names and shapes
        say.

    Returns:
      A `ParamTransform`, whose `storage` says which integers the values are. Its state is a dictionary from path to
      `Range`, empty for 'auto' and 'absmax'.

    Raises:
      ValueError: for an unknown calibration; where parameters come in, for axes or groups that do not fit their
        shape, or concrete values that are not finite, naming the path.
      RuleError: where parameters come in, if a rule matches none.

    Jacob et al., 2018, section 3; Wu et al., 2020, section 3.3 (calibration).

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"bias": jnp.array([0.1]), "kernel": jnp.array([[0.31], [-0.7]])}
      >>> t = weights(Spec(3))
      >>> t.apply(t.init(params), params)["kernel"].round(4).tolist()  # a step of 0.7 / 3.5
      [[0.3999999761581421], [-0.5999999642372131]]
      >>> t = weights(Spec(3), calibration="absmax")
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
        if calibration in OF_THE_MOMENT:
            return chosen

        def choose(path: str, leaf: Any, spec: Spec) -> Any:
            if spec.bits is not None:
                chosen[path] = (
                    mse(leaf, spec) if calibration == "mse" else percentile(leaf, spec, q, skip_zeros=True)
                )
            return leaf

        change(params, found, choose)
        return chosen

    def see(range: Range | None, leaf: Any, spec: Spec) -> Any:
        return auto_quantize(leaf, spec) if calibration == "auto" else fake_quantize(leaf, spec, range)

    def apply(state: State, params: Params) -> Params:
        return change(params, assigned(params), lambda path, leaf, spec: see(state.get(path), leaf, spec))

    def storage(state: State, params: Params) -> dict[str, Storage]:
        found: dict[str, Storage] = {}

        def store(path: str, leaf: Any, spec: Spec) -> Any:
            if spec.bits is not None and int(spec.bits) != UNTOUCHED:
                spec = dataclasses.replace(spec, bits=int(spec.bits))
                whole = auto if calibration == "auto" else absmax if spec.symmetric else minmax
                found[path] = Storage(spec, state.get(path) or whole(leaf, spec))
            return leaf

        change(params, assigned(params), store)
        return found

    return ParamTransform(
        init=ranges,
        update=lambda state, params, *, step, grads=None, key=None: ranges(params),
        apply=apply,
        storage=storage,
    )
