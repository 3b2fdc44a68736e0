"""The step of an Elman network on codes."""

import jax
import jax.numpy as jnp

from jopt.quantize.grid import Range, grid
from jopt.quantize.integer.operands import Codes, encode_input
from jopt.quantize.integer.ops import Operand, dense, rescale
from jopt.quantize.spec import Spec
from jopt.quantize.tensors import fit_range


def rnn_cell(
    x: Operand, h: Operand, kernel: Operand, recurrent_kernel: Operand, bias: jax.Array, spec: Spec
) -> tuple[Codes, jax.Array]:
    """`tanh(x W + b + h U)`, both products in integers; the new state as the next step's codes.

    Args:
      x: the input, [batch, in], one scale.
      h: the state, [batch, size], one scale.
      kernel: W, [in, size].
      recurrent_kernel: U, [size, size].
      bias: b, float32 [size].
      spec: of the state, whose range is [-1, 1].

    Returns:
      The state's `Codes`, and the state as it is before it is quantized, float32 [batch, size].

    Raises:
      ValueError: as `dense` and `encode_input`.

    Elman, 1990, "Finding structure in time".

    Example:
      >>> from jopt.quantize import quantize
      >>> spec, eye = Spec(8), quantize(jnp.eye(2), Spec(2))
      >>> x = quantize(jnp.array([[1.0, -1.0]]), spec)
      >>> h = encode_input(jnp.zeros((1, 2)), spec, grid(spec, Range(jnp.float32(-1), jnp.float32(1))))
      >>> codes, state = rnn_cell(x, h, eye, eye, jnp.zeros(2), spec)
      >>> codes.codes.tolist(), round(float(state[0, 0]), 4)         # tanh(1), times 127 is 96.7
      ([[97, -97]], 0.7616)
    """
    state = jnp.tanh(rescale(dense(x, kernel), bias) + rescale(dense(h, recurrent_kernel)))
    return encode_input(state, spec, grid(spec, fit_range(Range(-1.0, 1.0), (), spec))), state  # type: ignore[arg-type]
