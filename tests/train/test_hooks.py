"""The hooks of a run: every row reaches them once, and a run that they stop is resumed to the same bits."""

import json
import sys
import types
from pathlib import Path

import pytest
from tiny import smallest_experiment, tiny_ablation

from jopt import ablate
from jopt.ablate.budget import Knob, Search, search
from jopt.train import Result, StopRequested, metrics, run

pytestmark = [pytest.mark.unoptimized, pytest.mark.usefixtures("undrawn")]

CONFIG = smallest_experiment(epochs=4, checkpoint_every=3)
DOCUMENT = Path(__file__).parents[2] / "docs" / "hooks.md"


def manifest(path):
    return json.loads((path / "manifest.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stops: its result, and the rows that its hook got."""
    rows: list[metrics.MetricsRow] = []
    path = tmp_path_factory.mktemp("runs") / "whole"
    return run(CONFIG, path, on_rows=rows.extend), rows


def test_every_row_reaches_the_hook_once_it_is_written(whole):
    result, rows = whole
    assert rows == metrics.read(result.workdir / "metrics.jsonl")
    assert {row["split"] for row in rows} == {"train", "validation", "test"}


def test_a_run_that_a_hook_stops_says_so_and_resumes_to_the_same_bits(whole, tmp_path):
    result, rows = whole
    told: list[metrics.MetricsRow] = []
    decided: list[list[metrics.MetricsRow]] = []

    def should_stop(rows):
        decided.append(rows)
        return any(row["split"] == "validation" and row["step"] >= 8 for row in rows)

    with pytest.raises(StopRequested):
        run(CONFIG, tmp_path / "run", on_rows=told.extend, should_stop=should_stop)
    # Before the first step there are none; the rows that decide are those of the boundary alone.
    assert decided[0] == [] and [row for latest in decided for row in latest] == told
    assert {row["step"] for row in decided[-1]} == {8}
    assert manifest(tmp_path / "run")["exit_status"] == "stopped"
    assert not (tmp_path / "run" / "result.json").exists()
    # Where the config asks for no checkpoint there is one all the same.
    resumed = run(CONFIG, tmp_path / "run", on_rows=told.extend)
    assert resumed["digest"] == result["digest"]
    assert metrics.without_timing(told) == metrics.without_timing(rows)
    assert manifest(tmp_path / "run")["exit_status"] == "finished"
    # A finished run is answered: nothing is computed, so nobody is told or asked.
    assert run(CONFIG, tmp_path / "run", on_rows=told.clear, should_stop=lambda rows: True) == resumed


def test_a_run_that_is_stopped_before_its_first_step_leaves_nothing(tmp_path):
    with pytest.raises(StopRequested):
        run(CONFIG, tmp_path / "run", should_stop=lambda rows: True)
    assert not list(tmp_path.iterdir())


def test_what_a_hook_raises_ends_the_run_as_failed(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(CONFIG, tmp_path / "run", on_rows=lambda rows: 1 // 0)
    assert manifest(tmp_path / "run")["exit_status"] == "failed"


def test_a_grid_tells_the_trial_of_each_row_and_is_stopped_by_them(tmp_path):
    grid = tiny_ablation()
    rows: list[metrics.MetricsRow] = []
    with pytest.raises(StopRequested):
        ablate.run(grid, tmp_path, devices=1, on_rows=rows.extend, should_stop=lambda rows: len(rows) > 0)
    assert manifest(tmp_path)["exit_status"] == "stopped" and {row["step"] for row in rows} == {4}
    results = ablate.run(grid, tmp_path, devices=1, on_rows=rows.extend)
    # All rows of a trial, in order, are its curves.
    for trial in results.trials:
        told = [row for row in rows if row["trial"] == trial["trial"]]
        assert told == [row for row in results.curves if row["trial"] == trial["trial"]] and len(told) == 4


def test_a_search_tells_the_round_of_each_row_and_is_stopped_by_them(tmp_path):
    config = Search(
        experiment=smallest_experiment(epochs=1), knobs=(Knob(ablate.axis("optimizer.learning_rate", (0.1, 0.2))),)
    )
    rows: list[metrics.MetricsRow] = []
    with pytest.raises(StopRequested):
        search(
            config, tmp_path / "s", "accuracy_drop<9", on_rows=rows.extend, should_stop=lambda rows: len(rows) > 0
        )
    assert rows and all(row["round"] == "round_0" and "trial" in row for row in rows)
    assert manifest(tmp_path / "s")["exit_status"] == "stopped"


def test_a_result_is_the_dictionary_with_its_history_and_its_figures(whole):
    result, rows = whole
    fields = json.loads((result.workdir / "result.json").read_text())
    del fields["checksums"]
    assert isinstance(result, Result) and result == fields == json.loads(json.dumps(result))
    assert result.history == rows
    assert list(result.figures) == ["learning_curves", "bytes"]
    assert repr(result).startswith("Result({'accuracy': ") and len(repr(result)) < 400
    assert f"<caption>{result.workdir}" in result._repr_html_()
    again = run(CONFIG, result.workdir)
    assert isinstance(again, Result) and again == result and again.history == rows


def test_a_notebook_displays_a_figure(whole, monkeypatch):
    import plotly.io

    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    (bundle,) = whole[0].figures["learning_curves"]._repr_mimebundle_().values()
    assert len(bundle["data"]) == len(whole[0].figures["learning_curves"].traces)


class Trial:
    """What the example of the documents asks of a trial of Optuna."""

    number = 7

    def __init__(self, steps):
        self.steps, self.reported = steps, {}

    def suggest_float(self, name, low, high, *, log):
        assert low < high and log
        return low

    def report(self, value, step):
        self.reported[step] = value

    def should_prune(self):
        return len(self.reported) >= self.steps


def test_the_loop_of_the_document_prunes_and_finishes(tmp_path, monkeypatch):
    """Optuna is no dependency: its three calls are those of its documentation."""

    class TrialPruned(Exception):
        pass

    monkeypatch.setitem(sys.modules, "optuna", types.SimpleNamespace(TrialPruned=TrialPruned, Trial=Trial))
    monkeypatch.setitem(sys.modules, "my_config", types.SimpleNamespace(get_config=lambda: CONFIG))
    monkeypatch.chdir(tmp_path)
    (block,) = [b.partition("```")[0] for b in DOCUMENT.read_text().split("```python\n")[1:]]
    space: dict = {}
    exec(compile(block, DOCUMENT.name, "exec"), space)
    pruned, finished = Trial(2), Trial(99)
    with pytest.raises(TrialPruned):
        space["objective"](pruned)
    assert manifest(tmp_path / "runs" / "7")["exit_status"] == "stopped" and len(pruned.reported) == 2
    value = space["objective"](finished)
    assert value == finished.reported[max(finished.reported)] and len(finished.reported) == 2
