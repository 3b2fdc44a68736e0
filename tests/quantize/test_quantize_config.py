"""The methods for weights: fields, what each gives, plans, invariants, storage, and other methods."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_experiment

from jopt import hyper
from jopt.config import ConfigError, canonical_json, from_dict, to_dict
from jopt.method import Method
from jopt.quantize import (
    XNOR,
    Binary,
    LearnedWeights,
    Percentile,
    Spec,
    Ternary,
    Weights,
    auto,
    binarize,
    fake_quantize,
    ternarize,
    xnor,
)
from jopt.rules import RuleError
from jopt.train import Stage
from jopt.train.plan import validate

pytestmark = pytest.mark.unoptimized

RNG = np.random.default_rng(0)
PARAMS = {
    "Dense_0": {"bias": jnp.ones(6), "kernel": jnp.asarray(RNG.standard_normal((8, 6)), jnp.float32)},
    "Dense_1": {"bias": jnp.ones(4), "kernel": jnp.asarray(RNG.standard_normal((6, 4)), jnp.float32)},
}


def see(config, params=PARAMS):
    t = config.build(begin=0, steps=10)
    state = t.init(params)
    return state, t.apply(state, params)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (Weights(bits=0), "bits", 0),
        (Weights(bits=12), "bits", 12),
        (Weights(bits=4.0), "bits", 4.0),
        (Weights(granularity="row"), "granularity", "row"),
        (Weights(group=0), "group", 0),
        (Weights(granularity="tensor", group=4), "group", 4),
        (Weights(calibration="minmax"), "calibration", "minmax"),
        (Weights(calibration=1.5), "calibration", 1.5),
        (Weights(bits=1, calibration="mse"), "calibration", "mse"),
        (Weights(calibration="percentile", rules=(("a", 1),)), "calibration", "percentile"),
        (Weights(calibration=Percentile(0.0)), "calibration.percentile", 0.0),
        (Weights(calibration=Percentile(100.1)), "calibration.percentile", 100.1),
        (Weights(calibration=Percentile("99")), "calibration.percentile", "99"),
        (Weights(rounding="up"), "rounding", "up"),
        (Ternary(granularity="group"), "granularity", "group"),
        (Ternary(threshold=-1.0), "threshold", -1.0),
        (Ternary(threshold=float("inf")), "threshold", float("inf")),
        (Ternary(threshold=1e39), "threshold", 1e39),
        (Weights(rules=(("a", 9),)), "rules[0]", 9),
        (Weights(rules=(("a", 4), ("(", None))), "rules[1]", "("),
        (XNOR(rules=(("a", 9),)), "rules[0]", 9),
        (Binary(rules=(("(", 8),)), "rules[0]", "("),
        (LearnedWeights(bits=9), "bits", 9),
        (LearnedWeights(granularity="group"), "granularity", "group"),
        (LearnedWeights(rules=(("a", 0),)), "rules[0]", 0),
    ],
)
def test_bad_configs_are_named(config, field, value):
    for check, prefix in ((lambda: config.validate("q"), "q"), (config.build, "quantize")):
        with pytest.raises(ConfigError) as caught:
            check()
        assert caught.value.field == f"{prefix}.{field}" and caught.value.value == value
    with pytest.raises(ConfigError) as caught:
        Weights(calibration=Percentile(float("nan"))).validate()
    assert caught.value.field == "quantize.calibration.percentile"


def test_what_each_scheme_gives():
    kernel = PARAMS["Dense_0"]["kernel"]
    for config, expected in (
        (Weights(bits=4, calibration="absmax"), fake_quantize(kernel, Spec(4, axis=-1))),
        (Weights(bits=4), fake_quantize(kernel, Spec(4, axis=-1), auto(kernel, Spec(4, axis=-1)))),
        (Weights(bits=5), fake_quantize(kernel, Spec(5, axis=-1))),
        (Weights(bits=3, symmetric=False, granularity="tensor"), fake_quantize(kernel, Spec(3, symmetric=False))),
        (
            Weights(bits=3, group=2, calibration="absmax"),
            fake_quantize(kernel, Spec(3, axis=-1, group=2)),
        ),
        (Binary(), binarize(kernel)),
        (XNOR(), xnor(kernel)),
        (Ternary(threshold=0.5), ternarize(kernel, -1, 0.5)),
        (Ternary(granularity="tensor"), ternarize(kernel)),
        (Weights(bits=None), kernel),
    ):
        config.validate()
        state, seen = see(config)
        np.testing.assert_array_equal(seen["Dense_0"]["kernel"], expected)
        assert seen["Dense_0"]["bias"] is PARAMS["Dense_0"]["bias"]
        assert config.check(state, seen) == []


def test_rules_give_bits_whatever_the_method():
    rules = (("Dense_0/kernel", 8), ("Dense_1/kernel", None), (".*/bias", 5))
    for config in (
        XNOR(rules),
        Binary(rules),
        Weights(rules=rules),
        Weights(bits=None, rules=rules),
        Ternary(rules=rules),
    ):
        state, seen = see(config)
        expected = fake_quantize(PARAMS["Dense_0"]["kernel"], Spec(8, axis=-1))
        np.testing.assert_array_equal(seen["Dense_0"]["kernel"], expected)
        assert seen["Dense_1"]["kernel"] is PARAMS["Dense_1"]["kernel"]
        np.testing.assert_array_equal(seen["Dense_0"]["bias"], fake_quantize(jnp.ones(6), Spec(5)))
        assert config.check(state, seen) == []
    by_tensor = see(Ternary(granularity="tensor", rules=rules))[1]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(by_tensor, fake_quantize(PARAMS["Dense_0"]["kernel"], Spec(8)))
    missing = (("Conv.*", None),)
    for config in (Binary(missing), Weights(rules=missing), LearnedWeights(rules=missing)):
        for resolve in (lambda c: c.build().init(PARAMS), lambda c: c.plan(PARAMS), lambda c: c.check((), PARAMS)):
            with pytest.raises(RuleError, match=r"'Conv\.\*'.*no parameter"):
                resolve(config)


def test_a_bias_that_a_rule_names_has_one_scale_also_where_channels_have_groups():
    config = Weights(bits=4, group=2, rules=((".*/bias", 5),))
    t = config.build()
    storage = t.storage(t.init(PARAMS), PARAMS)
    assert storage["Dense_0/bias"].spec == Spec(5) and storage["Dense_0/kernel"].spec == Spec(4, axis=-1, group=2)


def test_numbers_are_traced_and_compile_once():
    for config, expected in (
        (Weights(bits=4, calibration=Percentile(99.0)), ["bits", "calibration.percentile"]),
        (Weights(bits=None), []),
        (LearnedWeights(), ["bits"]),
        (Ternary(), ["threshold"]),
        (XNOR(), []),
    ):
        assert sorted(hyper.split(config)[1]) == expected
    structure, _ = hyper.split(Weights(calibration=Percentile(99.0)))

    @jax.jit
    def run(numbers):
        return see(hyper.join(structure, numbers))[1]["Dense_0"]["kernel"]

    for bits, q in ((2, 80.0), (4, 99.0), (8, 100.0)):
        config = Weights(bits, calibration=Percentile(q))
        np.testing.assert_array_equal(run(hyper.split(config)[1]), see(config)[1]["Dense_0"]["kernel"])
    assert run._cache_size() == 1
    assert structure != hyper.split(Weights(calibration="mse"))[0]


def test_a_traced_threshold_compiles_once_from_the_config():
    structure, _ = hyper.split(Ternary())
    run = jax.jit(lambda numbers: see(hyper.join(structure, numbers))[1]["Dense_0"]["kernel"])
    zeros = [int((np.asarray(run(hyper.split(Ternary(t))[1])) == 0).sum()) for t in (0.1, 0.7, 1.5)]
    assert run._cache_size() == 1 and zeros == sorted(zeros) and len(set(zeros)) == 3


def test_the_plan():
    config = Weights(bits=4, group=2, rules=(("Dense_1/.*", None), ("Dense_0/bias", 8)))
    assert [(r.path, r.shape, r.what) for r in config.plan(PARAMS)] == [
        ("Dense_0/bias", (6,), "8-bit symmetric, auto, 1 scale"),
        ("Dense_0/kernel", (8, 6), "4-bit symmetric, auto, 24 scales of 2 values"),
        ("Dense_1/bias", (4,), "left as it is"),
        ("Dense_1/kernel", (6, 4), "left as it is"),
    ]
    shapes = jax.eval_shape(lambda: PARAMS)
    plans = {
        "4-bit symmetric, learned steps, 6 scales of 8 values": LearnedWeights(bits=4),
        "3-bit from -4, learned steps, 1 scale": LearnedWeights(bits=3, symmetric=False, granularity="tensor"),
        "8-bit asymmetric, percentile, 6 scales of 8 values": Weights(
            symmetric=False, calibration=Percentile(99.0)
        ),
        "sign": Binary(),
        "sign times the mean magnitude of the channel": XNOR(),
        "-alpha, 0 or alpha": Ternary(),
        "left as it is": Weights(bits=None),
        "2-bit symmetric, auto, 6 scales of 8 values": Ternary(rules=(("Dense_0/kernel", 2),)),
    }
    for text, config in plans.items():
        assert config.plan(shapes)[1].what == text
    with pytest.raises(ValueError, match=r"Dense_0/kernel.*group.*8.*5"):
        Weights(group=5).plan(shapes)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_check_accepts_what_build_makes_and_later_zeros(bits):
    for config in (
        Weights(bits),
        Weights(bits, granularity="tensor", symmetric=False),
        Weights(bits, group=2, calibration="absmax" if bits == 1 else "mse"),
    ):
        for dtype in (jnp.float32, jnp.bfloat16) if config.group is None and config.symmetric else (jnp.float32,):
            traced = dataclasses.replace(config, bits=jnp.int32(bits))  # one program for all widths
            state, seen = see(traced, jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), PARAMS))
            assert config.check(state, seen) == []
            kernel = np.asarray(seen["Dense_0"]["kernel"]).copy()
            if dtype == jnp.float32:
                kernel[np.abs(kernel) == np.abs(kernel).max()] = 0
                assert config.check(state, {**seen, "Dense_0": {"bias": jnp.ones(6), "kernel": kernel}}) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Weights(bits=4), "Dense_0/kernel: 1 of 6 groups hold values that are no multiples of a 4-bit step"),
        (Weights(bits=4, granularity="tensor"), "Dense_0/kernel: 1 of 1 groups"),
        (
            Weights(bits=2, symmetric=False, group=4, rules=(("Dense_1/kernel", None),)),
            "Dense_0/kernel: 1 of 12 groups",
        ),
        (Binary(), "Dense_0/kernel: 1 weights are not -1, 0 or 1"),
        (XNOR(), "Dense_0/kernel: 1 of 6 scales have more values than -alpha, 0 and alpha"),
        (Ternary(granularity="tensor"), "Dense_0/kernel: 1 of 1 scales"),
    ],
)
def test_check_finds_one_wrong_weight(config, message):
    state, seen = see(config)
    kernel = np.asarray(seen["Dense_0"]["kernel"]).copy()
    kernel[3, 2] += 0.001234
    problems = config.check(state, {**seen, "Dense_0": {"bias": jnp.ones(6), "kernel": kernel}})
    assert len(problems) == 1 and problems[0].startswith(message)
    kernel[3, 2] = np.nan
    problems = config.check(state, {**seen, "Dense_0": {"bias": jnp.ones(6), "kernel": kernel}})
    assert problems == ["Dense_0/kernel: 1 values are not finite"]


def test_check_finds_a_wider_grid_and_too_many_values():
    _, seen = see(Weights(bits=5))
    assert len(Weights(bits=4).check((), seen)) == 2
    many = {"kernel": np.arange(2**16 + 2, dtype=np.float32).reshape(-1, 1)}
    assert Weights(bits=16).check((), many) == ["kernel: 1 of 1 groups hold more than 2^16 values"]
    # The paper's codes of learned steps have one more below: -4 to 3.
    steps = {"kernel": np.arange(-4.0, 4.0, dtype=np.float32).reshape(-1, 1)}
    assert LearnedWeights(bits=3, symmetric=False).check((), steps) == []
    assert len(LearnedWeights(bits=3).check((), steps)) == 1


METHODS = {
    "integers": (Weights(bits=4), (4, 6, 0)),
    "one scale": (Weights(bits=3, granularity="tensor"), (3, 1, 0)),
    "groups with zero points": (Weights(bits=2, symmetric=False, group=2), (2, 24, 24)),
    "ranges in the state": (Weights(bits=4, calibration="mse"), (4, 6, 0)),
    "signs": (Binary(), (1, 1, 0)),
    "scaled signs": (XNOR(), (1, 6, 0)),
    "three values": (Ternary(), (2, 6, 0)),
    "three values of one scale": (Ternary(granularity="tensor"), (2, 1, 0)),
    "a rule's bits": (XNOR(rules=(("Dense_0/kernel", 8),)), (8, 6, 0)),
    "learned steps": (LearnedWeights(bits=4), (4, 6, 0)),
}


@pytest.mark.parametrize("name", METHODS)
def test_storage_alone_gives_bits_scales_and_zero_points(name):
    config, expected = METHODS[name]
    t = config.build()
    state = t.init(PARAMS)
    learned = () if t.learn is None else (t.learn(state, PARAMS),)
    storage = t.storage(state, PARAMS, *learned)
    assert sorted(storage) == ["Dense_0/kernel", "Dense_1/kernel"]
    spec, range = storage["Dense_0/kernel"]
    scales = math.prod(jnp.shape(range.low))
    assert (int(spec.bits), scales, 0 if spec.symmetric else scales) == expected


def test_what_other_methods_ask_for():
    splits = {
        Weights(): "granularity",
        Weights(granularity="tensor"): None,
        Weights(bits=None): None,
        LearnedWeights(): "granularity",
        LearnedWeights(granularity="tensor"): None,
        Binary(): None,
        XNOR(): "class",
        Ternary(): "granularity",
        Ternary(granularity="tensor"): None,
    }
    for config, field in splits.items():
        conflict = config.splits_shared_values()
        assert (conflict and conflict.field) == field
        assert conflict is None or conflict.value in ("channel", "XNOR")
    for config, chosen in (
        (Weights(), False),
        (Weights(calibration="absmax"), False),
        (Weights(calibration="mse"), True),
        (Weights(calibration=Percentile()), True),
        (Weights(calibration=auto), True),
        (LearnedWeights(), True),
        (Binary(), False),
        (XNOR(), False),
        (Ternary(), False),
    ):
        assert config.chosen_between_segments is chosen


@dataclasses.dataclass(frozen=True)
class Tie(Method):
    name = "tie"


def test_learned_steps_and_tied_layers_are_refused():
    def experiment(*methods):
        return tiny_experiment(stages=[Stage("low", methods=methods)])

    # As a run asks: by the stage, not by a call of the method.
    with pytest.raises(ConfigError) as caught:
        validate(experiment(Tie(), LearnedWeights()))
    assert caught.value.field == "stages[0].quantize.class" and caught.value.value == "LearnedWeights"
    validate(experiment(LearnedWeights()))


@pytest.mark.parametrize(
    "config",
    [
        Weights(3, symmetric=False, group=8, rules=(("a", None), ("b", 4))),
        Weights(calibration=Percentile(99.0), rounding="floor"),
        Weights(bits=None, calibration="mse"),
        LearnedWeights(2, symmetric=False, granularity="tensor"),
        Binary((("a", 8),)),
        XNOR(),
        Ternary(0.5, "tensor"),
    ],
)
def test_a_method_comes_back_from_json(config):
    again = from_dict(type(config), to_dict(config))
    assert again == config and canonical_json(again) == canonical_json(config)
