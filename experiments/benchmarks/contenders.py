"""Two ways to train the same network on the same batches with JAX: jopt's segments, and a loop in Python."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments.benchmarks.cases import Work
from jopt import data, models
from jopt.train import Compiler, cross_entropy


class Contender(NamedTuple):
    """One way to train.

    Attributes:
      run: trains for one epoch from where it was, waits for the result, returns the number of optimizer steps.
      loss: the mean loss of the epoch that ran last.
      params: the parameters as they are now, in NumPy arrays of their own.
    """

    run: Callable[[], int]
    loss: Callable[[], float]
    params: Callable[[], Any]


def scanned(work: Work) -> Contender:
    """jopt: a whole epoch is one XLA program, compiled ahead of time, its state donated, exactly as in a run."""
    values, arrays = work.prepared.values, work.prepared.arrays["train"]
    state = work.initial()
    segment = Compiler().get("segment", 0, work.program.segment, state, values, arrays, donate=(0,))
    loss: Any = np.nan

    def run() -> int:
        nonlocal state, loss
        state, metrics = jax.block_until_ready(segment(state, values, arrays))
        loss = metrics["loss"]
        return work.steps

    return Contender(run, lambda: float(loss), lambda: jax.tree.map(lambda x: np.array(x, copy=True), state.params))


def python_loop(work: Work, model: models.Model | None = None) -> Contender:
    """The usual way: one jitted, donated training step, called from Python with the indices of its batch.

    It is written as one would write it without jopt: Optax's own chain with its numbers as constants, the data on
    the device, the batch gathered and normalized inside the step, losses left on the device until the epoch ends.

    Args:
      work: what to train.
      model: another model with the same parameters; None is the case's own.
    """
    net = model or work.prepared.model_of(0)
    arrays = work.prepared.arrays["train"]
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(work.prepared.config.optimizer.learning_rate)
    )

    def step(params: Any, opt_state: Any, row: jax.Array, arrays: data.Arrays) -> tuple[Any, Any, jax.Array]:
        def loss_of(params: Any) -> jax.Array:
            inputs = data.normalize(arrays.inputs[row], arrays.mean, arrays.std)
            logits, _ = net.apply(params, {}, inputs, train=True)
            return cross_entropy(logits, arrays.labels[row]).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        # Optax's bias correction mixes dtypes, which a strict session (as the tests' is) refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    jitted = jax.jit(step, donate_argnums=(0, 1))
    params = work.initial().params
    opt_state = optimizer.init(params)
    done, last = 0, np.nan

    def run() -> int:
        nonlocal params, opt_state, done, last
        losses = []
        for i in range(done, done + work.steps):
            params, opt_state, loss = jitted(params, opt_state, work.rows[i % len(work.rows)], arrays)
            losses.append(loss)
        done += work.steps
        jax.block_until_ready((params, opt_state))
        last = float(np.mean(jax.device_get(losses)))
        return work.steps

    return Contender(run, lambda: last, lambda: jax.tree.map(lambda x: np.array(x, copy=True), params))


class PlainConvNet(nn.Module):
    """jopt's `cnn` with Flax's convolution and pooling as they come; the same parameters, the same function."""

    channels: tuple[int, ...]
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to logits [batch, 10]."""
        for size in self.channels:
            x = nn.max_pool(nn.relu(nn.Conv(size, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


def plain_convolution(work: Work) -> Contender:
    """`python_loop` with `PlainConvNet`; for a `cnn` only."""
    config = work.case.model
    return python_loop(work, models.from_linen(PlainConvNet(tuple(config.features), config.hidden or 64)))
