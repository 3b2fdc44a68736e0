"""The tables of a grid come before its report, which a later launch writes again."""

import json
import shutil

import pytest
from directories import tables
from tiny import smallest_experiment

from jopt.ablate import run
from jopt.measure import Column
from jopt.report.observer import Silent

pytestmark = pytest.mark.unoptimized


class Heard(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, sentence):
        self.warnings.append(sentence)

    def finished(self, parts):
        parts()
        raise BrokenPipeError(32, "Broken pipe")


def test_a_report_or_a_console_that_fails_is_a_warning_and_the_tables_are_there(first, grid, tmp_path):
    whole, results = first
    path = shutil.copytree(whole, tmp_path / "grid")
    for name in ("trials.csv", "report.html"):
        (path / name).unlink()
    (path / "report.html").mkdir()
    heard = Heard()
    assert run(grid(), path, devices=1, observer=heard).trials == results.trials
    assert len(heard.warnings) == 2 and "report.html" in heard.warnings[0]
    assert tables(path) == tables(whole)
    assert json.loads((path / "manifest.json").read_text())["exit_status"] == "finished"
    (path / "report.html").rmdir()
    run(grid(), path, devices=1)
    assert (path / "report.html").is_file()


HERS = Column("hers", "of no layer", compute=lambda measured: measured.outcome.params["absent"])


def test_a_column_that_fails_is_empty_and_one_warning(tmp_path, grid):
    heard = Heard()
    config = grid(experiment=smallest_experiment(columns=(f"{__name__}:HERS",), pack=False))
    results = run(config, tmp_path / "grid", devices=1, observer=heard)
    assert {(row["status"], row["hers"]) for row in results.trials} == {("finished", None)}
    assert len(results.trials) > 1 and all(row["accuracy"] is not None for row in results.trials)
    hers = [warning for warning in heard.warnings if "'hers'" in warning]
    assert len(hers) == 1 and "KeyError" in hers[0]
    assert "hers" in (tmp_path / "grid" / "trials.csv").read_text().splitlines()[0]
    assert (tmp_path / "grid" / "report.html").is_file()
