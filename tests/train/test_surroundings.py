"""A run that is resumed in other surroundings: each difference is named, and nothing is mixed without a word."""

import dataclasses
import json
import shutil

import jax
import pytest
from tiny import smallest_experiment

from jopt import distill
from jopt.data import Synthetic
from jopt.train import Stage, run, session
from jopt.train.manifest import code
from jopt.train.surroundings import JAX_OPTIONS, PACKAGES, accepted, compare, surroundings, unknown
from jopt.train.workdir import ChangedError, Launch, Workdir, WorkdirError

pytestmark = [pytest.mark.unoptimized, pytest.mark.usefixtures("undrawn")]

STUDENT = smallest_experiment(
    name="student",
    seed=3,
    pack=False,
    checkpoint_every=1,
    stages=[Stage("student", epochs=3, methods=(distill.SoftTargets(teacher="teacher"),))],
)


class Interruption(Exception):
    """Stands for whatever ends a process between two segments."""


def launch(step=None, **options):
    """Runs the student, up to a step; in the working directory, where its teacher is."""
    original = session._Session._at_boundary

    def at_boundary(self, boundary):
        state = original(self, boundary)
        if boundary.segment.stop == step:
            raise Interruption
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session._Session, "_at_boundary", at_boundary)
        return run(STUDENT, "run", **options)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A teacher, another teacher, and a student that was stopped after its first epoch."""
    path = tmp_path_factory.mktemp("launched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr("plotly.offline.get_plotlyjs", lambda: "")
        for seed, name in enumerate(("teacher", "other")):
            run(smallest_experiment(seed=seed, epochs=1, pack=False), name)
        with pytest.raises(Interruption):
            launch(4)
    return path


@pytest.fixture
def workplace(launched, tmp_path, monkeypatch):
    """A copy of `launched` as the working directory."""
    path = shutil.copytree(launched, tmp_path / "copy")
    monkeypatch.chdir(path)
    return path


def contents(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def manifest_of(path):
    return json.loads((path / "run" / "manifest.json").read_text())


def edit_manifest(path, **changes):
    """Replaces facts of the first launch, by dotted names; None removes one."""
    manifest = manifest_of(path)
    for name, value in changes.items():
        *parents, last = name.split("__")
        fact = manifest
        for parent in parents:
            fact = fact[parent]
        if value is None:
            del fact[last]
        else:
            fact[last] = value
    (path / "run" / "manifest.json").write_text(json.dumps(manifest))


def change_data(path, monkeypatch):
    read = Synthetic.read
    monkeypatch.setattr(Synthetic, "read", lambda self, **kw: read(dataclasses.replace(self, seed=9), **kw))


def change_teacher(path, monkeypatch):
    shutil.rmtree(path / "teacher")
    (path / "other").rename(path / "teacher")


def change_flags(path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true --xla_dump_to=/tmp")


def change_version(path, monkeypatch):
    edit_manifest(path, packages__jax="0.0.1")


CHANGES = {"data": change_data, "source teacher": change_teacher, "XLA_FLAGS": change_flags, "jax": change_version}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_by_its_name_and_nothing_is_written(workplace, monkeypatch, name):
    CHANGES[name](workplace, monkeypatch)
    before = contents(workplace)
    with pytest.raises(ChangedError, match="--accept_changes") as caught:
        launch()
    (change,) = caught.value.changes
    assert change.name == name and change.then != change.now
    assert "\n" not in str(caught.value)
    assert contents(workplace) == before


@pytest.mark.parametrize("name", ["jax_enable_x64", "jax_threefry_partitionable"])
def test_other_numerics_are_refused(workplace, name):
    before = getattr(jax.config, name)
    jax.config.update(name, not before)
    try:
        with pytest.raises(ChangedError) as caught:
            launch()
    finally:
        jax.config.update(name, before)
    assert caught.value.changes == ((name, before, not before),)


FACTS = {
    "compiler options": {"compiler_options": {"xla_allow_excess_precision": False}},
    "jopt code": {"jopt_code": "0" * 64},
    "device platform": {"devices__platform": "tpu"},
    "device kind": {"devices__kind": "TPU v9"},
    **{name: {f"packages__{name}": "0.0.1"} for name in PACKAGES},
    **{name: {f"jax_config__{name}": "another"} for name in JAX_OPTIONS},
}


@pytest.mark.parametrize("name", FACTS)
def test_each_fact_of_a_launch_is_compared(workplace, name):
    now = manifest_of(workplace)
    edit_manifest(workplace, **FACTS[name])
    with pytest.raises(ChangedError) as caught:
        Launch(Workdir("run"), now).admit(accept=False)
    assert [change.name for change in caught.value.changes] == [name]


def test_what_changes_no_bit_and_what_an_old_manifest_lacks_are_no_changes(workplace):
    edit_manifest(
        workplace,
        cpu="another",
        system="another",
        python="3.99",
        git={"commit": "another"},
        argv=["another"],
        packages__scipy="0.0.1",
        packages__numpy=None,
        devices__count=1024,
        jax_config__jax_default_prng_impl=None,
        xla_flags="--xla_dump_to=/tmp/x --xla_force_host_platform_device_count=64",
        compiler_options=None,
        jopt_code=None,
        sources=None,
    )
    with pytest.raises(Interruption):
        launch(8)
    assert "accepted" not in manifest_of(workplace)["events"][2]
    manifest = manifest_of(workplace)
    # What no launch before recorded is known from now on.
    assert (
        manifest["sources"]
        and manifest["jopt_code"]
        and manifest["packages"]["numpy"]
        and manifest["packages"]["scipy"] == "0.0.1"
    )


def test_a_change_of_any_module_changes_the_code(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("a.py", "inner/b.py"):
        (tmp_path / name).write_text("1")
    first = code(tmp_path)
    code.cache_clear()
    (tmp_path / "notes.txt").write_text("no code")
    (tmp_path / ".#a.py").symlink_to("nowhere")
    assert code(tmp_path) == first
    hashes = {first}
    for change in (
        lambda: (tmp_path / "inner" / "b.py").write_text("2"),
        lambda: (tmp_path / "a.py").rename(tmp_path / "c.py"),
        lambda: (tmp_path / "c.py").unlink(),
    ):
        code.cache_clear()
        change()
        hashes.add(code(tmp_path))
    assert len(hashes) == 4


def test_an_accepted_change_is_told_in_the_manifest_the_result_and_the_report(workplace, caplog):
    now = manifest_of(workplace)["packages"]["jax"]
    edit_manifest(workplace, packages__jax="0.0.1")
    with pytest.raises(Interruption):
        launch(8, accept_changes=True)
    change = {"name": "jax", "then": "0.0.1", "now": now}
    assert manifest_of(workplace)["events"][2]["accepted"] == [change]
    assert f"jax 0.0.1, then {now}" in caplog.text
    # Accepted once.
    result = launch()
    assert result["changes"] == [change | {"step": 4}]
    finding = f"mixes different surroundings: jax 0.0.1, then {now} from step 4 on"
    for name in ("report.md", "report.html"):
        text = (workplace / "run" / name).read_text()
        assert 0 < text.find(finding) < text.find("test accuracy")
    # A finished run is answered in any surroundings.
    edit_manifest(workplace, packages__jax="0.0.2")
    assert launch() == result


def test_work_without_a_manifest_is_of_unknown_surroundings(workplace):
    (workplace / "run" / "manifest.json").unlink()
    before = contents(workplace)
    with pytest.raises(ChangedError) as caught:
        launch()
    (change,) = caught.value.changes
    assert change.name == "manifest.json" and contents(workplace) == before
    with pytest.raises(Interruption):
        launch(8, accept_changes=True)
    assert manifest_of(workplace)["events"][0]["accepted"] == [change._asdict()]
    # Accepted once.
    assert launch()["changes"] == [change._asdict() | {"step": 4}]


def test_a_run_of_which_nothing_is_left_begins_again_with_the_facts_of_now(workplace):
    now = manifest_of(workplace)
    edit_manifest(workplace, packages__jax="0.0.1")
    shutil.rmtree(workplace / "run" / "checkpoints")
    with pytest.raises(Interruption):
        launch(4, accept_changes=True)
    manifest = manifest_of(workplace)
    assert manifest["packages"] == now["packages"]
    start, stop, again, _ = manifest["events"]
    assert (start["event"], stop["event"], again["event"]) == ("start", "stop", "resume")
    assert again["begins_again"] and again["differs"] == {"packages": now["packages"]} and "accepted" not in again


@pytest.mark.parametrize(
    "damage",
    [
        {"events": None},
        {"events": [1]},
        {"packages": []},
        {"packages__jax": []},
        {"events": [{"accepted": [{"name": "jax"}]}]},
    ],
)
def test_a_damaged_manifest_is_refused(workplace, damage):
    edit_manifest(workplace, **damage)
    with pytest.raises(WorkdirError, match=r"manifest\.json is damaged"):
        launch()


def test_all_surroundings_that_were_accepted_are_known_and_no_mixture_of_them():
    manifest = {
        "packages": {"jax": "1", "numpy": "1"},
        "events": [
            {"event": "start"},
            {"event": "resume", "accepted": [{"name": n, "then": "1", "now": "2"} for n in ("jax", "numpy")]},
        ],
    }
    known = accepted(manifest)
    assert not unknown({"jax": "1", "numpy": "1"}, known)
    assert not unknown({"jax": "2", "numpy": "2"}, known)
    assert unknown({"jax": "2", "numpy": "1"}, known) == (("jax", "1", "2"),)
    # What was accepted before a launch that kept nothing is forgotten.
    manifest["events"].append({"event": "resume", "begins_again": True})
    assert unknown({"jax": "2", "numpy": "2"}, accepted(manifest))


def test_the_number_of_devices_counts_where_a_batch_is_summed_over_them():
    then, now = ({"config": {"data_parallel": p}, "devices": {"count": n}} for p, n in ((True, 4), (True, 8)))
    assert compare(surroundings(then), surroundings(now)) == (("device count", 4, 8),)
    then["config"]["data_parallel"] = now["config"]["data_parallel"] = False
    assert compare(surroundings(then), surroundings(now)) == ()


@pytest.mark.parametrize(("then", "now"), [(True, 1), (0, False), (1, 1.0), (None, "")])
def test_values_of_other_types_are_other_values(then, now):
    assert compare({"fact": then}, {"fact": now}) == (("fact", then, now),)
