"""The trace of one segment: which one, that its files are there, and that it changes no bit of the run."""

import gzip
import json

import pytest
from tiny import smallest_experiment

from jopt.config import ConfigError
from jopt.report.observer import Silent
from jopt.train import run
from jopt.train.profile import choose
from jopt.train.schedule import Segment
from jopt.train.workdir import StopRequested

CONFIG = smallest_experiment(epochs=3, pack=False)


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, sentence):
        self.notes.append(sentence)

    warn = note


def names_in(directory):
    (trace,) = directory.rglob("*.trace.json.gz")
    return {event.get("name", "") for event in json.loads(gzip.open(trace).read())["traceEvents"]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(CONFIG, tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A run with its trace within the run's own directory, and what it said."""
    directory, observer = tmp_path_factory.mktemp("traced") / "run", Notes()
    return run(CONFIG, directory, profile_dir=directory / "trace", observer=observer), directory, observer.notes


def test_the_second_segment_is_traced_and_the_sentence_says_where(traced):
    _, directory, notes = traced
    assert "stage 'train', steps 4 to 7" in names_in(directory / "trace")
    assert not [name for name in names_in(directory / "trace") if "steps 0 to" in name or "steps 8" in name]
    (path,) = (directory / "trace").rglob("*.trace.json.gz")
    assert any(str(path) in note for note in notes)


def test_a_trace_changes_no_bit_and_is_no_part_of_the_config(plain, traced):
    result, directory, _ = traced
    assert result["digest"] == plain["digest"]
    assert "trace" not in (directory / "config.json").read_text()


def test_a_resumed_run_traces_a_segment_that_it_runs(plain, tmp_path):
    with pytest.raises(StopRequested):
        run(CONFIG, tmp_path / "run", should_stop=lambda rows: (tmp_path / "run" / "metrics.jsonl").exists())
    result = run(CONFIG, tmp_path / "run", profile_dir=tmp_path / "trace")
    assert "stage 'train', steps 8 to 11" in names_in(tmp_path / "trace")
    assert result["digest"] == plain["digest"]


def test_a_finished_run_has_nothing_to_trace_and_says_so(traced, tmp_path):
    _, directory, _ = traced
    observer = Notes()
    run(CONFIG, directory, profile_dir=tmp_path / "trace", observer=observer)
    assert any("no trace" in note for note in observer.notes) and not (tmp_path / "trace").exists()


@pytest.mark.parametrize("case", ["not_empty", "a_file", "below_a_file"])
def test_a_directory_that_cannot_take_a_trace_is_an_error_before_a_step(case, tmp_path):
    (tmp_path / "notes").write_text("x")
    path = {"not_empty": tmp_path, "a_file": tmp_path / "notes", "below_a_file": tmp_path / "notes" / "trace"}[case]
    with pytest.raises(ConfigError) as error:
        run(CONFIG, tmp_path / "run", profile_dir=path)
    assert (error.value.field, error.value.value) == ("profile", str(path))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def segment(stage, start, stop):
    return Segment(stage, start, stop, True, True, stop, False)


@pytest.mark.parametrize(
    "lengths, chosen",
    [
        ([(0, 4), (0, 4), (0, 4)], 1),
        ([(0, 4)], 0),
        ([(0, 4), (1, 4)], 0),
        ([(0, 0), (1, 4), (1, 2), (2, 4), (2, 4)], 4),
        ([(0, 0)], None),
        ([], None),
    ],
)
def test_the_first_segment_whose_program_has_run_is_chosen(lengths, chosen):
    segments = [segment(stage, 10 * i, 10 * i + steps) for i, (stage, steps) in enumerate(lengths)]
    assert choose(segments) == (None if chosen is None else segments[chosen])
