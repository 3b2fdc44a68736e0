"""Arrays, trees and quantized kernels to pack, from a seed."""

import itertools

import numpy as np

from jopt.codec import Spec, elements
from jopt.codec.grid import IntegerGrid, from_groups, grid, scale_shape, spread, to_codes, to_groups, to_values

SHAPES = ((), (0,), (1,), (7,), (3, 0, 2), (5, 4), (1, 1), (3, 3, 2, 4), (64, 10), (40, 30))
CONTENTS = ("bits", "sparse", "shared", "sparse shared", "zeros", "constant", "small", "signed zeros")
SPECS = (
    Spec(8),
    Spec(4, axis=-1),
    Spec(4, symmetric=False, axis=(0,)),
    Spec(2, group=4),
    Spec(1, axis=-1),
    Spec(3, symmetric=False, group=8, axis=-1),
    Spec(5, narrow=False),
    Spec(16, symmetric=False),
    Spec(7, narrow=False, axis=(-1, 0), group=1),
)


def array(rng, dtype=None, shape=None, content=None):
    """An array of any dtype a file can hold; `bits` has every bit pattern, NaNs of any payload among them."""
    dtype = elements.dtype(int(rng.integers(len(elements.NAMES))), "") if dtype is None else np.dtype(dtype)
    shape = SHAPES[rng.integers(len(SHAPES))] if shape is None else shape
    content = CONTENTS[rng.integers(len(CONTENTS))] if content is None else content
    if dtype.name == "bool":
        return np.asarray(rng.random(shape) < 0.3)
    size = int(np.prod(shape))
    values = np.frombuffer(rng.bytes(max(size, 1) * dtype.itemsize), dtype)[:size].copy()
    if "shared" in content:
        values = values[rng.integers(0, 5, size) % max(size, 1)]
    if content == "constant" and size:
        values[:] = values[0]
    if content == "small":
        values = rng.integers(-2, 3, size).astype(np.float32).astype(dtype)
    if content == "zeros" or "sparse" in content:
        values[rng.random(size) < (2 if content == "zeros" else 0.8)] = np.zeros((), dtype)
    if content == "signed zeros":
        values = np.where(rng.random(size) < 0.5, -0.0, 0.0).astype(dtype)
    return values.reshape(shape)


def tree(rng, depth=3):
    """Nested dicts, lists, tuples and None, with any text for a key."""
    kind = rng.integers(7 if depth else 3)
    if kind < 3:
        return array(rng)
    if kind == 3:
        return None
    children = [tree(rng, depth - 1) for _ in range(rng.integers(4))]
    if kind == 4:
        return children
    if kind == 5:
        return tuple(children)
    keys = ("", "a/b", "kernel", "kernel_1", "Dense_0", "ü🙂", "0", "a" * 300)
    return dict(zip(rng.permutation(keys).tolist(), children, strict=False))


def quantized(rng, spec, shape=(8, 12), sparsity=0.0, clip=0.7, dtype=np.float32):
    """An array on the grid of a range, and the range."""
    x = rng.normal(size=shape).astype(np.float32)
    x[rng.random(shape) < sparsity] = 0
    groups, ends_shape = to_groups(x, spec), scale_shape(shape, spec)
    axes = tuple(i for i, n in enumerate(spread(np.zeros(ends_shape), spec).shape) if n == 1)
    low = np.asarray(np.float32(clip) * groups.min(axes, initial=0).reshape(ends_shape))
    high = np.asarray(np.float32(clip) * groups.max(axes, initial=0).reshape(ends_shape))
    g = IntegerGrid(*(spread(field, spec) for field in grid(spec, low, high)))
    return from_groups(to_values(to_codes(groups, g), g), shape, spec).astype(dtype), (low, high)


def same(a, b):
    """Whether two trees have the same structure, dtypes and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


def lenet(rng, sizes=(784, 300, 100, 10), sparsity=0.9, spec=None):
    """A pruned LeNet-300-100 on a symmetric grid; and its specs."""
    spec = spec or Spec(4)
    params, specs = {}, {}
    for i, (n, m) in enumerate(itertools.pairwise(sizes)):
        w = rng.normal(size=(n, m)).astype(np.float32) / np.float32(np.sqrt(n))
        w[np.abs(w) < np.quantile(np.abs(w), sparsity)] = 0
        g = grid(spec, -np.abs(w).max(), np.abs(w).max())
        params[f"Dense_{i}"] = {
            "kernel": to_values(to_codes(w, g), g),
            "bias": rng.normal(size=m).astype(np.float32),
        }
        specs[f"Dense_{i}/kernel"] = spec
    return params, specs
