"""How many groups are kept: exact integers, the same for a Python number and for a traced one."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

MILLION = 10**6


def keep_count(n: int, sparsity: Any) -> Any:
    r"""$n - \mathrm{round}(s n)$, half to even, and at least 1 (where n is).

    - A Python float, an int or a NumPy float64 is multiplied by n in float64 and rounded, as
      `torch.nn.utils.prune` does: `n - round(sparsity * n)`.
    - Everything else (float32, bfloat16, any JAX array, traced or not) is read to the nearest millionth, m / 10^6,
      and n m / 10^6 is rounded in exact integer arithmetic. As a float32, 0.9 is 0.89999998, which of 25
      million weights would keep one too many.

    For a decimal of up to six digits the two agree, but where $s n$ is exactly a half that float64 misses: at n =
    100 the second prunes 58 for 0.575 (57.5, to even), and the first 57 (57.49999999999999).

    Args:
      n: number of groups, a Python integer below 2**31.
      sparsity: in [0, 1), a scalar that may be traced. Traced values below 0 count as 0; those of 1 and more, and
        NaN, keep one.

    Returns:
      A Python int, or for a JAX value an int32 scalar (of the batch's shape under `vmap`).

    Raises:
      ValueError: for a concrete sparsity outside [0, 1), or n outside [0, 2**31).

    Example:
      >>> keep_count(10, 0.25), keep_count(10, 0.35), keep_count(3, 0.99)
      (8, 6, 1)
      >>> int(keep_count(25_000_000, jnp.float32(0.9)))
      2500000
    """
    if not 0 <= n < 2**31:
        raise ValueError(f"the number of groups must lie in [0, 2**31), got {n}")
    check_sparsity(sparsity)
    if isinstance(sparsity, int | float):  # np.float64 is a float
        return _at_least_one(n, n - round(float(sparsity) * n))
    if isinstance(sparsity, jax.Array):
        s = sparsity.astype(jnp.float32)
        s = jnp.where(s < 1, jnp.maximum(s, jnp.zeros_like(s)), jnp.ones_like(s))
        m = jnp.round(s * jnp.float32(MILLION)).astype(jnp.int32)
        return jnp.maximum(n - _rounded_millionths(n, m), min(n, 1))
    m = int(np.round(np.float32(sparsity) * np.float32(MILLION)))
    return _at_least_one(n, n - _rounded_millionths(n, m))


def check_sparsity(sparsity: Any) -> None:
    """Raises ValueError for a concrete sparsity that is not a number in [0, 1); tracers are passed over."""
    if isinstance(sparsity, Tracer):
        return
    if isinstance(sparsity, bool | str) or np.ndim(sparsity) != 0:
        raise ValueError(f"sparsity must be a number in [0, 1), got {sparsity!r}")
    try:
        value = float(sparsity)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")


def _at_least_one(n: int, kept: int) -> int:
    return max(kept, min(n, 1))


def _rounded_millionths(n: int, m: Any) -> Any:
    """N m / 10^6, half to even, for integers n and 0 <= m <= 10^6; no intermediate reaches 2**31."""
    millions, rest = divmod(n, MILLION)
    high, low = m // 1000, m % 1000
    product = rest * high  # thousands of millionths: below 10^9
    remainder = (product % 1000) * 1000 + rest * low  # millionths: below 1.001 * 10^9
    whole = millions * m + product // 1000 + remainder // MILLION
    remainder = remainder % MILLION
    half = MILLION // 2
    up = (remainder > half) | ((remainder == half) & (whole % 2 == 1))
    return whole + (int(up) if isinstance(up, bool) else up.astype(whole.dtype))
