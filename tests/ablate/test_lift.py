"""A program over a trial axis computes for each trial what it computes for one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_experiment

from jopt import hyper, keys, prune, quantize
from jopt.ablate import Layout, Lift
from jopt.train import Compiler, Experiment, Stage, prepare

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1e-4, 1e-5)


def experiment(**changes) -> Experiment:
    return tiny_experiment(**{"stages": [Stage("train", methods=(quantize.Weights(),))], **changes})


def stacked(prepared, rates=RATES, seeds=(0, 1)):
    """Every rate with every seed, and other sparsities and bits for each."""
    count = len(rates) * len(seeds)
    values = {k: np.broadcast_to(v, (count,)) for k, v in hyper.split(prepared.config)[1].items()}
    values["optimizer.learning_rate"] = np.repeat(np.float32(rates), len(seeds))
    values["seed"] = np.tile(np.uint32(seeds), len(rates))
    if "stages[0].prune.sparsity" in values:
        values["stages[0].prune.sparsity"] = np.linspace(0, 0.9, count).astype(np.float32)
    if "stages[0].quantize.bits" in values:
        values["stages[0].quantize.bits"] = np.resize(np.int32([32, 8, 4, 2, 1]), count)
    return values


@functools.cache
def initial(seed):
    """The state that trials of this seed start from, on the host."""
    program, values = prepared().program_of(0, 6), hyper.split(prepared().config)[1]
    return jax.device_get(jax.jit(program.init)(keys.root(jnp.uint32(seed)), {**values, "seed": jnp.uint32(seed)}))


@functools.cache
def segment(layout):
    return jax.jit(Lift(layout).program(prepared().program_of(0, 6)).segment)


def run(values, layout):
    """State and metrics after a segment, over trials padded to the layout, on the host."""
    count = len(values["seed"])
    padded = -(-count // layout.multiple) * layout.multiple
    lift = Lift(layout)
    states = [initial(seed) for seed in values["seed"].tolist()]
    args = jax.tree.map(lambda *xs: np.stack(xs), *states), values
    padding = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], padded - count, 0)]), args)
    out = segment(layout)(*lift.place(padding), lift.share(prepared().arrays["train"]))
    return jax.tree.map(lambda x: np.asarray(x)[:count], out)


@functools.cache
def every(layout):
    """All trials in one chunk."""
    return run(stacked(prepared()), layout)


@functools.cache
def prepared():
    return prepare(experiment())


def equal(a, b) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_neither_chunks_nor_devices_nor_the_other_trials_change_a_bit():
    values = stacked(prepared())
    one_block = every(Layout(1, 1))
    assert equal(one_block, every(Layout(1, 2)))
    for chunk in (1, 7):
        part = run({k: v[:chunk] for k, v in values.items()}, Layout(1, 1))
        assert equal(part, jax.tree.map(lambda x, chunk=chunk: x[:chunk], one_block)), chunk


def test_lanes_do_not_depend_on_what_the_other_lanes_hold():
    values = stacked(prepared())
    one_block = every(Layout(4, 1))
    backwards = run({k: v[::-1] for k, v in values.items()}, Layout(4, 2))
    assert equal(jax.tree.map(lambda x: x[::-1], backwards), one_block)
    few = run({k: v[:3] for k, v in values.items()}, Layout(4, 1))
    assert equal(few, jax.tree.map(lambda x: x[:3], one_block))


def test_a_trial_in_the_grid_is_the_trial_alone():
    p, values = prepared(), stacked(prepared())
    program, arrays = p.program_of(0, 6), p.arrays["train"]
    alone = jax.jit(lambda v: program.segment(program.init(keys.root(v["seed"]), v), v, arrays))
    for index in (0, 5, 13):
        state, metrics = jax.device_get(alone({k: jnp.asarray(v[index]) for k, v in values.items()}))
        # Six steps of float32: other loops may be fused otherwise, and batched products add in another order.
        for layout in (Layout(1, 1), Layout(4, 1)):
            at = jax.tree.map(lambda x, index=index: x[index], every(layout))
            for a, b in zip(*map(jax.tree.leaves, (at[0].params, state.params)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)
            np.testing.assert_allclose(at[1]["loss"], metrics["loss"], rtol=1e-5)


@pytest.mark.unoptimized
def test_a_grid_compiles_each_function_once():
    stage = Stage("train", methods=(prune.OneShot(sparsity=0.5),))
    p, compiler, lift = prepare(experiment(stages=[stage])), Compiler(), Lift(Layout(1, 1))
    program = lift.program(p.program_of(0, 6))
    for rates in (RATES, RATES[::-1]):
        values = lift.place(stacked(p, rates))
        key, arrays = lift.place(keys.roots(values["seed"])), lift.share(p.arrays["train"])
        state = compiler.call("init", 0, program.init, key, values)
        state = compiler.call("update", 0, program.update, state, values, arrays)
        masks = state.transform_state[0].masks["Dense_0"]["kernel"]
        weights_left = [round(36 * 16 * (1 - s)) for s in values["stages[0].prune.sparsity"].tolist()]
        np.testing.assert_allclose(masks.sum((1, 2)), weights_left, atol=1)
        compiler.call("segment", 0, program.segment, state, values, arrays)
    assert dict(compiler.counts) == {"init": 1, "update": 1, "segment": 1}


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_trial_that_diverges_is_frozen_and_disturbs_no_other(lanes):
    p = prepared()
    values = stacked(p)
    good = every(Layout(lanes, 1))
    values["optimizer.learning_rate"] = values["optimizer.learning_rate"].copy()
    values["optimizer.learning_rate"][[2, 5]] = np.inf
    state, metrics = run(values, Layout(lanes, 1))
    assert metrics["first_bad_step"].tolist() == [1 if i in (2, 5) else -1 for i in range(14)]
    assert state.step.tolist() == [0 if i in (2, 5) else 6 for i in range(14)]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    others = [i for i in range(14) if i not in (2, 5)]
    assert equal(*(jax.tree.map(lambda x: x[others], tree) for tree in ((state, metrics), good)))


def test_a_layout_that_needs_more_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"layout.* 99 devices.*\d"):
        Lift(Layout(1, 99))
