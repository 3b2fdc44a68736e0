import io

import numpy as np
import pytest
import rich.console

from jopt.measure import layers
from jopt.report import model_table, plan_table, result_table, results_table, show, to_markdown, to_rich
from jopt.rules import plan

PARAMS = {
    "Conv_0": {"bias": np.zeros(4, np.float32), "kernel": np.ones((3, 3, 1, 4), np.float32)},
    "Dense_0": {"bias": np.zeros(10, np.float32), "kernel": np.ones((64, 10), np.float32)},
}
RESULT = {
    "accuracy": 0.9712,
    "loss": 0.0913,
    "parameters": 266610,
    "bytes": 1066440,
    "flops": 532000,
    "wall_seconds": 75.3,
    "digest": "0123456789abcdef" * 4,
    "nested": {"not": "shown"},
}


def render(table, width=80):
    stream = io.StringIO()
    show(table, rich.console.Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def test_model_table():
    table = model_table(layers(PARAMS), {"Conv_0": 4608, "Dense_0": 1280, "": 12})
    assert table.header == ("parameter", "shape", "dtype", "count", "share", "FLOPs")
    assert table.rows[1] == ("Conv_0/kernel", "3x3x1x4", "float32", "36", "5.2%", "4.61 k")
    assert [row[-1] for row in table.rows] == ["", "4.61 k", "", "1.28 k", "12"]
    assert table.footer == ("total", "", "", "690", "100.0%", "5.90 k")


def test_model_table_shows_nonzeros_of_a_pruned_model_only():
    pruned = {"Dense_0": {"kernel": np.eye(4, dtype=np.float32)}}
    assert "nonzero" not in model_table(layers(PARAMS)).header
    table = model_table(layers(pruned))
    assert dict(zip(table.header, table.rows[0], strict=True))["nonzero"] == "4"


def test_empty_model():
    assert model_table([]).footer[3] == "0"
    assert render(model_table([]))


def test_result_table():
    assert result_table(RESULT).rows == [
        ("accuracy", "97.12%"),
        ("loss", "0.0913"),
        ("parameters", "266,610"),
        ("bytes", "1,066,440 (1.02 MiB)"),
        ("FLOPs", "532,000"),
        ("wall time", "1 min 15 s"),
        ("digest", RESULT["digest"][:12] + "…" + RESULT["digest"][-12:]),
    ]


def test_results_table_leaves_out_what_no_run_has():
    table = results_table({"dense": RESULT, "other": {"accuracy": 0.5}})
    assert table.header == ("run", "accuracy", "loss", "bytes", "FLOPs")
    assert table.rows[1] == ("other", "50.00%", "-", "-", "-")


def test_plan_table_of_several_plans():
    sparsity = plan([(".*kernel", 0.9)], PARAMS, None)
    bits = plan([("Conv_0/.*", 4)], PARAMS, 8)
    table = plan_table({"sparsity": sparsity, "bits": bits})
    assert table.header == ("parameter", "sparsity", "bits")
    assert table.rows[1] == ("Conv_0/kernel", "0.9", "4")
    with pytest.raises(ValueError, match="one tree"):
        plan_table({"a": sparsity, "b": sparsity[::-1]})


def test_80_columns_hold_every_number():
    wide = {"ResNetBlock_11": {"ConvolutionWithQuiteALongName_0": {"kernel": np.eye(1500, dtype=np.float32)}}}
    text = render(model_table(layers(wide), {"ResNetBlock_11/ConvolutionWithQuiteALongName_0": 10**10}))
    assert max(map(len, text.splitlines())) <= 80
    assert all(number in text for number in ("2,250,000", "1,500", "10.0 G", "100.0%"))
    assert "\x1b" not in text


def test_show_writes_no_markup_of_its_own_and_eats_none(capsys):
    show(result_table({"name": "[bold]x[/bold]"}))
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_ascii_terminals_can_show_every_table():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    rich.console.Console(file=stream, width=80).print(to_rich(model_table(layers(PARAMS))))
    stream.flush()


def test_markdown_has_one_cell_for_each_column():
    text = to_markdown(plan_table({"x": plan([("(Conv_0|Dense_0)/.*", "a|b")], PARAMS, None)}))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {4}
