"""The invariants of quantized weights, looked for in what the model sees."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jopt.layers import Layers, Parameter
from jopt.quantize.assign import assign, resolve
from jopt.quantize.config import Config, spec_of
from jopt.quantize.spec import OUTPUTS, UNTOUCHED, Spec


def check(config: Config, state: Any, seen: Any, layers: Layers | None = None) -> list[str]:
    """Which parameters that the model sees are not quantized as the config says. Runs on the host.

    Integer: the entries that share a scale are whole multiples of one step, within the codes (at 16 bits: at most
    2^16 different values). Binary: -1, 0 or 1. XNOR-Net, ternary: -alpha, 0 or alpha for each scale. The step is
    looked for in the values, so a later stage may set some to 0, but not average or rescale them.

    Args:
      config: the config, of plain Python values.
      state: the transform's state; not read.
      seen: what `apply` of the whole chain gives, a pytree of arrays.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A sentence for each violated invariant; empty where all hold.

    Raises:
      RuleError: if a rule matches no parameter.

    Example:
      >>> check(Config(bits=2), (), {"kernel": np.float32([[-0.5], [0.0], [0.5]])})
      []
      >>> check(Config(bits=2), (), {"kernel": np.float32([[-0.5], [0.1], [0.5]])})
      ['kernel: 1 of 1 groups hold values that are no multiples of a 2-bit step']
    """
    del state
    default = {"integer": config.bits, "identity": None}.get(config.scheme, config.scheme)
    problems = []
    for path, array, value, parameter in assign(config.rules, seen, default, layers):
        values = np.asarray(array).astype(np.float64)
        if not np.isfinite(values).all():
            problems.append(f"{path}: {int((~np.isfinite(values)).sum())} values are not finite")
        elif isinstance(value, str):
            problems += [f"{path}: {text}" for text in _check_signs(config, value, values, parameter)]
        elif value not in (None, UNTOUCHED):
            # A value is off by half of the parameters' precision, and so is the largest, which gives the step.
            precision = max(float(jnp.finfo(array.dtype).eps), 2.0**-22)
            spec = spec_of(config, value, parameter, values.ndim)
            problems += [f"{path}: {text}" for text in _check_integers(spec, values, precision)]
    return problems


def _rows(values: np.ndarray, spec: Spec) -> np.ndarray:
    """[groups, entries]: a row for each scale."""
    kept = spec.kept_axes(values.ndim)
    rest = [i for i in range(values.ndim) if i not in kept]
    channels = int(np.prod([values.shape[i] for i in kept], dtype=int))
    rows = values.transpose(*kept, *rest).reshape(channels, -1)
    return rows.reshape(-1, rows.shape[1] if spec.group is None else spec.group)


def _check_signs(config: Config, scheme: str, values: np.ndarray, parameter: Parameter) -> list[str]:
    if scheme == "binary":
        wrong = ~np.isin(values, (-1.0, 0.0, 1.0))
        return [f"{wrong.sum()} weights are not -1, 0 or 1"] if wrong.any() else []
    whole = scheme == "ternary" and config.granularity == "tensor"
    rows = np.abs(_rows(values, resolve(Spec(axis=None if whole else OUTPUTS), parameter, values.ndim)))
    alpha = rows.max(axis=1, keepdims=True, initial=0.0)
    wrong = ((rows != 0) & (rows != alpha)).any(axis=1)
    return [f"{wrong.sum()} of {len(rows)} scales have more values than -alpha, 0 and alpha"] if wrong.any() else []


def _check_integers(spec: Spec, values: np.ndarray, precision: float) -> list[str]:
    rows = _rows(values, spec)
    bits = int(spec.bits)
    if bits > 8:
        wrong = np.array([len(np.unique(row)) > 2**bits for row in rows], bool)
        return [f"{wrong.sum()} of {len(rows)} groups hold more than 2^{bits} values"] if wrong.any() else []
    top = max(2 ** (bits - 1) - 1, 1) if spec.symmetric else 2**bits - 1
    low, high = rows.min(axis=1, initial=0.0), rows.max(axis=1, initial=0.0)
    width = np.maximum(-low, high) if spec.symmetric else high - low
    wrong = np.array([not _on_grid(row, w, top, precision) for row, w in zip(rows, width, strict=True)], bool)
    what = f"groups hold values that are no multiples of a {bits}-bit step"
    return [f"{wrong.sum()} of {len(rows)} {what}"] if wrong.any() else []


def _on_grid(row: np.ndarray, width: float, top: int, precision: float) -> bool:
    """Whether all values are multiples of width / k, k up to `top`: the outermost may have been set to 0."""
    values = np.unique(row)
    if width == 0 or len(values) > top * 2 + 1:
        return width == 0
    for k in range(top, 0, -1):
        codes = values / (width / k)
        if (np.abs(codes - np.round(codes)) <= np.minimum(np.abs(codes) * precision + precision, 0.49)).all():
            return True
    return False
