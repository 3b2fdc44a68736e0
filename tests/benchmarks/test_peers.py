"""Other packages compute what jopt computes: equal masks, equal codes, the same losses and classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import calls, contenders, peers, steps
from benchmarks.contenders import Network, experiment, job
from benchmarks.timing import MissingPackageError, Options
from jopt import data, models, prune, quantize
from jopt.train import Stage

pytestmark = [
    pytest.mark.unoptimized,
    pytest.mark.filterwarnings("ignore:.*VariableState:DeprecationWarning"),  # of qwix
]

SMALL = Network("MLP 6-20-8-3", models.ModelConfig("mlp", (20, 8), num_classes=3), (6,))
IMAGES = data.Synthetic(shape=(8, 8, 1), train=64)
WITHOUT = "not installed: it is in the extra 'jopt[bench]'"


@pytest.mark.parametrize("levels", [3, 10_000])
def test_jaxpruner_breaks_ties_as_jopt_does(levels):
    scores = jnp.asarray(np.random.default_rng(levels).integers(0, levels, (40, 25)), jnp.float32)
    mask = jax.jit(peers.mask_by_argsort)(scores, jnp.float32(0.9))
    np.testing.assert_array_equal(mask, prune.top_k_mask(scores, 0.9))
    assert mask.sum() == 100


def test_pytorch_selects_the_same_weights():
    pytest.importorskip("torch", reason=WITHOUT)
    scores = steps.distinct_scores(1001)
    for sparsity in (0.0, 0.5, 0.9):
        mask = peers.torch_selection(np.asarray(scores), sparsity)()
        np.testing.assert_array_equal(mask, prune.top_k_mask(scores, sparsity))


def test_codes_of_torch_ao_are_within_a_step_of_those_of_jopt():
    torch = pytest.importorskip("torch", reason=WITHOUT)
    quantizer = peers.weight_quantizer()
    # The second kernel is smaller: nothing is left of the first one's range.
    for scale in (1.0, 0.1):
        kernel = scale * np.random.default_rng(0).normal(size=(2000, 20)).astype(np.float32)
        expected = np.asarray(quantize.fake_quantize(jnp.asarray(kernel), quantize.Spec(8, axis=-1)))
        found = quantizer(torch.tensor(kernel.T)).detach().numpy().T
        step = np.abs(kernel).max(0) / 127
        assert (np.abs(found - kernel) <= 1.01 * step).all() and (np.abs(found - expected) <= 1.01 * step).all()
        assert all(100 < len(np.unique(channel)) <= 256 for channel in found.T)


def test_a_step_of_torch_ao_is_jopt_s():
    pytest.importorskip("torch", reason=WITHOUT)
    weights = quantize.Weights(bits=8, granularity="channel")
    config = experiment("mlp", 16, 20, 10, source=IMAGES, stages=[Stage("train", epochs=3, methods=(weights,))])
    work = job(config, epochs=3)
    ours, theirs = contenders.scanned(work, update=True), peers.torch_ao(work, inputs=False, threads=1)
    both = peers.torch_ao(work, inputs=True, threads=1)
    for _ in range(3):
        assert ours.run() == theirs.run() == both.run() == 4
        assert theirs.loss() == pytest.approx(ours.loss(), rel=1e-3)
        assert both.loss() == pytest.approx(ours.loss(), rel=0.1) and both.loss() != theirs.loss()


def test_forward_passes_of_other_packages_give_the_logits():
    pytest.importorskip("torch", reason=WITHOUT)
    pytest.importorskip("qwix", reason=WITHOUT)
    codes, x = calls.quantized(SMALL), calls.examples(SMALL, 32)
    found = calls.peer_contenders(SMALL, codes, x, Options())
    assert list(found) == [peers.TORCH, peers.TORCH_DYNAMIC, peers.QWIX_PTQ] and set(found) <= set(calls.REFERENCES)
    assert [call() for call in found.values()] == [1, 1, 1]


def test_another_network_is_no_contender(monkeypatch):
    pytest.importorskip("torch", reason=WITHOUT)
    codes, x = calls.quantized(SMALL), calls.examples(SMALL, 32)
    torch_calls = peers.torch_calls
    doubled = lambda params, threads: torch_calls(jax.tree.map(lambda v: 2 * v, params), threads)  # noqa: E731
    monkeypatch.setattr(peers, "torch_calls", doubled)
    with pytest.raises(RuntimeError, match="PyTorch"):
        calls.peer_contenders(SMALL, codes, x, Options(qwix=False))


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("torch", lambda: peers.torch_selection(np.ones(3, np.float32), 0.5)),
        ("torch", lambda: peers.weight_quantizer()),
        ("qwix", lambda: peers.import_qwix("suite x")),
    ],
)
def test_what_is_not_installed_is_named_with_the_way_out(monkeypatch, package, call):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package}.*--no{package}"):
        call()
