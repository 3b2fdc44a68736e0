"""A picture of where the bytes of a packed file go: a stacked bar for each tensor, drawn or in characters."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jopt.codec.ledger import KINDS, Ledger
from jopt.report import canvas, formats
from jopt.report.canvas import BEFORE, INK, PALETTE, QUIET
from jopt.report.ledger import ledger_headline, named_entries, share

if TYPE_CHECKING:
    import rich.text
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Look(NamedTuple):
    """How a kind is drawn: its color, and its character where there may be no color, or ASCII alone."""

    color: str
    glyph: str
    ascii: str


# Gaps and filler, which stand side by side and belong together, are the two warm colors, apart in lightness too.
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
_MOST = 24
_ROW = 0.21  # inches


def ledger_figure(ledger: Ledger, title: str = "") -> Figure:
    """Where the bytes go: a bar for the whole file, and one for each tensor, stacked by kind.

    Args:
      ledger: of the file.
      title: above the bars; without one, what `ledger_headline` says.

    Returns:
      A figure with the tensors in the file's order; beyond 24 the smaller ones share a bar. At a bar's end stand
      its bytes and its share of the file; the legend tells the same of each kind.
    """
    rows, kinds = named_entries(ledger, _MOST), ledger.by_kind()
    lines = -(-len(kinds) // 3)
    height = _ROW * (len(rows) + 1.2 + lines) + 1.0
    figure = canvas.new_figure(7.6, height)
    whole, axis = figure.subplots(2, 1, height_ratios=[1.2, max(len(rows), 1)])
    _stack(whole, [("whole file", kinds)], ledger.total)
    whole.set_xlim(0, max(ledger.total, 1))
    whole.set_xticks([])
    whole.spines[["left", "bottom"]].set_visible(False)
    _stack(axis, rows, ledger.total, labels=True)
    largest = max((sum(k.values()) for _, k in rows), default=0)
    axis.set_xlim(0, 1.22 * max(largest, 1))
    axis.set_xticks(_ticks(largest))
    axis.xaxis.set_major_formatter(lambda x, _: formats.binary(x))
    # What a bar cannot show: many kinds are thinner than a line.
    handles, names = whole.get_legend_handles_labels()
    texts = [f"{k}  {formats.binary(kinds[k])} ({share(kinds[k], ledger.total)})" for k in names]
    figure.legend(
        handles, texts, loc="outside lower left", frameon=False, fontsize=8, labelcolor=INK, ncols=3,
        handlelength=1.2, columnspacing=1.6,
    )  # fmt: skip
    canvas.title(figure, title or ledger_headline(ledger))
    return figure


def _stack(axis: Axes, rows: list[tuple[str, dict[str, int]]], total: int, labels: bool = False) -> None:
    canvas.plain_axes(axis, grid="x")
    starts = [0] * len(rows)
    for kind in KINDS:
        present = [(k, kinds[kind]) for k, (_, kinds) in enumerate(rows) if kinds.get(kind)]
        if not present:
            continue
        axis.barh(
            [k for k, _ in present], [n for _, n in present], left=[starts[k] for k, _ in present], height=0.74,
            color=_LOOKS[kind].color, edgecolor="white", linewidth=0.3, label=kind,
        )  # fmt: skip
        for k, n in present:
            starts[k] += n
    for k, end in enumerate(starts if labels else ()):
        text = f"{formats.binary(end)}, {share(end, total)}"
        axis.annotate(text, (end, k), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7, color=INK)
    axis.set_ylim(max(len(rows), 1) - 0.45, -0.55)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.tick_params(axis="y", length=0, labelsize=7.5)


def _ticks(largest: int) -> list[int]:
    """At most five multiples of a power of two, and 0: they are round in binary units.

    Example:
      >>> _ticks(1_180_000)
      [0, 262144, 524288, 786432, 1048576]
    """
    step = next(1 << n for n in range(largest.bit_length() + 1) if largest <= 5 << n)
    return list(range(0, largest + 1, step))


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
    column = min(max((len(name) for name, _ in rows), default=0), (width - last) // 2)
    room = max(width - last - column - 3, 1)
    largest = max((sum(k.values()) for _, k in rows), default=0)
    out = _key(kinds, ledger.total, width, ascii_only)
    for end, (name, amounts) in zip(ends, rows, strict=True):
        out.append(f"\n{_cut(name, column, ascii_only):<{column}} ")
        bar = _bar(amounts, room * sum(amounts.values()) / max(largest, 1), ascii_only)
        out.append_text(bar)
        out.append(f"{'':<{room - len(bar)}}  {end:>{last}}")
    return out


def _cut(name: str, width: int, ascii_only: bool) -> str:
    if not ascii_only:
        return formats.shorten(name, width)
    return formats.shorten(name, width).replace("…", "~").encode("ascii", "replace").decode()


def _key(kinds: dict[str, int], total: int, width: int, ascii_only: bool) -> rich.text.Text:
    import rich.text

    out, used = rich.text.Text(), 0
    for kind, n in kinds.items():
        look = _LOOKS[kind]
        text = f" {kind} {share(n, total)}"
        gap = "" if not used else "  " if used + len(text) + 3 <= width else "\n"
        used = (0 if gap == "\n" else used + len(gap)) + len(text) + 1
        out.append(gap).append(look.ascii if ascii_only else look.glyph, style=look.color).append(text)
    return out


def _bar(amounts: dict[str, int], length: float, ascii_only: bool) -> rich.text.Text:
    import rich.text

    out = rich.text.Text()
    total, cells = sum(amounts.values()), round(length)
    if total and not cells:
        kind = max(amounts, key=lambda k: amounts[k])
        return out.append("|" if ascii_only else "▏", style=_LOOKS[kind].color)
    for kind, n in _apportion(amounts, cells).items():
        look = _LOOKS[kind]
        out.append((look.ascii if ascii_only else look.glyph) * n, style=look.color)
    return out


def _apportion(amounts: dict[str, int], cells: int) -> dict[str, int]:
    """Whole cells in proportion to the amounts, by largest remainders; their sum is `cells`.

    Example:
      >>> _apportion({"values": 5, "gaps": 3, "header": 2}, 4)
      {'values': 2, 'gaps': 1, 'header': 1}
    """
    total = sum(amounts.values())
    exact = {kind: cells * n / total for kind, n in amounts.items()} if total else {}
    out = {kind: int(n) for kind, n in exact.items()}
    for kind in sorted(exact, key=lambda k: out[k] - exact[k])[: cells - sum(out.values())]:
        out[kind] += 1
    return out
