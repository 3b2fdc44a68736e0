"""Tables, bars and the figure of a ledger: that they add up to the file."""

import json
import re

import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_files import lenet, resnet

from jopt import report
from jopt.codec.ledger import KINDS, Entry, Ledger
from jopt.config import ConfigError
from jopt.report import ledger as tables
from jopt.report.run_figures import binary_ticks

FILES = {"LeNet-300-100": lenet, "ResNet-18": resnet}


@pytest.fixture(params=FILES)
def ledger(request):
    return FILES[request.param]()


def column(table, name):
    place = table.header.index(name)
    return [row[place] for row in table.rows], table.footer[place]


def number(cell):
    return int(cell.replace(",", "")) if cell else 0


def test_each_table_adds_up_to_the_file(ledger):
    kinds, layers, tensors = report.ledger_tables(ledger)
    cells, total = column(kinds, "bytes")
    assert sum(map(number, cells)) == number(total) == ledger.total
    cells, total = column(layers, "bytes")
    assert sum(map(number, cells)) + ledger.entries[0].total == number(total) == ledger.total
    for kind in ledger.by_kind():
        cells, total = column(tensors, kind)
        assert sum(map(number, cells)) == number(total) == ledger.by_kind()[kind]
    for row, entry in zip(tensors.rows, ledger.entries, strict=True):
        assert sum(map(number, row[1:-1])) == number(row[-1]) == entry.total


def test_a_layer_row_by_hand():
    """1,000 of 10,000 weights: 500 B of values are 4 bits each, 625 B of gaps and filler 5; 40,000 / 1,250 = 32."""
    kinds = {"values": 500, "gaps": 600, "filler": 25, "codebook": 64, "tables": 11, "header": 50}
    kernel = Entry("k", (100, 100), "float32", "sparse", 10_000, 1_000, kinds)
    bias = Entry("b", (100,), "float32", "dense", 100, 100, {"biases": 400, "header": 50})
    table = tables.packed_layers_table(Ledger((kernel, bias)))
    assert table.rows[0] == ("k", "100x100", "10,000", "10.0%", "4.00", "5.00", "1,250", "32.0x", "sparse")
    vectors = ("1 that are no weights", "", "100", "100.0%", "-", "-", "450", "0.89x", "dense")
    assert table.rows[1] == vectors
    assert table.footer == ("total", "", "10,100", "10.9%", "4.00", "5.00", "1,700", "23.8x", "")


def test_dtypes_have_a_column_where_they_differ():
    half = Entry("h", (4, 4), "float16", "dense", 16, 16, {"values": 32})
    full = Entry("f", (4, 4), "float32", "dense", 16, 16, {"values": 64})
    assert "dtype" not in tables.packed_layers_table(Ledger((half, half))).header
    both = tables.packed_layers_table(Ledger((half, full)))
    assert column(both, "dtype")[0] == ["float16", "float32"]
    assert column(both, "x smaller") == (["1.0x", "1.0x"], "1.0x")
    assert report.ledger_headline(Ledger((half,))).endswith("in float16")
    assert report.ledger_headline(Ledger((half, full))).endswith("in memory")


def test_what_a_hostile_path_says_to_a_terminal_is_not_said():
    ledger = Ledger((Entry("\x1b[2J\x07w", (2, 2), "float32", "dense", 4, 4, {"values": 16}),))
    shown = [report.to_markdown(t) for t in report.ledger_tables(ledger)] + [report.ledger_bars(ledger).plain]
    assert all("\x1b" not in text and "\x07" not in text for text in shown)


def test_json_is_the_ledger(ledger):
    found = json.loads(json.dumps(report.ledger_json(ledger), allow_nan=False))
    assert (
        found["bytes"]
        == sum(found["by_kind"].values())
        == sum(t["total"] for t in found["tensors"])
        == ledger.total
    )
    assert [tuple(t["shape"]) for t in found["tensors"]] == [e.shape for e in ledger.entries]
    assert [t["bytes"] for t in found["tensors"]] == [e.bytes for e in ledger.entries]


entries = st.builds(
    lambda path, shape, kinds: Entry(path, tuple(shape), "float32", "dense", 8, 4, kinds),
    st.text(max_size=60),
    st.lists(st.integers(0, 4), max_size=4),
    st.dictionaries(st.sampled_from(KINDS), st.integers(1, 1 << 40), max_size=8),
)


@settings(max_examples=25)
@given(st.lists(entries, max_size=32), st.integers(40, 200), st.booleans())
def test_bars_fit_the_terminal(some, width, ascii_only):
    text = report.ledger_bars(Ledger(tuple(some)), width, ascii_only).plain
    assert all(len(line) <= width for line in text.splitlines())
    assert text.isascii() or not ascii_only


@given(st.dictionaries(st.sampled_from(KINDS), st.integers(1, 1 << 40), min_size=1), st.integers(0, 200))
def test_cells_are_apportioned_whole_and_fair(amounts, cells):
    found = tables._apportion(amounts, cells)
    assert sum(found.values()) == cells
    assert all(abs(found[k] - cells * n / sum(amounts.values())) < 1 for k, n in amounts.items())


@given(st.integers(0, 1 << 50))
def test_ticks_are_few_and_within(largest):
    ticks = binary_ticks(largest)
    assert ticks[0] == 0 and ticks[-1] <= largest and len(ticks) <= 6
    assert largest < 2 or len(ticks) >= 3


def test_the_smallest_tensors_share_a_bar_and_no_byte_is_lost(ledger):
    rows = tables.named_entries(ledger, 24)
    assert len(rows) == min(len(ledger.entries), 25)
    assert sum(sum(kinds.values()) for _, kinds in rows) == ledger.total
    if len(rows) == 25:
        assert rows[-1][0] == f"{len(ledger.entries) - 24} smaller ones"
        least = min(sum(kinds.values()) for _, kinds in rows[:-1])
        assert all(e.total <= least for e in ledger.entries if e.path not in dict(rows))


def test_the_bars_of_the_figure_are_the_bytes(ledger):
    figure = report.ledger_figure(ledger)
    go.Figure(figure.to_dict())
    rows = tables.named_entries(ledger, 24)
    whole = {t["legendgroup"]: sum(t["x"]) for t in figure.traces if t["yaxis"] == "y2"}
    by_tensor = {t["legendgroup"]: sum(t["x"]) for t in figure.traces if t["yaxis"] == "y"}
    assert whole == by_tensor == ledger.by_kind()
    ends = [0] * len(rows)
    for trace in figure.traces:
        if trace["yaxis"] == "y":
            for k, n in zip(trace["y"], trace["x"], strict=True):
                ends[k] += n
    assert ends == [sum(kinds.values()) for _, kinds in rows]
    # At each bar's end stand its bytes and its share; the legend has those of each kind.
    assert [a["x"] for a in figure.layout["annotations"]] == ends
    assert all(a["text"].endswith("%") for a in figure.layout["annotations"])
    names = {t["legendgroup"]: t["name"] for t in figure.traces if t["showlegend"]}
    assert list(names) == list(ledger.by_kind()) and all("%" in name for name in names.values())
    assert len(figure.layout["yaxis"]["ticktext"]) == len(rows)


def test_the_kinds_differ_without_color():
    looks = tables._LOOKS
    assert tuple(looks) == KINDS == tuple(tables.MEANINGS)
    for field in ("color", "glyph", "ascii"):
        assert len({getattr(look, field) for look in looks.values()}) == len(KINDS)


def test_the_paper_and_the_file_are_shown_in_turn():
    """Dense_2/kernel: 260 of 1,000 kept in 162 + 151 B are 4.98 and 4.65 bits; 691 B of 4,000 are 17.275%."""
    coded = lenet()
    wider = [e._replace(bytes=e.bytes | {"values": 2 * e.bytes["values"]} if "values" in e.bytes else e.bytes)
             for e in coded.entries]  # fmt: skip
    table = report.paper_table(Ledger(tuple(wider)), coded, "lenet300")
    assert [row[0] for row in table.rows] == [
        "ip1", "Dense_0/kernel", "ip2", "Dense_1/kernel", "ip3", "Dense_2/kernel", "total", "total",
    ]  # fmt: skip
    assert table.rows[4] == ("ip3", "paper", "1K", "26%", "6", "4.3", "5", "3.2", "15.7%", "12.70%")
    mine = ("Dense_2/kernel", "file", "1,000", "26.0%", "9.97", "4.98", "4.65", "4.65", "21.32%", "17.27%")
    assert table.rows[5] == mine
    assert table.rows[7][-1] == f"{100 * coded.total / coded.dense_bytes:.2f}%"
    with pytest.raises(ConfigError) as caught:
        report.paper_table(coded, coded, "lenet5")
    assert (caught.value.field, caught.value.value) == ("paper", "lenet5")
    assert re.findall(r"\d+", caught.value.accepted) == ["3", "4"]  # the file's kernels and the network's


@pytest.mark.parametrize(
    "some",
    [
        (),
        (Entry("", (), "", "", 0, 0, {"header": 16}),),
        (Entry("w", (), "float32", "dense", 1, 0, {"biases": 4}),),
        (Entry("e", (0, 3), "float32", "dense", 0, 0, {"header": 9}),),
        (Entry("huge", (1 << 20, 1 << 20), "float32", "dense", 1 << 40, 1, {k: 1 << 40 for k in KINDS}),),
    ],
    ids=["nothing", "header", "scalar", "empty", "huge"],
)
def test_odd_ledgers_are_shown(some):
    ledger = Ledger(some)
    for table in report.ledger_tables(ledger):
        assert all(len(row) == len(table.header) == len(table.align) for row in [*table.rows, table.footer])
    report.ledger_bars(ledger, 40)
    go.Figure(report.ledger_figure(ledger).to_dict())
