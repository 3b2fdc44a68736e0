"""The pruning methods: what they refuse, and that their transforms, plans and checks agree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import ConfigError, RuleError, hyper, prune
from jopt.config import canonical_json, from_dict, to_dict
from jopt.method import Method
from jopt.prune import SET, Block, Channel, Gradual, Iterative, NofM, OneShot, PruneState, RigL

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
    Gradual(),
    OneShot(score="snip", budget="global"),
    Iterative(pattern=Block((2, 2)), rounds=1),
    Gradual(pattern=Channel(along="inputs"), initial_sparsity=0.9),
    Gradual(score="movement"),
    OneShot(0.5, "activation", "channel"),
    NofM(score="wanda", axis=-2),
    RigL(budget="erk", drop_fraction=0.0),
    SET(begin=0.1, end=1.0),
    OneShot(begin=0.9),
    Gradual(0.0, schedule="linear"),
    Gradual(rules=(("Dense_0/kernel", None), ("Conv_0/.*", 0.5))),
    OneShot(pattern="block"),
]


@dataclasses.dataclass(frozen=True)
class Holder:
    """As a stage holds its methods."""

    methods: tuple[Method, ...] = ()


@pytest.mark.parametrize("method", FINE, ids=range(len(FINE)))
def test_fine_methods_build_and_survive_json(method):
    method.validate()
    assert from_dict(type(method), to_dict(method)) == method
    stage = Holder((method,))
    again = from_dict(Holder, to_dict(stage))
    assert again == stage and canonical_json(again) == canonical_json(stage)
    pruner = method.build(begin=0, steps=100)
    assert isinstance(pruner.init(PARAMS), PruneState) and pruner.sparse
    assert len(method.plan(PARAMS)) == 3


BAD = [
    (Gradual(score="magic"), "score"),
    (Gradual(score="jopt.prune:no_such_score"), "score"),
    (Gradual(score=lambda w: w), "score"),
    (Gradual(pattern="2:4"), "pattern"),
    (Gradual(pattern=7), "pattern"),
    (Gradual(budget="even"), "budget"),
    (Gradual(budget=lambda layers: layers), "budget"),
    (Gradual(schedule="cube"), "schedule"),
    (Gradual(schedule=lambda a, b: a), "schedule"),
    (Gradual(sparsity=1.0), "sparsity"),
    (Gradual(sparsity=1 - 1e-12), "sparsity"),
    (Gradual(sparsity=-0.1), "sparsity"),
    (Gradual(sparsity=float("nan")), "sparsity"),
    (Gradual(sparsity="0.9"), "sparsity"),
    (Gradual(initial_sparsity=0.95), "initial_sparsity"),
    (Gradual(initial_sparsity=-0.5), "initial_sparsity"),
    (Gradual(begin=1.0), "begin"),
    (Gradual(begin=0.8, end=0.75), "end"),
    (Gradual(end=1.5), "end"),
    (Gradual(end=float("inf")), "end"),
    (RigL(begin=0.8, end=0.75), "end"),
    (Iterative(rounds=0), "rounds"),
    (Iterative(rounds=2.5), "rounds"),
    (RigL(drop_fraction=1.0), "drop_fraction"),
    (NofM(n=0), "n"),
    (NofM(n=4), "m"),
    (NofM(axis="rows"), "axis"),
    (Gradual(rules=(("(", 0.5),)), "rules[0]"),
    (Gradual(rules=(("a", None), ("b", 1.5))), "rules[1]"),
    (Gradual(rules=(("a", True),)), "rules"),
    (RigL(budget="global"), "budget"),
    (SET(budget="global"), "budget"),
    (Gradual(score="activation"), "pattern"),
    (NofM(score="activation"), "score"),
    (Gradual(score="activation", pattern=Channel(0)), "pattern"),
    (Gradual(score="activation", pattern=Channel(along="inputs")), "pattern"),
    (Gradual(pattern=prune.NM(2, 4)), "pattern"),
    (NofM(rules=(("a", 0.9),)), "rules[0]"),
    (OneShot(score="movement"), "begin"),
    (Iterative(score="movement"), "begin"),
    (Gradual(score="movement", initial_sparsity=0.1), "begin"),
]


@pytest.mark.parametrize(("method", "field"), BAD, ids=range(len(BAD)))
def test_bad_methods_are_named(method, field):
    for path in ("", "stages[1].prune"):
        with pytest.raises(ConfigError) as error:
            method.validate(path)
        assert error.value.field == f"{path or 'prune'}.{field}"


BAD_CALLS = [
    (lambda: Channel("rows"), "axis"),
    (lambda: Channel(along="rows"), "axis"),
    (lambda: Channel(0, along="inputs"), "along"),
    (lambda: Block(()), "Block's shape"),
    (lambda: Block((4, 0)), "Block's shape"),
]


@pytest.mark.parametrize(("call", "field"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_patterns_are_named(call, field):
    with pytest.raises(ConfigError) as error:
        call()
    assert error.value.field == field


def test_no_field_is_ignored():
    fields = {m.__name__: [f.name for f in dataclasses.fields(m)] for m in prune.METHODS}
    common = ["sparsity", "begin", "rules", "budget"]
    for name, names in fields.items():
        assert name == "NofM" or (names[0] == "sparsity" and set(common) <= set(names))
    with pytest.raises(TypeError):
        OneShot(rounds=9)
    with pytest.raises(TypeError):
        RigL(score="l2")


MISFITS = [
    (OneShot(pattern=Block((4, 5))), ValueError, r"Conv_0/kernel: Block.*must divide axis 3 of shape"),
    (NofM(m=5), ValueError, r"Conv_0/kernel: NM\(n=2, m=5.* must divide axis 3"),
    (OneShot(pattern=Channel(2)), ValueError, r"Dense_0/kernel: Channel\(axis=2\) needs an axis"),
    (Gradual(rules=(("dense.*", 0.5),)), RuleError, r"'dense.\*' matches no parameter"),
    (Gradual(rules=((".*", 0.5), ("Dense_0/.*", 0.1))), RuleError, r"is hidden behind the rules before it"),
    (Gradual(rules=((".*", None),)), ValueError, r"no parameter is pruned"),
]


@pytest.mark.parametrize(("method", "error", "message"), MISFITS, ids=range(len(MISFITS)))
def test_what_does_not_fit_the_parameters_is_named_before_anything_compiles(method, error, message):
    method.validate()
    shapes = jax.eval_shape(lambda: PARAMS)
    with pytest.raises(error, match=message):
        method.plan(shapes)


def test_the_plan_says_what_each_parameter_gets():
    say = lambda method: [row.what for row in method.plan(jax.eval_shape(lambda: PARAMS))]  # noqa: E731
    assert say(Gradual()) == [
        "left alone",
        "keeps 29 of 288 weights, gradual by magnitude",
        "keeps 19 of 192 weights, gradual by magnitude",
    ]
    assert say(NofM(score="wanda", rules=(("Conv.*", None),))) == [
        "left alone",
        "left alone",
        "keeps 2 of every 4 weights, one_shot by wanda",
    ]
    assert say(Gradual(0.5, pattern="channel", rules=(("Conv_0/.*", 0.25),))) == [
        "keeps 6 of 8 channels, gradual by magnitude",
        "keeps 6 of 8 channels, gradual by magnitude",
        "keeps 6 of 12 channels, gradual by magnitude",
    ]
    assert say(RigL(budget="erk"))[1:] == ["keeps 19 of 288 weights, rigl", "keeps 29 of 192 weights, rigl"]
    assert say(Gradual(budget="global"))[1].startswith("288 weights, of which its share of the 48 kept in all")


@pytest.mark.parametrize("method", [
    OneShot(begin=0.3),
    Gradual(begin=0.1, end=0.7),
    Iterative(begin=0.1, end=0.7, rounds=3, budget="global"),
    RigL(begin=0.2, budget="erk"),
    SET(),
    NofM(begin=0.5),
    Gradual(pattern=Block((2, 2)), rules=(("Dense_0/kernel", 0.5),)),
])  # fmt: skip
def test_the_last_sparsity_holds_from_reached_at_and_not_before(method):
    method.validate()
    due = method.reached_at(begin=1000, steps=40)
    pruner = method.build(begin=1000, steps=40)
    update = jit(lambda state, step: pruner.update(state, PARAMS, step=step, grads=PARAMS, key=KEY))
    # The cubic is so flat at its end that counts are right before it.
    early = update(pruner.init(PARAMS), jnp.int32(due - (10 if isinstance(method, Gradual) else 1)))
    assert method.check(early, pruner.apply(early, PARAMS)) != []
    late = update(early, jnp.int32(due))
    assert method.check(late, pruner.apply(late, PARAMS)) == []
    assert late.sparsity == np.float32(0.5 if isinstance(method, NofM) else 0.9)


def test_what_the_plan_promises_is_what_is_kept():
    for method in (OneShot(), OneShot(budget="erk"), OneShot(pattern="channel")):
        pruner = method.build(begin=0, steps=10)
        state = pruner.update(pruner.init(PARAMS), PARAMS, step=0)
        for row in method.plan(PARAMS):
            if row.what.startswith("keeps"):
                layer, name = row.path.split("/")
                mask = state.masks[layer][name]
                entries = method.pattern == "unstructured"
                count = mask.sum() if entries else mask.any(tuple(range(mask.ndim - 1))).sum()
                assert row.what.startswith(f"keeps {int(count)} of ")


def test_check_finds_what_is_wrong():
    method = OneShot(sparsity=0.5)
    pruner = method.build(begin=0, steps=10)
    state = jax.device_get(pruner.update(pruner.init(PARAMS), PARAMS, step=0))
    seen = jax.device_get(PARAMS)
    assert method.check(state, seen) == [
        "Conv_0/kernel: 144 of 144 pruned weights are not zero",
        "Dense_0/kernel: 96 of 96 pruned weights are not zero",
    ]
    fine = jax.device_get(pruner.apply(state, PARAMS))
    assert method.check(state, fine) == []
    state.masks["Dense_0"]["kernel"] = np.ones((16, 12), bool)
    assert method.check(state, fine) == ["Dense_0/kernel: 192 weights are kept where 96 are asked for"]
    nm = NofM(rules=(("Conv.*", None),))
    assert nm.check(state, fine) == ["Dense_0/kernel: NM(n=2, m=4, axis=1) has 96 weights too many"]


def test_numbers_are_hyper_and_everything_else_is_structure():
    assert set(hyper.split(Gradual())[1]) == {"sparsity", "initial_sparsity", "begin"}
    assert set(hyper.split(Iterative(end=0.75))[1]) == {"sparsity", "rounds", "begin", "end"}
    assert set(hyper.split(RigL())[1]) == {"sparsity", "drop_fraction", "begin"}
    assert set(hyper.split(NofM())[1]) == {"begin"}
    structure = hyper.split(Gradual(end=0.75))[0]
    numbers = {"sparsity": 0.5, "initial_sparsity": 0.1, "begin": 0.2, "end": 0.3}
    assert hyper.split(Gradual(**numbers))[0] == structure
    for change in ({"score": "l2"}, {"pattern": Block((2,))}, {"pattern": Block((4,))}, {"rules": (("a", 0.5),)}):
        assert hyper.split(Gradual(end=0.75, **change))[0] != structure
    assert hyper.split(NofM(n=1))[0] != hyper.split(NofM())[0] != hyper.split(NofM(axis=0))[0]


@pytest.mark.parametrize("method", [OneShot, Gradual, Iterative, RigL, SET])
def test_one_program_serves_every_number(method):
    traces = []

    @jit
    def kept(values, step):
        traces.append(1)
        pruner = hyper.join(hyper.split(method())[0], values).build(begin=10, steps=100)
        state = pruner.update(pruner.init(PARAMS), PARAMS, step=step, grads=PARAMS, key=KEY)
        return state.masks["Dense_0"]["kernel"].sum(dtype=jnp.int32)

    for sparsity, begin in ((0.5, 0.0), (0.9, 0.25), (0.99, 0.5)):
        _, values = hyper.split(method(sparsity=sparsity, begin=begin))
        first = round(10 + 100 * begin)
        assert kept(values, first - 1) == 192
        assert kept(values, 110) == prune.keep_count(192, np.float32(sparsity))
    assert len(traces) == 1


def test_every_method_has_a_state_of_the_same_structure():
    states = [m().build(begin=0, steps=10).init(PARAMS) for m in prune.METHODS]
    assert len({jax.tree.structure(s) for s in states}) == 1


def test_pruning_goes_on_from_the_masks_of_the_stage_before():
    first, second = OneShot(0.5), Gradual(0.9, score="movement", begin=0.1)
    before = first.build().update(first.build().init(PARAMS), PARAMS, step=0)
    state = second.resume(second.build(steps=10).init(PARAMS), before, "second")
    assert state.movement != () and state.sparsity == 0
    np.testing.assert_array_equal(state.masks["Dense_0"]["kernel"], before.masks["Dense_0"]["kernel"])
    alone = OneShot(rules=(("Dense_0/kernel", None),))
    with pytest.raises(RuleError, match=r"'second' .*Dense_0/kernel"):
        alone.resume(alone.build().init(PARAMS), before, "second")


def test_a_stage_that_is_too_short_is_refused():
    length = {"begin": 100, "steps": 20, "last_update": 110}
    for method, field in (
        (Gradual(end=0.75), "p.end"),
        (Gradual(begin=0.75), "p.begin"),
        (OneShot(begin=0.75), "p.begin"),
        (RigL(begin=0.75, end=0.9), "p.begin"),
    ):
        with pytest.raises(ConfigError) as error:
            method.validate_length("p", **length)
        assert error.value.field == field
    for method in (Gradual(), Gradual(end=0.5), OneShot(begin=0.5), RigL(begin=0.5, end=0.9), NofM()):
        method.validate_length("p", **length)
    # Where the sparsity is due at once, a sum over the steps before it would be empty.
    with pytest.raises(ConfigError) as error:
        Gradual(score="movement").validate_length("p", begin=0, steps=10, last_update=0)
    assert error.value.field == "p.score"
    Gradual(score="movement").validate_length("p", begin=0, steps=10, last_update=5)


def test_what_would_prune_tied_layers_apart_is_named():
    for method in (OneShot(), Gradual(score="l2", budget="erk"), Iterative(), NofM(), OneShot(budget=prune.erk)):
        assert method.treats_equal_layers_alike() is None
    for method, field in (
        (RigL(), ""),
        (SET(), ""),
        (Gradual(score="snip"), "score"),
        (Gradual(score="random"), "score"),
        (Gradual(score="movement"), "score"),
        (Gradual(score="wanda"), "score"),
        (Gradual(budget="global"), "budget"),
        (Gradual(rules=(("a", 0.5),)), "rules"),
    ):
        assert method.treats_equal_layers_alike()[0] == field
