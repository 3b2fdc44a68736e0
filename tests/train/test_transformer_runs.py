"""Runs of a tiny decoder and a tiny ViT: pruned, in integers, packed, and exported; all give the same numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import language
import numpy as np
import pytest
import quick
from tiny import IMAGES

from jopt import data, models, optim, prune, quantize, task
from jopt.quantize import integer
from jopt.rules import named_leaves
from jopt.train import Experiment, Stage, finished, packed, run

pytestmark = pytest.mark.unoptimized

NETWORKS = {
    "decoder": models.Decoder(language.VOCABULARY, width=16, depth=1, heads=4, kv_heads=2, hidden=16),
    "vit": models.ViT(num_classes=4, patch=3, width=8, depth=1, heads=2, hidden=16),
}


def experiment(name) -> Experiment:
    tokens = name == "decoder"
    return Experiment(
        name=name,
        model=NETWORKS[name],
        data=language.Cycles() if tokens else dataclasses.replace(IMAGES),
        task=task.NextToken() if tokens else task.Classification(),
        optimizer=optim.Config(name="adam", learning_rate=1e-2),
        epochs=2,
        batch_size=16,
        pack=True,
        stages=[
            Stage("pruned", methods=(prune.Gradual(sparsity=0.5, end=0.5),)),
            Stage(
                "w8a8", steps=0, methods=(quantize.Weights(8, granularity="channel"), quantize.Activations(bits=8))
            ),
        ],
    )


# The decoder has every kind of layer that the other has, but for patches.
@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=pytest.mark.slow) if n == "vit" else n for n in NETWORKS]
)
def finished_run(request, tmp_path_factory):
    """What `run` gave, the run read back, its packed file, and the file's logits of the test part."""
    directory = tmp_path_factory.mktemp(request.param)
    result = run(experiment(request.param), directory)
    loaded = finished.load(directory, trusted=True)
    file = packed.load(directory / "model.jopt", trusted=True)
    dataset = loaded.dataset
    x = data.normalize(jnp.asarray(dataset.test.inputs), dataset.mean, dataset.std)
    logits = quick.jit(lambda x: file.model.apply(file.params, file.model_state, x, train=False)[0])(x)
    return request.param, result, loaded, file, x, np.asarray(logits)


def test_the_packed_file_is_the_evaluated_network(finished_run):
    name, result, loaded, file, x, logits = finished_run
    evaluated = quick.jit(lambda x: loaded.model.apply(loaded.params, loaded.model_state, x, train=False)[0])(x)
    np.testing.assert_array_equal(logits, evaluated)
    assert file.network == NETWORKS[name]
    targets = jnp.asarray(loaded.dataset.test.targets)
    loss = float(np.mean(loaded.plan.task.losses(evaluated, targets)))
    assert loss == pytest.approx(result["loss"], rel=1e-5)


def test_weights_alone_are_pruned_and_stored_as_integers(finished_run):
    """All kernels and the embedding: half of each is 0, the other half 8-bit codes."""
    _, _, loaded, file, _, _ = finished_run
    weights = {path for path, _ in named_leaves(loaded.params) if path.endswith(("kernel", "embedding"))}
    assert set(file.integers) == weights
    for path, leaf in named_leaves(loaded.params):
        zeros = np.count_nonzero(leaf == 0)
        assert zeros >= leaf.size // 2 if path in weights else zeros == 0, path


def test_integers_give_the_simulated_logits(finished_run):
    """Every layer's product is one of codes; those of queries with keys, and of scores with values, stay floats."""
    _, _, _, file, x, logits = finished_run
    kernels = {path: q for path, q in file.integers.items() if path.endswith("kernel")}
    network = integer.network(file.plain_model, file.params, file.model_state, file.integers, file.wrapping[0])
    in_integers = [c for c in integer.contractions(network, x) if c.is_integer]
    floats = [c for c in integer.contractions(network, x) if not c.is_integer]
    assert len(in_integers) == len(kernels)
    assert len(floats) == 2 and all("attention_0" in c.where for c in floats)
    # A code beside a rounding boundary may fall on the other side, where sums are in another order.
    outputs = quick.jit(network)(x)
    spread = np.sqrt(np.mean(np.square(logits)))
    assert np.sqrt(np.mean(np.square(np.asarray(outputs) - logits))) < 0.01 * spread


def test_onnx_files_give_the_logits(finished_run):
    pytest.importorskip("onnxruntime", reason="needs the extra 'jopt[export]'")
    pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")
    pytest.importorskip("onnxscript", reason="needs the extra 'jopt[export]'")
    from jopt.export import onnx

    _, _, _, file, x, logits = finished_run
    parts = (file.plain_model, file.params, file.model_state, x.shape[1:], file.integers, file.wrapping[0])
    # `encode_quantized` itself compares logits with those of the simulation, before it gives the file.
    content = onnx.encode_quantized(*parts, examples=np.asarray(x), dtype=x.dtype)
    outputs = onnx.run(content, np.asarray(x))
    spread = np.sqrt(np.mean(np.square(logits)))
    assert np.sqrt(np.mean(np.square(outputs - logits))) < 0.01 * spread


def test_a_stablehlo_program_gives_the_logits(finished_run):
    from jopt.export import stablehlo

    _, _, _, file, x, logits = finished_run
    program = stablehlo.lower(
        lambda x: file.model.apply(file.params, file.model_state, x, train=False)[0],
        jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
        platforms=("cpu",),
    )
    outputs = program.call(x)
    np.testing.assert_allclose(outputs, logits, atol=1e-5 * np.abs(logits).max())
