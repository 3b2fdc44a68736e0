"""How far quantized values are from what they stand for."""

import math
from typing import Any

import numpy as np

from jopt.rules import named_leaves


def sqnr(reference: Any, quantized: Any) -> float:
    """Signal to quantization noise ratio over all arrays of a tree, in decibels.

    10 log10(sum x^2 / sum (x - q)^2), in float64. A uniform quantizer gains 20 log10 2 = 6.02 dB with each bit, as
    its step halves (Widrow and Kollar, 2008, *Quantization Noise*). Equal trees have inf, an all-zero reference
    with noise -inf.

    Args:
      reference: a pytree of concrete arrays, x.
      quantized: a pytree of the same structure and shapes, q.

    Returns:
      The ratio.

    Raises:
      ValueError: if structures or shapes differ.

    Example:
      >>> sqnr({"w": np.float32([3.0, 4.0])}, {"w": np.float32([3.0, 4.5])})     # 10 log10(25 / 0.25)
      20.0
    """
    pairs = [_energies(x, q) for _, x, q in paired_leaves(reference, quantized)]
    return _decibels(sum(s for s, _ in pairs), sum(n for _, n in pairs))


def sqnr_by_layer(reference: Any, quantized: Any) -> dict[str, float]:
    """The ratio of `sqnr` of each array, by path, in leaf order.

    Example:
      >>> sqnr_by_layer({"b": np.ones(2), "w": np.ones(2)}, {"b": np.ones(2), "w": np.array([1.0, 0.8])})
      {'b': inf, 'w': 16.98...}
    """
    return {path: _decibels(*_energies(x, q)) for path, x, q in paired_leaves(reference, quantized)}


def paired_leaves(a: Any, b: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The arrays of two trees side by side, by path.

    Raises:
      ValueError: if the trees do not have the same paths and shapes.
    """
    first, second = dict(named_leaves(a)), dict(named_leaves(b))
    if odd := sorted(set(first) ^ set(second)):
        raise ValueError(f"the trees must have the same parameters, but only one of them has {', '.join(odd)}")
    out = []
    for path, leaf in first.items():
        x, y = np.asarray(leaf), np.asarray(second[path])
        if x.shape != y.shape:
            raise ValueError(f"{path} must have one shape in both trees, got {x.shape} and {y.shape}")
        out.append((path, x, y))
    return out


def _energies(reference: np.ndarray, quantized: np.ndarray) -> tuple[float, float]:
    x, q = reference.astype(np.float64), quantized.astype(np.float64)
    return float(np.sum(x * x)), float(np.sum((x - q) ** 2))


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else math.nan if math.isnan(signal) else -math.inf
