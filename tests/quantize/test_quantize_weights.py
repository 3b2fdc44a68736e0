"""The ParamTransforms: which leaves, calibrated ranges in the state, zeros, gradients, dtypes, chains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.quantize import Spec, absmax, binary, fake_quantize, mse, percentile, quantize, ternary, weights
from jopt.rules import RuleError
from jopt.transform import chain

pytestmark = pytest.mark.unoptimized

RNG = np.random.default_rng(0)


def params(dtype=jnp.float32):
    draw = lambda *shape: jnp.asarray(RNG.standard_normal(shape), dtype)  # noqa: E731
    return {
        "Dense_0": {"bias": draw(6), "kernel": draw(8, 6)},
        "Dense_1": {"bias": draw(4), "kernel": draw(6, 4).at[0].set(0.0)},
        "step": jnp.int32(3),
    }


TRANSFORMS = {
    "int8": weights(),
    "int4 channel": weights(Spec(4, axis=-1)),
    "asymmetric": weights(Spec(3, symmetric=False, axis=-1, group=2)),
    "percentile": weights(Spec(4, axis=-1), calibration="percentile", percentile=90.0),
    "mse": weights(Spec(2), calibration="mse"),
    "binary": binary(),
    "xnor": binary(scaled=True),
    "ternary": ternary(axis=-1),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_keeps_structure_dtype_zeros_and_state(name):
    t = TRANSFORMS[name]

    @jax.jit
    def run(p):
        state = t.init(p)
        return state, t.update(state, p, step=jnp.int32(5)), t.apply(state, p)

    for dtype in (jnp.float32, jnp.bfloat16):
        p = params(dtype)
        state, again, seen = run(p)
        assert jax.tree.structure(state) == jax.tree.structure(again)
        assert [v.tobytes() for v in jax.tree.leaves(state)] == [v.tobytes() for v in jax.tree.leaves(again)]
        for a, b in zip(*map(jax.tree.leaves, (seen, p)), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
        assert not np.asarray(seen["Dense_1"]["kernel"])[0].any()
        np.testing.assert_array_equal(seen["Dense_0"]["bias"], p["Dense_0"]["bias"])
        assert (np.asarray(seen["Dense_0"]["kernel"]) != np.asarray(p["Dense_0"]["kernel"])).any()
        if dtype == jnp.float32:
            eager = t.apply(t.init(p), p)
            assert [v.tobytes() for v in jax.tree.leaves(eager)] == [v.tobytes() for v in jax.tree.leaves(seen)]


def test_kernels_get_the_default_and_rules_come_first():
    p = params()
    rules = [("Dense_0/kernel", Spec(2)), ("Dense_1/bias", Spec(4)), (".*/bias", None)]
    t = weights(Spec(8), rules, calibration="absmax")
    seen = t.apply(t.init(p), p)
    np.testing.assert_array_equal(seen["Dense_0"]["kernel"], fake_quantize(p["Dense_0"]["kernel"], Spec(2)))
    np.testing.assert_array_equal(seen["Dense_1"]["kernel"], fake_quantize(p["Dense_1"]["kernel"], Spec(8)))
    np.testing.assert_array_equal(seen["Dense_1"]["bias"], fake_quantize(p["Dense_1"]["bias"], Spec(4)))
    assert seen["Dense_0"]["bias"] is p["Dense_0"]["bias"] and seen["step"] is p["step"]


def test_the_identity_leaves_the_very_arrays():
    p = params()
    for calibration in ("absmax", "mse"):
        t = weights(Spec.identity(), calibration=calibration)
        state = t.init(p)
        assert state == {} and all(
            a is b for a, b in zip(*map(jax.tree.leaves, (t.apply(state, p), p)), strict=True)
        )
    some = weights(Spec.identity(), rules=[("Dense_0/kernel", Spec(2))])
    assert len(np.unique(np.asarray(some.apply({}, p)["Dense_0"]["kernel"]))) == 3


def test_calibrated_ranges_are_held_until_update():
    p = params()
    kernel = p["Dense_1"]["kernel"]
    expected = {
        "percentile": percentile(kernel, Spec(4, axis=-1), 90.0, skip_zeros=True),
        "mse": mse(kernel, Spec(4, axis=-1)),
    }
    for calibration, range in expected.items():
        t = weights(Spec(4, axis=-1), calibration=calibration, percentile=90.0)
        state = t.init(p)
        assert sorted(state) == ["Dense_0/kernel", "Dense_1/kernel"]
        for a, b in zip(state["Dense_1/kernel"], range, strict=True):
            np.testing.assert_array_equal(a, b)
        grown = jax.tree.map(lambda x: x * 3, p)
        clipped = t.apply(state, grown)["Dense_1"]["kernel"]
        np.testing.assert_array_equal(clipped, fake_quantize(grown["Dense_1"]["kernel"], Spec(4, axis=-1), range))
        _, back = jax.vjp(lambda k, t=t, state=state: t.apply(state, {"Dense_1": {"kernel": k}}), kernel * 3)
        gradient = back({"Dense_1": {"kernel": jnp.ones_like(kernel)}})[0]
        inside = np.abs(np.asarray(grown["Dense_1"]["kernel"])) <= np.asarray(range.high)
        np.testing.assert_array_equal(gradient, inside.astype(np.float32))
        assert 0 < inside.sum() < inside.size
        renewed = t.update(state, grown, step=7)
        np.testing.assert_allclose(renewed["Dense_1/kernel"].high, 3 * range.high, rtol=1e-5)


def test_zeros_do_not_enter_the_percentile():
    dense, sparse = jnp.asarray(RNG.standard_normal((20, 1)), jnp.float32), jnp.zeros((400, 1))
    t = weights(Spec(8), calibration="percentile", percentile=95.0)
    alone, among = (t.init({"k": x})["k"].high for x in (dense, sparse.at[::20].set(dense)))
    assert float(alone) == float(among) > 0


def test_a_chain_quantizes_what_comes_before():
    p = params()
    t = chain(ternary(), weights(Spec(8), calibration="mse"))
    state = t.init(p)
    once = ternary().apply((), p)
    seen = t.apply(state, p)
    np.testing.assert_allclose(seen["Dense_0"]["kernel"], once["Dense_0"]["kernel"], rtol=1e-6)


def test_traced_width_and_percentile_compile_once():
    p = params()

    @jax.jit
    def run(p, bits, q):
        t = weights(Spec(bits, axis=-1), calibration="percentile", percentile=q)
        return t.apply(t.init(p), p)

    seen = [run(p, jnp.int32(b), jnp.float32(q)) for b, q in ((2, 90.0), (4, 99.0), (8, 100.0))]
    assert run._cache_size() == 1
    t = weights(Spec(4, axis=-1), calibration="percentile", percentile=99.0)
    np.testing.assert_array_equal(t.apply(t.init(p), p)["Dense_0"]["kernel"], seen[1]["Dense_0"]["kernel"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p: weights(calibration="max"),
            ValueError,
            r"^calibration must be .*, got 'max'",
        ),
        (
            lambda p: weights(rules=[("Dense_7.*", None)]).init(p),
            RuleError,
            r"'Dense_7.\*' matches no parameter",
        ),
        (lambda p: binary([("conv", True)]).init(p), RuleError, "'conv' matches no parameter"),
        (
            lambda p: weights(Spec(axis=-1, group=5)).apply({}, p),
            ValueError,
            r"Dense_0/kernel: group must divide the 8",
        ),
        (lambda p: weights(Spec(axis=2)).apply({}, p), ValueError, r"Dense_0/kernel: axis must name"),
        (lambda p: weights(rules=[("step", Spec())]).apply({}, p), ValueError, r"step: x must be a floating array"),
        (
            lambda p: weights(calibration="mse").init(nan(p)),
            ValueError,
            r"Dense_0/kernel: x must be finite, got 1 NaN",
        ),
        (lambda p: weights().apply({}, nan(p)), ValueError, r"Dense_0/kernel: x must be finite"),
        (lambda p: binary().apply((), nan(p)), ValueError, r"Dense_0/kernel: w must be finite"),
        (lambda p: ternary(threshold=-0.1).apply((), p), ValueError, r"threshold must be at least 0, got -0.1"),
        (lambda p: weights(calibration="percentile", percentile=101).init(p), ValueError, r"kernel: q must lie in"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(params())


def nan(p):
    return {**p, "Dense_0": {**p["Dense_0"], "kernel": p["Dense_0"]["kernel"].at[0, 0].set(jnp.nan)}}


def by_formula(w, bits, axis):
    """clip(round(w / s), -n, n) s with s = max |w| / (n + 1/2), in float64 but for the scale."""
    n = 2 ** (bits - 1) - 1
    peak = np.abs(w).max(axis, keepdims=axis is not None)
    scale = np.float64(np.float32(np.float32(peak * np.float32(n / (n + 0.5))) / np.float32(n)))
    return np.clip(np.rint(w / scale), -n, n) * scale


@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_few_bits_have_half_a_step_more_in_the_range_by_default(bits, axis):
    w = RNG.standard_normal((60, 9)).astype(np.float32)
    t = weights(Spec(bits, axis=axis))
    seen = np.asarray(t.apply(t.init({"w": w}), {"w": w})["w"])
    np.testing.assert_allclose(seen, by_formula(w, bits, None if axis is None else 0), rtol=1e-6)
    # As far from w as with the codes of qwix, and no entry further than half a step.
    wide = np.asarray(fake_quantize(jnp.asarray(w), Spec(bits, axis=axis, narrow=False)))
    np.testing.assert_allclose(np.sum((seen - w) ** 2), np.sum((wide - w) ** 2), rtol=1e-5)
    absmax_ = weights(Spec(bits, axis=axis), calibration="absmax")
    coarse = np.asarray(absmax_.apply({}, {"w": w})["w"])
    assert np.sum((seen - w) ** 2) < np.sum((coarse - w) ** 2)
    np.testing.assert_array_equal(coarse, fake_quantize(jnp.asarray(w), Spec(bits, axis=axis)))
    gradient = jax.grad(lambda w: t.apply({}, {"w": w})["w"].sum())(jnp.asarray(w))
    np.testing.assert_array_equal(gradient, np.ones_like(w))


@pytest.mark.parametrize("spec", [Spec(axis=-1), Spec(symmetric=False), Spec(axis=-1, group=4)], ids=str)
def test_other_widths_keep_their_bits_and_all_are_one_program(spec):
    w = jnp.asarray(RNG.standard_normal((24, 5)), jnp.float32)

    @jax.jit
    def traced(bits):
        t = weights(dataclasses.replace(spec, bits=bits))
        return t.apply({}, {"w": w})["w"]

    for bits in (1, 2, 3, 4, 5, 8, 16, 32):
        own = dataclasses.replace(spec, bits=bits)
        seen = np.asarray(weights(own).apply({}, {"w": w})["w"])
        assert np.asarray(traced(bits)).tobytes() == seen.tobytes()
        same = seen.tobytes() == np.asarray(weights(own, calibration="absmax").apply({}, {"w": w})["w"]).tobytes()
        assert same == (not spec.symmetric or bits not in (2, 3, 4))
    assert traced._cache_size() == 1


@pytest.mark.parametrize("axis", [None, -1, 0])
def test_codes_are_numpys_exact_quotients_rounded_at_every_width(axis):
    random = np.random.default_rng(5)
    program = jax.jit(lambda x, bits: (quantize(x, Spec(bits, axis=axis)), absmax(x, Spec(bits, axis=axis)).high))
    for bits in (2, 3, 4, 5, 6, 7, 8, 16):
        for magnitude in (1e-6, 1.0, 1e6):
            x = (random.standard_normal((37, 23)) * magnitude).astype(np.float32)
            q, peak = program(x, jnp.int32(bits))
            top = np.float32(2 ** (bits - 1) - 1)
            scale = np.asarray(peak) / top
            np.testing.assert_array_equal(q.scale, scale)
            np.testing.assert_array_equal(q.codes, np.clip(np.rint(x / scale), -top, top))
