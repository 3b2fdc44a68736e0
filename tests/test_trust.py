"""Whatever a foreign directory or file names, reading it runs nothing that it brings; and own code still works."""

import dataclasses
import json
import sys
import typing

import foreign
import pytest
from tiny import smallest_experiment, tiny_ablation

from jopt import codec, data, distill, models, task, transfer
from jopt.ablate import load_trial
from jopt.ablate.files import AblationDir
from jopt.ablate.trials import axes, trials
from jopt.config import ConfigError, decode
from jopt.export import export
from jopt.method import Method
from jopt.reference import resolve
from jopt.train import Experiment, Stage, packed, run
from jopt.train.finished import load, load_config
from jopt.train.workdir import Workdir, WorkdirError
from jopt.trust import modules_in, run_directory


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    run(smallest_experiment(), path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, as the first place where modules are looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "runs"]:
        del sys.modules[name]


def student(directory, field):
    methods = (distill.SoftTargets(teacher=str(directory)),) if field == "teacher" else ()
    source = transfer.Transfer(source=str(directory)) if field == "source" else None
    return smallest_experiment(stages=[Stage(methods=methods, transfer=source)])


READERS = {
    "export": lambda directory: export(directory, "out", ["safetensors"]),
    "verify": lambda directory: run(load_config(Workdir(directory)), "again"),
    "teacher": lambda directory: run(student(directory, "teacher"), "student"),
    "transfer": lambda directory: run(student(directory, "source"), "student"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("attack", foreign.ATTACKS)
def test_a_foreign_run_runs_nothing(finished, here, attack, reader):
    directory = foreign.build(finished, here, attack)
    # The features' classes are checked in the data, everything else in the config.
    errors = {"data outside": data.DataError, "data in old form": data.DataError}
    # These are no names of sets that TFDS or jopt has, whoever is trusted.
    errors |= {"data by dots": ConfigError, "data by another config": ConfigError}
    with pytest.raises(errors.get(attack, WorkdirError)) as caught:
        READERS[reader](directory)
    assert attack in ("data by dots", "data by another config") or "--trust" in str(caught.value)
    assert not (here / foreign.MARK).exists() and not (here / "again").exists() and not (here / "student").exists()


@pytest.mark.parametrize("attack", ["data inside", "data in old form"])
def test_the_trap_is_live(finished, here, attack):
    """With trust TFDS imports the class, so the tests above could fail."""
    directory = foreign.build(finished, here, attack)
    with pytest.raises(ConfigError, match="Unrecognized FeatureConnector"):
        load(directory, trusted=True)
    assert (here / foreign.MARK).exists()


@pytest.mark.parametrize("attack", ["method", "function"])
def test_code_in_a_run_directory_is_not_imported_even_if_trusted(finished, here, attack):
    with pytest.raises(WorkdirError, match="outside of run directories"):
        load(foreign.build(finished, here, attack), trusted=True)
    assert not (here / foreign.MARK).exists()


def test_the_user_s_own_directory_of_data_wins(finished, here):
    directory = foreign.build(finished, here, "data inside")
    config = load_config(Workdir(directory), data_dir="elsewhere")
    assert config.data.data_dir == "elsewhere"


def test_a_foreign_ablation_runs_nothing(here):
    grid = tiny_ablation()
    files = AblationDir(here / "runs" / "grid")
    files.make()
    ids = [trial.id for trial in trials(grid)]
    files.record(
        grid, trials(grid), axes(grid, trials(grid)), [{"group": 0, "structure": "s", "lanes": 1, "trials": ids}]
    )
    recorded = json.loads(files.ablation.read_text())
    assert load_trial(files.path, ids[0]) == trials(grid)[0].config
    (files.path / "payload.py").write_text(foreign.PAYLOAD.format(mark=str(here / foreign.MARK)))
    for field, value in (
        ("data", {"class": "jopt.data:Digits", "data_dir": "runs/grid/data"}),
        ("optimizer", {"name": "runs.grid.payload:make"}),
    ):
        described = value if "class" in value else recorded["experiment"][field] | value
        changed = recorded["experiment"] | {field: described}
        files.ablation.write_text(json.dumps(recorded | {"experiment": changed}))
        with pytest.raises(WorkdirError, match="--trust"):
            load_trial("runs/grid", ids[0])
    assert not (here / foreign.MARK).exists()


def test_a_packed_file_runs_nothing(finished, here):
    (here / "runs").mkdir()
    (here / "runs" / "payload.py").write_text(foreign.PAYLOAD.format(mark=str(here / foreign.MARK)))
    file = codec.read(finished / "model.jopt")
    assert isinstance(file.metadata, dict)
    for described in ({"class": "runs.payload:Pwn"}, {"calibration": "runs.payload:make"}, {"class": "os:system"}):
        codec.save("model.jopt", file.params, metadata=file.metadata | {"activations": [described]})
        with pytest.raises(packed.PackedError, match="not trusted"):
            packed.load("model.jopt")
    assert not (here / foreign.MARK).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": [0.0] * 100_000},
        {"std": [0.0]},
        {"mean": [[0.0]]},
        {"std": [1e300]},
        {"std": []},
    ],
)
def test_a_packed_file_that_cannot_normalize_is_refused(finished, tmp_path, changes):
    file = codec.read(finished / "model.jopt")
    assert isinstance(file.metadata, dict)
    codec.save(tmp_path / "m", file.params, metadata=file.metadata | changes)
    with pytest.raises(packed.PackedError, match="one a channel"):
        packed.load(tmp_path / "m")


# Whose config x where the module lies; True: it is imported.
MODULES = {
    ("own", "installed"): True,
    ("own", "below"): True,
    ("own", "run directory"): False,
    ("own", "missing module in a run directory"): False,
    ("own", "linked run directory"): False,
    ("foreign", "installed"): False,
    ("foreign", "below"): False,
    ("foreign", "run directory"): False,
}


@pytest.mark.parametrize(("whose", "where"), MODULES)
def test_modules_by_whose_config_and_by_place(here, tmp_path_factory, monkeypatch, whose, where):
    installed = tmp_path_factory.mktemp("site-packages")
    for folder in (installed / "runs_lib", here / "runs_own", here / "runs" / "a" / "code"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("import sys; sys.jopt_trap = True\n")
        (folder / "leaf.py").write_text("def f(): pass\n")
    for name in ("config.json", "manifest.json"):
        (here / "runs" / "a" / name).write_text("{}")
    (here / "runs_link").symlink_to(here / "runs" / "a" / "code", target_is_directory=True)
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setattr(sys, "jopt_trap", False, raising=False)
    module = {
        "installed": "runs_lib.leaf",
        "below": "runs_own.leaf",
        "run directory": "runs.a.code.leaf",
        "missing module in a run directory": "runs.a.code.nothing",
        "linked run directory": "runs_link.leaf",
    }[where]
    try:
        if MODULES[whose, where]:
            assert resolve(f"{module}:f", "score", trusted=whose == "own").__name__ == "f"
        else:
            with pytest.raises(ConfigError) as caught:
                resolve(f"{module}:f", "score", trusted=whose == "own")
            assert (caught.value.field, caught.value.value) == ("score", f"{module}:f")
        assert getattr(sys, "jopt_trap", None) == MODULES[whose, where]
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] in ("runs_lib", "runs_own", "runs_link")]:
            del sys.modules[name]


def test_the_current_directory_is_no_foreign_directory(here, monkeypatch):
    for name in ("config.json", "manifest.json"):
        (here / name).write_text("{}")
    assert run_directory(here / "package") is None
    (here / "deeper").mkdir()
    monkeypatch.chdir(here / "deeper")
    assert run_directory(here / "package") is None and run_directory(here / "deeper" / "package") is None


def test_a_text_of_a_config_is_a_name_or_a_path_that_is_checked():
    """A new field of text must be looked at: a path belongs in `finished.check_paths`, code has a Callable type."""
    paths = {"path", "teacher", "source"}
    names = {"name", "activation", "dtype", "padding", "layout", "variant", "start", "granularity", "gradient"}
    names |= {"residency", "remat"}
    kinds = _classes(Experiment, *_methods(Method))
    assert {name for cls in kinds for name in _texts(cls)} == paths | names


def test_a_text_of_a_source_is_a_path_or_a_name():
    """A path belongs in `PATHS`; what is looked up as code has a Callable type."""
    names = {"layout", "residency", "fingerprint", "name", "inputs", "targets", "splits", "config", "revision"}
    names |= {
        "target",
        "columns",
        "categorical",
        "categories",
        "delimiter",
        "fit",
        "colours",
        "level",
        "corpus",
        "split",
    }
    for source in _methods(data.Source):
        hints = typing.get_type_hints(source)
        texts = {f.name for f in dataclasses.fields(source) if "str" in str(hints[f.name]) or hints[f.name] is str}
        texts -= {name for name in texts if "Callable" in str(hints[name])} | {"options"}
        assert texts - names == set(source.PATHS), source


FOREIGN_CODE = (
    (data.Source, {"class": "jopt.data:Custom", "name": "os:system", "options": {"command": "exit"}}, "name"),
    (data.Source, {"class": "jopt.data:Digits", "preprocess": "os:system"}, "preprocess"),
    (data.Source, {"class": "jopt.data:Digits", "augmentation": "os:system"}, "augmentation"),
    (models.Network, {"class": "jopt.models:Custom", "name": "os:system", "options": {"command": "exit"}}, "name"),
    (
        task.Task,
        {"class": "jopt.task:Custom", "reference": "os:system", "options": {"command": "exit"}},
        "reference",
    ),
)


@pytest.mark.parametrize("value", ["os:abort", ["a", "os:abort"], "jopt.prune.patterns:np.save"])
def test_arguments_of_a_method_name_no_code_either(value):
    # `jopt.task:Custom` is a method of jopt's that looks its own argument up.
    described = {"class": "jopt.task:Custom", "reference": "jopt.task:Custom", "options": {"reference": value}}
    with pytest.raises(ConfigError, match="not trusted") as caught:
        decode(described, task.Task, "part")
    assert caught.value.field.startswith("part.options.reference")
    assert decode(described, task.Task, "part", trusted=True).reference == "jopt.task:Custom"
    if isinstance(value, str) and value.startswith("os"):
        decode(described, task.Task, "part", trusted={"os"})


@pytest.mark.parametrize(("base", "described", "field"), FOREIGN_CODE)
def test_code_that_a_foreign_file_names_is_not_looked_up(base, described, field):
    with pytest.raises(ConfigError, match="not trusted") as caught:
        decode(described, base, "part")
    assert caught.value.field == f"part.{field}"
    trusted = decode(described, base, "part", trusted=True)
    assert getattr(trusted, field) == "os:system"


# Fields of a set that lies in the run's directory, or that holds it.
INSIDE = {
    "arrays": {"class": "jopt.data:Arrays", "path": "runs/evil/a.npz"},
    "a table": {"class": "jopt.data:Csv", "path": "runs/evil/a.csv", "target": "y"},
    "its second file": {"class": "jopt.data:Csv", "path": "a.csv", "target": "y", "test_path": "runs/evil/a.csv"},
    "a folder": {"class": "jopt.data:ImageFolder", "path": "runs/evil/images"},
    "a folder that holds the run": {"class": "jopt.data:ImageFolder", "path": "runs"},
    "text": {"class": "jopt.data:Text", "files": ["runs/evil/config.json"]},
    "a pattern of text": {"class": "jopt.data:Text", "files": "**/*.json"},
    "a prepared directory": {"class": "jopt.data:Tfds", "directory": "runs/evil/1.0.0"},
    "parquet": {"class": "jopt.data:HuggingFace", "path": "runs/evil", "inputs": "x", "targets": "y"},
}


@pytest.mark.parametrize("name", INSIDE)
def test_a_run_s_own_directory_holds_no_data(finished, here, name):
    directory = foreign.build(finished, here, "data inside")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"data": INSIDE[name]}))
    with pytest.raises(WorkdirError, match="--trust"):
        load_config(Workdir(directory))
    assert load_config(Workdir(directory), trusted=True).data.PATHS
    # The user's own path takes the place of the first alone.
    if name == "its second file":
        with pytest.raises(WorkdirError, match="test_path"):
            load_config(Workdir(directory), data_dir="mine.csv")
    else:
        moved = load_config(Workdir(directory), data_dir="mine").data
        assert [path.path for path in moved.paths()][:1] in (["mine"], ["."])


def _methods(cls):
    for subclass in cls.__subclasses__():
        yield from _methods(subclass)
        if subclass.__module__.startswith("jopt.") and dataclasses.is_dataclass(subclass):
            yield subclass


def _classes(*roots):
    pending, classes = list(roots), set()
    while pending:
        cls = pending.pop()
        if dataclasses.is_dataclass(cls) and cls not in classes:
            classes.add(cls)
            pending += [
                arg for hint in typing.get_type_hints(cls).values() for arg in (hint, *typing.get_args(hint))
            ]
    return classes


def _texts(cls):
    hints = typing.get_type_hints(cls)
    return [f.name for f in dataclasses.fields(cls) if hints[f.name] in (str, str | None)]


def test_modules_are_found_anywhere_in_a_config():
    assert modules_in({"a": [{"class": "p.q:R"}, {"x": ["s:t", 1, None]}]}) == {"p.q", "s"}
