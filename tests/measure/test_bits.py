import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.measure import IntegerCode, Storage, storage, total_storage


def one(values, grid=None):
    (row,) = storage({"w": np.asarray(values)}, None if grid is None else {"w": grid})
    return row


def floats(n, zeros=0):
    """n float32, the first `zeros` of them 0, the others all different."""
    return np.where(np.arange(n) < zeros, 0, np.arange(n) + 1).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "code", "bits"),
    [
        (floats(3), "dense", 3 * 32),
        (floats(3).astype(jnp.bfloat16), "dense", 3 * 16),
        (np.tile(np.float32([1, 2, 3, 4]), 64), "dense codebook", 256 * 2 + 4 * 32),
        (np.ones(1000, np.float32), "dense codebook", 0 + 32),
        (floats(128, zeros=124), "sparse", 4 * 7 + 4 * 32),  # a list of indices of 7 bits
        (floats(64, zeros=32), "sparse", 64 + 32 * 32),  # a bitmap
        (np.repeat(np.float32([0, 1, -1]), (500, 250, 250)), "sparse codebook", 1000 + 500 + 2 * 32),
        (np.zeros((10, 10), np.float32), "sparse", 0),
        (np.zeros((0, 3), np.float32), "dense", 0),
        (np.float32(2.5), "dense", 32),
        (np.arange(-100, 100, dtype=np.int8), "dense", 200 * 8),
    ],
    ids=str,
)
def test_each_code_by_hand(values, code, bits):
    row = one(values)
    assert (row.code, row.bits) == (code, bits)
    assert row.parameters == values.size and row.nonzero_parameters == np.count_nonzero(values)


@pytest.mark.parametrize(
    ("values", "grid", "code", "bits"),
    [
        (floats(640).reshape(64, 10), IntegerCode(8, scales=10), "dense integers", 640 * 8 + 10 * 32),
        (floats(640).reshape(64, 10), IntegerCode(4, 64, 64), "dense integers", 640 * 4 + 64 * 32 + 64 * 4),
        (floats(100, zeros=50), IntegerCode(8), "sparse integers", 100 + 50 * 8 + 32),
        # Pruned binary weights: with zero there are three values, one bit is left for two.
        (np.repeat(np.float32([0, 1, -1]), (90, 5, 5)), IntegerCode(1), "sparse integers", 70 + 10 + 32),
        (np.repeat(np.float32([1, -1]), 50), IntegerCode(1), "dense integers", 100 + 32),
        # Four values need no more than a codebook of them, whatever the width of the integers.
        (np.tile(np.float32([1, 2, 3, 4]), 64), IntegerCode(8), "dense codebook", 256 * 2 + 4 * 32),
    ],
    ids=str,
)
def test_integers_by_hand(values, grid, code, bits):
    row = one(values, grid)
    assert (row.code, row.bits) == (code, bits)


def test_distinct_values_are_told_apart_by_their_bits():
    assert one(np.float32([0.0, -0.0, 1.0])).distinct_values == 2
    quiet, other = np.uint32([0x7FC00000, 0x7FC00001]).view(np.float32)
    assert one(np.array([quiet, quiet, other])).distinct_values == 2
    assert one(np.float32([1.0, np.nextafter(np.float32(1), np.float32(2))])).distinct_values == 2
    assert one(np.float32([1.0, 1.0 + 1e-9])).distinct_values == 1


def test_rows_and_total():
    params = {"Dense_0": {"bias": jnp.zeros(2), "kernel": jnp.eye(4)}, "scale": jnp.arange(1.0, 9.0)}
    rows = storage(params)
    assert [(r.path, r.shape, r.distinct_values, r.bits) for r in rows] == [
        ("Dense_0/bias", (2,), 1, 0),
        ("Dense_0/kernel", (4, 4), 2, 48),
        ("scale", (8,), 8, 256),
    ]
    total = total_storage(rows)
    assert total == Storage(26, 12, 2, 304)  # distinct values of the kernel, though the scale has more
    assert total.bytes == 38 and total.bits_per_parameter == 304 / 26 and total.sparsity == 14 / 26
    assert [r.sparsity for r in rows] == [1.0, 0.75, 0.0] and rows[1].bits_per_parameter == 3.0
    assert total_storage([]) == Storage(0, 0, 0, 0) and total_storage([]).bits_per_parameter == 0.0
    assert total_storage(rows[2:]).distinct_values == 8
    assert Storage(1, 1, 1, 9).bytes == 2


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ({"v": IntegerCode(8)}, "grids name v; the parameters are: w"),
        ({"w": IntegerCode(0)}, r"bits must be an integer in \[1, 32\], got 0 for 'w'"),
        ({"w": IntegerCode(33)}, r"bits must be an integer in \[1, 32\], got 33"),
        ({"w": IntegerCode(2.5)}, r"bits must be an integer in \[1, 32\], got 2.5"),  # pyright: ignore
        ({"w": IntegerCode(4, scales=0)}, r"scales must be an integer in \[1, 100\], got 0"),
        ({"w": IntegerCode(4, zero_points=-1)}, r"zero_points must be an integer in \[0, 100\], got -1"),
        ({"w": IntegerCode(4)}, r"'w' has 100 distinct values, more than 1 x 2\^4 = 16 codes"),
    ],
)
def test_false_descriptions_are_refused(grids, message):
    with pytest.raises(ValueError, match=message):
        storage({"w": floats(100)}, grids)


def test_what_has_no_values_is_refused():
    with pytest.raises(TypeError, match="concrete"):
        storage({"w": object()})


# An encoder and decoder of every code, as strings of bits: their lengths are what `storage` must give.


def encode(values, width):
    words = [int(v) for v in values]
    n, positions = len(words), [i for i, w in enumerate(words) if w]
    index = (n - 1).bit_length() if n else 0
    bitmap = "".join("1" if w else "0" for w in words)
    where = min(bitmap, "".join(format(i, f"0{index}b") for i in positions if index), key=len)
    for code in ("dense", "sparse"):
        coded = words if code == "dense" else [words[i] for i in positions]
        book = sorted(set(coded))
        bits = (len(book) - 1).bit_length() if book else 0
        prefix = "" if code == "dense" else where
        yield code, prefix + "".join(format(w, f"0{width}b") for w in coded), coded, book
        codes = "".join(format(book.index(w), f"0{bits}b") for w in coded) if bits else ""
        table = "".join(format(w, f"0{width}b") for w in book)
        yield f"{code} codebook", prefix + codes + table, coded, book


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 3, 200, 250]), max_size=70))
def test_bits_are_the_length_of_the_shortest_encoding(values):
    lengths = {code: len(text) for code, text, *_ in encode(values, 8)}
    row = one(np.array(values, np.uint8))
    assert row.bits == min(lengths.values()) == lengths[row.code]
    assert row.distinct_values == len(set(values))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 40), st.integers(0, 2**31))
def test_pruning_and_sharing_never_need_more_bits(n, zeros, levels, seed):
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=n).astype(np.float32)
    pruned = np.where(np.arange(n) < zeros, 0, dense).astype(np.float32)
    shared = rng.choice(dense[:levels], size=n)
    assert one(pruned).bits <= one(dense).bits <= 32 * n
    assert one(shared).bits <= 32 * n
    assert one(rng.permutation(pruned)).bits == one(pruned).bits
    for a, b in itertools.pairwise([pruned, np.where(np.arange(n) < zeros + 1, 0, dense).astype(np.float32)]):
        assert one(b).bits <= one(a).bits
