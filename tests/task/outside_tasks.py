"""Data and networks of a regression, of several labels and of bytes, as a user has them in a module."""

import flax.linen as nn
import jax
import numpy as np
from sklearn.datasets import load_diabetes

from jopt import data, models, optim, quantize, task
from jopt.train import Experiment, Stage

HERE = "tests.task.outside_tasks"


def diabetes(rows=120):
    inputs, targets = load_diabetes(return_X_y=True)
    x, y = np.asarray(inputs, np.float32)[:rows], np.asarray(targets, np.float32)[:rows] / np.float32(100)
    return (x[:90], y[:90]), (x[90:], y[90:])


def labels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 4)).astype(np.float32)
    y = (x @ rng.normal(size=(4, 3)).astype(np.float32) > 0).astype(np.uint8)
    return (x[:64], y[:64]), (x[64:], y[64:])


def text():
    symbols = np.frombuffer(b"abcd efgh abca " * 60, np.uint8) % 32
    windows = np.stack([symbols[i : i + 7] for i in range(0, 800, 8)])
    x, y = windows[:, :-1], windows[:, 1:]
    return data.Dataset.from_arrays(
        (x[:70], y[:70]), test=(x[70:], y[70:]), num_classes=32, tokens=True, name="text"
    )


class Net(nn.Module):
    """A hidden layer."""

    outputs: int = 1
    width: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.outputs)(nn.relu(nn.Dense(self.width)(x)))


class Bigram(nn.Module):
    """The next token by the last one."""

    width: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(32)(nn.Embed(32, self.width)(x.astype("int32")))


CASES = {
    "regression": (task.Regression(), "diabetes", models.Custom(f"{HERE}:Net")),
    "labels": (task.MultiLabel(), "labels", models.Custom(f"{HERE}:Net", options={"outputs": 3})),
    "bytes": (task.NextToken(), "text", models.Custom(f"{HERE}:Bigram")),
}


def get_config(name="regression"):
    """The experiment of a case: one stage of weights and activations in eight bits."""
    chosen, load, model = CASES[name]
    methods = (quantize.Weights(bits=8), quantize.Activations(bits=8, calibration="absmax"))
    return Experiment(
        name=name,
        data=data.Custom(f"{HERE}:{load}"),
        task=chosen,
        model=model,
        optimizer=optim.Config(name="adam", learning_rate=3e-2),
        batch_size=16,
        epochs=2,
        pack=True,
        stages=[Stage("dense"), Stage("small", epochs=1, methods=methods)] if name == "regression" else [
            Stage("small", methods=methods)
        ],
    )  # fmt: skip
