"""Huffman codes against a heap, a search over all codes, and a decoder of one bit at a time; then damaged."""

import heapq
import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.codec import CodecError, huffman, lanes
from jopt.codec.symbols import pack_lengths, unpack_lengths


def heap_cost(counts):
    """Huffman 1952: the sum of all merged counts is the length of the text in bits."""
    heap, total = [n for n in counts if n], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total


def bit_by_bit(data, lengths, count):
    """Decodes canonical codes without tables: RFC 1951, section 3.2.2, makes the codes."""
    codes, code = {}, 0
    for width in range(1, 16):
        for symbol in np.flatnonzero(lengths == width):
            codes[f"{code:0{width}b}"] = int(symbol)
            code += 1
        code <<= 1
    digits = iter("".join(f"{octet:08b}"[::-1] for octet in data))
    out = []
    for _ in range(count):
        word = ""
        while word not in codes:
            word += next(digits)
        out.append(codes[word])
    assert "1" not in "".join(digits)
    return out


def text(seed, count, alphabet):
    """Symbols of a skewed distribution over part of an alphabet."""
    rng = np.random.default_rng(seed)
    weight = rng.exponential(size=alphabet) ** 3 * (rng.random(alphabet) < 0.8) + 1e-9
    symbols = rng.choice(alphabet, count, p=weight / weight.sum())
    return symbols.astype(np.uint8 if alphabet <= 256 else np.uint16)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 9), st.integers(0, 10**6)), min_size=2, max_size=40))
def test_lengths_are_a_complete_code_of_the_least_cost(counts):
    counts = np.array(counts)
    lengths = huffman.lengths(counts)
    assert ((lengths > 0) == (counts > 0)).all() or np.count_nonzero(counts) == 0
    if np.count_nonzero(counts) > 1:
        assert sum(2.0 ** -int(n) for n in lengths if n) == 1
        # Where the limit does not bind, package-merge is Huffman's algorithm.
        if heap_cost(counts) < huffman.cost(counts, lengths):
            assert lengths.max() == huffman.LIMIT
        else:
            assert huffman.cost(counts, lengths) == heap_cost(counts)


def test_the_limit_costs_as_little_as_any_code_within_it():
    rng = np.random.default_rng(0)
    for limit, alphabet in ((2, 4), (3, 5), (3, 6), (4, 6)):
        codes = [
            np.array(code)
            for code in itertools.product(range(1, limit + 1), repeat=alphabet)
            if sum(2.0**-n for n in code) <= 1
        ]
        for _ in range(4):
            counts = rng.integers(1, 1000, alphabet) ** 2
            least = min(int(counts @ code) for code in codes)
            assert huffman.cost(counts, huffman.lengths(counts, limit)) == least


def test_fibonacci_counts_reach_the_limit():
    counts = np.array([1, 1, *([0] * 28)])
    for i in range(2, 30):
        counts[i] = counts[i - 1] + counts[i - 2]
    lengths = huffman.lengths(counts)
    assert lengths.max() == 15  # 29 without a limit
    assert huffman.cost(counts, lengths) > heap_cost(counts)
    symbols = np.repeat(np.arange(30, dtype=np.uint8), np.minimum(counts, 50))
    data = huffman.encode(symbols, lengths)
    assert bit_by_bit(data, lengths, symbols.size) == symbols.tolist()
    np.testing.assert_array_equal(huffman.decode(data, lengths, symbols.size), symbols)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.sampled_from([2, 3, 16, 40, 256, 300]))
def test_a_text_comes_back_and_reads_bit_by_bit(seed, count, alphabet):
    symbols = text(seed, count, alphabet)
    counts = huffman.count(symbols, alphabet)
    lengths = huffman.lengths(counts)
    data = huffman.encode(symbols, lengths)
    assert len(data) == -(-huffman.cost(counts, lengths) // 8)
    decoded = huffman.decode(data, lengths, count)
    np.testing.assert_array_equal(decoded, symbols)
    assert decoded.dtype == symbols.dtype
    if np.count_nonzero(lengths) > 1:
        assert bit_by_bit(data, lengths, count) == symbols.tolist()


@pytest.mark.parametrize("count", [lanes.SHORT - 1, lanes.SHORT, lanes.SHORT + 4321])
@pytest.mark.parametrize("alphabet", [2, 16, 300])
def test_long_streams_in_lanes_come_back_with_less_than_half_a_percent_more(count, alphabet):
    symbols = text(count, count, alphabet)
    counts = huffman.count(symbols, alphabet)
    lengths = huffman.lengths(counts)
    data = huffman.encode(symbols, lengths)
    np.testing.assert_array_equal(huffman.decode(data, lengths, count), symbols)
    assert len(data) <= 1.005 * huffman.cost(counts, lengths) / 8 + 1
    assert huffman.encode(symbols, lengths) == data


def test_a_lone_symbol_and_no_symbol_take_no_bytes():
    lengths = huffman.lengths(np.array([0, 0, 7]))
    assert lengths.tolist() == [0, 0, 1]
    assert huffman.encode(np.full(7, 2, np.uint8), lengths) == b""
    assert huffman.decode(b"", lengths, 7).tolist() == [2] * 7
    assert huffman.lengths(np.array([7])).tolist() == [0]
    assert pack_lengths(np.array([0], np.uint8)) == b""
    assert huffman.decode(b"", np.array([0], np.uint8), 3).tolist() == [0, 0, 0]
    assert huffman.encode(np.zeros(0, np.uint8), huffman.lengths(np.array([1, 2]))) == b""
    assert huffman.decode(b"", huffman.lengths(np.array([1, 2])), 0).size == 0
    assert huffman.lengths(np.zeros(4, int)).tolist() == [0, 0, 0, 0]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 15), max_size=80), st.binary(max_size=4))
def test_tables_come_back_and_say_where_they_end(lengths, behind):
    lengths = np.array(lengths, np.uint8) if len(lengths) != 1 else np.zeros(1, np.uint8)
    table = pack_lengths(lengths)
    unpacked, used = unpack_lengths(table + behind, lengths.size)
    np.testing.assert_array_equal(unpacked, lengths)
    assert used == len(table) <= 1 + -(-lengths.size // 2)


def test_a_smooth_table_takes_less_than_a_nibble_a_length():
    bell = huffman.lengths(np.exp(-((np.arange(16) - 7.5) ** 2) / 16) * 1000)
    assert bell.tolist() == [8, 7, 6, 5, 4, 3, 3, 3, 3, 3, 3, 4, 5, 6, 6, 8]
    # 2 + 4 bits, then 6 steps of none (1 bit), 8 of one (3 bits) and one of two (4 bits): 40.
    assert len(pack_lengths(bell)) == 5
    # A bit for what begins, and 9 + 15 for runs of 16 and 240.
    assert len(pack_lengths(np.array([*bell, *([0] * 240)], np.uint8))) == 9


def test_reading_takes_a_few_bytes_a_symbol():
    count = 1_000_000
    symbols = text(3, count, 16)
    lengths = huffman.lengths(huffman.count(symbols, 16))
    data = huffman.encode(symbols, lengths)
    tracemalloc.start()
    decoded = huffman.decode(data, lengths, count)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(decoded, symbols)
    # The symbols, the stream and twice its length in overlapping words, and the lanes.
    assert peak <= count + 4 * len(data) + 300_000


STREAMS = {"chain": 500, "lanes": lanes.SHORT + 77}


@pytest.mark.parametrize("count", STREAMS.values(), ids=STREAMS)
def test_damaged_streams_are_errors_or_the_same_length(count):
    symbols = text(1, count, 16)
    lengths = huffman.lengths(huffman.count(symbols, 16))
    data = huffman.encode(symbols, lengths)
    for damaged in (data[:-1], data[: len(data) // 2], b"", data[:3], data + b"\0", data * 2):
        with pytest.raises(CodecError):
            huffman.decode(damaged, lengths, count)
    # Up to seven bits that fill the last byte may pass for codes.
    for other in (count - 8, count + 8, 10**15, -1, 0):
        with pytest.raises(CodecError):
            huffman.decode(data, lengths, other)
    rng = np.random.default_rng(2)
    for _ in range(30 if count < 1000 else 6):
        flipped = bytearray(data)
        flipped[int(rng.integers(min(len(data), 200)))] ^= 1 << int(rng.integers(8))
        try:
            assert huffman.decode(bytes(flipped), lengths, count).size == count
        except CodecError:
            continue


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(-1, 300))
def test_hostile_tables_are_errors_or_lengths(data, alphabet):
    try:
        lengths, used = unpack_lengths(data, alphabet)
    except CodecError:
        return
    assert lengths.shape == (alphabet,)
    assert lengths.max(initial=0) <= 15
    assert used <= len(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.lists(st.integers(0, 20), max_size=10), st.integers(0, 400))
def test_hostile_codes_are_errors_or_symbols(data, lengths, count):
    lengths = np.array(lengths, np.uint8)
    try:
        symbols = huffman.decode(data, lengths, count)
    except CodecError:
        return
    # Only what encodes to these bytes is accepted.
    assert huffman.encode(symbols, lengths) == data


@pytest.mark.parametrize("lengths", [[1, 2], [1, 1, 1], [16, 1], [0, 0], [2], [], [1, 2, 3, 3, 3]])
def test_no_prefix_code_no_symbols(lengths):
    with pytest.raises(CodecError):
        huffman.decode(b"\0\0\0\0", np.array(lengths, np.uint8), 4)


@pytest.mark.parametrize(
    ("symbols", "lengths"),
    [
        (np.array([3], np.uint8), [1, 0, 1]),  # outside of the alphabet
        (np.array([0, 1], np.uint8), [1, 0, 1]),  # 1 has no code
        (np.array([0, 1], np.uint8), [0, 1]),  # 1 is the only symbol with a code
        (np.array([0]), [1, 0, 1]),  # int64
        (np.array([0], np.uint8), [1, 2]),  # not complete
    ],
)
def test_bad_symbols_are_refused(symbols, lengths):
    with pytest.raises(ValueError):
        huffman.encode(symbols, np.array(lengths, np.uint8))


@pytest.mark.parametrize(("counts", "limit"), [([1, -1], 15), ([1] * 5, 2), ([1] * 5, 16)])
def test_bad_counts_are_refused(counts, limit):
    with pytest.raises(ValueError):
        huffman.lengths(np.array(counts), limit)
