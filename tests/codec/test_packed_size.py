"""A file is about as small as the entropies of what it holds; bits a weight, stage by stage."""

import numpy as np
import pytest
from packed_cases import lenet

from jopt import codec
from jopt.codec import stages


def entropy_bytes(symbols):
    """n H0 / 8: the bytes of n symbols under the best code that knows how often each occurs, and nothing else."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_sparse_4_bit_lenet_takes_its_entropies(seed):
    params, specs = lenet(np.random.default_rng(seed))
    packed = codec.encode(params, specs=specs)
    kinds, integers = packed.ledger.by_kind(), codec.decode(packed.data).integers
    values = gaps = 0.0
    for q in integers.values():
        where = np.flatnonzero(q.codes)
        values += entropy_bytes(q.codes.reshape(-1)[where])
        gaps += entropy_bytes(np.diff(where, prepend=-1))
    assert len(integers) == 3 and sum(np.count_nonzero(q.codes) for q in integers.values()) == 26620
    # The biases are noise but for their exponents: 24 bits each, 3 or 4 coded ones, and some bytes a tensor.
    assert 27 * 410 / 8 <= kinds["biases"] <= 28 * 410 / 8 + 3 * 16
    # The rest, codes, gaps, fillers, tables and scales, against the entropies of codes and gaps.
    assert len(packed.data) - kinds["biases"] <= 1.05 * (values + gaps + kinds["header"])
    assert kinds["values"] <= 1.05 * values and kinds["gaps"] + kinds["filler"] <= 1.015 * gaps
    assert kinds["header"] < 160


def test_stages_by_hand():
    # 128 weights, 16 of them 1 or -1 in turn, each after 7 zeros.
    w = np.zeros((8, 16), np.float32)
    w.reshape(-1)[7::8] = np.float32([0.1, 0.3] * 8)
    (row,) = stages({"w": w})
    assert (row.path, row.parameters, row.nonzero_parameters) == ("w", 128, 16)
    # Gaps of 7 take 4 bits, as 7 is the filler of 3; 1 bit distinguishes two entries.
    assert row.bytes_pruned == 1 + 3 + 16 * 4 // 8 + 1 + 16 * 4
    assert row.bytes_fixed == 1 + 3 + 16 * 4 // 8 + 2 + 2 * 4 + 16 // 8
    assert (row.weight_bits_fixed, row.index_bits_fixed) == (1.0, 8 * (3 + 8) / 16)
    # All gaps are equal: their code takes no bits, and a bit a weight is the best that Huffman can do.
    assert row.weight_bits_huffman == 1.0 and row.index_bits_huffman < row.index_bits_fixed
    assert row.bytes_huffman < row.bytes_fixed


def test_stages_shrink_and_the_last_is_the_file():
    params, specs = lenet(np.random.default_rng(3), (64, 100, 10))
    rows = stages(params, specs)
    packed = codec.encode(params, specs=specs)
    sections = {e.path: e.total for e in packed.ledger.entries}
    headers = {e.path: e.bytes["header"] for e in packed.ledger.entries}
    for row in rows:
        assert row.bytes_huffman <= row.bytes_fixed <= row.bytes_pruned <= 4 * row.parameters + 2
        # One byte of the section, which says the encoding, counts as header; a bias has it among its own.
        assert row.bytes_huffman == sections[row.path] - headers[row.path] + row.path.endswith("kernel")
    kernel = rows[1]
    assert kernel.nonzero_parameters == 640 and 2 < kernel.weight_bits_huffman < kernel.weight_bits_fixed == 4.0
    assert 4.5 < kernel.index_bits_huffman < kernel.index_bits_fixed < 6


def test_every_bias_and_scale_is_in_the_ledger():
    params, specs = lenet(np.random.default_rng(4), (64, 20, 10), spec=codec.Spec(4))
    rows = {e.path: e for e in codec.encode(params, specs=specs).ledger.entries}
    assert set(rows["Dense_0/bias"].bytes) == {"biases", "header"}
    assert rows["Dense_0/kernel"].bytes["scales"] >= 4 and rows["Dense_0/kernel"].dense_bytes == 4 * 64 * 20
    assert rows["Dense_0/kernel"].nonzero_parameters == np.count_nonzero(params["Dense_0"]["kernel"])


def test_stages_of_an_empty_tensor():
    (row,) = stages({"w": np.zeros((0, 3), np.float32)})
    assert (row.parameters, row.nonzero_parameters, row.bytes_pruned, row.bytes_huffman) == (0, 0, 2, 2)
