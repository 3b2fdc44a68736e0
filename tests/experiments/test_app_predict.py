"""jopt predict: the packed file alone gives the run's own numbers, in float and in integers."""

import re

import numpy as np
import pytest

from jopt import codec, data, models, optim, quantize, report, train
from jopt.quantize.activations import KEY
from jopt.train import Experiment, Stage, packed
from jopt.train.prepared import resolve
from jopt.transform import Storage

CONFIG = Experiment(
    name="tiny",
    model=models.ModelConfig(name="linear", num_classes=4),
    data=data.Synthetic(shape=(4, 4, 1), num_classes=4, train=48, validation=16, test=64, noise=200.0),
    optimizer=optim.Config(name="sgd", learning_rate=0.02),
    batch_size=16,
    epochs=1,
    pack=True,
    stages=[Stage(methods=(quantize.Weights(bits=8), quantize.Activations(calibration="absmax", bits=8)))],
)
LOW, HIGH = -1.0, 1.55  # steps of 0.01, and 0 is code 100


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A linear model in eight bits that no run made: its file, its codes, its scales, and its data."""
    rng = np.random.default_rng(0)
    codes, scale = rng.integers(-127, 128, (16, 4)), np.float32([0.004, 0.003, 0.005, 0.004])
    codes[0] = 127
    params = {"Dense_0": {"bias": np.zeros(4, np.float32), "kernel": (codes * scale).astype(np.float32)}}
    state = {KEY: {"Dense_0": {"low": np.float32(LOW), "high": np.float32(HIGH)}}}
    peak = (127 * scale).astype(np.float32)[None]
    held = {"Dense_0/kernel": Storage(quantize.Spec(8, axis=-1), quantize.Range(-peak, peak))}
    dataset, path = data.load(CONFIG.data), tmp_path_factory.mktemp("packed") / "alone.jopt"
    (plan,) = resolve(CONFIG, len(dataset.train.targets))
    packed.save(path, packed.Packing(CONFIG, plan, params, state, dataset, held))
    return path, codes, scale, dataset


def expected(codes, scale, split, dataset):
    """Accuracy and loss, in integers but for the last product: (code - 100) * code, times both scales."""
    x = (split.inputs.reshape(len(split.targets), -1).astype(np.float64) - dataset.mean[0]) / dataset.std[0]
    sums = (np.clip(np.round(x / 0.01) + 100, 0, 255).astype(np.int64) - 100) @ codes
    logits = sums * 0.01 * scale.astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), split.targets]
    return (logits.argmax(1) == split.targets).mean(), losses.mean()


def assert_row(text, *cells):
    assert re.search("^ ?" + " +".join(cells) + " *$", text, re.MULTILINE), (cells, text)


def test_a_file_alone_is_run_in_float_and_in_integers(app, model):
    path, codes, scale, dataset = model
    done = app("predict", path, "--integer", "--batch=80", "--repeats=5", "--split=validation")
    assert (done.returncode, done.stderr) == (0, "")
    quality, speed = done.stdout.split("Latency of a call")
    accuracy, loss = expected(codes, scale, dataset.validation, dataset)
    for way in ("float", "integers"):
        assert_row(quality, way, f"{100 * accuracy:.2f}%", f"{loss:.4g}")
        for batch in ("1", "80"):  # more than there are examples
            assert_row(speed, way, batch, *[r"[\d.e-]+ m?s"] * 3, r"[\d.]+( [kMG])?", "5")
    assert "In integers 16 of 16 examples are predicted as in float." in speed
    assert speed.startswith(" and throughput (measured on one device, cpu, ")


def test_data_of_another_shape_are_one_line(app, refused, model):
    message = "--data must be a set of examples of shape (4, 4, 1) (this one has (2,)), got 'xor'"
    assert refused(app("predict", model[0], "--data=xor"), 2) == f"ConfigError: {message}"


@pytest.mark.slow  # experiments.inspect shows the same in less time.
def test_a_damaged_file_is_one_line(app, refused, model, tmp_path):
    (tmp_path / "model.jopt").write_bytes(model[0].read_bytes()[:-7])
    assert refused(app("predict", tmp_path), 1).startswith("CodecError: ")


@pytest.mark.slow
def test_a_file_of_no_run_is_one_line(app, refused, tmp_path):
    codec.save(tmp_path / "other.jopt", {"w": np.ones((2, 2), np.float32)})
    assert refused(app("predict", tmp_path / "other.jopt"), 1).startswith("PackedError: ")


@pytest.mark.slow
def test_the_numbers_are_those_of_the_run(app, tmp_path):
    result = train.run(CONFIG, tmp_path / "run", quiet=True)
    done = app("predict", tmp_path / "run", "--repeats=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert_row(done.stdout, "float", *(report.formats.value(key, result[key]) for key in ("accuracy", "loss")))


@pytest.mark.slow
def test_a_file_without_integers_is_not_run_in_integers(app, refused, model, tmp_path):
    file = codec.read(model[0])
    kernel = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    params = {"Dense_0": {**file.params["Dense_0"], "kernel": kernel}}
    codec.save(tmp_path / "float.jopt", params, model_state=file.model_state, metadata=file.metadata)
    message = refused(app("predict", tmp_path / "float.jopt", "--integer"), 2)
    assert "--integer must be absent: the file holds no tensor as integers with scales" in message
