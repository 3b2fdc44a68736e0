"""The tables of a grid come before its report, which a later launch writes again."""

import json
import shutil

import pytest
from directories import tables

from jopt.ablate import run
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
