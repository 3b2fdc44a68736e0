"""Scores, patterns, budgets, schedules and methods of somebody else's are used as ours are."""

import dataclasses
import functools
import re
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import ConfigError, hyper, prune
from jopt.config import canonical_json, from_dict, to_dict
from jopt.layers import Parameter
from jopt.method import Method
from jopt.prune import Gradual, OneShot, RigL, keep_count

from . import outside
from .cases import KEY, SHAPES, jit, kept, layers, same, tree
from .test_methods import Holder

pytestmark = pytest.mark.unoptimized

HERE = outside.__name__


def masks(method, layout=None, **context):
    pruner = method.build(layers=layout)
    return pruner.update(pruner.init(tree()), tree(), step=0, **context)


@pytest.mark.parametrize("score", [outside.taylor, f"{HERE}:taylor"], ids=["function", "reference"])
def test_a_score_of_ones_file_chooses_as_it_says(score):
    method = OneShot(0.5, score)
    method.validate()
    assert method.build().needs == {"grads"}
    state = masks(method, grads=tree(1))
    expected = prune.top_k_mask(outside.taylor(tree()["Dense_0"]["kernel"], tree(1)["Dense_0"]["kernel"]), 0.5)
    np.testing.assert_array_equal(state.masks["Dense_0"]["kernel"], expected)
    assert method.plan(tree())[1].what == f"keeps 144 of 288 weights, one_shot by {method.ranked_by.name}"
    with pytest.raises(ValueError, match="reads grads"):
        masks(method)
    assert method.treats_equal_layers_alike()[0] == "score"


def test_a_score_reads_statistics_axes_and_the_parameter():
    state = masks(OneShot(0.5, outside.cold), layers=layers())
    stat, w = layers()["Dense_0"].zero_share, tree()["Dense_0"]["kernel"]
    np.testing.assert_array_equal(
        state.masks["Dense_0"]["kernel"], prune.top_k_mask(abs(w) * (1 - stat[None]) ** 2, 0.5)
    )
    option = functools.partial(outside.cold, power=0.0)
    plain = masks(OneShot(0.5, option), layers=layers())
    np.testing.assert_array_equal(plain.masks["Dense_0"]["kernel"], prune.top_k_mask(abs(w), 0.5))


def test_a_score_sees_pruned_weights_as_zero_and_what_is_kept_of_them():
    seen = {}

    def score(weight, mask, step, key=None, movement=None):
        seen.update(weight=weight, mask=mask, step=step, key=key, movement=movement)
        return weight.astype(jnp.float32)

    pruner = prune.one_shot(0.75, score=score)
    assert pruner.needs == frozenset() and pruner.observe is None
    params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    state = prune.PruneState({"w": jnp.array([[True, True, False, False]])}, jnp.float32(0.5))
    after = pruner.update(state, params, step=7)
    assert after.masks["w"].tolist() == [[False, True, False, False]]
    assert seen["weight"].tolist() == [[1.0, 2.0, 0.0, 0.0]] and seen["mask"] is state.masks["w"]
    assert (seen["step"], seen["key"], seen["movement"]) == (7, None, None)


def test_a_score_that_reads_movement_is_given_the_sums():
    pruner = prune.one_shot(0.5, score=lambda movement: -movement)
    params, grads = {"w": jnp.array([[1.0, 1.0]])}, {"w": jnp.array([[-4.0, 3.0]])}
    state = pruner.observe(pruner.init(params), params, grads)
    assert pruner.update(state, params, step=0).masks["w"].tolist() == [[False, True]]
    with pytest.raises(ConfigError) as error:
        OneShot(score=lambda movement: movement).validate()
    assert error.value.field == "prune.begin"


def test_a_score_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="Conv_0/kernel: score"):
        masks(OneShot(0.5, lambda weight: weight.sum(0)))


@pytest.mark.parametrize("score", [lambda w: w, lambda weight, /: weight, 3, "nowhere:at_all"], ids=range(4))
def test_what_is_no_score_is_named_at_once(score):
    for call in (lambda: prune.one_shot(0.5, score=score), lambda: OneShot(score=score).validate()):
        with pytest.raises(ConfigError) as error:
            call()
        assert error.value.field in ("score", "prune.score")


PATTERNS = [
    (outside.halves, "layer"),
    (outside.halves, "erk"),
    (outside.Rows(2), "global"),
    (outside.Rows, "layer"),
    (f"{HERE}:halves", "global"),
    (f"{HERE}:Rows", "layer"),
]


@pytest.mark.parametrize(("pattern", "budget"), PATTERNS, ids=range(len(PATTERNS)))
def test_a_pattern_of_ones_file_keeps_whole_groups(pattern, budget):
    method = Gradual(0.5, pattern=pattern, budget=budget, end=0.5)
    method.validate()
    pruner = method.build(begin=0, steps=10)
    state = jit(pruner.update)(pruner.init(tree()), tree(), step=10)
    groups = kept_groups = 0
    for name, shape in SHAPES.items():
        labels = method.grouping.labels(shape)
        mask = np.asarray(state.masks[name]["kernel"])
        values = [set(mask[labels == i].tolist()) for i in range(labels.max() + 1)]
        assert all(len(v) == 1 for v in values), "a group is kept or pruned together"
        count = sum(v == {True} for v in values)
        groups, kept_groups = groups + len(values), kept_groups + count
        if budget == "layer":
            assert count == keep_count(len(values), 0.5)
    if budget == "global":
        assert kept_groups == keep_count(groups, 0.5)
    assert method.check(jax.device_get(state), jax.device_get(pruner.apply(state, tree()))) == []


def test_groups_of_unequal_size_compete_by_their_means():
    scores = {"a": jnp.array([[3.0], [3.0], [3.0], [4.0]]), "b": jnp.array([[1.0], [1.0], [1.0]])}
    chosen = prune.global_masks(scores, 0.67, outside.Rows(3))
    assert (chosen["a"][:, 0].tolist(), chosen["b"].any()) == ([False, False, False, True], False)


def test_a_pattern_holds_in_each_copy_of_a_stacked_layer():
    layout = {"w": Parameter("w", "Dense", "kernel", contract=(0,), outputs=(2,), stack=(1,))}
    w = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 4)), jnp.float32)
    for pattern in (outside.Rows(3), outside.halves):
        for budget in ("layer", "global"):
            pruner = prune.one_shot(0.5, pattern=pattern, budget=budget, layers=layout)
            mask = np.asarray(pruner.update(pruner.init({"w": w}), {"w": w}, step=0).masks["w"])
            alone = [prune.top_k_mask(abs(w[:, i]), 0.5, pattern) for i in range(2)]
            if budget == "layer":
                np.testing.assert_array_equal(mask, np.stack(alone, 1))
            assert mask.sum() == 24


def test_a_pattern_may_have_a_sparsity_of_its_own():
    pruner = prune.one_shot(pattern=outside.TopOfRow(), rules=[("Conv_0/.*", None)], begin=3)
    state = pruner.update(pruner.init(tree()), tree(), step=2)
    assert state.masks["Dense_0"]["kernel"].all()
    state = pruner.update(state, tree(), step=3)
    assert (np.asarray(state.masks["Dense_0"]["kernel"]).sum(1) == 6).all() and state.sparsity == 0.5
    same(pruner.update(state, tree(1), step=4), state)
    with pytest.raises(ConfigError) as error:
        OneShot(pattern=outside.TopOfRow()).validate()
    assert error.value.field == "prune.pattern"


@pytest.mark.parametrize("labels", [lambda shape: np.zeros(3), lambda shape: np.full(shape, 1)])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="Conv_0/kernel: "):
        prune.one_shot(0.5, pattern=labels).init(tree())


def test_budgets_of_ones_file():
    state = masks(OneShot(0.5, budget=f"{HERE}:first_dense"))
    assert kept(state) == {"Conv_0": 288, "Dense_0": 96, "Dense_1": 120}
    assert kept(masks(OneShot(budget=outside.three_each))) == dict.fromkeys(SHAPES, 3)
    method = OneShot(0.5, budget=outside.by_kind)
    layout = {f"{n}/kernel": Parameter(f"{n}/kernel", n.split("_")[0], "kernel") for n in SHAPES}
    count = kept(masks(method, layout))
    assert count["Conv_0"] == 144 and count["Dense_0"] + count["Dense_1"] == 216 and count["Dense_0"] != 96
    assert "of which its share of the 216 kept in all" in method.plan(tree(), layout)[3].what
    with pytest.raises(ValueError, match=r"budget.* 3 .* 1$"):
        masks(OneShot(budget=lambda sparsity: [sparsity]))
    with pytest.raises(ValueError, match=r"Conv_0/kernel.*budget.* 1\.5"):
        masks(OneShot(budget=lambda groups: [1.5] * len(groups)))
    state = masks(RigL(0.5, budget=f"{HERE}:first_dense"), grads=tree(1), key=KEY)
    assert kept(state) == {"Conv_0": 288, "Dense_0": 96, "Dense_1": 120}
    with pytest.raises(ValueError, match="budget of RigL"):
        masks(RigL(budget=outside.by_kind), grads=tree(1), key=KEY)


def test_erdos_renyi_is_a_budget_like_any_other():
    by_name = masks(OneShot(0.8, pattern="channel", budget="erk"), grads=None)
    by_function = masks(OneShot(0.8, pattern="channel", budget=prune.erk))
    same(by_name, by_function)


@pytest.mark.parametrize("schedule", [outside.late, f"{HERE}:late", outside.late_remaining], ids=range(3))
def test_schedules_of_ones_file(schedule):
    method = Gradual(0.8, initial_sparsity=0.4, schedule=schedule, end=1.0)
    method.validate()
    pruner = method.build(begin=0, steps=10)
    state, reached = pruner.init(tree()), []
    for step in (0, 5, 10):
        state = pruner.update(state, tree(), step=step)
        reached.append(float(state.sparsity))
    np.testing.assert_allclose(reached, [0.4, 0.4 + 0.4 * 0.25, 0.8], rtol=1e-6)
    assert reached[2] == np.float32(0.8)


def test_linear_grows_evenly():
    pruner = prune.gradual(0.75, begin=0, end=4, schedule="linear")
    params = {"w": jnp.arange(1.0, 17.0).reshape(2, 8)}
    counts = [int(pruner.update(pruner.init(params), params, step=t).masks["w"].sum()) for t in range(5)]
    assert counts == [16, 13, 10, 7, 4]


METHODS = [outside.Twice(0.75), outside.Threshold(0.5), Gradual(score=outside.taylor, pattern=outside.Rows(2))]


@pytest.mark.parametrize("method", METHODS, ids=range(len(METHODS)))
def test_methods_of_ones_file_survive_json(method):
    stage = Holder((method,))
    again = from_dict(Holder, to_dict(stage), trusted=True)
    assert canonical_json(again) == canonical_json(stage)
    assert type(again.methods[0]) is type(method) and isinstance(again.methods[0], Method)
    again.methods[0].validate()


def test_a_method_of_ones_file_plans_prunes_and_checks():
    method = outside.Twice(0.75, rules=(("Conv_0/.*", None),))
    method.validate()
    assert [row.what for row in method.plan(tree())][:4] == [
        *["left alone"] * 3,
        "keeps 48 of 192 weights, twice by " + f"{HERE}:taylor",
    ]
    assert method.reached_at(begin=0, steps=10) == 5
    pruner = method.build(begin=0, steps=10)
    state = pruner.update(pruner.init(tree()), tree(), step=0, grads=tree(1))
    assert int(state.masks["Dense_0"]["kernel"].sum()) == 96
    state = pruner.update(state, tree(), step=5, grads=tree(1))
    seen = pruner.apply(state, tree())
    assert int((seen["Dense_0"]["kernel"] != 0).sum()) == 48
    assert method.check(jax.device_get(state), jax.device_get(seen)) == []
    for bad, field in ((outside.Twice(1.5), "sparsity"), (outside.Twice(score="taylr"), "score")):
        with pytest.raises(ConfigError) as error:
            bad.validate("stages[0].prune")
        assert error.value.field == f"stages[0].prune.{field}"


@pytest.mark.parametrize("method", [outside.Twice, outside.Threshold])
def test_numbers_of_ones_own_are_traced(method):
    traces = []

    @jit
    def nonzero(values):
        traces.append(1)
        pruner = hyper.join(hyper.split(method())[0], values).build(begin=0, steps=10)
        state = pruner.update(pruner.init(tree()), tree(), step=10, grads=tree(1))
        return (pruner.apply(state, tree())["Dense_0"]["kernel"] != 0).sum(dtype=jnp.int32)

    counts = [int(nonzero(hyper.split(method(number))[1])) for number in (0.25, 0.5, 0.75)]
    assert len(traces) == 1 and counts[0] > counts[1] > counts[2] > 0
    if method is outside.Twice:
        assert counts == [144, 96, 48]


def test_what_the_document_defines_runs_as_printed():
    text = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text()
    space = {"np": np, "prune": prune, "dataclasses": dataclasses, "ClassVar": ClassVar}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if "def " in block:
            exec(compile(block, "pruning.md", "exec"), space)
    scored = masks(OneShot(0.5, space["taylor"]), grads=tree(1))
    same(scored, masks(OneShot(0.5, "saliency"), grads=tree(1)))  # squares have the same order
    assert kept(masks(OneShot(0.5, pattern=space["halves"]))) == {"Conv_0": 144, "Dense_0": 96, "Dense_1": 120}
    assert kept(masks(OneShot(0.5, budget=space["by_kind"])))["Conv_0"] > 0
    assert kept(masks(space["Blind"](0.75), key=KEY)) == {"Conv_0": 72, "Dense_0": 48, "Dense_1": 60}
