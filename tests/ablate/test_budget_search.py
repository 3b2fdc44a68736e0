"""A whole search, small: its rounds, its files, and what a second launch does."""

import json
import math
import shutil
from typing import ClassVar

import pytest
from tiny import tiny_experiment

from jopt import models, optim, prune, quantize, train
from jopt.ablate import axis, load_trial
from jopt.ablate.budget import Knob, Search, latency, search
from jopt.ablate.executors import Local
from jopt.ablate.results import read_csv
from jopt.config import ConfigError
from jopt.train import Stage, finished
from jopt.train.workdir import WorkdirError

BUDGET = "accuracy_drop<60,latency_ms<1e4"


def config(**changes):
    stage = Stage("train", methods=(prune.Gradual(end=0.4, rules=(("Dense_2/kernel", None),)), quantize.Weights()))
    return Search(**{
        "name": "tiny",
        "experiment": tiny_experiment(
            model=models.ModelConfig(name="mlp", features=(16, 8), num_classes=4),
            optimizer=optim.Config(name="adam", learning_rate=3e-2),
            epochs=4,
            stages=[stage],
        ),
        "knobs": (
            Knob(axis("stages[0].prune.sparsity", (0.0, 0.25, 0.5)), start=(0.0, 0.5)),
            Knob(axis("stages[0].quantize.bits", (32, 8, 4))),
            Knob(axis("stages[0].prune.pattern", ("unstructured", "channel"))),
        ),
        "excluded": ({"pattern": "channel", "prune.sparsity": 0.0},),
        "seeds": (2, 2),
        "points": 3,
        "survivors": 2,
        "finalists": 2,
        "confirm": 5,
        "trials": 60,
    } | changes)  # fmt: skip


class Noting(Local):
    """Runs chunks in this process, and notes for which directories it was asked."""

    asked: ClassVar[list[str]] = []

    def running(self, context):
        self.asked.append(context.files.path.name)
        return super().running(context)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    directory = tmp_path_factory.mktemp("search") / "run"
    return directory, search(config(), directory, BUDGET, executor=Noting(), quiet=True)


def test_every_round_runs_where_the_executor_says(searched):
    assert Noting.asked == [one.name for one in searched[1].rounds]


@pytest.mark.slow
def test_every_round_has_its_own_seeds_and_the_control(searched):
    directory, result = searched
    assert [done.name for done in result.rounds] == ["round_0", "round_1", "confirm"]
    assert [done.seeds for done in result.rounds] == [(0, 1), (2, 3), (4, 5, 6, 7, 8)]
    assert len(result.rounds[0].new) == 2 * 3 + 3 - 1 and len(result.rounds[1].new) <= 3
    control = {"prune.sparsity": 0.0, "bits": 32, "pattern": "unstructured"}
    for done in result.rounds:
        rows = read_csv(directory / done.name / "trials.csv")
        assert len(rows) == done.trials
        dense = [row["seed"] for row in rows if all(row[name] == value for name, value in control.items())]
        assert dense == list(done.seeds)
    assert sum(done.trials for done in result.rounds) <= 60
    tried = [tuple(point.values()) for done in result.rounds for point in done.new]
    assert len(set(tried)) == len(tried)


@pytest.mark.slow
def test_what_is_said_is_in_the_files(searched):
    directory, result = searched
    written = json.loads((directory / "search.json").read_text())
    assert written["status"] == "finished" and written["answer"] == result.answer
    assert [done["name"] for done in written["rounds"]] == ["round_0", "round_1", "confirm"]
    rows = read_csv(directory / "pareto.csv")
    assert [row["bits"] for row in rows] == [e.point["bits"] for e in result.pareto]
    assert [row["bytes"] for row in rows] == sorted(row["bytes"] for row in rows)
    assert all(row["latency_ms"] > 0 and math.isfinite(row["drop"]) for row in rows)
    for name in ("report.md", "report.html"):
        text = (directory / name).read_text()
        assert "Bytes are those of the packed file" in text and "optimistic" in text and "Finalists" in text
    # The recommendation rests on the seeds of the last round, and on the test part.
    best = result.recommended
    assert best is not None and result.confirmation is not None
    accuracies = [row["accuracy"] for row in result.confirmation.at(best.estimate.point)]
    assert best.estimate.n == 5 and best.estimate.metric == pytest.approx(sum(accuracies) / 5)
    assert written["recommendation"]["point"] == best.estimate.point
    assert "accuracy_drop<60" in result.answer


@pytest.mark.slow
def test_a_second_launch_runs_nothing_and_an_interrupted_one_ends_alike(searched, tmp_path):
    directory, result = searched

    def stamps(where):
        return {
            p.relative_to(where): p.stat().st_mtime_ns
            for p in where.rglob("*")
            if p.is_file() and p.name != ".lock"
        }

    before = stamps(directory)
    again = search(config(), directory, BUDGET, quiet=True)
    assert stamps(directory) == before
    assert (again.answer, again.pareto, again.finals) == (result.answer, result.pareto, result.finals)

    cut = tmp_path / "cut"
    shutil.copytree(directory, cut)
    for name in ("report.md", "round_0/report.md"):
        (cut / name).unlink()
    search(config(), cut, BUDGET, quiet=True)
    rewritten, first = (
        (d / "report.md").read_text().replace("\\_", "_").replace(str(d), "DIRECTORY") for d in (cut, directory)
    )
    assert rewritten == first and (cut / "round_0" / "report.md").is_file()
    shutil.rmtree(cut / "confirm")
    state = json.loads((cut / "search.json").read_text()) | {"status": "running", "pareto": None, "answer": None}
    (cut / "search.json").write_text(json.dumps(state))
    rounds = {k: v for k, v in stamps(cut).items() if str(k).startswith("round_")}
    ended = search(config(), cut, BUDGET, quiet=True)
    assert {k: v for k, v in stamps(cut).items() if str(k).startswith("round_")} == rounds
    assert (ended.answer, ended.finals) == (result.answer, result.finals)
    for name in ("confirm/trials.csv",):
        resumed, uncut = (read_csv(d / name) for d in (cut, directory))
        assert [row["digest"] for row in resumed] == [row["digest"] for row in uncut]


@pytest.mark.slow
def test_the_command_of_a_point_trains_it_and_its_shape_is_what_was_timed(searched, tmp_path):
    directory, result = searched
    row = next(r for r in result.results.trials if r["pattern"] == "channel" and r["prune.sparsity"] == 0.5)
    trial_config = load_trial(directory / "round_0", row["trial"])
    train.run(trial_config, tmp_path / "one", quiet=True)
    alone = finished.load(tmp_path / "one")
    assert alone.result["accuracy"] == pytest.approx(row["accuracy"], abs=0.05)
    masks = {name: {"kernel": leaf["kernel"] != 0} for name, leaf in alone.params.items() if name != "Dense_2"}
    small, _ = prune.shrink(models.build(trial_config.model), alone.params, masks)
    assert small.features == latency.smallest(trial_config)[0].features == (8, 4)


@pytest.mark.slow
def test_another_search_is_refused(searched):
    directory, _ = searched
    with pytest.raises(WorkdirError, match=r"search.* budget .*accuracy_drop<1"):
        search(config(), directory, "accuracy_drop<1", quiet=True)
    with pytest.raises(WorkdirError, match=r"confirm \(5\b.* 6\b"):
        search(config(confirm=6), directory, BUDGET, quiet=True)


@pytest.mark.parametrize(
    ("changes", "budget", "field"),
    [
        ({}, "accuracy>98", "budget"),
        ({"trials": 32}, BUDGET, "trials"),
        ({"knobs": (Knob(axis("stages[0].quantize.bits", (32, 9))),), "excluded": ()}, BUDGET, "quantize.bits"),
        ({"knobs": (Knob(axis("seed", (0, 1))),), "excluded": ()}, BUDGET, "seed"),
        ({"strategy": "fast"}, BUDGET, "strategy"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(changes, budget, field, tmp_path):
    with pytest.raises(ConfigError) as caught:
        search(config(**changes), tmp_path / "new", budget, quiet=True)
    assert field in caught.value.field
    assert not (tmp_path / "new").exists()


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WorkdirError, match=r"notes\.txt .*search\.json"):
        search(config(), tmp_path, BUDGET, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
