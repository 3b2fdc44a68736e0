"""The packed model of a run: the network comes back from the file alone, and each of its bytes is told."""

import dataclasses
import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import start

from jopt import codec, data, models, prune, quantize, task
from jopt.codec import CodecError
from jopt.rules import named_leaves
from jopt.train import Experiment, Stage, packed, run
from jopt.train.finished import load
from jopt.train.packed import PackedError, Packing, storage
from jopt.train.plan import final_network
from jopt.train.prepared import resolve
from jopt.train.state import TrainState, Variables

# Their layers are known after a trace alone: `test_transformer_runs` packs two of them.
TRANSFORMERS = {"bytes_decoder", "digits_vit"}
CONFIGS = sorted({path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.py")} - TRANSFORMERS)
LARGE = ("cifar10_resnet18", "digits_resnet18", "cifar10_cnn", "mnist_lenet5")
QUANTIZED = Stage(
    methods=(
        prune.OneShot(sparsity=0.75),
        quantize.Weights(bits=4, granularity="channel"),
        quantize.Activations(calibration="mse", bits=8),
    )
)


def same(a, b):
    """Whether two trees are equal bit for bit."""
    (x, tx), (y, ty) = jax.tree.flatten(a), jax.tree.flatten(b)
    alike = [
        np.asarray(p).dtype == np.asarray(q).dtype and np.shape(p) == np.shape(q) for p, q in zip(x, y, strict=True)
    ]
    return (
        tx == ty
        and all(alike)
        and all(np.asarray(p).tobytes() == np.asarray(q).tobytes() for p, q in zip(x, y, strict=True))
    )


def test_a_run_that_is_packed_leaves_its_network(tmp_path, tiny, unoptimized, undrawn):
    config = tiny(epochs=1, pack=True, stages=[Stage("dense"), dataclasses.replace(QUANTIZED, name="small")])
    result = run(config, tmp_path / "a", quiet=True)
    file = tmp_path / "a" / "model.jopt"
    assert result["bytes"] == file.stat().st_size == result["stages"][-1]["bytes"] < result["stages"][0]["bytes"]
    rebuilt, finished = packed.load(file), load(tmp_path / "a")
    assert rebuilt.ledger.total == file.stat().st_size
    assert same(rebuilt.params, finished.params)
    assert same(rebuilt.model_state, finished.model_state)
    assert rebuilt.network == config.model
    assert rebuilt.data == config.data
    assert rebuilt.wrapping == QUANTIZED.methods[2:]
    assert sorted(rebuilt.integers) == ["Dense_0/kernel", "Dense_1/kernel"]
    for path, q in rebuilt.integers.items():
        assert same(np.asarray(quantize.dequantize(q)), dict(named_leaves(finished.params))[path])
    test = finished.dataset.test
    x = data.normalize(test.inputs, rebuilt.mean, rebuilt.std)
    logits = rebuilt.model.apply(rebuilt.params, rebuilt.model_state, x, train=False)[0]
    assert float(np.mean(np.argmax(logits, -1) == test.targets)) == result["accuracy"]
    # Packed after the fact it is the same file.
    assert packed.encode(packed.packing_of(finished)).data == file.read_bytes()
    assert "Where the bytes of the packed file are" in (tmp_path / "a" / "report.md").read_text()


def test_a_run_that_is_not_packed_leaves_no_such_file(tmp_path, tiny, unoptimized, undrawn):
    result = run(tiny(epochs=1), tmp_path / "a", quiet=True)
    assert not (tmp_path / "a" / "model.jopt").exists()
    assert result["bytes"] == 4 * result["parameters"]


def packing(config, *, own_model=False) -> Packing:
    """What a run of this config would pack, but for training: random parameters under its last stage's methods."""
    stage = len(config.stages) - 1
    shape = {"xor": (2,), "mnist": (28, 28, 1), "cifar10": (32, 32, 3), "digits": (8, 8, 1)}.get(config.data.label)
    shape = shape or config.data.shape
    shape = (shape[0], shape[1] * shape[2]) if config.data.layout == "sequence" else shape
    plan = resolve(config, 100_000, models.model(config.model) if own_model else None)[stage]
    params, model_state = start(plan.model, np.zeros((1, *shape), np.float32))
    acts = plan.transform
    state = acts.init(params)
    seen = jax.device_get(acts.apply(state, params))
    ema = () if config.ema_decay is None else Variables(params, model_state)
    ended = TrainState(np.int32(1), params, model_state, (), state, ema)
    part = data.source.Split(np.zeros((1, *shape), np.uint8), np.zeros(1, np.int32))
    channels = shape[-1]
    mean, std = np.full(channels, 0.1, np.float32), np.full(channels, 1 / 3, np.float32)
    dataset = data.Dataset(config.data.label, part, part, part, mean, std, final_network(config).num_classes, "")
    return Packing(config, plan, seen, jax.device_get(model_state), dataset, storage(plan, ended))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in CONFIGS]
)
def test_the_file_of_each_config_is_as_long_as_its_ledger_says(name, tmp_path):
    config = importlib.import_module(f"configs.{name}").get_config()
    contents = packing(config)
    ledger = packed.save(tmp_path / "model.jopt", contents)
    assert (tmp_path / "model.jopt").stat().st_size == ledger.total == sum(ledger.by_kind().values())
    rebuilt = codec.read(tmp_path / "model.jopt")
    assert rebuilt.ledger == ledger
    assert rebuilt.metadata == packed.metadata(contents)
    assert same(rebuilt.params, contents.params)
    assert same(rebuilt.model_state, contents.model_state)
    assert set(rebuilt.integers) <= set(contents.formats)


def test_the_metadata_are_few(tiny):
    metadata = packed.metadata(packing(tiny(stages=[QUANTIZED])))
    assert metadata["model"] == {"features": [16], "num_classes": 4}
    assert metadata["activations"] == [{"calibration": "mse"}]
    assert len(json.dumps(metadata)) < 330


def test_mean_and_deviation_come_back_to_the_bit(tmp_path, tiny):
    contents = packing(tiny())
    packed.save(tmp_path / "m", contents)
    rebuilt = packed.load(tmp_path / "m")
    assert rebuilt.std.tolist() == contents.dataset.std.tolist() == [np.float32(1 / 3)]


def test_what_is_no_network_is_refused(tmp_path, tiny):
    codec.save(tmp_path / "arrays", {"w": np.zeros(3, np.float32)})
    with pytest.raises(PackedError, match=r"no network.*'model'"):
        packed.load(tmp_path / "arrays")
    codec.save(tmp_path / "arrays", {"w": np.zeros(3, np.float32)}, metadata=[1, 2])
    with pytest.raises(PackedError, match=r"object.*list"):
        packed.load(tmp_path / "arrays")
    contents = packing(tiny())
    metadata = packed.metadata(contents)
    for change, match in (
        ({"model": {"name": "mpl"}}, "model.name must be one of"),
        ({"model": {"features": [17], "num_classes": 4}}, "does not take its parameters"),
        ({"classes": 5}, "gives outputs"),
        ({"input": "ab"}, "no network"),
        ({"model": 7}, "no network"),
        ({"mean": [10**400]}, "no network"),
        ({"data": {"nmae": "digits"}}, "data.nmae must be absent"),
    ):
        codec.save(
            tmp_path / "other", contents.params, model_state=contents.model_state, metadata={**metadata, **change}
        )
        with pytest.raises(PackedError, match=match):
            packed.load(tmp_path / "other")
    (tmp_path / "damaged").write_bytes((tmp_path / "other").read_bytes()[:-9])
    with pytest.raises(CodecError):
        packed.load(tmp_path / "damaged")


def test_a_model_of_ones_own_is_given_again(tmp_path, tiny):
    contents = packing(tiny(), own_model=True)
    packed.save(tmp_path / "m", contents)
    with pytest.raises(PackedError, match="custom model"):
        packed.load(tmp_path / "m")
    custom_model = models.model(contents.config.model)
    assert packed.load(tmp_path / "m", model=custom_model).model is custom_model


def summed(params, x):
    numbers, (tokens,) = x
    return jnp.tanh(numbers["a"] @ params["w"]) + params["t"][tokens]


def test_inputs_of_tuples_and_lists_and_outputs_of_one_number_come_back(tmp_path):
    rng = np.random.default_rng(0)
    x = ({"a": rng.normal(size=(48, 3)).astype(np.float32)}, [rng.integers(0, 4, 48).astype(np.uint8)])
    y = x[0]["a"].sum(1)
    dataset = data.Dataset.from_arrays((x, y), test=(x, y), tokens=True)
    model = models.from_functions(lambda key: {"w": jnp.ones(3), "t": jnp.zeros(4)}, summed)
    config = Experiment("sums", task=task.Regression(), epochs=1, batch_size=16, pack=True)
    run(config, tmp_path / "a", data=dataset, model=model)
    rebuilt = packed.load(tmp_path / "a" / "model.jopt", model=model)
    assert rebuilt.output_shape == ()
    for tree in (rebuilt.stored, rebuilt.mean, rebuilt.std):
        assert jax.tree.structure(tree, is_leaf=lambda x: x is None) == jax.tree.structure(x)
    with pytest.raises(PackedError, match="custom model"):
        packed.load(tmp_path / "a" / "model.jopt")
