"""Malformed files of a run directory are errors that name the file, in every function that reads them."""

import json
import os
import re
import shutil

import pytest
from tiny import smallest_experiment, tiny_ablation

from jopt import ablate
from jopt.config import ConfigError
from jopt.train import run
from jopt.train.checkpoint import MismatchError
from jopt.train.finished import load
from jopt.train.workdir import FieldError, StopRequested, Workdir, WorkdirError, read_manifest

pytestmark = pytest.mark.unoptimized

DEEP = "[" * 100_000
MALFORMED = {
    "list": "[]", "null": "null", "empty": "", "deep": DEEP, "deep_field": '{"a": ' + DEEP, "bytes": b"\xff\xfe{}",
    "digits": '{"a": ' + "9" * 5000 + "}", "number": "3", "no_fields": "{}",
}  # fmt: skip
CONFIG = smallest_experiment()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished"
    run(CONFIG, path)
    return path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.raises(StopRequested):
        run(CONFIG, path, should_stop=lambda rows: (path / "metrics.jsonl").exists())
    return path


@pytest.fixture
def copy(tmp_path):
    def make(path):
        return Workdir(shutil.copytree(path, tmp_path / path.name))

    return make


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def readers(files):
    return (lambda: run(CONFIG, files.path), lambda: load(files.path))


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize("name", ["config.json", "result.json", "manifest.json"])
def test_a_malformed_file_of_a_finished_run_is_named(finished, copy, name, kind):
    files = copy(finished)
    write(files.path / name, MALFORMED[kind])
    errors = []
    for read in readers(files):
        try:
            read()
        except (WorkdirError, ConfigError, MismatchError) as error:
            errors.append(error)
    # An empty manifest tells nothing that these need, and an empty config is a whole one, of default values.
    assert bool(errors) == ((name, kind) != ("manifest.json", "no_fields"))
    assert kind == "no_fields" or all(name in str(error) for error in errors)


# An empty config is that of an experiment of default values: another run.
@pytest.mark.parametrize("kind", [kind for kind in MALFORMED if kind != "no_fields"])
@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_malformed_file_stops_a_resume_before_it_changes_anything(stopped, copy, name, kind):
    files = copy(stopped)
    write(files.path / name, MALFORMED[kind])
    before = {p: p.read_bytes() for p in files.path.rglob("*") if p.is_file()}
    with pytest.raises(WorkdirError, match=name):
        run(CONFIG, files.path)
    assert before == {p: p.read_bytes() for p in files.path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "result.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_read(finished, copy, name, kind):
    """To open a pipe would wait for its other end, and a device never ends."""
    files = copy(finished)
    (files.path / name).unlink()
    if kind == "pipe":
        os.mkfifo(files.path / name)
    else:
        (files.path / name).symlink_to("/dev/zero")
    read = {
        "manifest.json": lambda: read_manifest(files),
        "metrics.jsonl": files.load_rows,
        "result.json": files.load_result,
    }[name]
    with pytest.raises(WorkdirError, match=r"not a regular file.*" + re.escape(name)):
        read()


def test_a_manifest_without_events_names_the_field(stopped, copy):
    files = copy(stopped)
    write(files.manifest, "{}")
    with pytest.raises(FieldError) as refused:
        run(CONFIG, files.path)
    assert (refused.value.path, refused.value.field, refused.value.value) == (files.manifest, "events", None)


ROWS = {
    "no_split": lambda row: row.pop("split"), "no_step": lambda row: row.pop("step"),
    "text_step": lambda row: row.update(step="x"), "stage": lambda row: row.update(stage=[]),
    "other_stage": lambda row: row.update(stage="nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("damage", ROWS)
def test_a_row_that_lacks_a_field_is_an_error(stopped, finished, copy, damage):
    for path in (stopped, finished):
        files = copy(path)
        rows = [json.loads(line) for line in files.metrics.read_text().splitlines()]
        ROWS[damage](rows[0])
        write(files.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(WorkdirError, match=r"metrics\.jsonl"):
            run(CONFIG, files.path)


def test_a_checkpoint_of_no_boundary_is_an_error(stopped, copy):
    files = copy(stopped)
    (checkpoint,) = (p for p in files.checkpoints.iterdir() if p.name.isdigit())
    checkpoint.rename(files.checkpoints / "3")
    with pytest.raises(MismatchError):
        run(CONFIG, files.path)


def test_a_config_with_an_integer_beyond_every_float_or_a_lone_surrogate_is_refused(stopped, copy):
    files = copy(stopped)
    text = files.config.read_text()
    for old, new in (
        ('"learning_rate": 0.1', f'"learning_rate": {10**400}'),
        ('"name": "small"', '"name": "\\udcff"'),
    ):
        assert old in text
        write(files.config, text.replace(old, new))
        with pytest.raises(WorkdirError, match=r"config\.json"):
            run(CONFIG, files.path)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    path = tmp_path_factory.mktemp("grids") / "grid"
    ablate.run(tiny_ablation(seeds=(0,)), path, devices=1)
    return path


TRIALS = {"trials": '{"trials": [1]}', "row": '{"trials": [{"row": {}}]}'}


@pytest.mark.parametrize("kind", [*MALFORMED, *TRIALS])
@pytest.mark.parametrize("name", ["ablation.json", "manifest.json", "chunks/*/result.json"])
def test_malformed_files_of_a_grid_are_named(grid, tmp_path, name, kind):
    path = shutil.copytree(grid, tmp_path / "grid")
    (file,) = path.glob(name)
    write(file, (MALFORMED | TRIALS)[kind])
    with pytest.raises(WorkdirError, match=file.name):
        ablate.run(tiny_ablation(seeds=(0,)), path, devices=1)
