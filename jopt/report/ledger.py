"""A packed file's ledger as tables, as JSON and as bars in characters: bytes by kind, by layer and by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jopt.codec.ledger import KINDS, Entry, Ledger
from jopt.layers import is_weight
from jopt.report import formats
from jopt.report.figures import BEFORE, PALETTE, QUIET
from jopt.report.tables import Table

if TYPE_CHECKING:
    import rich.text

POSITIONS = ("gaps", "filler")
"""The kinds that say where the weights are that are not zero."""

MEANINGS = {
    "values": "numbers, codes and indices of weights",
    "gaps": "positions of what is not zero",
    "filler": "entries that bridge a distance too long for one gap",
    "codebook": "shared values",
    "tables": "Huffman code lengths",
    "scales": "scales, ranges and zero points",
    "biases": "biases, scales and all other arrays that are not weights",
    "header": "names, shapes, lengths, checksums, metadata",
}

_NAME, _FILE, _MOST = 56, "(file header)", 24


class _Look(NamedTuple):
    """How a kind is drawn: its color, and its character where there may be no color, or ASCII alone."""

    color: str
    glyph: str
    ascii: str


# Gaps and filler are neighbors and belong together: two warm colors of different lightness.
_LOOKS = {
    "values": _Look(PALETTE[0], "█", "#"),
    "gaps": _Look(PALETTE[4], "▓", "="),
    "filler": _Look(PALETTE[1], "▒", "~"),
    "codebook": _Look(PALETTE[2], "◆", "c"),
    "tables": _Look(PALETTE[3], "▲", "t"),
    "scales": _Look(PALETTE[5], "●", "s"),
    "biases": _Look(QUIET, "■", "b"),
    "header": _Look(BEFORE, "░", "."),
}

COLORS = {kind: look.color for kind, look in _LOOKS.items()}
"""Of each kind, in figures and in a terminal."""


def ledger_tables(ledger: Ledger) -> list[Table]:
    """Where each byte of a packed file goes: by kind, by layer, and by tensor and kind.

    Args:
      ledger: of the file.

    Returns:
      Those of `kinds_table`, `packed_layers_table` and `tensors_table`. The totals of each are the file's length.
    """
    return [kinds_table(ledger), packed_layers_table(ledger), tensors_table(ledger)]


def ledger_headline(ledger: Ledger, name: str = "the file") -> str:
    """One line on the file's size.

    Example:
      >>> ledger_headline(Ledger((Entry("w", (64, 64), "float32", "dense", 4096, 96, {"values": 2048}),)), "a.jopt")
      'a.jopt: 2.00 KiB, 8.0 times smaller than its tensors in float32'
    """
    dtypes = {entry.dtype for entry in ledger.entries if entry.path}
    compared = f"its tensors in {dtypes.pop()}" if len(dtypes) == 1 else "its tensors in memory"
    dense, packed = ledger.dense_bytes, ledger.total
    smaller = f"{times(dense, packed)} times smaller" if dense >= packed else f"{times(packed, dense)} times larger"
    return f"{name}: {formats.binary(packed)}, {smaller} than {compared}"


def kinds_table(ledger: Ledger, title: str = "Bytes by kind") -> Table:
    """What the file's bytes are spent on, one kind a row.

    Example:
      >>> kernel = Entry("w", (4, 2), "float32", "dense", 8, 8, {"header": 8, "values": 32})
      >>> table = kinds_table(Ledger((kernel,)))
      >>> table.rows[0], table.footer
      (('values', '32', '80.0%', 'numbers, codes and indices of weights'), ('total', '40', '100.0%', ''))
    """
    rows = [(k, formats.integer(n), share(n, ledger.total), MEANINGS[k]) for k, n in ledger.by_kind().items()]
    footer = ("total", formats.integer(ledger.total), share(ledger.total, ledger.total), "")
    return Table(title, ("kind", "bytes", "share", "what it is"), "lrrl", rows, footer)


def packed_layers_table(ledger: Ledger, title: str = "Layers (bits: of each kept weight)") -> Table:
    """How the tensors are held and what they take, one a row; those that are no weights share a row.

    Args:
      ledger: of the file.
      title: the table's title.

    Returns:
      A `Table`: path, shape, dtype where there are several, number of elements, the share of them that is not zero
      ('kept'), the bits of each nonzero weight for its value and for its index (gaps and their filler), bytes
      with all that belongs to the tensor, how many times smaller that is than the tensor in memory, and the
      encoding. What belongs to no tensor is in the total alone. The bits are those of the tensors that have values,
      which leaves biases out.

    Example:
      >>> kernel = Entry("w", (10, 10), "float32", "sparse", 100, 16, {"values": 64, "gaps": 10, "filler": 2})
      >>> packed_layers_table(Ledger((kernel,))).rows
      [('w', '10x10', '100', '16.0%', '32.00', '6.00', '76', '5.3x', 'sparse')]
    """
    entries = [entry for entry in ledger.entries if entry.path]
    several = len({entry.dtype for entry in entries}) > 1
    header = ["parameter", "shape", *["dtype"] * several, "count", "kept", "value bits", "index bits", "bytes"]
    header += ["x smaller", "encoding"]

    def row(name: str, shape: str, some: Sequence[Entry], total: int, dense: int) -> tuple[str, ...]:
        count, nonzero = (sum(getattr(e, n) for e in some) for n in ("parameters", "nonzero_parameters"))
        cells = [
            name,
            shape,
            *[_same(e.dtype for e in some)] * several,
            formats.integer(count),
            share(nonzero, count),
        ]
        cells += [bits_per_kept(some, ("values",)), bits_per_kept(some, POSITIONS), formats.integer(total)]
        return (*cells, f"{times(dense, total)}x", _same(e.encoding for e in some))

    # Scales and biases would bury the few layers that decide the size.
    kernels = [entry for entry in entries if is_weight(entry.path, entry.shape)]
    others = Ledger(tuple(entry for entry in entries if entry not in kernels))
    rows = [row(_name(e), "x".join(map(str, e.shape)), [e], e.total, e.dense_bytes) for e in kernels]
    if n := len(others.entries):
        rows.append(row(f"{n} that are no weights", "", others.entries, others.total, others.dense_bytes))
    footer = row("total", "", entries, ledger.total, ledger.dense_bytes)
    return Table(title, tuple(header), "l" * (2 + several) + "r" * 6 + "l", rows, footer)


def tensors_table(ledger: Ledger, title: str = "Bytes by tensor and kind") -> Table:
    """The whole ledger: a row for each tensor, a column for each kind that there is, totals both ways.

    Example:
      >>> file = Entry("", (), "", "", 0, 0, {"header": 20})
      >>> kernel = Entry("w", (4, 2), "float32", "dense", 8, 8, {"header": 10, "values": 32})
      >>> table = tensors_table(Ledger((file, kernel)))
      >>> table.header, table.rows, table.footer
      (('', 'values', 'header', 'total'),
       [('(file header)', '', '20', '20'), ('w', '32', '10', '42')],
       ('total', '32', '30', '62'))
    """
    kinds = ledger.by_kind()
    rows = [
        (_name(entry), *(formats.integer(n) if (n := entry.bytes.get(kind)) else "" for kind in kinds),
         formats.integer(entry.total))
        for entry in ledger.entries
    ]  # fmt: skip
    footer = ("total", *map(formats.integer, kinds.values()), formats.integer(ledger.total))
    return Table(title, ("", *kinds, "total"), "l" + "r" * (len(kinds) + 1), rows, footer)


def ledger_json(ledger: Ledger) -> dict[str, Any]:
    """The ledger as what JSON has: numbers, strings, lists and objects.

    Returns:
      `bytes`, `dense_bytes`, `ratio`, `by_kind`, and `tensors`, where the entry with an empty path is what belongs
      to the whole file.

    Example:
      >>> ledger_json(Ledger((Entry("w", (2,), "float32", "dense", 2, 2, {"biases": 8}),)))
      {'bytes': 8, 'dense_bytes': 8, 'ratio': 1.0, 'by_kind': {'biases': 8},
       'tensors': [{'path': 'w', 'shape': [2], 'dtype': 'float32', 'encoding': 'dense', 'parameters': 2,
                    'nonzero_parameters': 2, 'bytes': {'biases': 8}, 'total': 8, 'dense_bytes': 8}]}
    """
    tensors = [
        entry._asdict() | {"shape": list(entry.shape), "total": entry.total, "dense_bytes": entry.dense_bytes}
        for entry in ledger.entries
    ]
    totals = {"bytes": ledger.total, "dense_bytes": ledger.dense_bytes, "ratio": ledger.ratio}
    return {**totals, "by_kind": ledger.by_kind(), "tensors": tensors}


def named_entries(ledger: Ledger, most: int) -> list[tuple[str, dict[str, int]]]:
    """Names and bytes by kind, in the file's order; all but the `most` largest are summed up in a last one.

    Example:
      >>> entries = [Entry(f"w{n}", (n,), "float32", "dense", n, n, {"biases": n}) for n in (1, 3, 2)]
      >>> named_entries(Ledger(tuple(entries)), most=2)
      [('w1', {'biases': 1}), ('w3', {'biases': 3}), ('w2', {'biases': 2})]
      >>> named_entries(Ledger((*entries, entries[0])), most=2)
      [('w3', {'biases': 3}), ('w2', {'biases': 2}), ('2 smaller ones', {'biases': 2})]
    """
    entries = [entry for entry in ledger.entries if entry.path or entry.total]
    # Ties keep the order of the file, so equal files give equal reports.
    by_size = sorted(range(len(entries)), key=lambda i: (-entries[i].total, i))
    # One more entry costs as much room as the row that would sum it up.
    shown = set(by_size if len(entries) <= most + 1 else by_size[:most])
    named = [(_name(e), _ordered(e.bytes)) for i, e in enumerate(entries) if i in shown]
    if smaller := [e for i, e in enumerate(entries) if i not in shown]:
        named.append((f"{len(smaller)} smaller ones", Ledger(tuple(smaller)).by_kind()))
    return [(formats.shorten(name, _NAME), kinds) for name, kinds in named]


def bits_per_kept(entries: Sequence[Entry], kinds: Sequence[str]) -> str:
    """Bits of these kinds for each weight that is not zero, over the entries that have values; `-` without any.

    Example:
      >>> kernel = Entry("w", (10, 10), "float32", "sparse", 100, 16, {"values": 64, "gaps": 10, "filler": 2})
      >>> bits_per_kept([kernel], ("values",)), bits_per_kept([kernel], ("codebook",))
      ('32.00', '-')
    """
    valued = [entry for entry in entries if entry.bytes.get("values")]
    nonzero = sum(entry.nonzero_parameters for entry in valued)
    spent = sum(entry.bytes.get(kind, 0) for entry in valued for kind in kinds)
    return f"{8 * spent / nonzero:.2f}" if nonzero and spent else "-"


def times(dense: float, packed: float) -> str:
    """How many times smaller; `-` where there is nothing to compare.

    Example:
      >>> times(1066440, 26661), times(4, 16), times(4096, 1), times(0, 16)
      ('40.0', '0.25', '4,096', '-')
    """
    if not (dense and packed):
        return "-"
    ratio = dense / packed
    return f"{ratio:.2f}" if ratio < 0.995 else f"{ratio:.1f}" if ratio < 999.5 else formats.integer(ratio)


def share(part: float, total: float) -> str:
    """The share in percent, to a tenth of a point; `-` of nothing.

    Example:
      >>> share(1, 3), share(1, 10_000), share(0, 0)
      ('33.3%', '<0.1%', '-')
    """
    if not total:
        return "-"
    return "<0.1%" if 0 < part / total < 0.0005 else f"{100 * part / total:.1f}%"


def _name(entry: Entry) -> str:
    """The path, without what a terminal would obey: anybody may have written the file."""
    return "".join(c if c.isprintable() else "?" for c in entry.path) or _FILE


def _ordered(kinds: dict[str, int]) -> dict[str, int]:
    return {kind: kinds[kind] for kind in KINDS if kinds.get(kind)}


def _same(texts: Iterable[str]) -> str:
    """What all of them are; empty where they differ."""
    distinct = set(texts)
    return distinct.pop() if len(distinct) == 1 else ""


def ledger_bars(ledger: Ledger, width: int = 80, ascii_only: bool = False) -> rich.text.Text:
    """The same picture in characters: a line for the kinds, then one for each tensor; colors where there are any.

    Args:
      ledger: of the file.
      width: columns of the terminal, at least 40.
      ascii_only: draw with ASCII characters.

    Returns:
      Lines of at most `width` columns. A bar's length is the tensor's bytes, by the largest tensor; it is divided
      among its kinds by largest remainders, and what is too small for a character has a thin stroke.

    Example:
      >>> from jopt.codec.ledger import Entry
      >>> kernel = Entry("Dense_0/kernel", (64, 10), "float32", "", 640, 64, {"values": 96, "gaps": 32})
      >>> bias = Entry("Dense_0/bias", (10,), "float32", "", 10, 10, {"biases": 40})
      >>> print(ledger_bars(Ledger((kernel, bias)), width=50).plain)
      █ values 57.1%  ▓ gaps 19.0%  ■ biases 23.8%
      Dense_0/kernel ████████████████▓▓▓▓▓  128 B  76.2%
      Dense_0/bias   ■■■■■■■                 40 B  23.8%
    """
    rows, kinds = named_entries(ledger, _MOST), ledger.by_kind()
    ends = [f"{formats.binary(sum(k.values()))}  {share(sum(k.values()), ledger.total):>5}" for _, k in rows]
    last = max(map(len, ends), default=0)
    # Half of the width is left for the bars, however long the names are.
    column = min(max((len(name) for name, _ in rows), default=0), (width - last) // 2)
    room = max(width - last - column - 3, 1)
    largest = max((sum(k.values()) for _, k in rows), default=0)
    bars = _key(kinds, ledger.total, width, ascii_only)
    for end, (name, amounts) in zip(ends, rows, strict=True):
        bars.append(f"\n{_cut(name, column, ascii_only):<{column}} ")
        bar = _bar(amounts, room * sum(amounts.values()) / max(largest, 1), ascii_only)
        bars.append_text(bar)
        bars.append(f"{'':<{room - len(bar)}}  {end:>{last}}")
    return bars


def _cut(name: str, width: int, ascii_only: bool) -> str:
    name = formats.printable(name)
    if not ascii_only:
        return formats.shorten(name, width)
    return formats.shorten(name, width).replace("…", "~").encode("ascii", "replace").decode()


def _key(kinds: dict[str, int], total: int, width: int, ascii_only: bool) -> rich.text.Text:
    import rich.text

    key, used = rich.text.Text(), 0
    for kind, n in kinds.items():
        look = _LOOKS[kind]
        text = f" {kind} {share(n, total)}"
        gap = "" if not used else "  " if used + len(text) + 3 <= width else "\n"
        used = (0 if gap == "\n" else used + len(gap)) + len(text) + 1
        key.append(gap).append(look.ascii if ascii_only else look.glyph, style=look.color).append(text)
    return key


def _bar(amounts: dict[str, int], length: float, ascii_only: bool) -> rich.text.Text:
    import rich.text

    bar = rich.text.Text()
    total, cells = sum(amounts.values()), round(length)
    if total and not cells:
        kind = max(amounts, key=lambda k: amounts[k])
        return bar.append("|" if ascii_only else "▏", style=_LOOKS[kind].color)
    for kind, n in _apportion(amounts, cells).items():
        look = _LOOKS[kind]
        bar.append((look.ascii if ascii_only else look.glyph) * n, style=look.color)
    return bar


def _apportion(amounts: dict[str, int], cells: int) -> dict[str, int]:
    """Whole cells in proportion to the amounts, by largest remainders; their sum is `cells`.

    Example:
      >>> _apportion({"values": 5, "gaps": 3, "header": 2}, 4)
      {'values': 2, 'gaps': 1, 'header': 1}
    """
    total = sum(amounts.values())
    exact = {kind: cells * n / total for kind, n in amounts.items()} if total else {}
    counts = {kind: int(n) for kind, n in exact.items()}
    # Rounding each share by itself would make bars of different lengths for equal bytes.
    for kind in sorted(exact, key=lambda k: counts[k] - exact[k])[: cells - sum(counts.values())]:
        counts[kind] += 1
    return counts
