"""Losses that a network makes itself: what modules sow into `losses` is added to the loss of each step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn
from flax import nnx

from jopt import train
from jopt.models import Model, check, from_linen, from_nnx, sown_total
from jopt.train import finished

pytestmark = pytest.mark.unoptimized
X = jnp.arange(8.0).reshape(2, 4)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(3)(x)
        self.sow("losses", "size", jnp.square(y).mean())
        self.sow("losses", "size", 2 * jnp.square(y).mean())
        self.sow("intermediates", "y", y)
        return y


class Linen(nn.Module):
    both: bool = True

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        return Block(name="block")(x) if self.both or train else nn.Dense(3, name="block")(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.block = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        y = self.block(x)
        self.sow(nnx.Intermediate, "losses", 3 * jnp.square(y).mean())
        self.sow(nnx.Intermediate, "y", y)
        return y


@pytest.mark.parametrize("model", [from_linen(Linen()), from_nnx(Nnx)], ids=["linen", "nnx"])
def test_the_state_has_the_losses_of_the_last_training_step(model):
    params, state = model.init(jax.random.key(0), X)
    assert sown_total(state) == 0
    for x in (X, 2 * X):  # a second step replaces, and does not append
        y, state = model.apply(params, state, x, train=True)
        np.testing.assert_allclose(np.asarray(sown_total(state)), 3 * jnp.square(y).mean(), rtol=1e-6)
    _, same = model.apply(params, state, 5 * X, train=False)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    assert check(model, X).shape == (2, 3)


def test_a_stack_of_blocks_sows_one_loss_for_each():
    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x, *, train: bool = False):
            def body(block, x, _):
                return jnp.pad(block(x), ((0, 0), (0, 1))), None

            scan = nn.scan(body, variable_axes={"params": 0, "losses": 0}, split_rngs={"params": True}, length=2)
            return scan(Block(name="block"), x, None)[0]

    model = from_linen(Scanned())
    params, state = model.init(jax.random.key(0), X)
    first, new = model.apply(params, state, X, train=True)
    assert jax.tree.map(jnp.shape, new["losses"]) == {"block": {"size": ()}}
    assert check(model, X).shape == first.shape


def test_losses_sown_in_training_alone_are_refused():
    class Sometimes(nn.Module):
        @nn.compact
        def __call__(self, x, *, train: bool = False):
            if train:
                self.sow("losses", "size", jnp.square(x).mean())
            return nn.Dense(3)(x)

    with pytest.raises(ValueError, match=r"losses.*both modes"):
        check(from_linen(Sometimes()), X)


def test_a_step_adds_them_to_the_loss(tmp_path):
    """A network whose own loss is its bias: the gradient moves it by the learning rate in each step."""

    def init(key, x):
        return {"w": jnp.zeros((9, 3)), "pull": jnp.float32(0)}, {"losses": jnp.float32(0)}

    def apply(params, state, x, *, train, key=None):
        new = {"losses": -2 * params["pull"]} if train else state
        return x.reshape(x.shape[0], -1) @ params["w"], new

    config = tiny.smallest_experiment(epochs=1, pack=False)
    model = Model(init, apply)
    train.run(config, tmp_path / "run", model=model)
    params = finished.load(tmp_path / "run", model=model).params
    np.testing.assert_allclose(params["pull"], 4 * 0.1 * 2, rtol=1e-5)
