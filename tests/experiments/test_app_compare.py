"""jopt compare: what differs is shown, nothing foreign is replaced, and nobody is told too much."""

import json
import shutil

import pytest

from jopt.report import Table, fit
from jopt.report.differences import change, differing, flatten, summary


def test_two_runs(app, runs, tmp_path):
    done = app("compare", runs / "a", runs / "b", f"--out={tmp_path / 'out'}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["seed", "0", "7"] in lines
    assert ["optimizer.learning_rate", "0.01", "0.003"] in lines
    assert ["stages[0].steps", "None", "9"] in lines
    assert ["last", "step", "12", "9", "-3"] in lines
    assert ["parameters", "660", "660", "equal"] in lines
    assert "carry no uncertainty, and a difference may be seed noise" in " ".join(done.stdout.split())
    assert all(len(line.rstrip()) <= 80 for line in done.stdout.splitlines() if not line.startswith("report: "))
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| seed | 0 | 7 |" in text and "seed noise" in text and "<comparison.html#all_runs>" in text
    assert '<figure id="all_runs">' in (tmp_path / "out" / "comparison.html").read_text()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["comparison.html", "comparison.md"]


def test_unfinished_runs_of_one_name_beside_foreign_files(forked, runs, tmp_path):
    for parent in ("x", "y"):
        shutil.copytree(runs / "a", tmp_path / parent / "a")
    (tmp_path / "x" / "a" / "result.json").unlink()
    for name in ("result.json", "manifest.json", "metrics.jsonl"):
        (tmp_path / "y" / "a" / name).unlink()
    (tmp_path / "comparison").mkdir()
    (tmp_path / "comparison" / "notes.txt").write_text("mine")
    for _ in range(2):  # The second time it replaces its own files.
        done = forked("compare", "x/a", "y/a", runs / "b", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert "x/a has not finished" in done.stdout and "y/a has no manifest.json" in done.stdout
    assert ["status", "unfinished", "unfinished", "finished"] in [line.split() for line in done.stdout.splitlines()]
    assert (tmp_path / "comparison" / "notes.txt").read_text() == "mine"


def test_files_of_somebody_else_are_not_replaced(forked, refused, runs, tmp_path):
    (tmp_path / "comparison.html").write_text("mine")
    done = forked("compare", runs / "a", runs / "b", f"--out={tmp_path}")
    assert "holds comparison.html that this command did not write" in refused(done, 1)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("comparison.html", "mine")]


def test_what_cannot_be_compared_is_refused_before_anything_is_written(forked, refused, runs, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(runs / "a", broken)
    (broken / "manifest.json").write_text("{")
    listed, nested = (shutil.copytree(runs / "a", tmp_path / name) for name in ("listed", "nested"))
    (listed / "result.json").write_text("[]")
    (nested / "config.json").write_text("[" * 100_000)
    (tmp_path / "file").write_text("")
    out = f"--out={tmp_path / 'out'}"
    for args, status, message in [
        ([runs / "a", out], 2, "must be at least two run directories"),
        ([runs / "a", tmp_path, out], 1, "is not a run directory: there is no config.json in it"),
        ([runs / "a", broken, out], 1, "manifest.json cannot be read: Expecting property name"),
        ([runs / "a", listed, out], 1, "result.json holds no JSON object"),
        ([runs / "a", nested, out], 1, "config.json cannot be read"),
        ([runs / "a", runs / "b", f"--out={tmp_path / 'file' / 'out'}"], 1, "cannot be written"),
    ]:
        assert message in refused(forked("compare", *args), status)
    assert not (tmp_path / "out").exists()


DAMAGED = {
    "events[0]": {"manifest.json": {"events": [1]}},
    "events": {"manifest.json": {"events": 5}},
    "events[0].step": {"manifest.json": {"events": [{"differs": {"a": 1}}]}},
    "given": {"manifest.json": {"events": [], "given": 5}},
    "digest": {"result.json": {"digest": [1]}},
}


@pytest.mark.parametrize("field", DAMAGED)
def test_a_field_of_another_type_is_named(forked, refused, runs, tmp_path, field):
    broken = shutil.copytree(runs / "a", tmp_path / "broken")
    ((name, content),) = DAMAGED[field].items()
    (broken / name).write_text(json.dumps(content))
    line = refused(forked("compare", runs / "a", broken, f"--out={tmp_path / 'out'}"), 1)
    assert f"{broken / name} " in line and field in line


def test_a_run_that_went_on_elsewhere_and_one_that_went_on_by_another_command(forked, runs, tmp_path):
    """As earlier versions of jopt recorded both: without asking, and so without `accepted`."""
    for name, differs in {"other": {"packages": {"jax": "0.0.1"}}, "same": {"argv": ["x"], "git": None}}.items():
        run = shutil.copytree(runs / "a", tmp_path / name)
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["events"].append({"event": "resume", "step": 6, "differs": differs})
        (run / "manifest.json").write_text(json.dumps(manifest))
    done = forked("compare", "other", "same", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "other went on at step 6 with another jax." in done.stdout
    assert "same went on" not in done.stdout


def test_numbers_are_not_mixed_up_with_truth_values_and_nan_is_itself():
    nan = float("nan")
    assert differing({"a": {"x": 1, "y": 1, "z": nan}, "b": {"x": True, "y": 1.0, "z": nan}}) == {
        "x": {"a": 1, "b": True}
    }


def test_a_list_of_dictionaries_of_another_length_differs_in_its_extra_leaves():
    a, b = {"stages": [{"steps": 1}]}, {"stages": [{"steps": 1}, {"steps": 2}]}
    assert flatten(b) == {"stages[0].steps": 1, "stages[1].steps": 2}
    assert differing({"a": a, "b": b}) == {"stages[1].steps": {"b": 2}}


def test_the_best_step_is_the_first_of_equals_and_what_is_not_finite_is_left_out():
    rows = [
        {"step": s, "split": "validation", "loss": 0.1, "accuracy": a}
        for s, a in ((1, 0.5), (2, float("nan")), (3, 0.75), (4, 0.75), (5, 0.25))
    ]
    numbers = summary(rows, {}, {})
    assert (numbers["best_validation_accuracy"], numbers["best_step"]) == (0.75, 3)
    assert numbers["last_validation_accuracy"] == 0.25 and numbers["status"] == "unfinished"


def test_changes_of_what_is_absent_zero_or_not_finite():
    assert change("test_accuracy", None, 0.5) == "-"
    assert change("bytes", 0, 12) == "+12"
    assert change("test_loss", 0.5, float("nan")) == "different"


@pytest.mark.parametrize("width", [1, 20, 40, 80])
def test_a_cut_table_loses_no_column(width):
    table = Table("t", ("", *"abcdefgh"), "lrrrrrrrr", [("x", *map(str, range(8))), ("y", *("z" * 9,) * 8)])
    parts = fit(table, width)
    assert [name for part in parts for name in part.header[1:]] == list("abcdefgh")
    assert [cell for part in parts for cell in part.rows[0][1:]] == list(map(str, range(8)))
    assert all(part.rows[1][0] == "y" for part in parts)
