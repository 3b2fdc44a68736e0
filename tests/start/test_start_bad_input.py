"""Sources that cannot be read or do not fit: each is one error, before anything compiles or is written."""

import json
import pickle
import struct
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import tiny_experiment

from jopt import layers, models, start
from jopt.config import ConfigError, from_dict, to_dict
from jopt.train import Experiment, run
from jopt.train.finished import check_paths
from jopt.train.plan import shapes
from jopt.train.workdir import WorkdirError

pytestmark = pytest.mark.unoptimized

MODEL = models.model(models.ModelConfig("mlp", features=(4,), num_classes=4))
SHAPE = (2, 2, 1)
LAYERS = layers.trace(MODEL, np.zeros((1, *SHAPE), np.float32))


def fitting(**changes):
    """A state_dict that fits, with changes; None removes an array, and `a__b` names `a.b`."""
    state = {
        "Dense_0.weight": np.eye(4, dtype=np.float32),
        "Dense_0.bias": np.zeros(4, np.float32),
        "Dense_1.weight": np.ones((4, 4), np.float32),
        "Dense_1.bias": np.zeros(4, np.float32),
    }
    state |= {name.replace("__", "."): array for name, array in changes.items()}
    return {name: array for name, array in state.items() if array is not None}


def load(source=None, **fields):
    config = start.Pretrained(**{"path": "object", **fields})
    return start.load(
        config,
        MODEL,
        LAYERS,
        shapes(MODEL, jax.ShapeDtypeStruct(SHAPE, np.float32)),
        np.zeros((2, *SHAPE), np.float32),
        source=source,
    )


def test_the_arrays_that_are_changed_below_fit():
    assert {row.status for row in load(fitting()).rows} == {"copied"}


NAN = np.full((4, 4), np.nan, np.float32)
UNFIT = {
    "missing array": (fitting(Dense_1__bias=None), {}, ["Dense_1/bias 4 gets no array"]),
    "extra array": (fitting(head=np.zeros(3)), {}, ["head 3 fills no parameter"]),
    "other shape": (fitting(Dense_1__weight=np.ones((5, 4))), {}, ["PyTorch has it as 4x4"]),
    "nan": (fitting(Dense_1__weight=NAN), {}, ["16 of 16 values that are not finite"]),
    "too large for float32": (fitting(Dense_1__bias=np.full(4, 1e300)), {}, ["4 of 4 values"]),
    "integers": (fitting(Dense_1__bias=np.zeros(4, int)), {}, ["Dense_1/bias is float32", "int64"]),
    "complex": (fitting(Dense_1__bias=np.zeros(4, complex)), {}, ["complex128"]),
    "rule without a match": (fitting(), {"rules": (("Dense_2", "a"),)}, ["rule 'Dense_2' matches no name"]),
    "hidden rule": (
        fitting(),
        {"rules": ((r"(.*)_0\.bias", r"\1_0.bias"), (r"Dense_0\.bias", "Dense_0.bias"))},
        ["is hidden behind the rules before it"],
    ),
    "two sources of one parameter": (
        fitting(other=np.zeros(4)),
        {"rules": (("other", "Dense_0.bias"),)},
        ["Dense_0/bias would be filled from both Dense_0.bias and other"],
    ),
    "uneven parts": (
        fitting(both=np.zeros(5)),
        {"rules": (start.Rule("both", ("Dense_0.bias", "Dense_1.bias")),)},
        ["both is 5"],
    ),
    "axes that it does not have": (
        fitting(),
        {"rules": (start.Rule(r"Dense_0\.bias", "Dense_0.bias", transpose=(1, 0)),)},
        ["Dense_0.bias is 4"],
    ),
    "idle allow_missing": (fitting(), {"allow_missing": ("Dense_9/.*",)}, ["allow_missing 'Dense_9/.*'"]),
    "idle allow_unused": (fitting(), {"allow_unused": ("haed",)}, ["allow_unused 'haed' matches no name"]),
    "names of PyTorch that are read as Flax's": (
        fitting(),
        {"layout": "flax"},
        ["Dense_0/kernel 4x4 gets no array", "Dense_0.weight 4x4 fills no parameter", "near: Dense_0/kernel"],
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_arrays_that_do_not_fit(case):
    source, fields, texts = UNFIT[case]
    with pytest.raises(start.StartError) as error:
        load(source, **fields)
    assert error.value.field == "start.path" and error.value.value == "object"
    assert all(any(text in problem for problem in error.value.problems) for text in texts), error.value.problems
    assert "\n" not in str(error.value)
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.problems) == (str(error.value), error.value.problems)


def test_all_problems_are_listed_at_once():
    source = fitting(Dense_0__weight=NAN, Dense_1__weight=np.ones(3), Dense_1__bias=None, head=np.ones(2))
    with pytest.raises(start.StartError) as error:
        load(source)
    assert len(error.value.problems) == 4


@pytest.mark.parametrize("names", [("w", "b"), ("Dense_0.kernel", "Dense_0.weight")])
def test_names_that_tell_no_layout_need_one(names):
    with pytest.raises(start.StartError) as error:
        load(dict.fromkeys(names, np.zeros(4)))
    assert error.value.field == "start.layout"


def shard(path):
    save_file(fitting(), path)


def write_header(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_index(path, files):
    path.write_text(json.dumps({"weight_map": files}))


def bomb(path):
    """An npz whose only member claims a shape that no memory holds."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"
    header += b" " * (64 - (len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


FILES = {
    "nothing.safetensors": lambda path: None,
    "suffix.txt": lambda path: path.write_text("a"),
    "pickle.pt": lambda path: path.write_bytes(pickle.dumps(1)),
    "pickle.bin": lambda path: path.write_bytes(pickle.dumps(1)),
    "directory": lambda path: path.mkdir(),
    "empty.safetensors": lambda path: path.write_bytes(b""),
    "cut.safetensors": lambda path: (shard(path), path.write_bytes(path.read_bytes()[:-4])),
    "cut_header.safetensors": lambda path: (shard(path), path.write_bytes(path.read_bytes()[:40])),
    "huge.safetensors": lambda path: path.write_bytes(b"\xff" * 16),
    "json.safetensors": lambda path: write_header(path, b"{"),
    "deep.safetensors": lambda path: write_header(path, b"[" * 100_000),
    "list.safetensors": lambda path: write_header(path, []),
    "fields.safetensors": lambda path: write_header(path, {"a": {}}),
    "dtype.safetensors": lambda path: write_header(path, entry(dtype="F8_E4M3"), bytes(8)),
    "size.safetensors": lambda path: write_header(path, entry(shape=(3,)), bytes(8)),
    "negative.safetensors": lambda path: write_header(path, entry(shape=(-2,), offsets=(0, -8)), bytes(8)),
    "beyond.safetensors": lambda path: write_header(path, entry(offsets=(8, 16)), bytes(8)),
    "overlap.safetensors": lambda path: write_header(
        path, {**entry(), "b": entry(offsets=(4, 12))["a"]}, bytes(12)
    ),
    "list.safetensors.index.json": lambda path: path.write_text("[]"),
    "out.safetensors.index.json": lambda path: write_index(path, {"a": "../a.safetensors"}),
    "absolute.safetensors.index.json": lambda path: write_index(path, {"a": "/etc/passwd"}),
    "long.safetensors.index.json": lambda path: write_index(path, {"a": "a" * 300}),
    "gone.safetensors.index.json": lambda path: write_index(path, {"a": "gone.safetensors"}),
    "other.safetensors.index.json": lambda path: (
        shard(path.parent / "one.safetensors"),
        write_index(path, {"nowhere": "one.safetensors"}),
    ),
    "objects.npz": lambda path: np.savez(path, a=np.array([{}], object)),
    "array.npz": lambda path: (np.save(path.with_suffix(".npy"), [1]), path.with_suffix(".npy").rename(path)),
    "text.npz": lambda path: path.write_text("PK nothing"),
    "cut.npz": lambda path: (np.savez(path, a=np.zeros(999)), path.write_bytes(path.read_bytes()[:-99])),
    "moved.npz": lambda path: (np.savez(path, a=np.zeros(9)), path.write_bytes(path.read_bytes()[200:])),
    "bomb.npz": bomb,
    "text.onnx": lambda path: path.write_text("nothing of ONNX"),
    "text.jopt": lambda path: path.write_text("no packed file"),
    "orbax": lambda path: (path.mkdir(), (path / "_METADATA").write_text("{}")),
    "run": lambda path: (path.mkdir(), (path / "result.json").write_text("{}")),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_read(name, tmp_path):
    path = tmp_path / name
    FILES[name](path)
    with pytest.raises(start.StartError) as error:
        load(path=str(path))
    assert (error.value.field, error.value.value) == ("start.path", str(path))
    if name.startswith("pickle"):
        assert "safetensors" in error.value.accepted


CONFIGS = {
    "path": {"path": " "},
    "layout": {"layout": "tf"},
    "allow_missing[0]": {"allow_missing": ("(",)},
    "allow_unused[0]": {"allow_unused": ("*",)},
    "rules[0]": {"rules": (("a", r"\1"),)},
    "rules[1]": {"rules": (("a", "b"), ("(", "b"))},
    "rules[0].transpose": {"rules": (start.Rule("a", "b", transpose=(0, 2)),)},
    "rules[0].reshape": {"rules": (start.Rule("a", "b", reshape=(-1, -1)),)},
    "rules[0].layout": {"rules": (start.Rule("a", "b", layout="auto"),)},
    "rules": {"rules": (("a",),)},
}


@pytest.mark.parametrize("field", CONFIGS)
def test_configs(field):
    with pytest.raises(ConfigError) as error:
        start.validate(start.Pretrained(**{"path": "a.npz", **CONFIGS[field]}))
    assert error.value.field == f"start.{field}"


def test_nothing_is_compiled_or_written(tmp_path):
    np.savez(tmp_path / "a.npz", **{"Dense_0.weight": np.zeros((3, 3), np.float32)})
    config = tiny_experiment(start=start.Pretrained(str(tmp_path / "a.npz")))
    compilations = []

    def note(name, *_, **__):
        compilations.append(name)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with pytest.raises(start.StartError):
            run(config, tmp_path / "run")
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert not (tmp_path / "run").exists()
    assert "/jax/core/compile/backend_compile_duration" not in compilations


def test_a_foreign_config_may_not_start_from_its_own_directory(tmp_path):
    config = tiny_experiment(start=start.Pretrained(str(tmp_path / "run" / "a.npz")))
    with pytest.raises(WorkdirError, match=r"start\.path"):
        check_paths(config, tmp_path / "run")
    check_paths(config, tmp_path / "other")


def test_a_config_is_json_and_back():
    rule = start.Rule("b", ("c", "d"), (1, 0), (-1,), "flax")
    fields = {"layout": "torch", "allow_missing": ("a",), "allow_unused": ("b",)}
    config = tiny_experiment(start=start.Pretrained("a.npz", (("a", "b"), ("x", None), rule), **fields))
    assert from_dict(Experiment, json.loads(json.dumps(to_dict(config)))) == config
