"""Damaged and hostile files give a clear error."""

import time

import numpy as np
import pytest
from fuzz import alone, corpus, fuzz
from packed_cases import lenet

from jopt import codec
from jopt.codec.container import join
from jopt.codec.cursor import varint


def test_damaged_files_give_errors():
    found = fuzz(2000, seed=1)
    assert sum(found.values()) == 2000 and found["bytes: error"] > 450
    # The parsers behind the checksums are reached, and they too say no more often than not.
    assert (
        found["header, checksums made to fit: error"] > 300 and found["section, checksums made to fit: error"] > 200
    )
    assert found["section, checksums made to fit: model"] > 50


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
    with pytest.raises(codec.CodecError, match=r"file: 1 bytes too many"):
        codec.decode(data + b"\0")


def test_errors_say_what_and_where(tmp_path):
    path = tmp_path / "model.jopt"
    codec.save(path, {"layer": {"kernel": np.float32([[0.1, 0.7]])}})
    data = path.read_bytes()
    for content, text in (
        (b"", r"model.jopt: is no packed model: it must begin with b'JOPT', got b''"),
        (b"PK\3\4" + data, r"is no packed model"),
        (data[:4] + b"\7" + data[5:], r"model.jopt: is of version 7; this reads version 1"),
        (data[:20] + b"\xff" + data[21:], r"model.jopt: header: is damaged: its checksum is \w{8}"),
        (data[:-6] + b"\xff" + data[-5:], r"model.jopt: section 0 \(layer/kernel\): is damaged"),
        (data[:-6], r"model.jopt: section 0 \(layer/kernel\): is cut: it has 10 bytes and a checksum, 8 are left"),
    ):
        path.write_bytes(content)
        with pytest.raises(codec.CodecError, match=text):
            codec.read(path)


@pytest.mark.parametrize(
    ("section", "shape", "text"),
    [
        (b"\x04\x01\x0a\x00\x38", (2**60,), "more than max_bytes"),  # a codebook of one: no bytes an element
        (b"\x04\x01\x0a\x00\x38", (2**62,), "which no array can have"),
        (b"\x04\x01\x0a\x00\x38", (2**31, 2**31), "which no array can have"),
        (b"\x04\x00\x0a", (4,), "a codebook must have an entry"),
        (b"\x04\x03\x02\x01\x02\x03\xff", (4,), "a symbol must lie below 3, got 3"),
        (b"\x01\x05", (4,), "the number of values must be at most 4, got 5"),
        (b"\x01\x01\x00\x01\x00", (4,), "the width of gaps must lie in 1 to 16, got 0"),
        (b"\x01\x02\x02\x02\x0f\x00\x02\x01\x01", (4,), "the last gap must not be a filler"),
        (b"\x01\x02\x02\x02\x0a\x00\x02\x01\x01", (4,), "a position must lie below 4"),
        (b"\x00\x05\x00\x00", (2,), "elements of float32 cannot be held as dtype 5 int64"),
        (b"\x10\x00", (0,), "encoding 16 is unknown"),
        (b"\x08\x00", (0,), "an empty tensor must be held raw"),
        (b"\x08\x69\x00\x02\x01\x01\x01", (4,), r"bits must be one of .*, got 9"),
        (b"\x08\x62\x01\x02\x02\x01\x00\x01", (4,), "axis must name different axes"),
        (b"\x08\xe2\x00\x03\x02\x01\x00\x01", (4,), "group must divide the 4 entries"),
        (b"\x08\x62\x00\x00\x00\x00\x80\x7f\x00\x01", (4,), "a range must be finite"),
        (b"\x08\x62\x00\x02\x01\x00\x03\x00", (4,), r"codes must lie in \[-1, 1\], got 0 and the next 2"),
        (b"\x00\x02\x01\x02\x03", (2,), "1 bytes too many, from byte 4"),
    ],
)
def test_hostile_sections(section, shape, text):
    with pytest.raises(codec.CodecError, match=text):
        codec.decode(alone(0, shape, section))


def test_memory_is_asked_for_before_it_is_used():
    x = np.zeros((100, 100), np.float32)
    data = codec.encode({"a": x, "b": x + 1}).data
    assert codec.decode(data, max_bytes=200_000)
    with pytest.raises(codec.CodecError, match="more than max_bytes = 70000"):
        codec.decode(data, max_bytes=70_000)
    # Tied tensors, keys and nodes that cost a byte or three in the file and much more in memory.
    leaf = b"\x04\x00\x01" + varint(10**6) + varint(5)
    tied = leaf + b"\x04\xff\x00" * 2000
    for header in (b"\0\2" + varint(2001) + tied + b"\0", b"\0\2" + varint(10**6) + b"\2\0" * 10**6 + b"\0"):
        with pytest.raises(codec.CodecError, match="more than max_bytes"):
            codec.decode(join(header, [b"\x04\x01\x0a\x00\x38"]), max_bytes=2**24)
    # A million equal gaps of no bits each, in a byte a position.
    section = b"\x06" + varint(10**6) + b"\x01" + varint(10**6) + b"\0\0" + b"\x01\x02\x01"
    with pytest.raises(codec.CodecError, match="more than max_bytes"):
        codec.decode(alone(2, (10**6,), section), max_bytes=2**24)
    assert codec.decode(alone(2, (10**6,), section), max_bytes=2**26).params.sum() == 10**6


def test_deep_nests_and_long_keys_end():
    start = time.process_time()
    for header in (b"\0" + b"\2\1" * 500 + b"\0\0", b"\0\1\x01\x01\x00" + varint(10**15), b"\1" + varint(10**12)):
        with pytest.raises(codec.CodecError):
            codec.decode(join(header, []))
    nested = b"[" * 100_000
    with pytest.raises(codec.CodecError, match="metadata must be JSON"):
        codec.decode(join(b"\1" + varint(len(nested)) + nested, []))
    with pytest.raises(codec.CodecError, match="NaN is none"):
        codec.decode(join(b"\1\5[NaN]\0\0", []))
    assert time.process_time() - start < 5


def test_large_files_are_not_read_at_all(tmp_path):
    path = tmp_path / "model.jopt"
    with path.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(codec.CodecError, match=r"has 8589934592 bytes, more than max_bytes = 4294967296"):
        codec.read(path)


def test_the_corpus_has_every_encoding():
    seen = {
        (section[0] & 3, section[0] >> 2 & 3, section[0] >> 4) for case in corpus() for section in case.sections
    }
    assert {kind for kind, _, _ in seen} == {0, 1, 2, 3}
    assert {(held, coded) for _, held, coded in seen} == {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)}


def test_what_has_no_end_is_not_read():
    with pytest.raises(codec.CodecError, match="must be a regular file"):
        codec.load("/dev/zero")
