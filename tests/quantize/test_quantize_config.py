"""Config, validate, build, plan and check."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import hyper
from jopt.config import ConfigError
from jopt.quantize import Config, Spec, auto, binarize, build, check, fake_quantize, plan, ternarize, validate, xnor
from jopt.rules import RuleError

pytestmark = pytest.mark.unoptimized

RNG = np.random.default_rng(0)
PARAMS = {
    "Dense_0": {"bias": jnp.ones(6), "kernel": jnp.asarray(RNG.standard_normal((8, 6)), jnp.float32)},
    "Dense_1": {"bias": jnp.ones(4), "kernel": jnp.asarray(RNG.standard_normal((6, 4)), jnp.float32)},
}


def see(config, params=PARAMS):
    t = build(config, begin=0, steps=10)
    state = t.init(params)
    return state, t.apply(state, params)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            Config("int8"),
            "quantize.scheme must be one of 'binary', 'identity', 'integer', 'ternary', 'xnor', got 'int8'",
        ),
        (Config(bits=0), "quantize.bits must be 1 to 8, 16, or 32, which changes nothing, got 0"),
        (Config(bits=12), "got 12"),
        (Config(bits=4.0), "quantize.bits must be of type int, got 4.0"),  # type: ignore[arg-type]
        (Config(granularity="row"), "quantize.granularity must be one of 'channel', 'group', 'tensor', got 'row'"),
        (
            Config(granularity="group"),
            "quantize.group must be an integer, at least 1, for granularity 'group', got None",
        ),
        (Config(granularity="group", group=0), "got 0"),
        (
            Config("ternary", granularity="group", group=2),
            "'tensor' or 'channel' for scheme 'ternary', got 'group'",
        ),
        (
            Config(calibration="minmax"),
            "quantize.calibration must be one of 'absmax', 'auto', 'mse', 'percentile', got 'minmax'",
        ),
        (Config(calibration="mse", bits=1), "'auto' or 'absmax' at one bit"),
        (Config(calibration="percentile", rules=(("a", 1),)), "'absmax' at one bit"),
        (Config(percentile=0.0), r"quantize.percentile must be a number in \(0, 100\], got 0.0"),
        (Config(percentile=100.1), "got 100.1"),
        (Config(percentile=float("nan")), "got nan"),
        (Config(threshold=-1.0), "quantize.threshold must be a finite number, at least 0, got -1.0"),
        (Config(threshold=float("inf")), "got inf"),
        (
            Config(rules=(("a", 9),)),
            r"quantize.rules\[0\] must be 1 to 8, 16, 32 \(which changes nothing\) or None, got 9",
        ),
        (Config(rules=(("a", 4), ("(", None))), r"quantize.rules\[1\] must be a regular expression"),
    ],
)
def test_bad_configs_are_named(config, message):
    with pytest.raises(ConfigError, match=message):
        validate(config)


def test_what_each_scheme_gives():
    kernel = PARAMS["Dense_0"]["kernel"]
    for config, expected in (
        (Config(bits=4, calibration="absmax"), fake_quantize(kernel, Spec(4, axis=-1))),
        (Config(bits=4), fake_quantize(kernel, Spec(4, axis=-1), auto(kernel, Spec(4, axis=-1)))),
        (Config(bits=5), fake_quantize(kernel, Spec(5, axis=-1))),
        (Config(bits=3, symmetric=False, granularity="tensor"), fake_quantize(kernel, Spec(3, symmetric=False))),
        (
            Config(bits=3, granularity="group", group=2, calibration="absmax"),
            fake_quantize(kernel, Spec(3, axis=-1, group=2)),
        ),
        (Config("binary"), binarize(kernel)),
        (Config("xnor"), xnor(kernel)),
        (Config("ternary", threshold=0.5), ternarize(kernel, -1, 0.5)),
        (Config("ternary", granularity="tensor"), ternarize(kernel)),
        (Config("identity"), kernel),
    ):
        validate(config)
        state, seen = see(config)
        np.testing.assert_array_equal(seen["Dense_0"]["kernel"], expected)
        assert seen["Dense_0"]["bias"] is PARAMS["Dense_0"]["bias"]
        assert check(config, state, seen) == []


def test_rules_give_bits_whatever_the_scheme():
    for scheme in ("xnor", "integer", "identity", "ternary"):
        rules = (("Dense_0/kernel", 8), ("Dense_1/kernel", None), (".*/bias", 5))
        state, seen = see(Config(scheme, rules=rules))
        expected = fake_quantize(PARAMS["Dense_0"]["kernel"], Spec(8, axis=-1))
        np.testing.assert_array_equal(seen["Dense_0"]["kernel"], expected)
        assert seen["Dense_1"]["kernel"] is PARAMS["Dense_1"]["kernel"]
        np.testing.assert_array_equal(seen["Dense_0"]["bias"], fake_quantize(jnp.ones(6), Spec(5)))
        assert check(Config(scheme, rules=rules), state, seen) == []
    for what in (lambda c: see(c), lambda c: plan(c, PARAMS), lambda c: check(c, (), PARAMS)):
        for scheme in ("binary", "integer"):
            with pytest.raises(RuleError, match=r"'Conv\.\*' matches no parameter"):
                what(Config(scheme, rules=(("Conv.*", None),)))


def test_numbers_are_traced_and_compile_once():
    config = Config(bits=4, calibration="percentile", percentile=99.0, threshold=0.7)
    structure, numbers = hyper.split(config)
    assert sorted(numbers) == ["bits", "percentile", "threshold"]

    @jax.jit
    def run(numbers):
        return see(hyper.join(structure, numbers))[1]["Dense_0"]["kernel"]

    for bits, q in ((2, 80.0), (4, 99.0), (8, 100.0)):
        numbers = hyper.split(Config(bits=bits, calibration="percentile", percentile=q))[1]
        traced = run(numbers)
        constant = see(Config(bits=bits, calibration="percentile", percentile=q))[1]["Dense_0"]["kernel"]
        np.testing.assert_array_equal(traced, constant)
    assert run._cache_size() == 1


def test_the_plan():
    config = Config(bits=4, granularity="group", group=2, rules=(("Dense_1/.*", None), ("Dense_0/bias", 8)))
    assert [(r.path, r.shape, r.what) for r in plan(config, PARAMS)] == [
        ("Dense_0/bias", (6,), "8-bit symmetric, auto, 1 scale"),
        ("Dense_0/kernel", (8, 6), "4-bit symmetric, auto, 24 scales of 2 values"),
        ("Dense_1/bias", (4,), "left as it is"),
        ("Dense_1/kernel", (6, 4), "left as it is"),
    ]
    shapes = jax.eval_shape(lambda: PARAMS)
    assert plan(Config("xnor"), shapes)[1].what == "sign times the mean magnitude of the channel"
    assert plan(Config("identity"), shapes)[1].what.startswith("left as it is")
    with pytest.raises(ValueError, match="Dense_0/kernel: group must divide the 8 entries"):
        plan(Config(granularity="group", group=5), shapes)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_check_accepts_what_build_makes_and_later_zeros(bits):
    for config in (
        Config(bits=bits),
        Config(bits=bits, granularity="tensor", symmetric=False),
        Config(bits=bits, granularity="group", group=2, calibration="absmax" if bits == 1 else "mse"),
    ):
        for dtype in (jnp.float32, jnp.bfloat16) if config.granularity == "channel" else (jnp.float32,):
            traced = dataclasses.replace(config, bits=jnp.int32(bits))  # one program for all widths
            state, seen = see(traced, jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), PARAMS))
            assert check(config, state, seen) == []
            kernel = np.asarray(seen["Dense_0"]["kernel"]).copy()
            if dtype == jnp.float32:
                kernel[np.abs(kernel) == np.abs(kernel).max()] = 0
                assert check(config, state, {**seen, "Dense_0": {"bias": jnp.ones(6), "kernel": kernel}}) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(bits=4), "Dense_0/kernel: 1 of 6 groups hold values that are no multiples of a 4-bit step"),
        (Config(bits=4, granularity="tensor"), "Dense_0/kernel: 1 of 1 groups"),
        (
            Config(bits=2, symmetric=False, granularity="group", group=4, rules=(("Dense_1/kernel", None),)),
            "Dense_0/kernel: 1 of 12 groups",
        ),
        (Config("binary"), "Dense_0/kernel: 1 weights are not -1, 0 or 1"),
        (Config("xnor"), "Dense_0/kernel: 1 of 6 scales have more values than -alpha, 0 and alpha"),
        (Config("ternary", granularity="tensor"), "Dense_0/kernel: 1 of 1 scales"),
    ],
)
def test_check_finds_one_wrong_weight(config, message):
    state, seen = see(config)
    kernel = np.asarray(seen["Dense_0"]["kernel"]).copy()
    kernel[3, 2] += 0.001234
    problems = check(config, state, {**seen, "Dense_0": {"bias": jnp.ones(6), "kernel": kernel}})
    assert len(problems) == 1 and problems[0].startswith(message)
    kernel[3, 2] = np.nan
    problems = check(config, state, {**seen, "Dense_0": {"bias": jnp.ones(6), "kernel": kernel}})
    assert problems == ["Dense_0/kernel: 1 values are not finite"]


def test_check_finds_a_wider_grid_and_too_many_values():
    _, seen = see(Config(bits=5))
    assert len(check(Config(bits=4), (), seen)) == 2
    many = {"kernel": np.arange(2**16 + 2, dtype=np.float32).reshape(-1, 1)}
    assert check(Config(bits=16), (), many) == ["kernel: 1 of 1 groups hold more than 2^16 values"]
