"""An app that reads a foreign directory or file runs nothing that it brings, and predict asks before it spends."""

import dataclasses
import json
import shutil

import foreign
import pytest

from jopt import codec, data


@pytest.fixture(scope="module")
def here(runs, tmp_path_factory):
    """A directory with a foreign run, whose data would run code, and the user's own config that learns from it."""
    here = tmp_path_factory.mktemp("foreign")
    foreign.build(runs / "a", here, "data inside")
    shutil.copytree(runs / "b", here / "runs" / "b")
    experiment = json.loads((here / "runs/evil/config.json").read_text())
    (here / "runs" / "grid").mkdir()
    recorded = {
        "experiment": experiment,
        "groups": [],
        "trials": [{"trial": "0123", "point": {}, "seed": 0, "overrides": {}}],
    }
    (here / "runs/grid/ablation.json").write_text(
        json.dumps(recorded).replace("runs/evil/data", "runs/grid/../grid/data")
    )
    (here / "student.py").write_text(
        "from jopt import distill\n"
        "from jopt.train import Stage\n"
        "from tests.tiny import tiny_experiment\n\n\n"
        "def get_config():\n"
        "    return tiny_experiment(stages=[Stage(methods=(distill.SoftTargets(teacher='runs/evil'),))])\n"
    )
    return here


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("export", ["runs/evil", "--out=out"]),
        ("verify", ["runs/evil"]),
        ("train", ["--config=student.py", "--workdir=student"]),
        ("train", ["--trial=runs/grid/0123", "--workdir=trial"]),
    ],
    ids=["export", "verify", "teacher", "trial"],
)
def test_an_app_refuses_in_one_line(forked, refused, here, name, args):
    line = refused(forked(name, *args, cwd=here), 1)
    assert "data.data_dir" in line and "--trust" in line
    assert not (here / foreign.MARK).exists()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("predict", ["runs/evil", "--repeats=1"]),
        ("inspect", ["runs/evil"]),
        ("compare", ["runs/evil", "runs/b", "--out=out"]),
    ],
    ids=["predict", "inspect", "compare"],
)
def test_an_app_reads_what_is_safe(forked, here, name, args):
    done = forked(name, *args, cwd=here)
    assert done.returncode == 0, done.stderr
    assert not (here / foreign.MARK).exists()


def test_the_user_s_directory_of_data_is_used_instead(forked, refused, here):
    line = refused(forked("verify", "runs/evil", "--data_dir=elsewhere", cwd=here), 2)
    # The run's set does not exist there; nothing in the run was read in its place.
    assert "mnist" in line and not (here / foreign.MARK).exists()


@pytest.fixture
def packed(runs, tmp_path):
    """Writes the run's packed file with other metadata of its data."""
    file = codec.read(runs / "a" / "model.jopt")

    def write(**changes):
        described = changes if "class" in changes else file.metadata["data"] | changes
        metadata = file.metadata | {"data": described}
        codec.save(tmp_path / "m.jopt", file.params, model_state=file.model_state, metadata=metadata)
        return tmp_path / "m.jopt"

    return write


@pytest.mark.parametrize(
    ("changes", "flags", "reason"),
    [
        # In order of what is compared: before anything of the set exists.
        ({"shape": [4096, 4096, 3]}, [], "shape (6, 6, 1)"),
        ({"num_classes": 10**9}, [], "4 classes"),
        ({"train": 10**12}, ["--data=synthetic"], "--max_bytes="),
        ({"train": 10**6}, [], "--data=synthetic"),
        ({"class": "jopt.data:Tfds", "name": "mnist"}, [], "(28, 28, 1)"),
    ],
)
def test_predict_compares_and_asks_first(forked, refused, packed, changes, flags, reason, tmp_path):
    line = refused(forked("predict", packed(**changes), *flags, f"--data_dir={tmp_path / 'sets'}"), 2)
    assert "--data must be" in line and reason in line
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize("name", ["predict", "inspect"])
def test_max_bytes_is_the_user_s(forked, refused, runs, name):
    assert "max_bytes = 100" in refused(forked(name, runs / "a" / "model.jopt", "--max_bytes=100"), 1)


def test_the_outline_of_a_set_is_that_of_its_arrays():
    small = data.Synthetic(shape=(4, 6, 3), num_classes=3, train=6, validation=3, test=3)
    for config in (
        data.Xor(),
        dataclasses.replace(small, relabel=(1, 0, 1)),
        dataclasses.replace(small, layout="sequence"),
    ):
        outline, dataset = config.outline(), data.load(config)
        assert outline.shape == dataset.train.inputs.shape[1:] and outline.num_classes == dataset.num_classes
        assert not outline.downloads
