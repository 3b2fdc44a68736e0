"""A grid that was stopped, or whose files were damaged, ends as one that was not."""

import json
import re
import shutil

import pytest
from directories import files, last_event, rows, tables

from jopt.ablate import axis, run
from jopt.ablate.files import AblationDir
from jopt.report.observer import Silent
from jopt.train.workdir import ChangedError, StopRequested, WorkdirError

pytestmark = pytest.mark.unoptimized

RATE = "optimizer.learning_rate"
RATES = (0.1, 0.01)


@pytest.fixture(scope="module")
def stopped(grid, tmp_path_factory):
    """A grid that was asked to stop in its first segment."""
    path = tmp_path_factory.mktemp("grids") / "stopped"
    with pytest.raises(StopRequested, match="saved"):
        run(grid(), path, devices=1, should_stop=lambda rows: any(path.glob("chunks/*/metrics.jsonl")), quiet=True)
    return path


def test_a_stopped_grid_says_so(stopped):
    assert json.loads((stopped / "manifest.json").read_text())["exit_status"] == "stopped"
    assert last_event(stopped)["status"] == "stopped"
    (chunk,) = stopped.glob("chunks/*")
    assert [p.name for p in chunk.glob("checkpoints/[0-9]*")] == ["4"]
    assert not (stopped / "trials.csv").exists()


def add(path, text):
    path.write_text(path.read_text() + text)


DAMAGE = {
    "nothing": lambda chunk: None,
    "half a line": lambda chunk: add(chunk / "metrics.jsonl", '{"trial": "'),
    "a checkpoint": lambda chunk: [p.write_bytes(b"x") for p in (chunk / "checkpoints").rglob("*") if p.is_file()],
    "no checkpoints": lambda chunk: shutil.rmtree(chunk / "checkpoints"),
    "no checkpoints, other rows": lambda chunk: (
        shutil.rmtree(chunk / "checkpoints"),
        add(chunk / "metrics.jsonl", "x\n"),
    ),
    "no description": lambda chunk: (chunk / "chunk.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_stopped_grid_goes_on_and_ends_as_if_it_had_not_been(first, stopped, grid, tmp_path, damage):
    path = shutil.copytree(stopped, tmp_path / "on")
    (chunk,) = path.glob("chunks/*")
    DAMAGE[damage](chunk)
    run(grid(), path, devices=1, quiet=True)
    assert tables(path) == tables(first[0])
    begun_anew = "init" in last_event(path)["compilations"]["0"]
    assert begun_anew == (damage not in ("nothing", "half a line"))


class Messages(Silent):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


def test_a_damaged_checkpoint_is_reported(stopped, grid, tmp_path):
    path = shutil.copytree(stopped, tmp_path / "on")
    for file in path.glob("chunks/*/checkpoints/4/state/manifest.ocdbt"):
        file.write_bytes(b"x")
    messages = Messages()
    run(grid(), path, devices=1, observer=messages)
    (warning,) = messages.warnings
    assert "damaged_checkpoints" in warning


@pytest.mark.parametrize("edit", ["not JSON\n", "", '{"trial": "a"}\n'])
def test_damaged_rows_are_named(stopped, grid, tmp_path, edit):
    path = shutil.copytree(stopped, tmp_path / "on")
    (rows_file,) = path.glob("chunks/*/metrics.jsonl")
    rows_file.write_text(edit)
    with pytest.raises(WorkdirError, match=r"metrics\.jsonl.*damaged"):
        run(grid(), path, devices=1, quiet=True)


def test_an_edited_result_of_a_chunk_is_in_no_table(first, grid, tmp_path):
    path = shutil.copytree(first[0], tmp_path / "edited")
    file = sorted(path.glob("chunks/*/result.json"))[0]
    result = json.loads(file.read_text())
    result["trials"][0]["row"]["accuracy"] = 1.0
    file.write_text(json.dumps(result))
    with pytest.raises(WorkdirError, match=re.escape(str(file))):
        run(grid(), path, devices=1)


@pytest.mark.parametrize("name", ["chunks", "chunks/x", "manifest.json", ".lock", "chunks/x/checkpoints"])
def test_a_link_in_the_directory_of_a_grid_is_refused_and_leads_nowhere(stopped, grid, tmp_path, name):
    path = shutil.copytree(stopped, tmp_path / "on")
    outside = tmp_path / "outside"
    shutil.copytree(path / "chunks", outside / "chunks")
    link = path / name
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    before = {p: p.stat().st_mtime_ns for p in outside.rglob("*")}
    with pytest.raises(WorkdirError):
        run(grid(), path, devices=1)
    assert {p: p.stat().st_mtime_ns for p in outside.rglob("*")} == before


def test_a_stopped_grid_that_is_changed_keeps_what_it_can(first, stopped, grid, tmp_path):
    """The trials under way go on from their checkpoint, whatever chunks would be planned now."""
    path = shutil.copytree(stopped, tmp_path / "on")
    run(grid(axis(RATE, (*RATES, 0.5)), chunk=4), path, devices=1, quiet=True)
    assert rows(first[0]).items() <= rows(path).items()
    results = [json.loads(p.read_text()) for p in path.glob("chunks/*/result.json")]
    assert sorted(len(result["trials"]) for result in results) == [2, 4]


def test_a_grid_killed_before_anything_was_computed_can_be_launched_again(grid, tmp_path, monkeypatch):
    """The first file that it writes is the one that it is known by."""
    written = []
    monkeypatch.setattr(AblationDir, "record", lambda self, *args: written.extend(self.path.iterdir()) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(grid(), tmp_path / "grid", devices=1, quiet=True)
    assert [path.name for path in written] == [".lock"]
    assert AblationDir(tmp_path / "grid").recorded() is None


def other_jax(path):
    """Makes the manifest say that its trials were run with another JAX; returns this one's version."""
    manifest = json.loads((path / "manifest.json").read_text())
    now = manifest["packages"]["jax"]
    manifest["packages"]["jax"] = "0.0.1"
    (path / "manifest.json").write_text(json.dumps(manifest))
    return now


def other_data(path):
    manifest = json.loads((path / "manifest.json").read_text())
    ((config, now),) = manifest["datasets"].items()
    manifest["datasets"] = {config: "0" * 64}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return now


@pytest.mark.parametrize(("change", "name"), [(other_jax, "jax"), (other_data, "data synthetic")])
@pytest.mark.parametrize("which", ["under way", "grown"])
def test_trials_of_other_surroundings_are_refused(first, stopped, grid, tmp_path, change, name, which):
    path = shutil.copytree(stopped if which == "under way" else first[0], tmp_path / "on")
    now = change(path)
    before = files(path)
    space = axis(RATE, RATES if which == "under way" else (*RATES, 0.5))
    with pytest.raises(ChangedError) as caught:
        run(grid(space), path, devices=1, quiet=True)
    (changed,) = caught.value.changes
    assert changed.name.startswith(name) and changed.now == now
    assert files(path) == before


def test_trials_without_a_manifest_are_of_unknown_surroundings(stopped, grid, tmp_path):
    path = shutil.copytree(stopped, tmp_path / "on")
    (path / "manifest.json").unlink()
    before = files(path)
    with pytest.raises(ChangedError) as caught:
        run(grid(), path, devices=1)
    assert [change.name for change in caught.value.changes] == ["manifest.json"] and files(path) == before
    run(grid(), path, devices=1, accept_changes=True)
    (begin, _) = json.loads((path / "manifest.json").read_text())["events"]
    assert begin["accepted"] == [change._asdict() for change in caught.value.changes]


def test_an_accepted_change_is_the_first_finding_of_a_grid(stopped, grid, tmp_path):
    path = shutil.copytree(stopped, tmp_path / "on")
    now = other_jax(path)
    run(grid(), path, devices=1, accept_changes=True)
    begin = json.loads((path / "manifest.json").read_text())["events"][2]
    assert begin["accepted"] == [{"name": "jax", "then": "0.0.1", "now": now}]
    for name in ("report.md", "report.html"):
        text = (path / name).read_text()
        assert 0 < text.find(f"mixes different surroundings: jax 0.0.1, then {now}") < text.find("4 trials")


def test_a_finished_grid_is_answered_in_any_surroundings(first, grid, tmp_path):
    path = shutil.copytree(first[0], tmp_path / "on")
    other_jax(path)
    assert run(grid(), path, devices=1).trials == first[1].trials
    assert "mixes different surroundings" not in (path / "report.md").read_text()


def test_a_grid_of_which_nothing_is_left_begins_again(stopped, grid, tmp_path):
    path = shutil.copytree(stopped, tmp_path / "on")
    now = other_jax(path)
    shutil.rmtree(path / "chunks")
    run(grid(), path, devices=1)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["packages"]["jax"] == now and manifest["events"][2]["begins_again"]
