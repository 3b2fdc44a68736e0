"""A ratio of speeds means something only if the contenders compute the same thing."""

import jax
import numpy as np
import pytest

from experiments.benchmarks import contenders, pytorch, training
from experiments.benchmarks.cases import CASES, Case, work
from jopt import data, models

pytestmark = pytest.mark.unoptimized

SMALL = data.Config(name="synthetic", synthetic=data.Synthetic(shape=(8, 8, 1), train=64))
MLP = Case("mlp", models.Config(name="mlp", features=(20, 10)), SMALL, 16)
CNN = Case("cnn", models.Config(name="cnn", features=(4, 6), hidden=8), SMALL, 16)


EPOCHS = 3


@pytest.fixture(scope="module", params=[MLP, CNN], ids=lambda case: case.name)
def reference(request):
    """A case, and the losses and parameters that jopt's segments give."""
    job = work(request.param, epochs=EPOCHS)
    scanned = contenders.scanned(job)
    losses = []
    for _ in range(EPOCHS):
        assert scanned.run() == job.steps == 4
        losses.append(scanned.loss())
    return job, losses, scanned.params()


def losses_of(way):
    return [way.loss() for _ in range(EPOCHS) if way.run() == 4]


def test_steps_called_from_python_give_the_same_parameters(reference):
    job, losses, params = reference
    ways = [contenders.python_loop(job)]
    if job.case is CNN:
        ways.append(contenders.plain_convolution(job))
    for way in ways:
        np.testing.assert_allclose(losses_of(way), losses, rtol=1e-4)
        # Adam divides by the root of a tiny second moment, so a rounding error of a gradient grows to a share of
        # the learning rate: 2 % of it is allowed for each of the 12 steps.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=12 * 0.02 * 1e-3), way.params(), params)


@pytest.mark.parametrize("fused", [False, True])
def test_pytorch_gives_the_same_losses(reference, fused):
    pytest.importorskip("torch", reason="PyTorch is not installed: it is the extra 'jopt[bench]'")
    job, losses, _ = reference
    np.testing.assert_allclose(losses_of(pytorch.eager(job, threads=1, fused=fused)), losses, rtol=1e-4)


def test_without_pytorch_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(pytorch.MissingTorchError, match=r"pip install 'jopt\[bench\]'.*--notorch"):
        pytorch.eager(work(MLP, epochs=1))


def test_the_rows_are_those_of_the_segments():
    job = work(MLP, epochs=2)
    assert job.rows.shape == (8, 16)
    assert [sorted(epoch.ravel().tolist()) for epoch in np.split(job.rows, 2)] == [list(range(64))] * 2


def test_flops_of_a_step_are_counted_exactly():
    # Forward, weight gradients, and input gradients except the first layer's, which nobody needs.
    macs = [64 * 20, 20 * 10, 10 * 10]
    norm = 2 * (sum(macs) + 20 + 10 + 10)  # of the gradient of each parameter, for clipping
    assert training.flops_per_step(work(MLP, epochs=1)) == 2 * 16 * (3 * sum(macs) - macs[0]) + norm


def test_every_target_names_a_contender():
    for case in CASES:
        known = {training.PYTHON_LOOP, training.PLAIN_CONV, training.PYTORCH}
        assert set(case.targets) <= known
