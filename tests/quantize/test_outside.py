"""Methods and their parts from somebody else's file: a quantizer with learned steps, a calibration, a rounding."""

import dataclasses
import pathlib
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import hyper
from jopt import quantize as quantize_package
from jopt.config import ConfigError, canonical_json, from_dict, to_dict
from jopt.method import Method
from jopt.models import from_linen
from jopt.models.mlp import MLP
from jopt.quantize import (
    ActivationMethod,
    Activations,
    Calibration,
    LayerRange,
    Range,
    Spec,
    Weights,
    dequantize,
    fake_quantize,
    integers,
    quantize,
    scale_shape,
)
from jopt.rules import named_leaves
from jopt.transform import ParamTransform, see

RNG = np.random.default_rng(0)
PARAMS = {"a": {"kernel": jnp.asarray(RNG.standard_normal((8, 6)), jnp.float32), "bias": jnp.ones(6)}}
KERNEL = PARAMS["a"]["kernel"]


# A quantizer of her own: powers of two times a level that is trained.
@dataclasses.dataclass(frozen=True)
class PowersOfTwo(Method):
    name: ClassVar[str] = "quantize"
    rank: ClassVar[int] = 40

    levels: int = hyper.swept(4)
    slope: float = 1.0

    def build(self, **context):
        def learn(state, params):
            return {path: jnp.abs(w).max() for path, w in named_leaves(params) if w.ndim > 1}

        def apply(state, params, learned):
            def one(path, w):
                name = "/".join(key.key for key in path)
                if name not in learned:
                    return w
                exponent = jnp.clip(jnp.round(jnp.log2(jnp.abs(w) / learned[name] + 1e-12)), 1 - self.levels, 0)
                y = jnp.sign(w) * learned[name] * 2.0**exponent
                return jnp.where(w == 0, 0, y + self.slope * (w - jax.lax.stop_gradient(w)))

            return jax.tree_util.tree_map_with_path(one, params)

        def update(state, params, *, step, grads=None, key=None, learned=None):
            return state

        return ParamTransform(lambda params: (), update, apply, learn=learn)


# Calibrations of her own: one with a traced number, one without.
@dataclasses.dataclass(frozen=True)
class Deviations(Calibration):
    times: float = 3.0

    def __call__(self, values, spec):
        high = self.times * jnp.std(values) * jnp.ones(scale_shape(values.shape, spec))
        return Range(-high, high)


def half_of_the_maximum(values, spec):
    return Range(-0.5 * jnp.abs(values).max(), 0.5 * jnp.abs(values).max())


# A rounding of her own: ties away from zero.
def away_from_zero(x):
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def rounds_up_zero(x):
    return jnp.ceil(x + 0.5)


HERE = f"{__name__}:"


def test_a_quantizer_with_trained_levels_is_a_method_like_ours():
    method = PowersOfTwo(levels=3)
    method.validate()
    t = method.build()
    learned = t.learn((), PARAMS)
    seen = see(t, (), PARAMS, learned)
    level = float(jnp.abs(KERNEL).max())
    sizes = np.unique(np.abs(seen["a"]["kernel"]))
    assert set(sizes) <= {np.float32(level) * np.float32(2.0**-k) for k in range(3)} and len(sizes) == 3
    gradient = jax.grad(lambda s: see(t, (), PARAMS, s)["a"]["kernel"].sum())(learned)["a/kernel"]
    assert float(gradient) == pytest.approx(float((seen["a"]["kernel"] / level).sum()), rel=1e-5)
    assert sorted(hyper.split(method)[1]) == ["levels", "slope"]
    assert from_dict(PowersOfTwo, to_dict(method), trusted=True) == method
    assert method.plan(PARAMS) == [] and method.check((), seen) == []


@pytest.mark.parametrize(
    "calibration",
    [half_of_the_maximum, HERE + "half_of_the_maximum", Deviations(1.0)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_calibration_chooses_the_range(calibration):
    method = Weights(bits=4, calibration=calibration)
    method.validate()
    t = method.build()
    state = t.init(PARAMS)
    high = 1.0 * jnp.std(KERNEL) if isinstance(calibration, Deviations) else 0.5 * jnp.abs(KERNEL).max()
    # One number for all channels is spread over them.
    assert state["a/kernel"].high.shape == (1, 6)
    expected = fake_quantize(KERNEL, Spec(4, axis=-1), Range(-high, high))
    seen = t.apply(state, PARAMS)
    np.testing.assert_array_equal(seen["a"]["kernel"], expected)
    assert method.chosen_between_segments and method.check(state, seen) == []
    assert sorted(integers(t, state, PARAMS)) == ["a/kernel"]


def test_a_calibrations_number_is_traced_and_comes_back_from_json():
    structure, numbers = hyper.split(Weights(calibration=Deviations()))
    assert sorted(numbers) == ["bits", "calibration.times"]
    run = jax.jit(lambda numbers: hyper.join(structure, numbers).build().init(PARAMS)["a/kernel"].high)
    for times in (1.0, 2.5):
        high = run(hyper.split(Weights(calibration=Deviations(times)))[1])
        np.testing.assert_allclose(high, times * np.std(KERNEL) * np.ones((1, 6)), rtol=1e-6)
    assert run._cache_size() == 1
    config = Weights(calibration=Deviations(2.0))
    assert from_dict(Weights, to_dict(config), trusted=True) == config
    assert HERE in canonical_json(config) and '"times":2.0' in canonical_json(config)
    with pytest.raises(ConfigError) as caught:
        Weights(calibration=Deviations("2")).validate()
    assert caught.value.field == "quantize.calibration.times"


@pytest.mark.parametrize("rounding", [away_from_zero, HERE + "away_from_zero", "floor"])
def test_a_rounding_is_seen_and_stored(rounding):
    ties = jnp.array([[-1.5], [-0.5], [0.0], [0.5], [1.25], [3.0]])
    codes = {"floor": [-2, -1, 0, 0, 1, 3]}.get(rounding, [-2, -1, 0, 1, 1, 3])
    q = quantize(ties, Spec(3), rounding=rounding)
    assert q.codes.ravel().tolist() == codes
    np.testing.assert_array_equal(dequantize(q), fake_quantize(ties, Spec(3), rounding=rounding))
    params = {"kernel": ties, "bias": jnp.ones(1)}
    method = Weights(bits=3, calibration="absmax", rounding=rounding)
    method.validate()
    t = method.build()
    seen = t.apply(t.init(params), params)
    assert seen["kernel"].ravel().tolist() == codes and method.check((), seen) == []
    # Codes are looked up in the values seen, so the file's are these, and not those of rounding twice.
    assert integers(t, {}, params)["kernel"].codes.ravel().tolist() == codes
    gradient = jax.grad(lambda w: t.apply({}, {**params, "kernel": w})["kernel"].sum())(ties)
    assert gradient.ravel().tolist() == [1.0] * 6
    again = from_dict(Weights, to_dict(method), trusted=True)
    assert canonical_json(again) == canonical_json(method)
    np.testing.assert_array_equal(again.build().apply({}, params)["kernel"], seen["kernel"])


def test_floor_of_random_values_is_stored_as_it_is_seen():
    t = Weights(bits=4, calibration="absmax", rounding="floor").build()
    seen = t.apply(t.init(PARAMS), PARAMS)["a"]["kernel"]
    q = integers(t, {}, PARAMS)["a/kernel"]
    assert np.asarray(dequantize(q)).tobytes() == np.asarray(seen).tobytes()
    assert (np.asarray(seen) <= np.asarray(KERNEL) + 1e-6).all() and (np.asarray(seen) < np.asarray(KERNEL)).any()


@pytest.mark.parametrize(
    "rounding", [rounds_up_zero, lambda x: x, lambda x: jnp.round(x).astype(jnp.int8), "a.b:c"]
)
def test_a_function_that_rounds_to_no_integers_is_refused(rounding):
    with pytest.raises(ConfigError) as caught:
        Weights(rounding=rounding).validate()
    assert caught.value.field == "quantize.rounding"


def test_a_lambda_has_no_name_in_json():
    with pytest.raises(ConfigError):
        canonical_json(Weights(calibration=lambda values, spec: Range(-1.0, 1.0)))


# Activations of her own: inputs clipped and rounded on a trained scale of powers of two.
@dataclasses.dataclass(frozen=True)
class Shifts(ActivationMethod):
    start: float = 1.0

    def fresh(self):
        return LayerRange({"exponent": jnp.float32(-jnp.inf)}, {})

    def choose(self, values, spec):
        return LayerRange({"exponent": self.start * jnp.ceil(jnp.log2(jnp.abs(values).max()))}, {})

    def see(self, x, spec, layer):
        high = 2.0 ** layer.trained["exponent"]
        return jnp.where(high == 0, x, fake_quantize(x, spec, Range(-high, high)))


def test_a_method_for_activations_of_her_own():
    model, x = from_linen(MLP((5,), num_classes=3)), jnp.asarray(RNG.standard_normal((4, 6)), jnp.float32)
    method = Shifts(bits=3, symmetric=True, rules=(("Dense_1", None),))
    method.validate()
    assert [row.what for row in method.plan_inputs(model, x)] == ["3 bits, symmetric, Shifts", "as it is"]
    wrapped = method.wrap(model)
    params, state = wrapped.init(jax.random.key(0), x)
    plain = {k: v for k, v in params.items() if k != method.key}
    np.testing.assert_array_equal(
        wrapped.apply(params, state, x, train=False)[0], model.apply(plain, state, x, train=False)[0]
    )
    params, state = method.calibrate(model, params, state, x, seen=params)
    assert float(params[method.key]["Dense_0"]["exponent"]) == np.ceil(np.log2(np.abs(x).max()))
    seen = fake_quantize(x, Spec(3), Range(-4.0, 4.0))
    np.testing.assert_allclose(
        wrapped.apply(params, state, x, train=True)[0], model.apply(plain, state, seen, train=True)[0], rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"Shifts.*'Dense_0'"):
        method.input_grid("Dense_0", params[method.key], {})


def test_activations_take_a_calibration_of_hers():
    model, x = from_linen(MLP((5,), num_classes=3)), jnp.asarray(RNG.standard_normal((4, 6)), jnp.float32)
    params, state = model.init(jax.random.key(0), x)
    for calibration in (half_of_the_maximum, HERE + "half_of_the_maximum"):
        method = Activations(calibration=calibration)
        _, calibrated = method.calibrate(model, params, state, x)
        assert calibrated[method.key]["Dense_0"]["high"] == 0.5 * jnp.abs(x).max()


def test_the_files_of_the_document_run_as_printed():
    text = (pathlib.Path(__file__).parents[2] / "docs/quantization.md").read_text()
    blocks = re.findall(r"```python\n(# my_\w+\.py\n.*?)```", text, re.DOTALL)
    quantizer, parts = blocks
    space = {"quantize": quantize_package, "__name__": __name__}
    exec(compile(quantizer, "my_quantizer.py", "exec"), space)
    transform = space["PowersOfTwo"](levels=3).build()
    seen = see(transform, (), PARAMS, transform.learn((), PARAMS))
    t = PowersOfTwo(levels=3).build()
    np.testing.assert_array_equal(seen["a"]["kernel"], see(t, (), PARAMS, t.learn((), PARAMS))["a"]["kernel"])
    exec(compile(parts.replace("my_parts:", HERE), "my_parts.py", "exec"), space)
    method = Weights(bits=4, calibration=space["Deviations"](2.5), rounding=space["away_from_zero"])
    assert method.build().init(PARAMS)["a/kernel"].high.shape == (1, 6)
