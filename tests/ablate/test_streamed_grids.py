"""Grids whose data stay on the host: each trial trains on the rows of its seed, with the bits of a resident one."""

import jax
import numpy as np
import pytest
from tiny import SMALLEST_IMAGES, smallest_experiment, tiny_ablation

from jopt import ablate, data, prune, quantize
from jopt.ablate.plan import memory_of
from jopt.train import Stage, prepare
from jopt.train.given import given

METHODS = (prune.Gradual(sparsity=0.5), quantize.Weights(bits=8), quantize.Activations(bits=8))
STAGES = [Stage("dense", epochs=2), Stage("small", epochs=1, methods=METHODS)]


def digests(directory, dataset, strategy):
    # Segments of 3 of an epoch's 4 steps: they begin in the middle of one.
    experiment = smallest_experiment(stages=STAGES, segment_steps=3, ema_decay=0.9)
    grid = tiny_ablation(experiment=experiment, strategy=strategy)
    results = ablate.run(grid, directory, data=dataset)
    return [(row["status"], row["digest"]) for row in results.trials]


@pytest.fixture(scope="module")
def weighted():
    """A data set with weights of its examples."""
    dataset = data.load(SMALLEST_IMAGES)
    weights = np.linspace(0.5, 2, len(dataset.train.targets), dtype=np.float32)
    parts = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    return dataset._replace(
        **{name: part._replace(weights=weights[: len(part.targets)]) for name, part in parts.items()}
    )


@pytest.mark.parametrize("strategy", ["vmap", pytest.param("map", marks=pytest.mark.slow)])
def test_streamed_trials_equal_resident_ones_to_the_bit(weighted, strategy, tmp_path):
    resident = digests(tmp_path / "device", weighted, strategy)
    assert {status for status, _ in resident} == {"finished"} and len(set(resident)) == 4
    assert digests(tmp_path / "host", weighted._replace(residency="host"), strategy) == resident


@pytest.mark.slow
def test_the_fastest_strategy_is_measured_with_streamed_rows(weighted, tmp_path):
    rows = digests(tmp_path, weighted._replace(residency="host"), "measure")
    assert {status for status, _ in rows} == {"finished"}


def test_the_rows_of_the_trials_count_in_the_plan(weighted):
    resident, streamed = (
        memory_of(prepare(given(smallest_experiment(), data=dataset)[0], dataset=dataset), 10**9)
        for dataset in (weighted, weighted._replace(residency="host"))
    )
    row = sum(x[0].nbytes for x in jax.tree.leaves(tuple(weighted.train)))
    # A segment is an epoch: 4 steps of 8 examples.
    assert streamed.state - resident.state == 32 * row and streamed.shared < resident.shared
