"""The numbers of Deep Compression and those of a packed file, layer by layer."""

from collections.abc import Sequence
from typing import NamedTuple

from jopt.codec.ledger import Entry, Ledger
from jopt.config import require
from jopt.layers import is_weight
from jopt.report import formats
from jopt.report.ledger import POSITIONS, bits_per_kept, share
from jopt.report.tables import Table


class _Published(NamedTuple):
    """A row of the paper's table, as it is printed there; P: pruned, Q: shared, H: Huffman-coded."""

    layer: str
    weights: str
    kept: str
    value_bits: str
    value_bits_huffman: str
    index_bits: str
    index_bits_huffman: str
    size: str
    size_huffman: str


PAPER_NETWORKS = {
    "lenet300": (
        _Published("ip1", "235K", "8%", "6", "4.4", "5", "3.7", "3.1%", "2.32%"),
        _Published("ip2", "30K", "9%", "6", "4.4", "5", "4.3", "3.8%", "3.04%"),
        _Published("ip3", "1K", "26%", "6", "4.3", "5", "3.2", "15.7%", "12.70%"),
        _Published("total", "266K", "8%", "6", "5.1", "5", "3.7", "3.1%", "2.49%"),
    ),
    "lenet5": (
        _Published("conv1", "0.5K", "66%", "8", "7.2", "5", "1.5", "78.5%", "67.45%"),
        _Published("conv2", "25K", "12%", "8", "7.2", "5", "3.9", "6.0%", "5.28%"),
        _Published("ip1", "400K", "8%", "5", "4.5", "5", "4.5", "2.7%", "2.45%"),
        _Published("ip2", "5K", "19%", "5", "5.2", "5", "3.7", "6.9%", "6.13%"),
        _Published("total", "431K", "8%", "5.3", "4.1", "5", "4.4", "3.05%", "2.55%"),
    ),
}
"""Network to the rows of its table: Han, Mao and Dally, 2016, "Deep Compression", Table 2 (LeNet-300-100) or 3."""

PAPER_NOTE = (
    "Paper: Han, Mao and Dally, 2016, Deep Compression, Tables 2 and 3, on MNIST. Bits are of each kept weight, "
    "sizes are shares of float32. The file's index bits hold the filler between distant weights, which the "
    "paper's leave out; its sizes hold headers and tables, and the total is the whole file, with biases. The "
    "paper's totals of value bits with Huffman coding do not follow from its rows: 5.1 is above LeNet-300-100's "
    "three, 4.1 below LeNet-5's four."
)

_HEADER = (
    "layer",
    "of",
    "weights",
    "kept",
    "value bits",
    "+ Huffman",
    "index bits",
    "+ Huffman",
    "size",
    "+ Huffman",
)
_STATE = "model_state/"


def paper_table(fixed: Ledger, coded: Ledger, network: str, title: str = "Deep Compression, by layer") -> Table:
    """The paper's rows and a file's, in turn; kernels are matched with layers by their order.

    Args:
      fixed: the ledger of the model packed without Huffman coding, `codec.encode(..., huffman=False)`.
      coded: the ledger of the same model with it.
      network: 'lenet300' or 'lenet5'.
      title: the table's title.

    Returns:
      A `Table` of two rows for each layer and two for the total; `PAPER_NOTE` says what is not comparable in it.

    Raises:
      ConfigError: if the file has not as many kernels as the network.

    Example:
      >>> kinds = {"values": 12, "gaps": 10, "header": 10}
      >>> kernels = [Entry(f"Dense_{i}/kernel", (16, 10), "float32", "", 160, 16, kinds) for i in range(3)]
      >>> ledger = Ledger(tuple(kernels))
      >>> for row in paper_table(ledger, ledger, "lenet300").rows[:2]:
      ...     print(*row)
      ip1 paper 235K 8% 6 4.4 5 3.7 3.1% 2.32%
      Dense_0/kernel file 160 10.0% 6.00 6.00 5.00 5.00 5.00% 5.00%
    """
    published = PAPER_NETWORKS[network]
    kernels, kernels_coded = _kernels(fixed), _kernels(coded)
    accepted = f"a network of as many kernels as the file has, {len(kernels)} (this one has {len(published) - 1})"
    require(len(kernels) == len(published) - 1, "paper", network, accepted)
    rows: list[tuple[str, ...]] = []
    # The last published row is the total, which has no kernel.
    for row, a, b in zip(published, kernels, kernels_coded, strict=False):
        sizes = (_share(a.total, a.dense_bytes), _share(b.total, b.dense_bytes))
        rows += [_paper_row(row), _row(a.path, [a], [b], sizes)]
    sizes = (_share(fixed.total, fixed.dense_bytes), _share(coded.total, coded.dense_bytes))
    rows += [_paper_row(published[-1]), _row("total", kernels, kernels_coded, sizes)]
    return Table(title, _HEADER, "ll" + "r" * 8, rows)


def _kernels(ledger: Ledger) -> list[Entry]:
    return [
        entry
        for entry in ledger.entries
        if is_weight(entry.path, entry.shape) and not entry.path.startswith(_STATE)
    ]


def _paper_row(row: _Published) -> tuple[str, ...]:
    return (row.layer, "paper", *row[1:])


def _row(name: str, fixed: Sequence[Entry], coded: Sequence[Entry], sizes: tuple[str, str]) -> tuple[str, ...]:
    weights, nonzero = (sum(getattr(entry, n) for entry in fixed) for n in ("parameters", "nonzero_parameters"))
    cells = [formats.shorten(name, 32), "file", formats.integer(weights), share(nonzero, weights)]
    cells += [bits_per_kept(some, kinds) for kinds in (("values",), POSITIONS) for some in (fixed, coded)]
    return (*cells, *sizes)


def _share(part: int, total: int) -> str:
    return formats.percent(part / total) if total else "-"
