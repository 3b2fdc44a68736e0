"""Accuracy at few bits by calibration of the weights, and beside qwix's absmax: LeNet-300-100 on the digits.

    python -m experiments.benchmarks.low_bits

For each seed a network is trained (40 epochs of Adam at 1e-3), quantized as it is, and trained for five more epochs
while it is quantized (Adam at 5e-4, cosine). qwix's symmetric absmax is `Spec(narrow=False)` with calibration
'absmax': `tests/quantize/test_quantize_integer.py` compares the two with numbers of qwix 0.1.8. The last rows have
the signal-to-noise ratio of 512 x 64 normal numbers, one scale a column.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jopt import data, models, quantize
from jopt.transform import ParamTransform, identity

SEEDS, BITS, BATCH = (0, 1, 2), (2, 3, 4, 8), 64
ROWS = {
    "auto": ("auto", True),
    "absmax": ("absmax", True),
    "mse": ("mse", True),
    "qwix's absmax": ("absmax", False),
}


def transform(row: str, bits: Any, axis: int | None) -> ParamTransform:
    """The weights' transform of a row."""
    calibration, narrow = ROWS[row]
    return quantize.weights(quantize.Spec(bits, axis=axis, narrow=narrow), calibration=calibration)


def trainer(
    model: models.Model, x: jax.Array, y: jax.Array, epochs: int, optimizer: optax.GradientTransformation
) -> Callable[..., Any]:
    """`(transform, params, key) -> (params, state)`: epochs, before each of which the transform is updated."""
    steps = len(x) // BATCH

    def train(see: ParamTransform, params: Any, key: jax.Array) -> Any:
        def epoch(carry: Any, key: jax.Array) -> tuple[Any, None]:
            params, moments, state = carry
            state = see.update(state, params, step=0)
            rows = jax.random.permutation(key, len(x))[: steps * BATCH].reshape(steps, BATCH)

            def step(carry: Any, row: jax.Array) -> tuple[Any, None]:
                params, moments = carry

                def loss(params: Any) -> jax.Array:
                    logits = model.apply(see.apply(state, params), {}, x[row], train=True)[0]
                    return optax.softmax_cross_entropy_with_integer_labels(logits, y[row]).mean()

                updates, moments = optimizer.update(jax.grad(loss)(params), moments)
                return (optax.apply_updates(params, updates), moments), None

            (params, moments), _ = jax.lax.scan(step, (params, moments), rows)
            return (params, moments, state), None

        start = params, optimizer.init(params), see.init(params)
        (params, _, state), _ = jax.lax.scan(epoch, start, jax.random.split(key, epochs))
        return params, state

    return train


def accuracies() -> dict[tuple[str, str], np.ndarray]:
    """(granularity, row) to the accuracy in percent, [bits, seeds, after training or trained so]."""
    digits = data.load(data.Config(name="digits"))
    model = models.model(models.Config(name="mlp", features=(300, 100)))
    (x, y), (test, labels) = (
        (data.normalize(part.inputs, part.mean, part.std), part.labels)
        for part in (data.device_arrays(digits, name) for name in ("train", "test"))
    )
    dense = trainer(model, x, y, 40, optax.adam(1e-3))
    further = trainer(model, x, y, 5, optax.adam(optax.cosine_decay_schedule(5e-4, 5 * (len(x) // BATCH))))

    def accuracy(params: Any) -> jax.Array:
        return 100 * jnp.mean(jnp.argmax(model.apply(params, {}, test, train=False)[0], -1) == labels)

    keys = jax.vmap(jax.random.key)(jnp.array(SEEDS))
    started = jax.vmap(lambda key: dense(identity(), model.init(key, x[:1])[0], key))
    params = jax.jit(started)(keys)[0]
    print("dense:", np.asarray(jax.vmap(accuracy)(params)).round(2))

    def both(row: str, axis: int | None, bits: jax.Array, params: Any, key: jax.Array) -> jax.Array:
        see = transform(row, bits, axis)
        trained, state = further(see, params, jax.random.fold_in(key, 1))
        return jnp.stack([accuracy(see.apply(see.init(params), params)), accuracy(see.apply(state, trained))])

    found = {}
    for name, axis in (("tensor", None), ("channel", -1)):
        for row in ROWS:
            of_seeds = jax.vmap(lambda bits, p, k, r=row, a=axis: both(r, a, bits, p, k), (None, 0, 0))
            grid = jax.jit(jax.vmap(of_seeds, (0, None, None)))
            found[name, row] = np.asarray(grid(jnp.array(BITS), params, keys))
    return found


def noise(row: str, bits: int) -> float:
    """The signal-to-noise ratio in dB."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(512, 64)), jnp.float32)
    see = transform(row, bits, -1)
    error = see.apply(see.init({"w": x}), {"w": x})["w"] - x
    return float(10 * jnp.log10(jnp.sum(x**2) / jnp.sum(error**2)))


def main() -> None:
    """Prints the tables as markdown."""
    found = accuracies()
    print(
        "| bits | scales | stage |" + "".join(f" {row} |" for row in ROWS) + "\n" + "|---" * (3 + len(ROWS)) + "|"
    )
    for i, bits in enumerate(BITS):
        for name in ("tensor", "channel"):
            for j, stage in enumerate(("after training", "trained so")):
                cells = (f" {found[name, row][i, :, j].mean():.2f} |" for row in ROWS)
                print(f"| {bits} | {name} | {stage} |" + "".join(cells))
    for bits in BITS:
        print(f"| {bits} | channel | dB |" + "".join(f" {noise(row, bits):.2f} |" for row in ROWS))


if __name__ == "__main__":
    main()
