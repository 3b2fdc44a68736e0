"""Grids on workers: the tables of a grid in one process, whatever dies; and who may be a worker."""

import json
import platform
import shutil

import pytest
from directories import tables
from process_workers import ROOT, Processes, start, tell

from jopt import canary, data, models
from jopt.ablate import axis, executors, run
from jopt.ablate.executors import notice
from jopt.ablate.executors.crew import spread
from jopt.ablate.files import AblationDir
from jopt.ablate.lift import Layout
from jopt.ablate.locks import ChunkInUse, holding, is_free
from jopt.ablate.plan import Loader, plan
from jopt.ablate.trials import groups, trials
from jopt.config import ConfigError
from jopt.report.observer import Silent
from jopt.train.workdir import StopRequested

OTHER_BITS = {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"}
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="its instruction sets are those of x86")


class Warnings(Silent):
    def __init__(self):
        self.sentences: list[str] = []

    def warn(self, sentence):
        self.sentences.append(sentence)


def wide_grid(grid, **changes):
    return grid(axis("optimizer.learning_rate", (0.1, 0.01, 1e30)), strategy="map", **changes)


@pytest.fixture(scope="module")
def alone(grid, tmp_path_factory):
    """The grid in one process."""
    path = tmp_path_factory.mktemp("alone")
    run(wide_grid(grid), path, devices=1)
    return path


@pytest.fixture(scope="module")
def crewed(grid, tmp_path_factory):
    """The grid on three processes: one computes other bits, one is killed; and what was said and done."""
    path, observer = tmp_path_factory.mktemp("crewed"), Warnings()
    rows = []
    environments = ({}, {}, OTHER_BITS if platform.machine() == "x86_64" else {})
    executor = Processes(*environments, kills=1)
    run(wide_grid(grid), path, executor=executor, observer=observer, on_rows=rows.extend)
    return path, observer.sentences, executor.pool, rows


def test_workers_leave_the_tables_of_one_process(alone, crewed):
    assert tables(crewed[0]) == tables(alone)


def test_the_chunk_of_a_killed_worker_is_run_by_another(crewed):
    _, _, pool, _ = crewed
    (lost,) = pool.lost
    assert (lost, "finished") in pool.done
    finished = [chunk for chunk, status in pool.done if status == "finished"]
    assert len(finished) == len(set(finished)) >= 3


@x86
def test_a_worker_with_other_bits_is_refused_and_the_grid_goes_on(crewed):
    (sentence,) = crewed[1]
    assert "XLA_FLAGS" in sentence and "canary" in sentence


def test_the_rows_of_all_workers_reach_the_hook_once(crewed, alone):
    rows = [json.dumps(row, sort_keys=True) for row in crewed[3]]
    written = [json.loads(line) for line in (alone / "curves.jsonl").read_text().splitlines()]
    finished = [json.dumps(row, sort_keys=True) for row in written]
    assert len(rows) == len(set(rows)) and set(finished) <= set(rows)


def test_a_finished_grid_asks_for_no_worker(crewed, grid):
    class Nowhere(Processes):
        def running(self, context):
            raise AssertionError("no worker is needed")

    assert len(run(wide_grid(grid), crewed[0], executor=Nowhere({})).trials) == 6


def test_workers_and_one_process_continue_each_other(grid, alone, tmp_path):
    """Chunks that a worker began go on in this process, and nothing that was committed is touched."""
    path = tmp_path / "on"
    stop = {"now": False}

    def first_rows(rows):
        stop["now"] = True

    with pytest.raises(StopRequested):
        run(
            wide_grid(grid, chunk=1),
            path,
            executor=Processes({}),
            on_rows=first_rows,
            should_stop=lambda rows: stop["now"],
        )
    assert not notice.path_of(path).exists()
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in path.glob("chunks/*/result.json")}
    run(wide_grid(grid), path, devices=1)
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in before} == before
    assert tables(path) == tables(alone)


@pytest.mark.parametrize("lanes", [1, 16])
def test_groups_are_cut_for_the_workers_in_whole_lanes(grid, lanes):
    ablation = grid(seeds=tuple(range(40)), strategy="vmap" if lanes > 1 else "map")
    plans = plan(ablation, groups(trials(ablation)), 1, {}, Loader())
    (cut,) = spread(plans, workers=4)
    assert cut.layout == plans[0].layout == Layout(lanes, 1)
    assert cut.width % lanes == 0
    assert cut.chunks == (12 if lanes == 1 else 5) and cut.chunks * cut.width >= 80


class Editing(Warnings):
    """Changes a file once the grid is planned."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def plan(self, parts):
        self.file.write_text(self.file.read_text().replace("0.5", "0.25"))


def test_data_that_differ_on_a_worker_end_the_grid_with_its_line(grid, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 7 / 2},{i % 3},{'abc'[i % 3]}" for i in range(60)]
    (tmp_path / "table.csv").write_text("\n".join(["x,y,label", *rows]))
    experiment = small(data=data.Csv(path="table.csv", target="label"))
    with pytest.raises(ConfigError) as raised:
        run(
            grid(experiment=experiment),
            tmp_path / "grid",
            executor=Processes({}),
            observer=Editing(tmp_path / "table.csv"),
        )
    assert raised.value.field.startswith("data (on ") and not notice.path_of(tmp_path / "grid").exists()


# Who may join.


@pytest.fixture
def session(grid, tmp_path):
    """A directory with a notice, whose lock this process holds."""
    files = AblationDir(tmp_path / "grid")
    files.make()
    with files.locked():
        posted = notice.notice(False, [], 1, 0)
        notice.post(files, posted)
        yield files, posted


def joined(directory, nonce, environment=None, prelude=""):
    process = start(environment, "from jopt.ablate.executors import notice\nnotice.PATIENCE = 0.1\n" + prelude)
    try:
        tell(process, json.dumps({"directory": str(directory), "nonce": nonce}))
        return json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def test_a_worker_of_another_version_is_refused_by_name(session, tmp_path):
    files, posted = session
    shutil.copytree(ROOT / "jopt", tmp_path / "other" / "jopt")
    (tmp_path / "other" / "jopt" / "added.py").write_text("# Another version.\n")
    reply = joined(files.path, posted.nonce, {"PYTHONPATH": str(tmp_path / "other")})
    assert reply["status"] == "refused" and "jopt code" in reply["problem"] and "canary" not in reply["problem"]


def test_a_directory_that_workers_do_not_share_is_refused(session):
    files, _ = session
    reply = joined(files.path, "another launch")
    assert reply["status"] == "refused" and str(files.path) in reply["problem"]


def test_a_directory_whose_locks_are_not_shared_is_refused(session, tmp_path):
    files, posted = session
    copy = shutil.copytree(files.path, tmp_path / "copy")
    reply = joined(copy, posted.nonce)
    assert reply["status"] == "refused" and "lock" in reply["problem"]


def test_the_canary_is_the_same_twice_and_names_what_differs():
    facts = canary.facts()
    assert facts["canary"] == canary.digest() and facts["jax"] and facts["machine"] == platform.machine()


# One process in a chunk.


def test_a_chunk_is_held_by_one_process(tmp_path):
    chunk = tmp_path / "chunks" / "a"
    with holding(chunk):
        assert not is_free(chunk)
        with pytest.raises(ChunkInUse), holding(chunk, patience=0.0):
            pass
    with holding(chunk, patience=0.0):
        pass
    assert list(chunk.iterdir()) == []


# Bad input.

BAD = {
    "gpus below 0": (lambda: executors.Ray(gpus=-0.5), "gpus_per_chunk"),
    "one and a half GPUs": (lambda: executors.Ray(gpus=1.5), "gpus_per_chunk"),
    "gpus not a number": (lambda: executors.Ray(gpus=float("nan")), "gpus_per_chunk"),
    "no processor": (lambda: executors.Ray(cpus=0), "cpus_per_chunk"),
    "no worker": (lambda: executors.Ray(workers=0), "workers"),
    "no memory": (lambda: executors.Ray(memory_gib=0.0), "memory_per_chunk"),
    "no port": (lambda: executors.Ray(address="head"), "address"),
    "a URL": (lambda: executors.Ray(address="http://head:6379"), "address"),
    "a part of a GPU of SLURM": (lambda: executors.Slurm(gpus=0.5), "gpus_per_chunk"),  # pyright: ignore
    "no time": (lambda: executors.Slurm(minutes=0), "slurm_minutes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_executors_name_the_field(name):
    make, field = BAD[name]
    with pytest.raises(ConfigError) as raised:
        make()
    assert raised.value.field == field


def test_objects_are_refused_where_only_text_travels(grid, tmp_path):
    experiment = grid().experiment
    given = {"data": data.load(experiment.data), "model": models.model(experiment.model)}
    for name, value in given.items():
        with pytest.raises(ConfigError) as raised:
            run(grid(), tmp_path / name, executor=Processes({}), **{name: value})
        assert raised.value.field == name and not (tmp_path / name).exists()
