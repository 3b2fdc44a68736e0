"""Suites `ablate` and `strategies`: contenders train the same trials, and a sample is scaled as it is said."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import grids, output, processes
from benchmarks.contenders import MLP as TIMED_MLP
from benchmarks.contenders import (
    PYTORCH,
    PYTORCH_FUSED,
    PYTORCH_ONE_THREAD,
    SMALL_CNN,
    Case,
    experiment,
    strategy_cases,
)
from benchmarks.grids import COLD, GRID, LOOP, WARM, Run
from benchmarks.timing import Options
from jopt import data, models, prune, quantize
from jopt.ablate import Layout
from jopt.ablate.strategy import TINY_LANES
from jopt.train import Experiment, Stage, prepare

pytestmark = pytest.mark.unoptimized

SMALL = data.Synthetic(shape=(8, 8, 1), train=64)
MLP = Case("mlp", experiment("mlp", 16, 20, 10, source=SMALL))
CNN = Case("cnn", experiment("cnn", 16, 4, 6, hidden=8, source=SMALL))
ONCE = Options(repeats=1, seconds=0, torch=False)

TINY = """
from jopt import data, models, prune, quantize
from jopt.ablate import Ablation, axis
from jopt.train import Experiment, Stage

def get_config():
    stage = Stage("train", methods=(prune.Gradual(), quantize.Weights()))
    return Ablation(
        name="tiny",
        experiment=Experiment(model=models.ModelConfig("mlp", features=(8,)), epochs=4, stages=[stage]),
        space=axis("stages[0].prune.sparsity", (0.0, 0.5)) ,
        seeds=(0, 1),
    )
"""


@pytest.mark.parametrize("case", [MLP, pytest.param(CNN, marks=pytest.mark.slow)], ids=lambda case: case.name)
def test_the_lifted_segment_and_pytorch_train_the_same_trials(case):
    pytest.importorskip("torch", reason="PyTorch is not installed: it is the extra 'jopt[bench]'")
    of = grids.grid(case.experiment, 5)
    assert [t.config.optimizer.learning_rate for t in of.trials] == [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4]
    assert [t.seed for t in of.trials] == [0, 1, 0, 1, 0]
    before = jax.tree.map(np.copy, of.initial)
    lifted = grids.lifted_segments(of, Layout(2, 2), 4)
    eager = grids.one_by_one(of, threads=1)
    for _ in range(2):
        assert lifted.run() == 4 * 4
        assert [eager.run() for _ in of.trials] == [4] * 5
        np.testing.assert_allclose(eager.loss()[:4], lifted.loss(), rtol=1e-4)
    # So far apart that no two trials can be mistaken for one another.
    assert np.diff(np.sort(eager.loss())).min() > 1e-3
    # The next contender starts from these: the segment, which is given its state's buffers, must not write to them.
    jax.tree.map(np.testing.assert_array_equal, of.initial, before)


def test_the_loops_numbers_are_constants_in_its_programs():
    stage = Stage("train", methods=(prune.Gradual(sparsity=0.5), quantize.Weights(bits=4)))
    config = Experiment(
        model=models.ModelConfig("mlp", features=(4,)), data=SMALL, batch_size=16, epochs=4, stages=[stage]
    )
    config.optimizer.learning_rate = 0.01234
    p = prepare(config)
    constants = grids.with_constants(p).program_of(0, 4)
    args = p.like(0), p.values, p.arrays["train"]
    for name, given in (("segment", constants), ("traced", p.program_of(0, 4))):
        text = jax.jit(given.segment).lower(*args).as_text()
        assert ("dense<1.234000e-02>" in text) == (name == "segment")
        (signature,) = [line for line in text.splitlines() if "@main" in line]
        numbers = signature.count("%arg") - len(jax.tree.leaves((args[0], args[2])))
        assert (numbers == 0) == (name == "segment")


def test_a_sample_is_scaled_to_the_grid_and_compared_with_each_run_of_it():
    launched = {"a": Run(9.0, 0.5, 0), "b": Run(6.0, 0.9, 0), "c": Run(4.0, 0.8, 0)}
    looped = {"a": Run(2.0, 0.5, 4), "c": Run(2.0, 0.7, 4)}
    there = {"a": 0.5, "b": 0.9, "c": 0.75, "d": None}
    rows = grids.scaled_to_grid("grid.py", 10, np.array([2.0, 4.0]), launched, looped, there)
    assert {row.case for row in rows} == {"grid.py, 10 trials"}
    values = {row.contender: row.values for row in rows}
    assert {name: values[name]["seconds"].median for name in (GRID, WARM, COLD, LOOP)} == {
        GRID: 3,
        WARM: 50,
        COLD: 90,
        LOOP: 20,
    }
    # The first launch found an empty cache.
    assert [values[name]["sampled_trials"] for name in (WARM, COLD, LOOP)] == [2, 1, 2]
    assert values[LOOP]["compilations_per_trial"] == 4
    warm, loop = values[WARM]["ratio"], values[LOOP]["ratio"]
    # Warm: 60 and 40 s against 2 and 4 s are 30, 15, 20 and 10 times as long.
    assert (warm.median, warm.target.limit, warm.met) == (17.5, 20.0, False)
    # 20 s against 2 and 4 s.
    assert (loop.median, loop.met) == (7.5, True)
    assert values[COLD]["ratio"].target is None
    assert values[WARM]["accuracy_difference"] == pytest.approx(0.05)


def test_the_sample_is_spread_over_the_grid():
    every = grids.trials(grids.load_config(grids.CONFIG))
    assert len(every) == 100
    assert grids.evenly(every, 5) == [every[i] for i in (0, 25, 50, 74, 99)]
    assert len({tuple(t.point.values()) for t in grids.evenly(every, 5)}) == 5
    assert grids.evenly(every[:2], 5) == every[:2]


def test_a_process_of_its_own_has_the_devices_it_is_given():
    assert processes.on_devices(3, jax.local_device_count) == 3


def test_every_target_names_a_contender_of_a_case_that_is_measured():
    assert {TIMED_MLP.name, SMALL_CNN.name} == set(grids.STEP_TARGETS)
    assert {"CNN 8-16, digits, batch 16", "MLP 300-100, digits, batch 64"} == set(grids.STEP_TARGETS)
    for targets in grids.STEP_TARGETS.values():
        assert set(targets) <= {grids.ONE_DEVICE, PYTORCH, PYTORCH_FUSED, PYTORCH_ONE_THREAD}


def test_rows_of_strategies_show_what_the_rule_costs():
    names = [grids.layout_name(n) for n in grids.LANES]
    assert names[:2] == ["map", "vmap x 4"]
    times = {name: np.full(3, t) for name, t in zip(names, (3e-6, 2e-6, 4e-6, 5e-6, 6e-6), strict=True)}
    rows = grids.strategy_rows("net", times, "map")
    assert [row.values["over_best"] for row in rows] == pytest.approx([1.5, 1, 2, 2.5, 3])
    assert [row.contender for row in rows if row.values["rule"]] == ["map"]


@pytest.mark.slow
def test_a_whole_grid_its_launches_and_the_loop_give_the_same_accuracies(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    rows = grids.whole_grid(Options(sample=2, grids=1), str(tmp_path / "tiny.py"))
    values = {row.contender: row.values for row in rows}
    assert list(values) == [GRID, WARM, COLD, LOOP]
    assert values[LOOP]["compilations_per_trial"] == 4
    # One of the 360 test examples more or less.
    assert values[LOOP]["accuracy_difference"] <= 1.5 / 360
    rows += grids.trial_steps(ONCE, [CNN], count=4)
    assert len(output.table("ablate", rows).rows) == (1 + 4) + (1 + 2)


@pytest.mark.slow
def test_the_suite_of_strategies_runs_on_one_and_two_devices():
    smallest = strategy_cases()[0]
    small = smallest._replace(experiment=dataclasses.replace(smallest.experiment, segment_steps=2), least=4)
    rows = grids.strategies(ONCE, [small])
    parameters = 2 * 3 + 3 + 3 + 1
    assert list(dict.fromkeys(row.case for row in rows)) == [
        f"{smallest.name}: {parameters} parameters, {devices}" for devices in ("1 device", "2 devices")
    ]
    assert [row.contender for row in rows if row.values["rule"]] == [grids.layout_name(TINY_LANES)] * 2
    assert min(row.values["over_best"] for row in rows) == 1


def test_a_process_that_fails_shows_what_it_wrote(tmp_path):
    with pytest.raises(RuntimeError, match="no_such_app"):
        processes.launch_seconds("no_such_app", "config.py", tmp_path / "run", tmp_path)
