"""Suites `train`, `matmul`, `masks` and `compress`: a ratio means something only between contenders that agree."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit

from benchmarks import contenders, steps
from benchmarks.contenders import CASES, experiment, job
from benchmarks.timing import MissingPackageError, Options
from benchmarks.torch_networks import channels_last
from jopt import data, models
from jopt.train import prepare

pytestmark = pytest.mark.unoptimized

SMALL = data.Synthetic(shape=(8, 8, 1), train=64)
MLP = experiment("mlp", 16, 20, 10, source=SMALL)
CNN = experiment("cnn", 16, 4, 6, hidden=8, source=SMALL)
RESNET = experiment("resnet18", 16, 2, source=SMALL)
EPOCHS = 3


@pytest.fixture(scope="module", params=[MLP, CNN], ids=lambda config: config.model.name)
def reference(request):
    """A job, and the losses and parameters that jopt's segments give."""
    work = job(request.param, epochs=EPOCHS)
    scanned = contenders.scanned(work)
    losses = []
    for _ in range(EPOCHS):
        assert scanned.run() == work.steps == 4
        losses.append(scanned.loss())
    return work, losses, scanned.params()


def losses_of(way):
    return [way.loss() for _ in range(EPOCHS) if way.run() == 4]


def test_steps_called_from_python_give_the_same_parameters(reference):
    work, losses, params = reference
    ways = [contenders.python_loop(work)]
    if work.prepared.config.model.name == "cnn":
        ways.append(contenders.plain_convolution(work))
    for way in ways:
        np.testing.assert_allclose(losses_of(way), losses, rtol=1e-4)
        # Adam divides by the root of a tiny second moment, so a rounding error of a gradient grows to a share of
        # the learning rate: 2 % of it is allowed for each of the 12 steps.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=12 * 0.02 * 1e-3), way.params(), params)


@pytest.mark.parametrize("fused", [False, True])
def test_pytorch_gives_the_same_losses(reference, fused):
    pytest.importorskip("torch", reason="PyTorch is not installed: it is the extra 'jopt[bench]'")
    work, losses, _ = reference
    np.testing.assert_allclose(losses_of(contenders.pytorch(work, threads=1, fused=fused)), losses, rtol=1e-4)


def test_the_resnet_of_pytorch_and_the_loop_in_python_give_the_same_losses():
    pytest.importorskip("torch", reason="PyTorch is not installed: it is the extra 'jopt[bench]'")
    # One block without and one with a shortcut.
    network = models.from_linen(models.ResNet(width=2, blocks=(1, 1)))
    work = job(RESNET, epochs=1, model=network)
    ways = [contenders.scanned(work), contenders.python_loop(work), contenders.pytorch(work, threads=1)]
    ways.append(contenders.pytorch(work, threads=1, wrap=channels_last))
    losses = [way.loss() for way in ways if way.run() == 4]
    # Normalization divides by the deviation of 16 numbers in the last stage, which multiplies rounding errors.
    np.testing.assert_allclose(losses, losses[0], rtol=1e-3)


def test_without_pytorch_the_error_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"jopt\[bench\].*--notorch"):
        contenders.pytorch(job(MLP, epochs=1))


def test_the_rows_are_those_of_the_segments():
    work = job(MLP, epochs=2)
    assert work.rows.shape == (8, 16)
    assert [sorted(epoch.ravel().tolist()) for epoch in np.split(work.rows, 2)] == [list(range(64))] * 2


def test_flops_of_a_step_are_counted_exactly():
    # Forward, weight gradients, and input gradients except the first layer's, which nobody needs.
    macs = [64 * 20, 20 * 10, 10 * 10]
    norm = 2 * (sum(macs) + 20 + 10 + 10)  # of the gradient of each parameter, for clipping
    assert steps.flops_per_step(job(MLP, epochs=1)) == 2 * 16 * (3 * sum(macs) - macs[0]) + norm


def test_every_target_names_a_contender():
    for case in CASES:
        limits = {name for name, target in case.targets.items() if target is not None}
        assert limits <= {steps.PYTHON_LOOP, steps.PLAIN_CONV, steps.PYTORCH, steps.PYTORCH_CHANNELS_LAST}
        # Only a CNN has a convolution to replace.
        assert (steps.PLAIN_CONV in limits) <= (case.experiment.model.name == "cnn")


@pytest.mark.parametrize("size", [1, 10, 1001])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_contenders_keep_the_same_weights(size, sparsity):
    scores = steps.distinct_scores(size)
    assert np.unique(scores).size == size and bool((scores > 0).all())
    masks = {name: np.asarray(choose()) for name, choose in steps.mask_contenders(scores, sparsity, False).items()}
    assert list(masks) == [steps.TOP_K, steps.SORT, steps.JAXPRUNER]
    if size * sparsity % 1 == 0.5:
        del masks[steps.JAXPRUNER]  # which rounds what is kept, where the others round what is pruned
    for mask in masks.values():
        np.testing.assert_array_equal(mask, masks[steps.TOP_K])
        assert mask.sum() == max(1, size - round(sparsity * size))


def test_masks_that_differ_are_not_timed(monkeypatch):
    monkeypatch.setattr(steps, "mask_by_sort", lambda scores, sparsity: scores > jnp.inf)
    with pytest.raises(RuntimeError, match=r"\[2, 0, 2\]"):
        steps.masks(Options(weights=(20,), repeats=1, seconds=0, torch=False))


def test_masks_and_codes_are_on_in_the_steps_that_are_timed():
    for name, fields in steps.methods().items():
        p = prepare(steps.compressed_experiment(*fields))
        program = p.program_of(0, p.segments[0].steps)

        @jit
        def seen(key, values, arrays, program=program):
            return program.seen(program.update(program.init(key, values), values, arrays), values).params

        kernel = np.asarray(seen(p.key, p.values, p.arrays["train"])["Dense_1"]["kernel"])
        sparse, coded = "masks" in name, "int8" in name
        assert ((kernel == 0).mean() > 0.89) == sparse, name
        assert (len(np.unique(kernel[:, 0])) <= 255) == (coded or sparse), name


def test_the_scanned_segment_has_the_masks_that_were_chosen_before_it():
    work = job(steps.compressed_experiment(*steps.methods()[steps.MASKS]), epochs=1)
    way = contenders.scanned(work, update=True)
    assert way.run() == work.steps
    assert (way.params()["Dense_1"]["kernel"] == 0).mean() > 0.89


def test_costs_are_ratios_to_the_plain_step_and_those_of_qwix_to_ours():
    times = dict.fromkeys(steps.methods(), np.array([2.0, 2.0])) | {steps.PLAIN: np.array([1.0, 1.0])}
    rows = {row.contender: row.values for row in steps.compress_rows(times | {steps.QWIX: np.array([3.0, 3.0])})}
    assert "ratio" not in rows[steps.PLAIN]
    cost, rival = rows[steps.MASKS]["ratio"], rows[steps.QWIX]["ratio"]
    assert (cost.median, cost.target, cost.met) == (2.0, ("≤", 1.05), False)
    assert (rival.median, rival.target, rival.met) == (1.5, ("≥", 1.0), True)
    assert (rows[steps.MASKS]["against"], rows[steps.QWIX]["against"]) == (steps.PLAIN, steps.INT8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*VariableState:DeprecationWarning")  # of qwix
def test_suite_compress_has_a_row_for_each_contender():
    pytest.importorskip("qwix")
    torch = importlib.util.find_spec("torch") is not None
    rows = steps.compress(Options(repeats=1, seconds=0, torch=torch))
    others = [steps.QWIX, steps.QWIX_BOTH_SIDES, *[name for name in steps.REFERENCES if "torch.ao" in name] * torch]
    assert len(rows) == len(steps.methods()) + len(others)
    assert {row.contender for row in rows} == {*steps.methods(), *others}
