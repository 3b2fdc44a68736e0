"""Quantization in NumPy, written from the conventions and not from the code under test; and methods by name."""

import numpy as np

from jopt import quantize


def rows_of(x, axis=None, group=None):
    """[groups, entries] of a rank-2 array: all, each column, or runs of `group` in each column."""
    rows = x.reshape(1, -1) if axis is None else x.T
    return rows if group is None else rows.reshape(-1, group)


def unrows(rows, shape, axis=None):
    """Undoes `rows_of`."""
    return rows.reshape(shape) if axis is None else rows.reshape(shape[::-1]).T


def symmetric(x, bits, axis=None, group=None):
    """Codes, scales (one for each row) and values."""
    rows = rows_of(x.astype(np.float32), axis, group)
    if bits == 1:
        sizes = np.abs(rows).astype(np.float64)
        peak = (sizes.sum(1) / np.maximum((rows != 0).sum(1), 1)).astype(np.float32)
        top, codes = 1, np.sign(rows)
    else:
        peak, top = np.abs(rows).max(1), 2 ** (bits - 1) - 1
    scale = peak / np.float32(top)
    scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale).astype(np.float32)
    if bits > 1:
        codes = np.round(rows / scale[:, None])
    values = np.where(np.abs(codes) == top, np.sign(codes) * peak[:, None], codes * scale[:, None])
    back = (unrows(a.astype(np.float32), x.shape, axis) for a in (codes, values))
    codes, values = back
    return codes.astype(int), scale, values


def asymmetric(x, bits, axis=None, group=None):
    """Codes, scales, zero points and values, in float64 but for the rounding of the scale."""
    rows = rows_of(x.astype(np.float32), axis, group)
    low, high = np.minimum(rows.min(1), 0), np.maximum(rows.max(1), 0)
    top = 2**bits - 1
    scale = ((high - low) / np.float32(top)).astype(np.float32)
    scale = np.where(scale == 0, np.float32(1), scale)
    zero = np.round(-low / scale)
    codes = np.clip(np.round(rows / scale[:, None]) + zero[:, None], 0, top)
    values = (codes - zero[:, None]) * scale[:, None]
    return unrows(codes, x.shape, axis).astype(int), scale, zero.astype(int), unrows(values, x.shape, axis)


ACTIVATIONS = ("absmax", "mse", "percentile", "lsq", "pact", "moving_average")
"""Where the range of an activation comes from."""


def activation_method(kind="percentile", bits=8, *, percentile=99.9, momentum=0.9, **fields):
    """A method for activations by what its range comes from, with the numbers that it reads."""
    if kind == "percentile":
        return quantize.Activations(bits, calibration=quantize.Percentile(percentile), **fields)
    if kind in ("absmax", "mse"):
        return quantize.Activations(bits, calibration=kind, **fields)
    if kind == "moving_average":
        return quantize.MovingAverageActivations(bits, momentum=momentum, **fields)
    if kind == "pact":
        return quantize.PACTActivations(bits, percentile=percentile, **fields)
    return quantize.LSQActivations(bits, **fields)
