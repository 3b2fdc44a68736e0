import pytest
from compressed import KINDS, LENET, network, pruned, stages

from jopt import measure, report


def test_stages_table():
    rows = [
        {"stage": "dense", "accuracy": 0.98, "accuracy_change": 0.0, "theoretical_bytes": 2048, "churn": 0.0},
        {
            "stage": "prune",
            "accuracy": 0.97,
            "accuracy_change": -0.01,
            "churn": 0.025,
            "sparsity": 0.9,
            "flops": None,
        },
    ]
    table = report.stages_table(rows)
    assert table.header == ("stage", "test accuracy", "change", "churn", "sparsity", "theoretical size")
    assert table.rows == [
        ("dense", "98.00%", "0.00 pp", "0.00%", "-", "2.00 KiB"),
        ("prune", "97.00%", "-1.00 pp", "2.50%", "90.00%", "-"),
    ]
    brief = report.stages_table(rows, brief=True)
    assert brief.title == "Stages (change: percentage points; size: theoretical)"
    assert brief.rows[1] == ("prune", "97.00%", "-1.00", "2.5%", "90.0%", "-")
    assert report.stages_table([]).rows == [] and report.stages_table([{"stage": "a"}], brief=True).rows == [("a",)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_brief_table_fits_a_terminal_one_line_a_stage(kind, capsys):
    outcomes, labels, flops = stages(kind)
    rows = measure.stage_rows(outcomes, labels, flops)
    report.show(report.stages_table(rows, brief=True))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if "%" in line]) == len(rows)


def test_layers_table():
    dense, small = network(LENET), pruned(network(LENET), 0.9)
    del small["Dense_2"]
    small["Dense_0"]["kernel"] = small["Dense_0"]["kernel"][:, :30]
    before, after = measure.storage(dense), measure.storage(small)
    table = report.layers_table(before, after, {"Dense_1/kernel": 20.04, "Dense_0/kernel": float("inf")})
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert rows["Dense_0/kernel"]["shape"] == "64x300 → 64x30" and rows["Dense_0/kernel"]["SQNR"] == "exact"
    assert rows["Dense_1/kernel"]["nonzero"] == "30,000 → 3,000" and rows["Dense_1/kernel"]["sparsity"] == "90.00%"
    assert rows["Dense_1/kernel"]["SQNR"] == "20.0 dB" and rows["Dense_1/kernel"]["code"] == "sparse"
    assert rows["Dense_0/bias"]["nonzero"] == "300" and rows["Dense_0/bias"]["SQNR"] == "-"
    assert rows["Dense_2/bias"]["shape"] == "10 → -" and rows["Dense_2/bias"]["code"] == "-"
    assert len(table.footer) == len(table.header) and table.footer[2].startswith("50,610 → ")
    assert "SQNR" not in report.layers_table(before, after).header
    assert report.layers_table([], []).footer[2] == "0"


def test_classes_table():
    changes = measure.class_changes([0, 0, 1], [0, 1, 1], [0, 0, 1], 3)
    table = report.classes_table(changes, ["cat", "dog", "owl"])
    assert table.rows[0] == ("cat", "2", "100.00%", "50.00%", "-50.00 pp")
    assert table.rows[2] == ("owl", "0", "-", "-", "-")
    assert table.footer == ("all", "3", "100.00%", "66.67%", "-33.33 pp")
    assert report.classes_table([]).footer == ("all", "0", "-", "-", "-")
