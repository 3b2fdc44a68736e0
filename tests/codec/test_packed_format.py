"""The bytes of a file, worked by hand; and which encoding is taken when."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from jopt import codec
from jopt.codec import container, header, huffman, lanes, positions, reading, tensor
from jopt.codec.container import Cursor, join, signed, varint
from jopt.codec.header import TreeReader, TreeWriter
from jopt.codec.symbols import Candidate, shortest


def test_a_whole_file_by_hand():
    params = {"layer": {"bias": np.float32([0.1, 0.2]), "biases": np.int8([3])}, "rest": [None, ()]}
    header = b"".join(
        [
            b'\x01\x09{"k":1.5}',  # metadata, 9 bytes as they are
            b"\x01\x02",  # a dict of 2
            b"\x01\x00\x05layer" + b"\x01\x02",  # a new text that shares 0 bytes with text 0; a dict of 2
            b"\x01\x00\x04bias"
            + b"\x04\x00\x01\x02\x0a",  # a leaf: float32, rank 1, shape (2,), a section of 10 bytes
            b"\x05\x04\x02es" + b"\x04\x02\x01\x01\x03",  # 4 bytes of text 2 and 'es'; int8, (1,), 3 bytes
            b"\x01\x00\x04rest" + b"\x02\x02\x00\x03\x00",  # a list of None and an empty tuple
            b"\x00",  # no model state
        ]
    )
    start = b"JOPT\x01" + bytes([len(header)]) + header
    checksum = zlib.crc32(start)
    parts = [start, struct.pack("<I", checksum)]
    for number, section in enumerate([b"\x00\x00" + struct.pack("<ff", 0.1, 0.2), b"\x00\x02\x03"]):
        parts += [section, struct.pack("<I", zlib.crc32(struct.pack("<II", checksum, number) + section))]
    packed = codec.encode(params, metadata={"k": 1.5})
    assert packed.data == b"".join(parts)
    file, bias, biases = packed.ledger.entries
    # The key and the record in the header, and the section's checksum.
    assert bias.bytes == {"biases": 10, "header": 7 + 4 + 4}
    assert biases.bytes == {"biases": 3, "header": 5 + 4 + 4}
    assert file.bytes == {"header": len(packed.data) - 25 - 16}


def test_sections_by_hand():
    def section(values, **options):
        return tensor.encode(np.float32(values), **options)

    assert section([1.0, -3.0]) == b"\x00\x02\x01\xfd"  # raw, as int8
    assert section([0.5] * 9) == b"\x04\x01\x0a\x00\x38"  # a codebook of one float16; indices of no bits
    assert section(np.zeros(1000)) == b"\x01\x00\x02"  # no value by gaps; raw, none, as int8
    # 40 of 16000, each after 399 zeros: gaps of 9 bits; a lone symbol needs no stream.
    x = np.zeros(16000, np.float32)
    x[399::400] = 0.1
    coded = section(x)
    assert coded[0] == 2 | 1 << 2 and len(coded) < 20
    q = codec.decode(codec.encode({"w": np.float32([[-1.5, 0.5, 0, 1.5]])}, specs={"w": codec.Spec(3)}).data)
    # 3 bits, symmetric and narrow; no axis; a peak of 1.5 as float16; codes from -3, 7 of them: 0, 4, 3, 6.
    by_hand = b"\x08\x63\x00\x0a\x00\x3e\x05\x07" + struct.pack("<H", 0 | 4 << 3 | 3 << 6 | 6 << 9)
    assert tensor.encode(np.float32([[-1.5, 0.5, 0, 1.5]]), q.integers["w"], huffman=False) == by_hand


def test_numbers():
    for value in (0, 1, 127, 128, 300, 2**40, 2**63 - 1):
        assert Cursor(varint(value), "").varint() == value
        assert [Cursor(signed(v), "").signed() for v in (value // 2, -value // 2)] == [value // 2, -value // 2]
    for damaged in (b"\x80\x00", b"\xff" * 10, b"\x80"):  # not the shortest; more than 63 bits; cut off
        with pytest.raises(codec.CodecError) as error:
            Cursor(damaged, "header").varint()
        assert error.value.where == "header"


def test_keys_share_what_they_begin_with():
    trees = {f"BasicBlock_{i}": {"Conv_0": {"kernel": 0}, "Conv_1": {"kernel": 0}} for i in range(9)}
    data = TreeWriter(lambda: b"").write(trees)
    # A new block: its number, the shared bytes, one byte; then what is in it was there before.
    assert len(data) < 9 * (4 + 2 + 2 * (1 + 2 + 2)) + 40
    assert TreeReader(Cursor(data, ""), lambda path, size: 0, lambda count: None).read() == trees


def test_the_shortest_is_taken_and_few_are_built():
    built = []

    def way(least, length):
        def build():
            built.append(length)
            return bytes(length)

        return Candidate(least, build)

    assert len(shortest([way(10, 12), way(11, 11), way(5, 20), way(11, 11), way(13, 13)])) == 11
    assert built == [20, 12, 11]


RNG = np.random.default_rng(0)
SHARED = np.float32([0.1, 0.2, 0.3, 0.4])
NOISE = RNG.normal(size=(50, 40)).astype(np.float32)


def pruned(x, density):
    return np.where(np.random.default_rng(1).random(x.shape) < density, x, np.float32(0))


@pytest.mark.parametrize(
    ("x", "encoding"),
    [
        (NOISE, "dense, float32 with coded exponents"),
        (NOISE.astype(np.float16).astype(np.float32), "dense, float16 with coded exponents"),
        (np.arange(2000, dtype=np.float32).reshape(50, 40), "dense, float16 with coded exponents"),
        (np.arange(-100, 100, dtype=np.float32).reshape(20, 10), "dense, int8"),
        (RNG.choice(SHARED, (50, 40)), "dense, codebook of 4"),
        (RNG.choice(SHARED, (50, 40), p=[0.7, 0.1, 0.1, 0.1]), "dense, codebook of 4, huffman"),
        (pruned(NOISE, 0.05), "sparse (gaps), float32 with coded exponents"),
        (pruned(NOISE, 0.5), "sparse (bitmap), float32 with coded exponents"),
        (pruned(RNG.choice(SHARED[:3], (50, 40)), 0.1), "sparse (coded gaps), codebook of 3, huffman"),
        (pruned(RNG.choice(SHARED[:2], (50, 40)), 0.1), "sparse (coded gaps), codebook of 2"),
        (np.eye(64, dtype=np.float32), "sparse (coded gaps), codebook of 1"),
    ],
)
def test_the_encoding_that_fits(x, encoding):
    assert codec.encode({"w": x}).ledger.entries[1].encoding == encoding


def test_no_other_encoding_is_shorter():
    r = np.random.default_rng(3)
    for density in (0.03, 0.3, 0.6, 1.0):
        x = (r.choice(r.normal(size=9), (60, 30), p=[0.5, 0.2, 0.1, 0.05, 0.05, 0.04, 0.03, 0.02, 0.01])).astype(
            np.float32
        )
        x *= r.random(x.shape) < density
        sections = {c.build() for c in tensor.candidates(x + np.float32(0), None, True, True)}
        assert len(sections) >= 3 and len(tensor.encode(x + np.float32(0))) == min(map(len, sections))


def test_a_section_of_another_place_does_not_pass():
    a, b = (tensor.encode(np.float32([v, v + 1])) for v in (0.1, 0.7))
    leaf = b"\x04\x00\x01\x02\x0a"
    header = b"\x00\x02\x02" + leaf + leaf + b"\x00"
    good = join(header, [a, b])
    assert codec.decode(good).params[0].tolist() == np.float32([0.1, 1.1]).tolist()
    first = len(good) - 2 * 14
    swapped = good[:first] + good[first + 14 :] + good[first : first + 14]
    with pytest.raises(codec.CodecError) as error:
        codec.decode(swapped)
    assert error.value.where == "file: section 0 (0)"


def test_the_examples_of_the_document(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs/codec.md").read_text()
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[1], space)
    ledger = space["ledger"]
    assert f"{ledger.total:,} bytes, {ledger.ratio:.1f} times fewer" in text
    for entry in ledger.entries:
        (row,) = re.findall(rf"\| {f'`{entry.path}`' if entry.path else 'the file itself'} \|(.*)", text)
        assert entry.encoding in row
        assert re.findall(r"[\d,]+(?= \|)", row) == [f"{n:,}" for n in entry.bytes.values()]
    (stage,) = codec.stages({"kernel": space["kernel"]}, {"kernel": codec.Spec(4)})
    figures = (stage.weight_bits_huffman, stage.index_bits_huffman, stage.weight_bits_fixed, stage.index_bits_fixed)
    assert re.findall(r"\d\.\d\d(?= bits)|\d\.\d\d(?= and)", text) == [f"{bits:.2f}" for bits in figures]
    # The table of bytes: every hexadecimal number before the meaning.
    table = text[text.index("| `4a 4f 50 54`") : text.index("The rest of this page")]
    cells = [line.split("|")[1] for line in table.strip().splitlines()]
    octets = "".join(re.findall(r"`([\da-f ]+)`", " ".join(cells)))
    assert bytes.fromhex(octets) == codec.encode({"w": np.float32([[0, 0.5], [0.5, 0]])}).data


def test_the_numbers_of_the_document_are_those_of_the_code():
    text = (Path(__file__).parents[2] / "docs/codec.md").read_text()
    container_kinds = (header.NONE, header.DICT, header.LIST, header.TUPLE, header.LEAF)
    for pattern, value in (
        (r"at most 2\^(\d+) bytes, with sorted keys", header.LARGEST_METADATA.bit_length() - 1),
        (r"At most (\d+) containers are nested", header.DEPTH),
        (r"0 None, (\d) dict, (\d) list, (\d) tuple, (\d) leaf", container_kinds[1:]),
        (r"the rank \(at most (\d+)\)", reading._LARGEST_RANK),
        (r"(\d+): a varint, the number of the leaf before it", reading.TIED),
        (r"It has at most (\d+) bits", container._LARGEST_VARINT.bit_length()),
        (r"`JOPT`, version (\d)", container.VERSION),
        (r"fixed width \(1 to (\d+) bits\)", positions._WIDEST),
        (r"Huffman-coded, in the width \(1 to (\d+) bits\)", positions._WIDEST_CODED),
        (r"to (\d+), and make a complete prefix code", huffman.LIMIT),
        (r"n < 2\^(\d+) symbols follow one another", lanes.SHORT.bit_length() - 1),
        (r"a Huffman stream of 2\^(\d+) symbols or more", lanes.SHORT.bit_length() - 1),
        (r"isqrt\(n\) div 4, n div (\d+)\)", lanes._LARGEST_ROWS),
        (r"`max_bytes` \((\d+) GiB by default;", codec.MAX_BYTES // 2**30),
    ):
        numbers = tuple(map(str, value)) if isinstance(value, tuple) else str(value)
        assert re.findall(pattern, text) == [numbers], pattern
