"""Suites `ablate` and `strategies`: contenders train the same trials, and a sample is scaled as it is said."""

import jax
import numpy as np
import pytest

from experiments.benchmarks import ablation, ablation_process, ablation_steps, ablation_strategies, tables
from experiments.benchmarks.ablation import COLD, GRID, LOOP, WARM, Run
from experiments.benchmarks.cases import PYTORCH, PYTORCH_FUSED, PYTORCH_ONE_THREAD, Case
from experiments.benchmarks.timing import Spread
from jopt import data, models, prune, quantize
from jopt.ablate import Layout
from jopt.ablate.strategy import TINY_LANES
from jopt.train import Experiment, Stage, prepare

pytestmark = pytest.mark.unoptimized

SMALL = data.Config(name="synthetic", synthetic=data.Synthetic(shape=(8, 8, 1), train=64))
MLP = Case("mlp", models.Config(name="mlp", features=(20, 10)), SMALL, 16)
CNN = Case("cnn", models.Config(name="cnn", features=(4, 6), hidden=8), SMALL, 16)

TINY = """
from jopt import data, models, prune, quantize
from jopt.ablate import Ablation, axis
from jopt.train import Experiment, Stage

def get_config():
    stage = Stage("train", prune=prune.Config(method="gradual"), quantize=quantize.Config())
    return Ablation(
        name="tiny",
        experiment=Experiment(model=models.Config("mlp", features=(8,)), epochs=4, stages=[stage]),
        space=axis("stages[0].prune.sparsity", (0.0, 0.5)) ,
        seeds=(0, 1),
    )
"""


@pytest.mark.parametrize("case", [MLP, pytest.param(CNN, marks=pytest.mark.slow)], ids=lambda case: case.name)
def test_the_lifted_segment_and_pytorch_train_the_same_trials(case):
    pytest.importorskip("torch", reason="PyTorch is not installed: it is the extra 'jopt[bench]'")
    of = ablation_steps.grid(case.experiment, 5)
    assert [t.config.optimizer.learning_rate for t in of.trials] == [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4]
    assert [t.seed for t in of.trials] == [0, 1, 0, 1, 0]
    before = jax.tree.map(np.copy, of.initial)
    lifted = ablation_steps.segments(of, Layout(2, 2), 4)
    eager = ablation_steps.one_by_one(case, of, threads=1)
    for _ in range(2):
        assert lifted.run() == 4 * 4
        assert [eager.run() for _ in of.trials] == [4] * 5
        np.testing.assert_allclose(eager.losses()[:4], lifted.losses(), rtol=1e-4)
    # So far apart that no two trials can be mistaken for one another.
    assert np.diff(np.sort(eager.losses())).min() > 1e-3
    # The next contender starts from these: the segment, which is given its state's buffers, must not write to them.
    jax.tree.map(np.testing.assert_array_equal, of.initial, before)


def test_the_loops_numbers_are_constants_in_its_programs():
    stage = Stage("train", methods=(prune.Gradual(sparsity=0.5), quantize.Weights(bits=4)))
    config = Experiment(
        model=models.Config("mlp", features=(4,)), data=SMALL, batch_size=16, epochs=4, stages=[stage]
    )
    config.optimizer.learning_rate = 0.01234
    p = prepare(config)
    baked = ablation.baked(p)(4)
    args = p.like(0), p.values, p.arrays["train"]
    for name, given in (("segment", baked), ("traced", p.program_of(0, 4))):
        text = jax.jit(given.segment).lower(*args).as_text()
        assert ("dense<1.234000e-02>" in text) == (name == "segment")
        (signature,) = [line for line in text.splitlines() if "@main" in line]
        numbers = signature.count("%arg") - len(jax.tree.leaves((args[0], args[2])))
        assert (numbers == 0) == (name == "segment")


def test_a_sample_is_scaled_to_the_grid_and_compared_with_each_run_of_it():
    launched = {"a": Run(9.0, 0.5, 0), "b": Run(6.0, 0.9, 0), "c": Run(4.0, 0.8, 0)}
    looped = {"a": Run(2.0, 0.5, 4), "c": Run(2.0, 0.7, 4)}
    there = {"a": 0.5, "b": 0.9, "c": 0.75, "d": None}
    found = ablation.summed("grid.py", 10, np.array([2.0, 4.0]), launched, looped, there)
    assert (found.trials, found.sample, found.compilations) == (10, 3, 4)
    assert found.seconds[GRID].median == 3.0
    assert {name: found.seconds[name].median for name in (WARM, COLD, LOOP)} == {WARM: 50, COLD: 90, LOOP: 20}
    ratios = {r.against: r for r in found.ratios}
    # Warm: 60 and 40 s against 2 and 4 s are 30, 15, 20 and 10 times as long.
    assert (ratios[WARM].median, ratios[WARM].target, ratios[WARM].met) == (17.5, 20.0, False)
    # 20 s against 2 and 4 s.
    assert (ratios[LOOP].median, ratios[LOOP].met) == (7.5, True)
    assert ratios[COLD].target is None
    assert found.accuracy_difference == pytest.approx(0.05)


def test_the_sample_is_spread_over_the_grid():
    every = ablation.trials(ablation.load(ablation.CONFIG))
    assert len(every) == 100
    assert ablation.spread_over(every, 5) == [every[i] for i in (0, 25, 50, 74, 99)]
    assert len({tuple(t.point.values()) for t in ablation.spread_over(every, 5)}) == 5
    assert ablation.spread_over(every[:2], 5) == every[:2]


def test_a_process_of_its_own_has_the_devices_it_is_given():
    assert ablation_process.apart(jax.local_device_count, devices=3) == 3


def test_every_target_names_a_contender_of_a_case_that_is_measured():
    names = {ablation_steps.ONE_DEVICE, PYTORCH, PYTORCH_FUSED, PYTORCH_ONE_THREAD}
    for targets in ablation_steps.TARGETS.values():
        assert set(targets) <= names
    assert {"CNN 8-16, digits, batch 16", "MLP 300-100, digits, batch 64"} == set(ablation_steps.TARGETS)


def test_the_table_of_strategies_shows_what_the_rule_costs():
    times = {
        n: Spread(t, t, t) for n, t in zip(ablation_strategies.LANES, (3e-6, 2e-6, 4e-6, 5e-6, 6e-6), strict=True)
    }
    row = ablation_strategies.StrategyRow("net", 12_345, 2, times, 1, 4, 1.5)
    (cells,) = tables.strategies_table([row]).rows
    assert cells == ("net: 12,345 parameters", "2", "3", "2", "4", "5", "6", "map", "1.50")


@pytest.mark.slow
def test_a_whole_grid_its_launches_and_the_loop_give_the_same_accuracies(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    found = ablation.whole(str(tmp_path / "tiny.py"), 2, 1)
    assert (found.trials, found.sample, found.compilations) == (4, 2, 4)
    # One of the 360 test examples more or less.
    assert found.accuracy_difference <= 1.5 / 360
    steps = [ablation_steps.row(CNN, 1, 0.0, False, {ablation_steps.ONE_DEVICE: 1.7}, count=4)]
    table = tables.ablate_table(ablation.Ablate(found, steps))
    assert len(table.rows) == (1 + 4) + (1 + 2)


@pytest.mark.slow
def test_the_suite_of_strategies_runs_on_one_and_two_devices():
    smallest = ablation_strategies.networks()[0]._replace(steps=2, least=4)
    rows = ablation_strategies.strategies(1, 0.0, [smallest])
    assert [row.devices for row in rows] == [1, 2]
    for row in rows:
        assert (row.parameters, row.rule) == (2 * 3 + 3 + 3 + 1, TINY_LANES)
        assert row.best == min(row.seconds_per_trial_step, key=lambda n: row.seconds_per_trial_step[n].median)
        assert row.cost >= 1


def test_a_process_that_fails_shows_what_it_wrote(tmp_path):
    with pytest.raises(RuntimeError, match="no_such_app"):
        ablation._launch("no_such_app", "config.py", tmp_path / "run", tmp_path)
