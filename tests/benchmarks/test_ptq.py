"""Suite `ptq`: what it says of a network is what the run and the network itself say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn
from flax import nnx

from benchmarks import ptq
from jopt import data

pytestmark = [
    pytest.mark.unoptimized,
    pytest.mark.filterwarnings("ignore:.*VariableState:DeprecationWarning"),  # of qwix
]


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="out")(nn.relu(nn.Dense(8, name="hidden")(x.reshape(x.shape[0], -1))))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(36, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))


def case(network):
    return ptq.Case("net", network, tiny.tiny_experiment(epochs=1))


def test_the_loss_is_that_of_the_whole_test_part():
    config = tiny.tiny_experiment()
    dataset = data.load(config.data)
    logits = jax.random.normal(jax.random.key(0), (len(dataset.test.targets), 4))
    taken = iter(np.split(np.asarray(logits), [10, 20]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptq, "BATCH", 10)
        loss = ptq.mean_loss(lambda x: jnp.asarray(next(taken)), dataset, config)
    expected = -jax.nn.log_softmax(logits)[jnp.arange(24), jnp.asarray(dataset.test.targets)].mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_a_row_for_each_way_and_jopt_s_take_one_line():
    rows = ptq.compare(case(LinenNet()), qwix=False, epochs=1)
    assert [row.contender for row in rows] == ["float32", ptq.JOPT, ptq.MSE, ptq.PRODUCTS]
    assert [row.values["lines"] for row in rows] == [None, 1, 1, 1]
    losses = [float(str(row.values["test_loss"])) for row in rows]
    assert np.isfinite(losses).all() and max(losses) - min(losses) < 0.05 * losses[0]


@pytest.mark.parametrize("network", [LinenNet(), NnxNet], ids=["Linen", "NNX"])
def test_qwix_quantizes_the_same_network(network):
    pytest.importorskip("qwix", reason="not installed: it is in the extra 'jopt[bench]'")
    rows = {row.contender: row.values for row in ptq.compare(case(network), qwix=True, epochs=1)}
    float32 = float(str(rows["float32"]["test_loss"]))
    for name in (ptq.STATIC, ptq.DYNAMIC):
        # 8 bits change the loss, and little: the parameters are those of the run.
        loss = float(str(rows[name]["test_loss"]))
        assert loss != float32 and abs(loss - float32) < 0.02 * float32
