"""The pruning config: what it refuses, and that its transform, plan and checks agree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import ConfigError, RuleError, hyper, prune
from jopt.config import from_dict, to_dict
from jopt.prune import Config, PruneState

from .cases import jit

pytestmark = pytest.mark.unoptimized

KEY = jax.random.key(0)
PARAMS = {
    "Conv_0": {
        "bias": jnp.zeros(8),
        "kernel": jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 4, 8)), "f4"),
    },
    "Dense_0": {"kernel": jnp.asarray(np.random.default_rng(1).normal(size=(16, 12)), "f4")},
}

FINE = [
    Config(),
    Config("one_shot", score="snip", budget="global"),
    Config("iterative", pattern="block", block=(2, 2), rounds=1),
    Config("gradual", pattern="channel", along="inputs", initial_sparsity=0.9),
    Config("gradual", "movement"),
    Config("one_shot", "activation", "channel", sparsity=0.5),
    Config("one_shot", "wanda", "nm", axis=-2),
    Config("rigl", budget="erk", drop_fraction=0.0),
    Config("set", begin=0.1, end=1.0),
    Config("one_shot", begin=0.9, end=0.5),  # does not read end
    Config(sparsity=0.0),
    Config(rules=(("Dense_0/kernel", None), ("Conv_0/.*", 0.5))),
]


@pytest.mark.parametrize("config", FINE, ids=range(len(FINE)))
def test_fine_configs_build_and_survive_json(config):
    prune.validate(config)
    assert from_dict(Config, to_dict(config)) == config
    pruner = prune.build(config, begin=0, steps=100)
    assert isinstance(pruner.init(PARAMS), PruneState)
    assert len(prune.plan(config, PARAMS)) == 3


BAD = [
    ({"method": "lottery"}, r"prune.method must be one of .*'set', got 'lottery'"),
    ({"score": "magic"}, r"prune.score must be one of .*got 'magic'"),
    ({"pattern": "2:4"}, r"prune.pattern must be one of 'block', 'channel', 'nm', 'unstructured', got '2:4'"),
    ({"budget": "even"}, r"prune.budget must be one of 'erk', 'global', 'layer', got 'even'"),
    ({"sparsity": 1.0}, r"prune.sparsity must be a number in \[0, 1\), got 1.0"),
    ({"sparsity": 1 - 1e-12}, r"prune.sparsity must be a number in \[0, 1\)"),
    ({"sparsity": -0.1}, r"prune.sparsity .*got -0.1"),
    ({"sparsity": float("nan")}, r"prune.sparsity .*got nan"),
    ({"sparsity": "0.9"}, r"prune.sparsity must be of type float, got '0.9'"),
    ({"initial_sparsity": 0.95}, r"prune.initial_sparsity must be at most sparsity \(0.9\), got 0.95"),
    ({"initial_sparsity": -0.5}, r"prune.initial_sparsity must be a number in \[0, 1\)"),
    ({"begin": 1.0}, r"prune.begin must be a number in \[0, 1\), got 1.0"),
    ({"begin": 0.8, "end": 0.75}, r"prune.end must be None or a number in \[begin, 1\], begin being 0.8, got 0.75"),
    ({"end": 1.5}, r"prune.end .*got 1.5"),
    ({"end": float("inf")}, r"prune.end .*got inf"),
    ({"rounds": 0}, r"prune.rounds must be an integer, at least 1, got 0"),
    ({"rounds": 2.5}, r"prune.rounds must be of type int, got 2.5"),
    ({"drop_fraction": 1.0}, r"prune.drop_fraction must be a number in \[0, 1\), got 1.0"),
    ({"n": 0}, r"prune.n must be an integer, at least 1, got 0"),
    ({"n": 4}, r"prune.m must be above n \(4\), got 4"),
    ({"block": ()}, r"prune.block must be one or more integers, at least 1, got \(\)"),
    ({"block": (4, 0)}, r"prune.block .*got \(4, 0\)"),
    ({"rules": (("(", 0.5),)}, r"prune.rules\[0\] must be a regular expression"),
    ({"rules": (("a", None), ("b", 1.5))}, r"prune.rules\[1\] must be a sparsity in \[0, 1\), or None.*got 1.5"),
    ({"rules": (("a", True),)}, r"prune.rules must be of type"),
    ({"method": "rigl", "score": "snip"}, r"prune.score must be 'magnitude' for method 'rigl'.*got 'snip'"),
    ({"method": "set", "pattern": "block"}, r"prune.pattern must be 'unstructured' for method 'set'"),
    ({"method": "rigl", "budget": "global"}, r"prune.budget must be 'layer' or 'erk' for method 'rigl'"),
    ({"score": "activation"}, r"prune.pattern must be 'channel' for score 'activation'.*got 'unstructured'"),
    ({"score": "activation", "pattern": "channel", "axis": 0}, r"prune.axis must be None .*got 0"),
    (
        {"score": "activation", "pattern": "channel", "along": "inputs"},
        r"prune.along must be 'outputs' .*got 'inputs'",
    ),
    ({"pattern": "channel", "along": "rows"}, r"prune.along must be one of 'inputs', 'outputs', got 'rows'"),
    ({"pattern": "channel", "along": "inputs", "axis": 0}, r"prune.along must be left out .*got 'inputs'"),
    ({"pattern": "nm"}, r"prune.method must be 'one_shot' for pattern 'nm'.*got 'gradual'"),
    ({"pattern": "nm", "method": "one_shot", "budget": "erk"}, r"prune.budget must be 'layer' for pattern 'nm'"),
    (
        {"pattern": "nm", "method": "one_shot", "rules": (("a", 0.9),)},
        r"prune.rules\[0\] must be \(path, None\).*0.5",
    ),
    ({"score": "movement", "method": "one_shot"}, r"prune.begin must be above 0 for score 'movement'"),
    ({"score": "movement", "initial_sparsity": 0.1}, r"prune.begin must be above 0 for score 'movement'"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=range(len(BAD)))
def test_bad_configs_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        prune.validate(Config(**changes))


MISFITS = [
    (
        Config("one_shot", pattern="block", block=(4, 5)),
        ValueError,
        r"Conv_0/kernel: Block.*must divide axis 3 of shape",
    ),
    (Config("one_shot", pattern="nm", m=5), ValueError, r"Conv_0/kernel: NM\(n=2, m=5.* must divide axis 3"),
    (Config("one_shot", pattern="channel", axis=2), ValueError, r"Dense_0/kernel: Channel\(axis=2\) needs an axis"),
    (Config(rules=(("dense.*", 0.5),)), RuleError, r"'dense.\*' matches no parameter"),
    (Config(rules=((".*", 0.5), ("Dense_0/.*", 0.1))), RuleError, r"is hidden behind the rules before it"),
    (Config(rules=((".*", None),)), ValueError, r"no parameter is pruned"),
]


@pytest.mark.parametrize(("config", "error", "message"), MISFITS, ids=range(len(MISFITS)))
def test_what_does_not_fit_the_parameters_is_named_before_anything_compiles(config, error, message):
    prune.validate(config)
    shapes = jax.eval_shape(lambda: PARAMS)
    with pytest.raises(error, match=message):
        prune.plan(config, shapes)


def test_the_plan_says_what_each_parameter_gets():
    say = lambda **changes: [row.what for row in prune.plan(Config(**changes), jax.eval_shape(lambda: PARAMS))]  # noqa: E731
    assert say() == [
        "left alone",
        "keeps 29 of 288 weights, gradual by magnitude",
        "keeps 19 of 192 weights, gradual by magnitude",
    ]
    assert say(method="one_shot", score="wanda", pattern="nm", rules=(("Conv.*", None),)) == [
        "left alone",
        "left alone",
        "keeps 2 of every 4 weights, one_shot by wanda",
    ]
    assert say(pattern="channel", sparsity=0.5, rules=(("Conv_0/.*", 0.25),)) == [
        "keeps 6 of 8 channels, gradual by magnitude",
        "keeps 6 of 8 channels, gradual by magnitude",
        "keeps 6 of 12 channels, gradual by magnitude",
    ]
    assert say(method="rigl", budget="erk")[1:] == [
        "keeps 19 of 288 weights, rigl",
        "keeps 29 of 192 weights, rigl",
    ]
    assert say(budget="global")[1].startswith("288 weights, of which its share of the 48 kept in all")


@pytest.mark.parametrize("changes", [
    {"method": "one_shot", "begin": 0.3},
    {"method": "gradual", "begin": 0.1, "end": 0.7},
    {"method": "iterative", "begin": 0.1, "end": 0.7, "rounds": 3, "budget": "global"},
    {"method": "rigl", "begin": 0.2, "budget": "erk"},
    {"method": "set"},
    {"method": "one_shot", "pattern": "nm", "begin": 0.5},
    {"method": "gradual", "pattern": "block", "block": (2, 2), "rules": (("Dense_0/kernel", 0.5),)},
])  # fmt: skip
def test_the_last_sparsity_holds_from_reached_at_and_not_before(changes):
    config = Config(**changes)
    prune.validate(config)
    due = prune.reached_at(config, begin=1000, steps=40)
    pruner = prune.build(config, begin=1000, steps=40)
    update = jit(lambda state, step: pruner.update(state, PARAMS, step=step, grads=PARAMS, key=KEY))
    # The cubic is so flat at its end that counts are right before it.
    early = update(pruner.init(PARAMS), jnp.int32(due - (10 if config.method == "gradual" else 1)))
    assert prune.check(config, early, pruner.apply(early, PARAMS)) != []
    late = update(early, jnp.int32(due))
    assert prune.check(config, late, pruner.apply(late, PARAMS)) == []
    assert late.sparsity == np.float32(0.5 if config.pattern == "nm" else 0.9)


def test_what_the_plan_promises_is_what_is_kept():
    for config in (Config("one_shot"), Config("one_shot", budget="erk"), Config("one_shot", pattern="channel")):
        pruner = prune.build(config, begin=0, steps=10)
        state = pruner.update(pruner.init(PARAMS), PARAMS, step=0)
        for row in prune.plan(config, PARAMS):
            if row.what.startswith("keeps"):
                layer, name = row.path.split("/")
                mask = state.masks[layer][name]
                kept = (
                    mask.sum() if config.pattern == "unstructured" else mask.any(tuple(range(mask.ndim - 1))).sum()
                )
                assert row.what.startswith(f"keeps {int(kept)} of ")


def test_check_finds_what_is_wrong():
    config = Config("one_shot", sparsity=0.5)
    pruner = prune.build(config, begin=0, steps=10)
    state = jax.device_get(pruner.update(pruner.init(PARAMS), PARAMS, step=0))
    seen = jax.device_get(PARAMS)
    assert prune.check(config, state, seen) == [
        "Conv_0/kernel: 144 of 144 pruned weights are not zero",
        "Dense_0/kernel: 96 of 96 pruned weights are not zero",
    ]
    fine = jax.device_get(pruner.apply(state, PARAMS))
    assert prune.check(config, state, fine) == []
    state.masks["Dense_0"]["kernel"] = np.ones((16, 12), bool)
    assert prune.check(config, state, fine) == ["Dense_0/kernel: 192 weights are kept where 96 are asked for"]
    nm = Config("one_shot", pattern="nm", rules=(("Conv.*", None),))
    assert prune.check(nm, state, fine) == ["Dense_0/kernel: NM(n=2, m=4, axis=1) has 96 weights too many"]


def test_numbers_are_hyper_and_everything_else_is_structure():
    numbers = {"sparsity", "initial_sparsity", "begin", "end", "rounds", "drop_fraction"}
    assert set(hyper.split(Config())[1]) == numbers - {"end"}
    structure, values = hyper.split(Config(end=0.75))
    assert set(values) == numbers
    swept = Config(sparsity=0.5, initial_sparsity=0.1, begin=0.2, end=0.3, rounds=9, drop_fraction=0.1)
    assert hyper.split(swept)[0] == structure
    for change in ({"method": "set"}, {"n": 1}, {"m": 8}, {"block": (2,)}, {"axis": 0}, {"rules": (("a", 0.5),)}):
        assert hyper.split(dataclasses.replace(Config(end=0.75), **change))[0] != structure


@pytest.mark.parametrize("method", prune.METHODS)
def test_one_program_serves_every_number(method):
    traces = []

    @jit
    def kept(values, step):
        traces.append(1)
        config = hyper.join(hyper.split(Config(method))[0], values)
        pruner = prune.build(config, begin=10, steps=100)
        state = pruner.update(pruner.init(PARAMS), PARAMS, step=step, grads=PARAMS, key=KEY)
        return state.masks["Dense_0"]["kernel"].sum(dtype=jnp.int32)

    for sparsity, begin in ((0.5, 0.0), (0.9, 0.25), (0.99, 0.5)):
        _, values = hyper.split(Config(method, sparsity=sparsity, begin=begin))
        first = round(10 + 100 * begin)
        assert kept(values, first - 1) == 192
        assert kept(values, 110) == prune.keep_count(192, np.float32(sparsity))
    assert len(traces) == 1


def test_every_method_has_a_state_of_the_same_structure():
    states = [prune.build(Config(m), begin=0, steps=10).init(PARAMS) for m in prune.METHODS]
    assert len({jax.tree.structure(s) for s in states}) == 1
