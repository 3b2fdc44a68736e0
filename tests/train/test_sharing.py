"""Stages that differ in numbers alone, or in methods that have chosen nothing yet, train in one program."""

import csv
import dataclasses
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import identity, optim, prune, quantize
from jopt.ablate import Ablation, axis
from jopt.ablate import run as run_ablation
from jopt.ablate.lift import Layout, Lift
from jopt.method import Method
from jopt.train import Stage, prepare, run
from jopt.train.calls import with_key
from jopt.train.compiler import Compiler
from jopt.train.sharing import common_names, stage_names

PRUNED = prune.Gradual(sparsity=0.5)


def segments_of(path):
    return json.loads((path / "manifest.json").read_text())["events"][-1]["compilations"]["segment"]


def test_a_stage_before_pruning_runs_the_segment_of_the_pruned_one(tmp_path, tiny):
    run(tiny(stages=[Stage("dense"), Stage("pruned", methods=(PRUNED,))]), tmp_path / "a")
    assert segments_of(tmp_path / "a") == 1


@pytest.mark.optimized
def test_the_dense_stage_learns_what_it_learns_alone(tmp_path, tiny):
    p = prepare(tiny(stages=[Stage("dense"), Stage("pruned", methods=(PRUNED,))]))
    steps, widening = p.plans[0].length.segment_steps, p.widening(0)
    state = jax.jit(p.program_of(0, steps).init)(p.key, p.values)
    wide = widening.widen(state)
    assert all(mask.all() for mask in jax.tree.leaves(wide.transform_state) if mask.dtype == bool)
    assert widening.narrow(wide).transform_state == state.transform_state == ()
    alone, _ = jax.jit(p.program_of(0, steps).segment)(state, p.values, p.arrays["train"])
    shared, _ = jax.jit(p.segment_of(0, steps))(wide, p.values, p.arrays["train"])
    # Not to the bit: XLA may fuse a program with masks otherwise.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), alone.params, shared.params)


@pytest.mark.optimized
def test_stages_of_other_rates_share_a_program_and_each_has_its_rate(tmp_path, tiny):
    slow = dataclasses.replace(tiny().optimizer, learning_rate=1e-4)
    config = tiny(stages=[Stage("fast"), Stage("slow", optimizer=slow)])
    run(config, tmp_path / "a")
    assert segments_of(tmp_path / "a") == 1
    p = prepare(config)
    steps = p.plans[0].length.segment_steps
    state = jax.jit(p.program_of(0, steps).init)(p.key, p.values)
    moved = []
    for stage in (0, 1):
        values = stage_names(common_names(p.values, stage), stage, p.values)
        after, _ = jax.jit(p.segment_of(stage, steps))(state, values, p.arrays["train"])
        moved.append(optim_distance(after.params, state.params))
    assert moved[0] > 20 * moved[1] > 0


def optim_distance(a, b):
    return float(sum(jnp.abs(x - y).sum() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


@dataclasses.dataclass(frozen=True)
class Halved(Method):
    """Every other weight is zero from the first state on."""

    name: ClassVar[str] = "halved"

    def build(self, **context):
        del context
        even = lambda w: jnp.arange(w.size).reshape(w.shape) % 2 == 0  # noqa: E731
        apply = lambda state, params: jax.tree.map(lambda w: jnp.where(even(w), w, 0), params)  # noqa: E731
        return identity()._replace(apply=apply, project=apply, sparse=True)


@dataclasses.dataclass(frozen=True)
class Released(prune.OneShot):
    """Masks that later stages do not have."""

    def freeze(self, **context):
        del context


@pytest.mark.parametrize(
    "following",
    [
        Stage("observed", methods=(prune.Gradual(sparsity=0.5, score="movement"),)),
        Stage("quantized", methods=(quantize.Weights(bits=4),)),
        Stage("halved", methods=(Halved(),)),
        Stage("released", methods=(Released(sparsity=0.5),)),
        Stage("decayed", methods=(PRUNED,), optimizer=optim.Config("adam", schedule="cosine")),
        Stage("shorter", methods=(PRUNED,), segment_steps=3),
    ],
    ids=lambda stage: stage.name,
)
def test_a_stage_that_trains_otherwise_has_a_program_of_its_own(tiny, following):
    assert prepare(tiny(stages=[Stage("dense"), following])).widening(0) is None


def test_a_method_that_freezes_in_its_own_way_trains_as_itself(tmp_path, tiny):
    run(tiny(epochs=1, stages=[Stage("released", methods=(Released(sparsity=0.5),))]), tmp_path / "a")
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["loss"] for row in rows]).all()


def test_where_masks_would_cost_more_than_a_compilation_they_are_left_out(tiny):
    stages = [Stage("dense", steps=20_000_000), Stage("pruned", methods=(PRUNED,), steps=20)]
    assert prepare(tiny(stages=stages, segment_steps=1_000_000)).widening(0) is None


@pytest.mark.optimized
def test_a_trial_of_a_grid_has_the_bits_of_a_run_alone(tmp_path, tiny):
    stages = [Stage("dense", epochs=1), Stage("pruned", epochs=1, methods=(PRUNED,))]
    space = axis("pruned.prune.sparsity", (0.5, 0.75))
    grid = Ablation("grid", tiny(stages=stages), seeds=(0, 1), space=space, strategy="map")
    run_ablation(grid, tmp_path / "grid")
    alone = run(tiny(stages=stages, seed=1), tmp_path / "alone")
    with (tmp_path / "grid" / "trials.csv").open() as file:
        assert alone["digest"] in {row["digest"] for row in csv.DictReader(file)}


@pytest.mark.optimized
def test_trials_that_share_a_device_start_with_the_average_of_a_run_alone(tiny):
    # Two on one device, in a loop: with a device for each there is no loop for XLA to treat otherwise.
    p, lift = prepare(tiny(ema_decay=0.9)), Lift(Layout(lanes=1, devices=1))
    init, level = with_key(p.program_of(0, p.plans[0].length.segment_steps).init), p.level(0, "init")
    trials = lift.place({path: np.stack([value, value]) for path, value in p.values.items()})
    alone = Compiler().call("init", 0, init, p.values, level=level)
    lifted = Compiler().call("init", 0, lift(init, (True,)), trials, level=level)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), alone, lifted)
