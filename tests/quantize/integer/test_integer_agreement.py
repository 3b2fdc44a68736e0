"""Integer execution agrees with the simulation: the codes of every layer, its outputs, and the predictions.

`agreement` holds the bounds; docs/integer.md derives them. The slow tests do it for four trained networks on the
whole test set of the digits.
"""

import functools

import agreement
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import data, optim
from jopt.models import from_linen
from jopt.models.cnn import ConvNet, ResNet
from jopt.models.mlp import MLP
from jopt.models.rnn import RNN
from jopt.quantize import fold, mse

X = np.random.default_rng(0).normal(size=(40, 6, 6, 1)).astype(np.float32)
COMBINATIONS = [(bits, axis) for bits in (8, 4, 2) for axis in (None, -1)]
NAMES = [f"{bits} bits, {'channel' if axis else 'tensor'}" for bits, axis in COMBINATIONS]


@functools.cache
def untrained(module):
    """With biases, without which two logits of few codes can be equal, and either may come out larger in floats."""
    params = jax.jit(module.init)(jax.random.key(2), X)["params"]
    rng = np.random.default_rng(7)
    biases = {path: own["bias"].shape for path, own in params.items()}
    return {
        path: {**params[path], "bias": jnp.asarray(rng.normal(0, 0.1, shape), jnp.float32)}
        for path, shape in biases.items()
    }


SMALL = [(ConvNet((3,), (6,)), *own) for own in COMBINATIONS] + [(MLP((7,)), 8, None)]


@pytest.mark.parametrize(("module", "bits", "axis"), SMALL, ids=[*NAMES, "mlp, 8 bits, tensor"])
def test_codes_and_predictions_of_small_networks(module, bits, axis):
    net = agreement.quantized(module, untrained(module), X, bits, axis, method="absmax")
    ours, theirs = agreement.run_integer(net), agreement.run_float32(net)
    agreement.check_layers(net, ours, "integer")
    agreement.check_layers(net, theirs, "float32")
    counted = agreement.compare(net, ours, theirs, "float32")
    assert counted.equal == counted.same == counted.predictions == len(X) and counted.differ == 0
    assert counted.certain == len(X) and counted.undetermined <= counted.codes / 1000


def test_a_wrong_code_or_a_wrong_sum_would_be_seen():
    module = MLP((7,))
    net = agreement.quantized(module, untrained(module), X, 8, -1, method="absmax")
    ours = agreement.run_integer(net)
    agreement.check_layers(net, ours, "integer")
    unit = net.layers[0].input.scale * net.layers[0].scale
    off = ours._replace(
        outputs=[ours.outputs[0] + unit.astype(np.float32), ours.outputs[1]]
    )  # a sum that is 1 more
    with pytest.raises(AssertionError):
        agreement.check_layers(net, off, "integer")
    moved = ours._replace(inputs=[ours.inputs[0], ours.inputs[1] + np.float32(net.layers[1].input.scale)])
    with pytest.raises(AssertionError):
        agreement.compare(net, ours, moved, "float32")


def test_tanh_is_as_exact_as_the_bound_says():
    x = np.linspace(-10, 10, 200_001).astype(np.float32)
    assert np.abs(np.float64(jax.jit(jnp.tanh)(x)) - np.tanh(np.float64(x))).max() <= agreement.TANH


NETWORKS = {
    "mlp": (MLP((300, 100)), 10, False, 0),
    "lenet5": (ConvNet((20, 50), (500,), kernel=5, padding=None), 6, False, 0),
    "rnn": (RNN("rnn", (128,)), 20, True, 0),
    # Between the layers: at most 9 sums of the residual stream, and a mean over one pixel.
    "resnet18": (ResNet(width=16), 6, False, 16),
}


@functools.cache
def trained(name):
    """A network after some epochs of Adam on the digits, its normalizations folded, with the test set."""
    module, epochs, _, _ = NETWORKS[name]
    digits = data.load(data.Digits(layout="sequence" if name == "rnn" else "image"))
    x, test = (
        np.asarray(data.normalize(jnp.asarray(part.inputs), digits.mean, digits.std))
        for part in (digits.train, digits.test)
    )
    labels = jnp.asarray(digits.train.targets)
    model, optimizer, batch = from_linen(module), optim.build(optim.Config(name="adam", learning_rate=2e-3)), 64
    params, state = jax.jit(model.init)(jax.random.key(0), x[:2])
    orders = [np.random.default_rng(i).permutation(len(x))[: len(x) // batch * batch] for i in range(epochs)]
    order = jnp.asarray(np.concatenate(orders).reshape(-1, batch))

    @jax.jit
    def train(params, state):
        def step(carry, rows):
            params, state, moments = carry

            def loss(params):
                logits, new = model.apply(params, state, x[rows], train=True)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean(), new

            gradient, state = jax.grad(loss, has_aux=True)(params)
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), state, moments), None

        return jax.lax.scan(step, (params, state, optimizer.init(params)), order)[0]

    x = jnp.asarray(x)
    params, state, _ = train(params, state)
    module, params, state = fold(module, params, state)
    assert not jax.tree.leaves(state)
    return module, params, test, digits.test.targets


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("bits", "axis"), COMBINATIONS, ids=NAMES)
def test_codes_and_predictions_of_trained_networks_on_the_whole_test_set(name, bits, axis, record_property):
    module, params, test, labels = trained(name)
    _, _, state, glue = NETWORKS[name]
    assert len(test) == 360
    # Of 2 bits few are left of the whole range.
    ranges = {"method": "mse", "kernels": mse} if bits == 2 else {"method": "percentile"}
    net = agreement.quantized(module, params, test, bits, axis, state=state, **ranges)
    counted = agreement.check_agreement(net, glue=glue)
    accuracy = float((agreement.run_integer(net).logits.argmax(-1) == labels).mean())
    for side, count in counted.items():
        record_property(side, str(count))
        print(f"{name}, {bits} bits, {'channel' if axis else 'tensor'}: {side}: {count}; accuracy {accuracy:.4f}")
        # What the bounds leave open is little, and so are the examples in which it matters.
        assert count.undetermined <= count.codes / 50
        assert count.equal == count.predictions
        assert count.certain >= 0.8 * count.predictions
