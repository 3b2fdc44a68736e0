"""Damages packed files, and checks that each gives a clear error or, if its checksums are right, a model.

Blindly, but long files too, and damage behind old checksums must be found; tests/fuzzing is guided by coverage.

    python -m tests.codec.fuzz 100000 [SEED]

prints the outcomes, the longest time that one file took, and the most memory that the process had.
"""

import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jopt import codec
from jopt.codec.container import Sections, join, varint
from jopt.codec.elements import NAMES
from jopt.codec.header import LEAF, NONE, TreeReader, unpack_metadata
from jopt.codec.reading import TIED
from tests.fuzzing.mutation import change_bytes

sys.path.insert(0, str(Path(__file__).parent))

from packed_cases import SPECS, array, lenet, quantized, tree

MAX_BYTES = 1 << 22


class Case(NamedTuple):
    """A file, and its parts: the header, and each section with its tensor's dtype and shape."""

    data: bytes
    header: bytes
    sections: list[bytes]
    tensors: list[tuple[int, tuple[int, ...]]]


def corpus(seed: int = 0) -> list[Case]:
    """Small files in which every encoding occurs."""
    rng = np.random.default_rng(seed)
    files = [
        codec.encode(tree(rng), model_state=tree(rng), metadata={"seed": i, "text": "ü" * i}) for i in range(6)
    ]
    for spec in SPECS:
        for sparsity in (0.0, 0.8):
            x, ends = quantized(rng, spec, sparsity=sparsity)
            files.append(codec.encode({"w": x}, specs={"w": spec}, ranges={"w": ends}))
    params, specs = lenet(rng, (40, 50, 10))
    for huffman in (True, False):
        files.append(codec.encode(params, specs=specs, huffman=huffman, metadata={"n": [1] * 40}))
    for content in ("sparse", "shared", "sparse shared", "zeros"):
        files.append(codec.encode([array(rng, dtype, (30, 20), content) for dtype in ("float32", "int16", "bool")]))
    # Long enough for a table of lanes.
    files.append(codec.encode({"w": rng.choice(np.float32([0.1, 0.2, 0.3]), (400, 330), p=[0.7, 0.2, 0.1])}))
    return [_case(file) for file in files]


def _case(file: codec.Packed) -> Case:
    reader, tensors, lengths = Sections(file.data, "file"), [], []
    cursor = reader.header
    header = bytes(cursor.buffer)

    def leaf(path: str, key_bytes: int) -> None:
        if (number := cursor.byte()) == TIED:
            cursor.varint()
            return
        tensors.append((number, tuple(cursor.varint() for _ in range(cursor.byte()))))
        lengths.append(cursor.varint())

    unpack_metadata(cursor)
    trees = TreeReader(cursor, leaf, lambda count: None)
    trees.read()  # the parameters
    trees.read()  # the model's state
    sections = [bytes(reader.next(length, "").buffer) for length in lengths]
    assert join(header, sections) == file.data
    return Case(file.data, header, sections, tensors)


def alone(number: int, shape: tuple[int, ...], section: bytes) -> bytes:
    """A file of one tensor, whose checksums are right."""
    record = bytes([number, len(shape)]) + b"".join(map(varint, shape)) + varint(len(section))
    return join(bytes([0, LEAF]) + record + bytes([NONE]), [section])


def mutate(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Damages the bytes; see `change_bytes`."""
    return change_bytes(random.Random(int(rng.integers(2**63))), data, other)


def damaged(rng: np.random.Generator, cases: list[Case]) -> tuple[str, bytes, bytes | None]:
    """The kind of damage, the file, and the undamaged one (None: the checksums of the damaged one are right)."""
    case, other = (cases[int(i)] for i in rng.integers(len(cases), size=2))
    kind = rng.integers(4)
    if kind == 0 or not case.sections:
        return "bytes", mutate(rng, case.data, other.data), case.data
    if kind == 1:
        return "header, checksums recomputed", join(mutate(rng, case.header, other.header), case.sections), None
    i = int(rng.integers(len(case.sections)))
    section = mutate(rng, case.sections[i], other.data)
    if kind == 2:
        return "section, checksums recomputed", alone(*case.tensors[i], section), None
    shape = case.tensors[i][1]
    shape = tuple(int(rng.choice((0, 1, 2, n, n + 1, 2**20, 2**62))) for n in (*shape, 1)[: int(rng.integers(4))])
    return "dtype, checksums recomputed", alone(int(rng.integers(len(NAMES))), shape, section), None


def outcome(data: bytes, undamaged: bytes | None) -> str:
    """'error', 'model' or 'undamaged'; raises for another error, and if a damaged file is read."""
    try:
        file = codec.decode(data, max_bytes=MAX_BYTES)
    except codec.CodecError as error:
        assert error.where.startswith("file"), error
        return "error"
    assert file.ledger.total == len(data), "the ledger's sum is not the file's length"
    assert undamaged is None or data == undamaged, "a damaged file was read"
    return "undamaged" if undamaged is not None else "model"


def fuzz(count: int, seed: int = 0, watch: Callable[[int, float], None] | None = None) -> dict[str, int]:
    """Reads `count` damaged files; returns how often each outcome occurred."""
    rng, cases, outcomes = np.random.default_rng(seed), corpus(), Counter()
    for i in range(count):
        kind, data, undamaged = damaged(rng, cases)
        start = time.process_time()
        try:
            outcomes[f"{kind}: {outcome(data, undamaged)}"] += 1
        except Exception as error:
            raise AssertionError(f"file {i} of seed {seed} ({kind}): {data.hex()[:4000]}") from error
        if watch is not None:
            watch(i, time.process_time() - start)
    return dict(sorted(outcomes.items()))


def main(count: int, seed: int) -> None:
    """Prints the outcomes of `count` files."""
    longest = 0.0

    def watch(i: int, seconds: float) -> None:
        nonlocal longest
        longest = max(longest, seconds)

    outcomes = fuzz(count, seed, watch)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps({"files": count, **outcomes, "longest_seconds": round(longest, 3), "memory_mib": round(memory)})
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
