"""Suite `low_bits`: accuracy at few bits by calibration of the weights, qwix's absmax included; no time.

For each seed LeNet-300-100 is trained on the digits (40 epochs of Adam at 1e-3), quantized as it is, and trained
for five more epochs while it is quantized (Adam at 5e-4, cosine). qwix's symmetric absmax is `Spec(narrow=False)`
with calibration 'absmax': `tests/quantize/test_quantize_integer.py` compares the two with numbers of qwix 0.1.8.
The last rows have the signal-to-noise ratio of 512 x 64 normal numbers, one scale a column.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import Options, Row
from jopt import data, models, quantize
from jopt.transform import ParamTransform, identity

SEEDS, BITS, BATCH = (0, 1, 2), (2, 3, 4, 8), 64
# Calibration and `Spec.narrow` by the column's name.
CALIBRATIONS = {
    "auto": ("auto", True),
    "absmax": ("absmax", True),
    "mse": ("mse", True),
    "qwix's absmax": ("absmax", False),
}


def low_bits(options: Options, seeds: Sequence[int] = SEEDS, epochs: tuple[int, int] = (40, 5)) -> list[Row]:
    """Percent of the test examples by bits, scales and stage, a column for each calibration; then dB.

    Args:
      options: not read: there are no rounds.
      seeds: the runs that an accuracy is the mean of.
      epochs: of training before and while the weights are quantized.
    """
    del options
    dense, quantized = accuracies(seeds, epochs)
    rows = [Row("float32", "before", {name: dense for name in CALIBRATIONS})]
    for i, bits in enumerate(BITS):
        for granularity in ("tensor", "channel"):
            for j, stage in enumerate(("after training", "trained so")):
                means = {name: float(quantized[granularity, name][i, :, j].mean()) for name in CALIBRATIONS}
                rows.append(Row(f"{bits} bits, accuracy in %", f"{granularity}, {stage}", {**means}))
    for bits in BITS:
        rows.append(
            Row("signal-to-noise ratio in dB", f"{bits} bits", {name: noise(name, bits) for name in CALIBRATIONS})
        )
    return rows


def transform(name: str, bits: Any, axis: int | None) -> ParamTransform:
    """The weights' transform of a column."""
    calibration, narrow = CALIBRATIONS[name]
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


def accuracies(seeds: Sequence[int], epochs: tuple[int, int]) -> tuple[float, dict[tuple[str, str], np.ndarray]]:
    """The mean accuracy in percent before quantization, and (granularity, column) to [bits, seeds, 2] after it.

    The last axis is 'after training' and 'trained so'.
    """
    digits = data.load(data.Digits())
    model = models.model(models.ModelConfig(name="mlp", features=(300, 100)))
    (x, y), (test, labels) = (
        (data.normalize(part.inputs, part.mean, part.std), part.targets)
        for part in (data.device_arrays(digits, name) for name in ("train", "test"))
    )
    first = trainer(model, x, y, epochs[0], optax.adam(1e-3))
    schedule = optax.cosine_decay_schedule(5e-4, epochs[1] * (len(x) // BATCH))
    further = trainer(model, x, y, epochs[1], optax.adam(schedule))

    def accuracy(params: Any) -> jax.Array:
        return 100 * jnp.mean(jnp.argmax(model.apply(params, {}, test, train=False)[0], -1) == labels)

    # One program trains all seeds, and one for each column all bit widths: bits are traced like any other number.
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    params = jax.jit(jax.vmap(lambda key: first(identity(), model.init(key, x[:1])[0], key)))(keys)[0]

    def both(name: str, axis: int | None, bits: jax.Array, params: Any, key: jax.Array) -> jax.Array:
        see = transform(name, bits, axis)
        trained, state = further(see, params, jax.random.fold_in(key, 1))
        return jnp.stack([accuracy(see.apply(see.init(params), params)), accuracy(see.apply(state, trained))])

    quantized = {}
    for granularity, axis in (("tensor", None), ("channel", -1)):
        for name in CALIBRATIONS:
            of_seeds = jax.vmap(lambda bits, p, k, n=name, a=axis: both(n, a, bits, p, k), (None, 0, 0))
            grid = jax.jit(jax.vmap(of_seeds, (0, None, None)))
            quantized[granularity, name] = np.asarray(grid(jnp.array(BITS), params, keys))
    return float(jax.vmap(accuracy)(params).mean()), quantized


def noise(name: str, bits: int) -> float:
    """The signal-to-noise ratio in dB."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(512, 64)), jnp.float32)
    see = transform(name, bits, -1)
    error = see.apply(see.init({"w": x}), {"w": x})["w"] - x
    return float(10 * jnp.log10(jnp.sum(x**2) / jnp.sum(error**2)))
