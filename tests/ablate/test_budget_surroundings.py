"""A search whose rounds would be run in different surroundings."""

import dataclasses
import json
import shutil

import pytest
from tiny import smallest_experiment

from jopt import distill
from jopt.ablate import axis
from jopt.ablate import session as grids
from jopt.ablate.budget import Knob, Search, search, session
from jopt.ablate.budget.files import SearchDir
from jopt.ablate.space import GridPoint
from jopt.data import Synthetic
from jopt.train import Stage
from jopt.train.workdir import ChangedError

pytestmark = pytest.mark.unoptimized

CONFIG = Search(
    name="smallest",
    experiment=smallest_experiment(epochs=1),
    knobs=(Knob(axis("optimizer.learning_rate", (0.1, 0.01))),),
    seeds=(1,),
    finalists=1,
    confirm=2,
    trials=10,
)
BUDGET = "accuracy_drop<90"


class Interruption(Exception):
    """Stands for whatever ends a process between two rounds."""


def searched(path, before_round=lambda name: None, **options):
    """Runs the search; `before_round` is called with the name of each round that is run."""
    original = grids.run

    def run(ablation, workdir, **arguments):
        before_round(workdir.name)
        return original(ablation, workdir, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grids, "run", run)
        patch.setattr("plotly.offline.get_plotlyjs", lambda: "")
        return search(CONFIG, path, BUDGET, **options)


def end_before(round_name):
    def end(name):
        if name == round_name:
            raise Interruption

    return end


def change_data(monkeypatch):
    read = Synthetic.read
    monkeypatch.setattr(Synthetic, "read", lambda self, **kw: read(dataclasses.replace(self, seed=9), **kw))


def contents(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A search that was ended after its first round."""
    path = tmp_path_factory.mktemp("searches") / "begun"
    with pytest.raises(Interruption):
        searched(path, end_before("confirm"))
    return path


@pytest.fixture
def path(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "search")


def test_data_that_changed_between_rounds_are_refused_and_nothing_is_written(path, monkeypatch):
    change_data(monkeypatch)
    before = contents(path)
    with pytest.raises(ChangedError) as caught:
        searched(path)
    assert [change.name.partition(" (")[0] for change in caught.value.changes] == ["data synthetic"]
    assert contents(path) == before


def test_data_that_change_while_a_search_runs_are_refused(path, monkeypatch):
    with pytest.raises(ChangedError) as caught:
        searched(path, lambda name: change_data(monkeypatch))
    assert [change.name.partition(" (")[0] for change in caught.value.changes] == ["data synthetic"]
    assert json.loads((path / "search.json").read_text())["status"] == "running"


def test_an_accepted_change_is_told_by_the_search_and_its_reports(path, monkeypatch):
    change_data(monkeypatch)
    result = searched(path, accept_changes=True)
    (change,) = result.changes
    assert change["name"].startswith("data synthetic")
    assert json.loads((path / "search.json").read_text())["changes"] == [change]
    for name in ("report.md", "report.html"):
        text = (path / name).read_text()
        assert 0 < text.find("mixes different surroundings: data synthetic") < text.find(result.answer[:20])
    # A finished search is answered in any surroundings.
    monkeypatch.undo()
    before = contents(path)
    again = searched(path)
    assert (again.answer, again.changes) == (result.answer, result.changes)
    assert contents(path) == before


def test_a_round_of_another_search_is_not_read(path):
    manifest = json.loads((path / "round_0" / "manifest.json").read_text())
    manifest["packages"]["jax"] = "0.0.1"
    (path / "round_0" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ChangedError) as caught:
        searched(path)
    assert [(change.name, change.then) for change in caught.value.changes] == [("jax", "0.0.1")]
    # Accepted once.
    for accept_changes in (True, False):
        with pytest.raises(Interruption):
            searched(path, end_before("confirm"), accept_changes=accept_changes)


@pytest.mark.parametrize("name", ["manifest.json", "round_0/manifest.json"])
def test_rounds_without_a_manifest_are_of_unknown_surroundings(path, name):
    (path / name).unlink()
    before = contents(path)
    with pytest.raises(ChangedError) as caught:
        searched(path)
    assert [change.name for change in caught.value.changes] == [name] and contents(path) == before
    # Accepted once.
    for accept_changes in (True, False):
        with pytest.raises(Interruption):
            searched(path, end_before("confirm"), accept_changes=accept_changes)
    assert json.loads((path / "manifest.json").read_text())["events"][-4]["accepted"][0]["name"] == name


def test_a_search_of_which_no_round_is_left_begins_again(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["packages"]["jax"] = "0.0.1"
    (path / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(path / "round_0")
    with pytest.raises(Interruption):
        searched(path, end_before("round_0"))
    (event,) = [
        event
        for event in json.loads((path / "manifest.json").read_text())["events"][2:]
        if event["event"] == "resume"
    ]
    assert event["begins_again"]


def test_the_digests_of_teachers_are_facts_of_a_search(tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "result.json").write_text(json.dumps({"digest": "c0ffee"}))
    methods = [(distill.SoftTargets(teacher=name),) for name in (str(teacher), "stage:first")]
    experiment = smallest_experiment(stages=[Stage("first", epochs=1, methods=methods[0])])
    experiment.stages.append(Stage("second", epochs=1, methods=methods[1]))
    facts = session._facts(experiment, [GridPoint({}, {}, {})], SearchDir(tmp_path / "search"), False)
    assert facts["sources"] == {str(teacher): "c0ffee"}
    assert list(facts["datasets"].values()) == [facts["dataset_fingerprint"]]
