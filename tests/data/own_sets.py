"""Functions that give data sets, right and wrong ones, for data.Custom."""

import ml_dtypes
import numpy as np

from jopt import data

CONSTANT = 3


def part(n, first=0, dtype=np.float32):
    x = np.arange(first, first + 3 * n, dtype=dtype).reshape(n, 3)
    return x, (x.sum(1) % 2).astype(np.int32)


def pairs(n=12):
    return part(n), part(4, 100)


def three(n=12):
    return part(n), part(3, 50), part(4, 100)


def named(n=12):
    return {"train": part(n), "test": part(4, 100)}


def unsplit(n=12):
    return {"train": part(n)}


def dataset(n=12, normalize=True):
    return data.Dataset.from_arrays(part(n), test=part(4, 100), normalize=normalize)


def lazy_columns(n=12):
    def numbers(n, first=0):
        x, _ = part(n, first)
        return x, x.sum(1)

    def lazy(array):
        return data.Lazy(lambda rows: array[rows], n, array.shape[1:], array.dtype, fingerprint="part")

    return tuple(map(lazy, numbers(n))), numbers(3, 50), numbers(4, 100)


def raw(n=12):
    return data.Raw({"train": data.Split(*part(n)), "test": data.Split(*part(4, 100))}, 2)


def nothing():
    return None


def two_arrays():
    return part(4)


def lists():
    return [[[1.0], [2.0]], [0, 1]]


def other_names():
    return {"training": part(4), "test": part(4)}


def no_train():
    return {"test": part(4)}


def a_part_alone():
    return {"train": part(4)[0], "test": part(4)}


def unequal():
    x, y = part(6)
    return (x, y[:5]), part(4)


def not_finite():
    x, y = part(6)
    x[2, 1] = np.nan
    return (x, y), part(4)


def ragged():
    x = np.empty(2, object)
    x[:] = [np.zeros(2), np.zeros(3)]
    return (x, np.zeros(2, np.int32)), (x, np.zeros(2, np.int32))


def texts():
    return (np.array(["a", "b"]), np.zeros(2, np.int32)), (np.array(["a", "b"]), np.zeros(2, np.int32))


def empty():
    return part(6), part(0)


def other_dtypes():
    return part(6), (*part(4)[:1], np.zeros(4, np.float32))


def other_shapes():
    return part(6), (np.zeros((4, 5), np.float32), np.zeros(4, np.int32))


def below_zero():
    x, y = part(6)
    return (x, y, np.full(6, -1.0)), (*part(4), np.ones(4))


def huge():
    return (np.array([[0], [2**40]]), np.zeros(2, np.int32)), (np.zeros((1, 1), int), np.zeros(1, np.int32))


def out_of_range():
    tokens = np.full((4, 3), 7, np.uint8)
    return data.Raw({"train": data.Split(tokens, tokens), "test": data.Split(tokens, tokens)}, 5, tokens=True)


def raw_of_a_list():
    return data.Raw([part(4), part(4)], 2)


def one_target(inputs, targets):
    return inputs


def doubled(inputs, targets):
    return inputs * 2, targets


def halved(key, inputs):
    return inputs / 2


def shortened(key, inputs):
    return inputs[:, 1:]


def lazy():
    x, y = part(6)
    column = data.Lazy(lambda rows: x[rows], len(x), x.shape[1:], x.dtype, fingerprint="six")
    return {"train": (column, y)}


def weightless():
    """Examples that all have the weight 0."""
    x, y = np.zeros((8, 2), np.float32), np.zeros(8, np.float32)
    return {"train": (x, y, np.zeros(8, np.float32)), "test": (x, y, np.ones(8, np.float32))}


def small_nan():
    """A number that is none, in bfloat16."""
    x, y = np.zeros((8, 2), ml_dtypes.bfloat16), np.zeros(8, np.float32)
    x[3, 1] = np.nan
    return {"train": (x, y), "test": (x[:2], y[:2])}
