"""Grids of experiments with several stages, batch statistics, averages and teachers are their trials alone."""

import dataclasses
import json

import numpy as np
import pytest

from jopt import cluster, data, distill, models, optim, prune, quantize, transfer
from jopt.ablate import Ablation, axis, load_trial, product, run
from jopt.train import Stage, metrics
from jopt.train import run as run_alone
from jopt.train.loop import NonFiniteError

RATE = "optimizer.learning_rate"
STUDENT = models.ModelConfig("mlp", features=(3,), num_classes=3)
IMAGES = data.Synthetic(shape=(4, 4, 1), num_classes=3, train=32, validation=16, test=16)


def pruned_shared_quantized():
    half = prune.OneShot(sparsity=0.5)
    stages = [
        Stage("dense"),
        Stage("prune", methods=(half,), start="init"),
        Stage("share", steps=0, methods=(cluster.Share(4),)),
        Stage("quantize", methods=(quantize.Weights(),), release=("share",), optimizer=optim.Config("adam")),
    ]
    space = product(axis("stages[1].prune.sparsity", (0.0, 0.8)), axis("stages[3].quantize.bits", (2, 8)))
    return {"stages": stages}, space


def students():
    stages = [
        Stage("teacher"),
        Stage("student", model=STUDENT, methods=(distill.SoftTargets(teacher="stage:teacher"),)),
        Stage("again", methods=(distill.SoftTargets(teacher="stage:student"),), start="random"),
    ]
    return {"stages": stages, "ema_decay": 0.8}, axis("stages[1].distill.temperature", (1.0, 4.0))


def teachers_that_compute_along():
    distillation = distill.SoftTargets(teacher="stage:teacher")
    stages = [
        Stage("teacher", methods=(quantize.Weights(),)),
        Stage("student", release=("quantize",), model=STUDENT, methods=(distillation,)),
    ]
    shifted = dataclasses.replace(IMAGES, shift=1)
    return {"stages": stages, "data": shifted}, axis("stages[0].quantize.bits", (2, 8))


def transferred():
    taken = transfer.Transfer("stage:a", freeze=("Dense_0/.*",))
    network = models.ModelConfig("mlp", features=(4,), num_classes=3)
    stages = [Stage("a"), Stage("b", model=network, transfer=taken), Stage("late", start="a", steps=4)]
    return {"stages": stages}, axis(RATE, (0.1, 0.2))


def calibrated():
    methods = (quantize.Weights(), quantize.Activations())
    return {"stages": [Stage("a"), Stage("q", methods=methods)]}, axis("stages[1].activations.bits", (4, 8))


def without_steps():
    stages = [Stage("a", steps=0), Stage("q", steps=0, methods=(quantize.Weights(),))]
    return {"stages": stages}, axis("stages[1].quantize.bits", (4, 8))


def batch_norm():
    half = prune.OneShot(sparsity=0.5)
    stages = [Stage("train", epochs=1), Stage("prune", steps=0, methods=(half,), recalibrate=2)]
    network = models.ModelConfig("resnet18", features=(2,), num_classes=3)
    images = IMAGES
    return {"stages": stages, "model": network, "data": images, "ema_decay": 0.9}, axis(RATE, (0.1, 0.01))


CASES = (pruned_shared_quantized, students, teachers_that_compute_along, transferred, calibrated, without_steps)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, batch_norm])
def test_a_grid_is_its_trials_alone(tmp_path, small, case):
    """Losses to 1e-5 of their value or 1e-6: sums of float32 in another order. Masks and sizes exactly."""
    changes, space = case()
    ablation = Ablation(name=case.__name__, experiment=small(**changes), space=space, seeds=(0, 1))
    results = run(ablation, tmp_path / "grid", devices=2, quiet=True)
    events = json.loads((tmp_path / "grid" / "manifest.json").read_text())["events"]
    counts = events[-1]["compilations"]["0"]
    trained = sum(stage.steps != 0 for stage in ablation.experiment.stages)
    assert counts.get("segment", 0) == trained and counts["init"] == len(ablation.experiment.stages)
    for row in (results.trials[0], results.trials[-1]):
        alone = run_alone(load_trial(tmp_path / "grid", row["trial"]), tmp_path / row["trial"], quiet=True)
        exact = ("parameters", "nonzero_parameters", "sparsity", "flops", "accuracy")
        assert {name: row[name] for name in exact} == {name: alone[name] for name in exact}
        own_curve = [c for c in metrics.read(tmp_path / row["trial"] / "metrics.jsonl") if c["split"] != "test"]
        in_grid = [c for c in results.curves if c["trial"] == row["trial"]]
        key = ("stage", "step", "split")
        assert [[c[k] for k in key] for c in in_grid] == [[c[k] for k in key] for c in own_curve]
        a, b = ([c["loss"] for c in curve] for curve in (in_grid, own_curve))
        np.testing.assert_allclose([*a, row["loss"]], [*b, alone["loss"]], rtol=1e-5, atol=1e-6)


def test_a_grid_of_seeds_alone_and_of_no_axes_is_a_grid(tmp_path, small):
    ablation = Ablation(experiment=small(stages=[Stage(steps=0)]), space=product(), seeds=(0, 1, 2))
    results = run(ablation, tmp_path, devices=1, quiet=True)
    assert results.axes == () and [row["seed"] for row in results.trials] == [0, 1, 2]
    assert results.points() == [{}] and len({row["digest"] for row in results.trials}) == 3
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_finite_losses_whose_mean_is_not_are_a_divergence_too(tmp_path, small):
    """Float32 ends at 3.4e38. The other trials go on, and the trial alone stops at the same step."""
    noisy = data.Synthetic(shape=(3, 3, 1), num_classes=3, train=128, validation=16, test=16, noise=250.0)
    experiment = small(
        model=models.ModelConfig("linear", num_classes=3),
        data=noisy,
        batch_size=2,
    )
    space = axis(RATE, (0.1, 1.9339296773266985e36))
    results = run(
        Ablation(experiment=experiment, space=space, seeds=(0,)), tmp_path / "grid", devices=1, quiet=True
    )
    assert [(row["status"], row["diverged_step"]) for row in results.trials] == [
        ("finished", None),
        ("diverged", 127),
    ]
    with pytest.raises(NonFiniteError, match=r"training loss.* step 127 "):
        run_alone(load_trial(tmp_path / "grid", results.trials[1]["trial"]), tmp_path / "alone", quiet=True)
