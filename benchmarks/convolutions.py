"""Suite `convolutions`: the forms of a convolution's three sums, each inside of `lax.scan`, where training happens.

`jopt.models.convolution.choose` was made from these rows; each ratio is the time over that of the form it chooses.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.timing import Options, Row, alternate, at_least, compared
from jopt.models.convolution import choose
from jopt.models.convolution_forms import FORMS, OPERANDS, Geometry, Operand


class Layer(NamedTuple):
    """A square convolution: batch, pixels a side, channels in and out, window, stride; padding as 'SAME'."""

    batch: int
    side: int
    channels_in: int
    channels_out: int
    window: int = 3
    stride: int = 1

    @property
    def name(self) -> str:
        """As in the tables."""
        sizes = f"{self.batch} x {self.side}x{self.side}x{self.channels_in} to {self.channels_out}"
        return f"{sizes}, {self.window}x{self.window}" + (f", stride {self.stride}" if self.stride > 1 else "")

    @property
    def geometry(self) -> Geometry:
        """Of the convolution."""
        half = (self.window - 1) // 2
        return Geometry((self.side,) * 2, (self.window,) * 2, (self.stride,) * 2, ((half, half),) * 2, (1, 1), None)


# The CNNs of suite `train`, LeNet-5, and ResNet-18 of width 16.
LAYERS = (
    Layer(64, 8, 1, 16),
    Layer(64, 4, 16, 32),
    Layer(16, 28, 1, 8),
    Layer(16, 14, 8, 16),
    Layer(64, 28, 1, 16),
    Layer(64, 14, 16, 32),
    Layer(64, 12, 20, 50, 5),
    Layer(32, 32, 3, 16),
    Layer(32, 32, 16, 16),
    Layer(32, 16, 32, 32),
    Layer(32, 8, 64, 64),
    Layer(32, 4, 128, 128),
    Layer(32, 32, 16, 32, 3, 2),
    Layer(32, 16, 32, 64, 3, 2),
    Layer(32, 8, 64, 128, 3, 2),
    Layer(32, 32, 16, 32, 1, 2),
    Layer(32, 8, 64, 128, 1, 2),
)


def shifted_products(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The output as a sum of one product for each tap of the window: without columns, but never the best."""
    padding = [(0, 0, 0), *((low, high, 0) for low, high in geometry.padding), (0, 0, 0)]
    x, total = lax.pad(x, jnp.zeros((), x.dtype), padding), jnp.zeros((), x.dtype)
    for row, column in itertools.product(*map(range, geometry.window)):
        (height, width), (step, across) = geometry.positions, geometry.strides
        part = x[:, row : row + (height - 1) * step + 1 : step, column : column + (width - 1) * across + 1 : across]
        total = total + part @ kernel[row, column]
    return total


def convolutions(options: Options, layers: tuple[Layer, ...] = LAYERS) -> list[Row]:
    """A row for each layer, sum and form."""
    rows = []
    for layer in layers:
        channels = layer.channels_in, layer.channels_out
        for result in OPERANDS:
            forms: dict[str, Callable[..., jax.Array]] = {**FORMS[result]}
            if result == "output":
                forms["shifted products"] = shifted_products
            a, b = operands(layer, result)
            programs = {form: scanned(f, a, b, layer.geometry) for form, f in forms.items()}
            chosen = choose(result, layer.geometry, channels, jnp.float32)
            targets = dict.fromkeys(forms, at_least(1.0))
            times = alternate(programs, options)
            rows += compared(f"{layer.name}: {result}", times, "seconds_per_call", chosen, targets)
    return rows


def operands(layer: Layer, result: Operand) -> tuple[jax.Array, jax.Array]:
    """Normal numbers for the operands that a result needs."""
    geometry, draw = layer.geometry, np.random.default_rng(0)
    shapes: Mapping[Operand, tuple[int, ...]] = {
        "input": (layer.batch, *geometry.sizes, layer.channels_in),
        "kernel": (*geometry.window, layer.channels_in, layer.channels_out),
        "output": (layer.batch, *geometry.positions, layer.channels_out),
    }
    first, second = (jnp.asarray(draw.normal(size=shapes[name]), jnp.float32) for name in OPERANDS[result])
    return first, second


def scanned(
    function: Callable[..., jax.Array], a: jax.Array, b: jax.Array, geometry: Geometry
) -> Callable[[], int]:
    """Calls a form again and again in one program, about 20 ms of it."""
    positions = np.prod(geometry.positions) * np.prod(geometry.window)
    products = a.shape[0] * positions * a.shape[-1] * b.shape[-1]
    count = int(np.clip(1e9 / products, 4, 100))

    @functools.partial(jax.jit, donate_argnums=(2,))
    def run(a: jax.Array, b: jax.Array, result: jax.Array) -> jax.Array:
        def step(result: jax.Array, _: None) -> tuple[jax.Array, None]:
            # Each call reads the call before, or XLA would move it out of the loop; all of a result is written.
            return function(a + 1e-20 * result.ravel()[0], b, geometry), None

        return lax.scan(step, result, None, length=count)[0]

    result = jax.block_until_ready(function(a, b, geometry))

    def work() -> int:
        nonlocal result
        result = jax.block_until_ready(run(a, b, result))
        return count

    return work
