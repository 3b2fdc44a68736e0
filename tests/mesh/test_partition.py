"""How parameters, moments and masks are split over a mesh."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest
from judged import assert_trees_equal
from tiny import tiny_experiment

from jopt import data, mesh, models, prune
from jopt import task as tasks
from jopt.rules import RuleError, named_leaves
from jopt.train import Stage
from jopt.train.calls import Calls
from jopt.train.display import plan_parts
from jopt.train.prepared import prepare

PRUNED = [Stage(), Stage("pruned", methods=(prune.OneShot(sparsity=0.5),))]


def trained(p, steps=3):
    """The state of a run's last stage after so many steps, its masks chosen."""
    state = None
    for index in range(len(p.plans)):
        program = p.program_of(index, steps)
        before = () if state is None else (state,)
        state = jax.jit(program.init)(p.key, p.values, *before)
        if p.plans[index].updates:
            state = jax.jit(program.update)(state, p.values, p.arrays["train"])
        state, _ = jax.jit(program.segment)(state, p.values, p.arrays["train"])
    return state


@pytest.mark.parametrize(
    ("axes", "rules"),
    [
        ((("data", 8),), ("fsdp",)),
        ((("data", 4), ("model", 2)), ("tensor", "fsdp")),
        ((("data", 2), ("model", 4)), ("tensor",)),
    ],
)
def test_split_is_whole_to_rounding(axes, rules):
    one = trained(prepare(tiny_experiment(stages=PRUNED)))
    p = prepare(tiny_experiment(stages=PRUNED, mesh=axes, partition=rules))
    split = trained(p)
    # Adam divides by the root of squares: a digit more than the sums' own rounding.
    assert_trees_equal(one.params, split.params, rtol=1e-3, atol=1e-5)
    # The same weights survive: the count over devices is exact.
    assert_trees_equal(one.transform_state, split.transform_state)
    of_kernel = {name: leaf for name, leaf in named_leaves(split) if name.endswith("Dense_0/kernel")}
    # The parameter, two moments and the mask.
    assert len(of_kernel) == 4
    for leaf in of_kernel.values():
        assert leaf.addressable_shards[0].data.size < leaf.size


def test_an_attention_is_split_by_heads_and_an_mlp_on_both_sides():
    tokens = np.random.default_rng(0).integers(0, 32, (40, 9)).astype(np.int32)
    dataset = data.Dataset.from_arrays((tokens[:, :-1], tokens[:, 1:]), test=(tokens[:, :-1], tokens[:, 1:]))
    decoder = models.Decoder(vocabulary=32, width=32, depth=1, heads=4)
    layout = {"mesh": (("data", 2), ("model", 2)), "partition": ("tensor",)}
    p = prepare(tiny_experiment(model=decoder, task=tasks.NextToken(), **layout), dataset=dataset)
    specs = {path: tuple(spec) for path, (_, spec) in p.spread_of(0).specs.items()}
    assert specs["attention_0/query/kernel"] == (None, "model", None)
    assert specs["attention_0/out/kernel"][0] == "model"
    assert specs["mlp_0/up/kernel"] == (None, "model") and specs["mlp_0/down/kernel"] == ("model", None)


def test_rules_come_before_presets():
    rules = (("Dense_0/kernel", ("", "model")), "fsdp")
    p = prepare(tiny_experiment(mesh=(("data", 2), ("model", 2)), partition=rules))
    assert tuple(p.spread_of(0).specs["Dense_0/kernel"][1]) == (None, "model")


def test_a_rule_that_matches_nothing_is_an_error():
    with pytest.raises(RuleError, match="Dens_0"):
        prepare(tiny_experiment(mesh=(("data", 2),), partition=(("Dens_0/kernel", ("data",)),)))


def test_the_plan_tells_bytes_of_a_device():
    p = prepare(tiny_experiment(mesh=(("data", 8),), partition=("fsdp",)))
    text = "\n".join(map(str, plan_parts(p)))
    whole, split = p.spread.bytes_of(p.like(0)), p.spread_of(0).bytes_of(p.like(0))
    # Dense_0/kernel, 36 x 16 floats and two moments, is split by 4 x: 36 is no multiple of 8, 16 is.
    assert whole - split == 3 * 36 * 16 * 4 * 7 // 8
    assert "8 devices (data 8)" in text and "fixed order" not in text


def test_recomputed_activations_give_the_same_gradient():
    plain, remat = (trained(prepare(tiny_experiment(remat=value))) for value in ("none", "products"))
    assert_trees_equal(plain.params, remat.params, rtol=1e-5, atol=1e-6)
    p = prepare(tiny_experiment(remat="products"))
    program = p.program_of(0, 1)
    text = str(jax.make_jaxpr(program.segment)(p.like(0), p.values, p.arrays["train"]))
    assert "remat" in text or "checkpoint" in text


def test_columns_are_those_of_the_devices_of_this_process():
    sharding = mesh.resolve((("data", -1),), None, (), 16).by_step
    columns = mesh.columns(sharding, 16)
    assert columns.tolist() == list(range(16))
    rows = np.arange(3 * 16 * 2).reshape(3, 16, 2)
    placed = mesh.put_columns({"x": rows}, columns, 16, sharding)["x"]
    np.testing.assert_array_equal(placed, rows)
    assert placed.addressable_shards[0].data.shape == (3, 2, 2)


def test_a_global_threshold_gathers_counts_and_no_weights():
    config = tiny_experiment(
        model=models.ModelConfig("mlp", features=(256, 64), num_classes=4),
        stages=[Stage("pruned", methods=(prune.OneShot(sparsity=0.5, budget="global"),))],
    )
    p = prepare(dataclasses.replace(config, mesh=(("data", 8),), partition=("fsdp",)))
    state = Calls(p, p.values).placed(0, p.like(0))
    update = jax.jit(p.program_of(0, 1).update).lower(state, p.values, p.arrays["train"])
    text = update.compile().as_text()
    gathered = re.findall(r"= \(?\w+\[([\d,]*)\].* (?:all-gather|all-to-all)\(", text)
    # One number of each device, by which those that tie are told apart.
    assert gathered and all(math.prod(map(int, shape.split(","))) <= 8 for shape in gathered)
    # In the loop over the bits of the threshold: the counts of both kernels in one message.
    assert len(re.findall(r" all-reduce\(", text)) == 1
