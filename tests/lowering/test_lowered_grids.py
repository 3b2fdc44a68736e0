"""Chunks of grids lowered for GPU and TPU: trials one after the other, in a batch, and on two devices."""

import pytest
from lowered import ACCELERATORS, leaks, operations, requests, text_of
from tiny import smallest_experiment

from jopt import cluster, data, models, prune
from jopt.ablate import Ablation, Layout, Lift, axis
from jopt.ablate.execute import Chunk, lifted
from jopt.ablate.trials import trials
from jopt.train import Stage, prepare

pytestmark = pytest.mark.unoptimized

IMAGES = data.Synthetic(shape=(8, 8, 1), num_classes=3, train=32, validation=16, test=16)

LAYOUTS = {"map": Layout(1, 1), "vmap on two devices": Layout(2, 2)}


@pytest.fixture(scope="module")
def grid():
    """Trials of a convolution that is pruned, then shares its weights: both have forms for CPUs."""
    network = models.ModelConfig(name="lenet5", num_classes=3)
    stages = [Stage("pruned", methods=(prune.OneShot(sparsity=0.5),)), Stage("shared", methods=(cluster.Share(4),))]
    config = smallest_experiment(model=network, data=IMAGES, stages=stages)
    grid = Ablation(experiment=config, space=axis("optimizer.learning_rate", (0.1, 0.2)), seeds=(0, 1))
    listed = trials(grid)
    return listed, prepare(listed[0].config)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_programs_of_chunks_have_no_form_for_cpus(grid, layout):
    listed, prepared = grid
    p = lifted(Chunk(listed, 4, LAYOUTS[layout], prepared), Lift(LAYOUTS[layout]))
    for request in requests(p):
        for platform in ACCELERATORS:
            text = text_of(request, platform)
            assert leaks(text) == [], (request.name, request.key, platform)
            if request.name == "segment":
                assert operations(text, "convolution") > 0
                assert ("mhlo.num_partitions = 2" in text) == (LAYOUTS[layout].devices == 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_chunks_on_a_cpu_have_them(grid, layout):
    listed, prepared = grid
    p = lifted(Chunk(listed, 4, LAYOUTS[layout], prepared), Lift(LAYOUTS[layout]))
    assert any(leaks(text_of(request, "cpu")) for request in requests(p) if request.name == "segment")
