"""Files that earlier versions wrote are read for good: the same tensors, to the bit, and a network that runs."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from golden import payload

from jopt import data
from jopt.train import packed

HERE = Path(__file__).parent
# Of the runs that wrote the files: golden.json has those of the present version, which may differ.
EXPECTED = json.loads((HERE / "files" / "expected.json").read_text())
FILES = sorted((HERE / "files").glob("*.jopt"))


@pytest.fixture(scope="module")
def digits():
    return data.load(data.Digits())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_old_file_gives_its_tensors_and_a_network_of_the_accuracy_of_its_run(path, digits):
    golden = EXPECTED[path.stem]
    assert payload(path) == golden["payload"]
    network = packed.load(path)
    inputs = data.normalize(jnp.asarray(digits.test.inputs), jnp.asarray(network.mean), jnp.asarray(network.std))
    logits, _ = network.model.apply(network.params, network.model_state, inputs, train=False)
    correct = np.argmax(np.asarray(logits), -1) == digits.test.targets
    assert np.mean(correct) == pytest.approx(golden["accuracy"], abs=1e-6)  # A count: the mean in float32 apart.
