"""Ledgers of packed files that never were: LeNet-300-100 as Deep Compression packs it, and ResNet-18 in int4."""

import math

from jopt.codec.ledger import Entry, Ledger

_HEADER = Entry("", (), "", "", 0, 0, {"header": 312})


def sparse(path, shape, kept):
    """A tensor with a codebook of 64 values, Huffman-coded, with a filler for every twelfth weight."""
    count = math.prod(shape)
    nonzero = round(kept * count)
    kinds = {"values": nonzero * 5 // 8, "gaps": nonzero * 4 // 8, "filler": nonzero // 12, "codebook": 256}
    kinds |= {"tables": 48, "header": 60 + len(path)}
    return Entry(path, shape, "float32", "sparse, codebook, huffman", count, nonzero, kinds)


def integers(path, shape):
    """A tensor in four bits, with a scale for each channel."""
    count = math.prod(shape)
    kinds = {"values": count // 2, "scales": 4 * shape[-1], "header": 60 + len(path)}
    return Entry(path, shape, "float32", "int4", count, count - count // 16, kinds)


def vector(path, size):
    kinds = {"biases": 4 * size, "header": 50 + len(path)}
    return Entry(path, (size,), "float32", "dense", size, size, kinds)


def lenet():
    rows = []
    for name, shape, kept in (
        ("Dense_0", (784, 300), 0.08),
        ("Dense_1", (300, 100), 0.09),
        ("Dense_2", (100, 10), 0.26),
    ):
        rows += [vector(f"{name}/bias", shape[-1]), sparse(f"{name}/kernel", shape, kept)]
    return Ledger((_HEADER, *rows))


def resnet():
    rows, width = [integers("Conv_0/kernel", (3, 3, 3, 64)), vector("BatchNorm_0/scale", 64)], 64
    for block in range(8):
        inner = 64 * 2 ** (block // 2)
        for i in range(2):
            base = f"BasicBlock_{block}"
            rows.append(integers(f"{base}/Conv_{i}/kernel", (3, 3, width, inner)))
            rows += [vector(f"{base}/BatchNorm_{i}/{leaf}", inner) for leaf in ("bias", "scale")]
            width = inner
        if block in (2, 4, 6):
            rows.append(integers(f"BasicBlock_{block}/Conv_2/kernel", (1, 1, width // 2, width)))
    rows += [vector("Dense_0/bias", 10), integers("Dense_0/kernel", (512, 10))]
    rows += [vector(f"model_state/BatchNorm_{i}/mean", 64) for i in range(6)]
    return Ledger((_HEADER, *rows))
