"""What eager calls are checked for; what is traced is passed over."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jopt.quantize.groups import scale_shape
from jopt.quantize.spec import ACCEPTED_OR_NONE, BITS, UNTOUCHED, Spec


def check_array(x: Any, name: str) -> None:
    """Raises `ValueError` unless `x` is a floating array and, where its values are known, finite.

    Args:
      x: an array, concrete or traced.
      name: what the message calls it.

    Raises:
      ValueError: names it, and what was accepted.

    Example:
      >>> check_array(jnp.array([1.0, jnp.nan]), "Dense_0/kernel")
      Traceback (most recent call last):
      ...
      ValueError: Dense_0/kernel must be finite, got 1 NaN and 0 infinite of 2 entries
    """
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(f"{name} must be a floating array, got {jnp.result_type(x)}")
    if isinstance(x, Tracer):
        return
    # In NumPy: inside of a trace, JAX would trace the check of a constant too.
    values = np.asarray(x)
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    if nan or infinite:
        raise ValueError(f"{name} must be finite, got {nan} NaN and {infinite} infinite of {values.size} entries")


def check_spec(spec: Spec, shape: tuple[int, ...] | None = None, *, codes: bool = False) -> None:
    """Raises `ValueError` for the identity Spec, concrete bits out of range, and a Spec that does not fit a shape.

    With `codes`, concrete bits of 32 are out of range too.

    Example:
      >>> check_spec(Spec(8, axis=-1), (3, 2))
    """
    if shape is not None:
        scale_shape(shape, spec)
    if spec.bits is None:
        raise ValueError("bits must be 1 to 8 or 16 here, got None (the identity Spec has no codes and no range)")
    if isinstance(spec.bits, Tracer):
        return
    bits = np.asarray(spec.bits)
    if codes and (bits == UNTOUCHED).any():
        raise ValueError(f"bits must be 1 to 8 or 16 here, got {bits} (values have no codes at 32)")
    if not np.isin(bits, (*BITS, UNTOUCHED)).all():
        raise ValueError(f"bits must be {ACCEPTED_OR_NONE}, got {bits}")
