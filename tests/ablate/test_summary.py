"""The summary: a row a point, its verdict, its file."""

import csv
import math

import numpy as np
import pytest
from ablate_cases import results
from scipy import stats

from jopt.ablate import findings, summary
from jopt.ablate.paired import holm
from jopt.ablate.results import OUTCOMES, read_csv, to_csv, write_csv
from jopt.config import ConfigError

GAIN = {2: -0.2, 4: 0.0, 8: 0.15}


def accuracy(seed, bits=8, **point):
    """Seeds differ by far more than the bits do, but for what the gain says."""
    noise = np.random.default_rng([seed, bits, len(point)]).normal()
    return 0.5 + 0.03 * seed + GAIN[bits] + 0.003 * noise


@pytest.fixture(scope="module")
def summarized():
    grid_results = results({"bits": (2, 4, 8)}, accuracy, control={"bits": 4})
    return grid_results, summary.summarize(grid_results)


def test_a_row_a_point_by_scipy(summarized):
    grid_results, rows = summarized
    assert [row["bits"] for row in rows] == [2, 4, 8]
    assert all(list(row) == summary.columns(["bits"]) for row in rows)
    values = {bits: [accuracy(seed, bits) for seed in range(5)] for bits in GAIN}
    for row in rows:
        x, control = values[row["bits"]], values[4]
        assert (row["n"], row["diverged"]) == (5, 0)
        assert row["accuracy_mean"] == pytest.approx(np.mean(x)) and row["accuracy_sd"] == pytest.approx(
            np.std(x, ddof=1)
        )
        ends = stats.ttest_1samp(x, 0).confidence_interval()
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(tuple(ends))
        assert row["accuracy_low"] < row["accuracy_boot_low"] < row["accuracy_mean"] < row["accuracy_boot_high"]
        assert row["accuracy_iqm"] == pytest.approx(np.mean(sorted(x)[1:4]))
        assert row["accuracy_iqm_low"] <= row["accuracy_iqm"] <= row["accuracy_iqm_high"]
        if row["bits"] == 4:
            assert row["verdict"] == "control" and row["difference"] is None and row["p_holm"] is None
            continue
        reference = stats.ttest_rel(x, control)
        assert row["p_t"] == pytest.approx(reference.pvalue) and row["p_exact"] == 0.0625
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(
            tuple(reference.confidence_interval())
        )
        adjusted = tuple(reference.confidence_interval(1 - 0.05 / 2))
        assert (row["difference_low_adjusted"], row["difference_high_adjusted"]) == pytest.approx(adjusted)
        assert row["flags"] == "exact p >= 0.0625"
    assert [row["verdict"] for row in rows] == ["worse", "control", "better"]
    assert [rows[0]["p_holm"], rows[2]["p_holm"]] == pytest.approx(holm([rows[0]["p_t"], rows[2]["p_t"]]))
    text = findings.sentences(grid_results, rows)
    assert "better 1, worse 1, undecided 0" in text[1] and "(bits=4)" in text[1]
    assert any("no exact test can give a p below 0.0625" in line for line in text)


def test_every_outcome_has_a_mean_and_an_sd(summarized):
    assert {f"{name}_{suffix}" for name in OUTCOMES for suffix in ("mean", "sd")} <= set(summarized[1][0])
    assert summarized[1][0]["theoretical_bytes_sd"] == 0.0


def test_the_file_is_the_same_each_time_and_gives_the_rows_back(summarized, tmp_path):
    grid_results, rows = summarized
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    write_csv(first, rows)
    write_csv(second, summary.summarize(grid_results._replace(trials=list(reversed(grid_results.trials))[::-1])))
    assert first.read_bytes() == second.read_bytes()
    assert read_csv(first) == [{k: None if v == "" else v for k, v in row.items()} for row in rows]
    assert first.read_text().splitlines()[0].startswith("bits,n,diverged,accuracy_mean,")


def test_csv_edges(tmp_path):
    rows = [{"a": 0.1 + 0.2, "b": 'x, "y"\nz', "c": True, "d": math.inf, "e": None, "id": "12e456789012"}]
    rows.append({"a": np.float64(-0.0), "b": "", "c": False, "d": 1e-300, "e": 10**30, "id": "000000000001"})
    write_csv(tmp_path / "t.csv", rows)
    back = read_csv(tmp_path / "t.csv", text=("id", "b"))
    assert back == rows and math.copysign(1, back[1]["a"]) == -1.0
    write_csv(tmp_path / "t.csv", [], columns=["a", "b"])
    assert (tmp_path / "t.csv").read_text() == "a,b\n" and read_csv(tmp_path / "t.csv") == []
    with pytest.raises(ConfigError, match="rows of the columns a"):
        to_csv([{"a": 1}, {"b": 2}])


def test_text_that_a_spreadsheet_would_run_is_text_and_reads_back(tmp_path):
    texts = [
        "=1+1",
        "+x",
        "-",
        "-1",
        "@a",
        "\t=",
        "\r=",
        "'=1",
        "''-",
        "'quoted'",
        "a=b",
        "=cmd|' /C calc'!A0",
        "1,\n=2",
    ]
    rows = [{"=name": text, "label": text, "n": -0.5} for text in texts]
    write_csv(tmp_path / "t.csv", rows)
    assert read_csv(tmp_path / "t.csv", text=("=name",)) == rows
    with (tmp_path / "t.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row if cell != "-0.5"]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]


def test_a_partial_control_pairs_each_point_with_its_own():
    def accuracy_of(seed, bits, size):
        return accuracy(seed, bits) + (0.1 if size == "large" else 0.0)

    rows = summary.summarize(
        results({"bits": (4, 8), "size": ("small", "large")}, accuracy_of, control={"bits": 4})
    )
    assert [row["verdict"] for row in rows] == ["control", "control", "better", "better"]
    # The gain of the size is in neither difference, and only two comparisons are made.
    assert [rows[2]["difference"], rows[3]["difference"]] == pytest.approx([0.15, 0.15], abs=0.01)
    width = (rows[2]["difference_high_adjusted"] - rows[2]["difference_low_adjusted"]) / (
        rows[2]["difference_high"] - rows[2]["difference_low"]
    )
    assert width == pytest.approx(stats.t.ppf(1 - 0.05 / 4, 4) / stats.t.ppf(0.975, 4))


def test_a_point_without_its_control_is_flagged():
    points = [{"bits": 4, "size": "small"}, {"bits": 8, "size": "small"}, {"bits": 8, "size": "large"}]
    axes = {"bits": (4, 8), "size": ("small", "large")}
    rows = summary.summarize(results(axes, accuracy, points=points, control={"bits": 4}))
    assert [row["verdict"] for row in rows] == ["control", "better", None]
    assert "no control" in rows[2]["flags"]


@pytest.mark.parametrize("control", [{"bits": 3}, {"bit": 4}, {"bits": 4, "size": "small"}])
def test_a_control_that_is_not_in_the_grid(control):
    with pytest.raises(ConfigError) as caught:
        summary.summarize(results({"bits": (4, 8)}, accuracy, control=control))
    assert caught.value.field == "control"


def test_without_a_control_nothing_is_compared():
    grid_results = results({"bits": (4, 8)}, accuracy)
    rows = summary.summarize(grid_results)
    assert all(row["verdict"] is None and row["difference"] is None and row["flags"] == "" for row in rows)
    assert findings.sentences(grid_results, rows)[1] == "No control is named: no point is called better or worse."


def test_a_point_with_a_diverged_trial_is_never_better():
    def accuracy_of(seed, bits):
        return None if bits == 8 and seed == 2 else accuracy(seed, bits)

    grid_results = results({"bits": (2, 4, 8)}, accuracy_of, seeds=range(10), control={"bits": 4})
    row = summary.summarize(grid_results)[2]
    assert row["n"] == 9 and row["diverged"] == 1 and row["verdict"] == "diverged"
    assert row["difference_low_adjusted"] > 0, "what the seeds that are left would say"
    assert row["flags"] == "1 diverged; 9 pairs"
    assert row["accuracy_mean"] == pytest.approx(np.mean([accuracy(s, 8) for s in range(10) if s != 2]))
    best = summary.best(grid_results)
    assert best.index == 1 and best.compared == 2, "the highest mean is that of 8 bits"
    assert any("1 of 30 trials diverged, in 1 of 3 points" in line for line in findings.sentences(grid_results))


def test_nothing_is_better_than_a_control_that_diverged():
    def accuracy_of(seed, bits):
        return None if bits == 4 and seed == 2 else accuracy(seed, bits)

    rows = summary.summarize(results({"bits": (4, 8)}, accuracy_of, seeds=range(10), control={"bits": 4}))
    assert rows[1]["verdict"] == "undecided" and rows[1]["flags"] == "control: 1 diverged; 9 pairs"
    assert rows[0]["verdict"] == "control" and "1 diverged" in rows[0]["flags"]


def test_a_point_of_which_nothing_is_left():
    def accuracy_of(seed, bits):
        return None if bits == 8 else accuracy(seed, bits)

    grid_results = results({"bits": (4, 8)}, accuracy_of, control={"bits": 4})
    row = summary.summarize(grid_results)[1]
    assert row["n"] == 0 and row["diverged"] == 5 and row["verdict"] == "diverged"
    assert row["accuracy_mean"] is None and row["difference"] is None and row["p_exact"] is None
    all_gone = results({"bits": (4, 8)}, lambda seed, bits: None, control={"bits": 4})
    assert summary.best(all_gone) == (None, (), 0)
    assert "there is no best one" in " ".join(findings.sentences(all_gone))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_seeds_are_flagged_and_decide_nothing(n):
    grid_results = results({"bits": (4, 8)}, accuracy, seeds=range(n), control={"bits": 4})
    rows = summary.summarize(grid_results)
    assert rows[1]["verdict"] == "too few seeds" and rows[1]["flags"].startswith("n < 5; exact p >=")
    assert (rows[1]["difference_low"] is None) == (n == 1)
    assert summary.best(grid_results).alike == (1, 0)
    assert any(line.startswith("Fewer than 5 seeds") for line in findings.sentences(grid_results, rows))


def test_of_a_loss_less_is_better():
    grid_results = results({"bits": (2, 4, 8)}, accuracy, control={"bits": 4}, metric="loss")
    rows = summary.summarize(grid_results)
    assert [row["verdict"] for row in rows] == ["better", "control", "worse"]
    assert "loss_low" in rows[0] and "accuracy_low" not in rows[0]
    assert summary.best(grid_results).index == 0


@pytest.mark.parametrize("name", ["n", "flags", "accuracy_mean", "verdict"])
def test_an_axis_with_the_name_of_a_column(name):
    with pytest.raises(ConfigError) as caught:
        summary.columns(["bits", name])
    assert caught.value.field == f"the axis {name!r}"


def test_best_and_what_cannot_be_told_apart():
    gain = {0.001: 0.0, 0.01: 0.2, 0.1: 0.2005, 1.0: 0.05}

    def accuracy_of(seed, rate):
        return 0.5 + 0.03 * seed + gain[rate] + 0.003 * np.random.default_rng([seed, int(rate * 1000)]).normal()

    grid_results = results({"rate": tuple(gain)}, accuracy_of, seeds=range(10))
    best = summary.best(grid_results)
    assert set(best.alike) == {1, 2} and best.alike[0] == best.index and best.compared == 4
    line = findings.sentences(grid_results)[0]
    assert "1 other point cannot be distinguished from it" in line
    clear = results({"rate": (0.01, 1.0)}, accuracy_of, seeds=range(10))
    assert summary.best(clear).alike == (0,)
    assert "better than the other one" in findings.sentences(clear)[0]
    single = results({"rate": (0.01,)}, accuracy_of)
    assert summary.best(single) == (0, (0,), 1)


def test_a_hundred_summaries_of_noise_have_a_false_winner_in_at_most_five():
    wrong = lonely = 0
    for grid in range(100):
        noise = np.random.default_rng([3, grid]).binomial(360, 0.95, size=(5, 8)) / 360

        def accuracy_of(seed, point, noise=noise):
            return float(noise[seed, point])

        grid_results = results({"point": range(8)}, accuracy_of, control={"point": 0})

        rows = _verdicts(grid_results)
        wrong += "better" in rows
        lonely += len(summary.best(grid_results).alike) == 1
    print(f"false winners in {wrong} of 100 summaries, a lone best point in {lonely}")
    assert wrong <= 5 and lonely == 0


def _verdicts(grid_results):
    """Those of the summary, without its bootstrap intervals (for the time they take)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary.intervals, "bootstrap_interval", lambda *_: summary.intervals.UNKNOWN)
        return [row["verdict"] for row in summary.summarize(grid_results)]


def test_no_accuracy_above_one():
    def near_one(seed, bits=8, **point):
        return min(1.0, 0.985 + 0.004 * bits * (seed % 2) - 0.03 * (seed == 0))

    rows = summary.summarize(results({"bits": (2, 4, 8)}, near_one, control={"bits": 4}))
    for row in rows:
        x = [near_one(seed, row["bits"]) for seed in range(5)]
        ends = np.clip(stats.ttest_1samp(x, 0).confidence_interval(), 0, 1)
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(tuple(ends))
    assert [row["accuracy_high"] for row in rows][1:] == [1.0, 1.0]
