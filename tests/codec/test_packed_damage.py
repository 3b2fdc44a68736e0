"""Damaged and hostile files give a clear error, and take no more memory than allowed."""

import tracemalloc

import numpy as np
import pytest
from fuzz import alone, corpus, fuzz
from packed_cases import lenet

from jopt import codec
from jopt.codec.container import join, varint


def test_damaged_files_give_errors():
    outcomes = fuzz(2000, seed=1)
    assert sum(outcomes.values()) == 2000 and outcomes["bytes: error"] > 450
    # The parsers behind the checksums are reached, and they too refuse most files.
    assert outcomes["header, checksums recomputed: error"] > 300
    assert outcomes["section, checksums recomputed: error"] > 200
    assert outcomes["section, checksums recomputed: model"] > 50


@pytest.mark.slow
def test_many_damaged_files_give_errors():
    assert sum(fuzz(100_000, seed=2).values()) == 100_000


def test_every_flipped_bit_and_every_cut_of_a_file():
    data = codec.encode(*lenet(np.random.default_rng(0), (8, 6, 3))[:1], metadata={"a": "b"}).data
    for i in range(len(data)):
        with pytest.raises(codec.CodecError):
            codec.decode(data[:i])
        with pytest.raises(codec.CodecError):
            codec.decode(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :])
    with pytest.raises(codec.CodecError) as error:
        codec.decode(data + b"\0")
    assert error.value.where == "file"


def test_errors_say_where(tmp_path):
    path = tmp_path / "model.jopt"
    codec.save(path, {"layer": {"kernel": np.float32([[0.1, 0.7]])}})
    data = path.read_bytes()
    for content, part in (
        (b"", ""),
        (b"PK\3\4" + data, ""),
        (data[:4] + b"\7" + data[5:], ""),  # another version
        (data[:20] + b"\xff" + data[21:], ": header"),
        (data[:-6] + b"\xff" + data[-5:], ": section 0 (layer/kernel)"),
        (data[:-6], ": section 0 (layer/kernel)"),
    ):
        path.write_bytes(content)
        with pytest.raises(codec.CodecError) as error:
            codec.read(path)
        assert error.value.where == f"{path}{part}" and str(error.value).startswith(f"{path}{part}: ")


# A section that is read, the shape of its float32 tensor, and the damage that makes another one of it.
HOSTILE = {
    "a codebook without an entry": ("0401 0205", (4,), "0400 0205"),
    "a symbol outside of the alphabet": ("0403 02010203 24", (4,), "0403 02010203 ff"),
    "more values than elements": ("0100 02", (4,), "0105 02"),
    "gaps of no bits": ("0101 0101 00 0207", (4,), "0101 0001 00 0207"),
    "gaps of 17 bits": ("0101 0101 00 0207", (4,), "0101 1101 000000 0207"),
    "a filler as the last gap": ("0102 0202 04 020101", (4,), "0102 0202 0d 020101"),
    "a position outside of the tensor": ("0102 0202 04 020101", (4,), "0102 0202 0a 020101"),
    "float32 as int64": ("0002 0102", (2,), "0005 0102"),
    "an unknown encoding": ("0002", (0,), "1002"),
    "an empty tensor of integers": ("0002", (0,), "0802"),
    "9 bits": ("0862 00 0201 0001", (4,), "0869 00 0201 0001"),
    "an axis that the tensor lacks": ("0862 00 0201 0001", (4,), "0862 0102 0201 0001"),
    "a group of 3 of 4 elements": ("08e2 0002 020101 0001", (4,), "08e2 0003 020101 0001"),
    "an infinite range": ("0862 00 000000803f 0001", (4,), "0862 00 000000807f 0001"),
    "a code above the highest": ("0862 00 0201 0103 00", (4,), "0862 00 0201 0003 00"),
    "a byte too many": ("0002 0102", (2,), "0002 0102 03"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sections(name):
    section, shape, damaged = HOSTILE[name]
    assert codec.decode(alone(0, shape, bytes.fromhex(section))).params.shape == shape
    with pytest.raises(codec.CodecError) as error:
        codec.decode(alone(0, shape, bytes.fromhex(damaged)))
    assert error.value.where == "file: section 0 ()"


@pytest.mark.parametrize(
    ("shape", "where"), [((2**60,), "file"), ((2**62,), "file: header"), ((2**31, 2**31), "file: header")]
)
def test_hostile_shapes(shape, where):
    # A codebook of one entry: its symbols take no bytes, so that the section fits any shape.
    section = bytes.fromhex("04010a0038")
    assert codec.decode(alone(0, (4,), section)).params.tolist() == [0.5] * 4
    with pytest.raises(codec.CodecError) as error:
        codec.decode(alone(0, shape, section))
    assert error.value.where == where


def test_memory_is_asked_for_before_it_is_used():
    x = np.zeros((100, 100), np.float32)
    data = codec.encode({"a": x, "b": x + 1}).data
    assert codec.decode(data, max_bytes=200_000)
    with pytest.raises(codec.CodecError):
        codec.decode(data, max_bytes=70_000)
    # Tied tensors, keys and nodes that cost a byte or three in the file and much more in memory.
    leaf = b"\x04\x00\x01" + varint(10**6) + varint(5)
    tied = leaf + b"\x04\xff\x00" * 2000
    for header in (b"\0\2" + varint(2001) + tied + b"\0", b"\0\2" + varint(10**6) + b"\2\0" * 10**6 + b"\0"):
        with pytest.raises(codec.CodecError):
            codec.decode(join(header, [b"\x04\x01\x0a\x00\x38"]), max_bytes=2**24)
    # A million equal gaps of no bits each, in a byte a position.
    section = b"\x06" + varint(10**6) + b"\x01" + varint(10**6) + b"\0\0" + b"\x01\x02\x01"
    with pytest.raises(codec.CodecError):
        codec.decode(alone(2, (10**6,), section), max_bytes=2**24)
    assert codec.decode(alone(2, (10**6,), section), max_bytes=2**26).params.sum() == 10**6


NESTED = b"[" * 100_000


@pytest.mark.parametrize(
    "header",
    [
        b"\0" + b"\2\1" * 500 + b"\0\0",  # lists in lists
        b"\0\1\x01\x01\x00" + varint(10**15),  # a key of 10^15 bytes
        b"\1" + varint(10**12),  # metadata of 10^12 bytes
        b"\1" + varint(len(NESTED)) + NESTED,
        b"\1\5[NaN]\0\0",
    ],
    ids=["nested", "long key", "long metadata", "nested metadata", "NaN"],
)
def test_hostile_headers_are_refused_in_little_memory(header):
    data = join(header, [])
    tracemalloc.start()
    with pytest.raises(codec.CodecError) as error:
        codec.decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.where == "file: header"
    # What was claimed, 10^15 bytes or a list at each of 100,000 levels, is not allocated.
    assert peak < 2**22


def test_large_files_are_not_read_at_all(tmp_path):
    path = tmp_path / "model.jopt"
    with path.open("wb") as file:
        file.truncate(2**33)
    tracemalloc.start()
    with pytest.raises(codec.CodecError) as error:
        codec.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.where == str(path) and peak < 2**20


def test_the_corpus_has_every_encoding():
    encodings = {
        (section[0] & 3, section[0] >> 2 & 3, section[0] >> 4) for case in corpus() for section in case.sections
    }
    assert {kind for kind, _, _ in encodings} == {0, 1, 2, 3}
    assert {(values, coded) for _, values, coded in encodings} == {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)}


def test_a_device_without_an_end_is_not_read():
    with pytest.raises(codec.CodecError):
        codec.load("/dev/zero")
