"""One network in every kind of source: the same arrays under the same names, or in the same places."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files
from orbax.checkpoint import v1
from safetensors.numpy import load_file, save_file

from jopt import layers, models, start
from jopt.export import safetensors
from jopt.start.reading import read
from jopt.train import finished
from jopt.train.plan import shapes

pytestmark = pytest.mark.unoptimized


def write_torch_shards(path, params):
    arrays = torch_files.state_dict(params)
    half = dict(list(arrays.items())[:3])
    save_file(half, path / "a-1.safetensors")
    save_file({name: arrays[name] for name in arrays if name not in half}, path / "a-2.safetensors")
    files = {name: f"a-{1 if name in half else 2}.safetensors" for name in arrays}
    (path / "a.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return path / "a.safetensors.index.json"


def write_onnx(path, params):
    """As an exporter writes it: Gemm with transB, and MatMul with its own order of axes."""
    import onnx
    from onnx import helper, numpy_helper

    arrays = torch_files.state_dict(params)
    arrays["fc2.weight"] = np.ascontiguousarray(arrays["fc2.weight"].T)
    nodes = [
        helper.make_node("Conv", ["x", "conv1.weight", "conv1.bias"], ["a"]),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "fc1.weight", "fc1.bias"], ["c"], transB=1),
        helper.make_node("MatMul", ["c", "fc2.weight"], ["d"]),
        helper.make_node("Add", ["d", "fc2.bias"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)), path / "a.onnx")
    return path / "a.onnx"


def write(path, save):
    save(path)
    return path


def tree(params):
    return jax.tree.map(jnp.asarray, {"params": params, "step": 3})


SOURCES = {
    "safetensors": lambda path, run, p: write(path / "a.safetensors", lambda a: safetensors.save(a, p)),
    "torch": lambda path, run, p: write(
        path / "a.safetensors", lambda a: save_file(torch_files.state_dict(p), a, metadata={"format": "pt"})
    ),
    "shards": lambda path, run, p: write_torch_shards(path, p),
    "npz": lambda path, run, p: write(path / "a.npz", lambda a: np.savez(a, **torch_files.state_dict(p))),
    "compressed": lambda path, run, p: write(
        path / "a.npz", lambda a: np.savez_compressed(a, **{k: np.asfortranarray(v) for k, v in named(p).items()})
    ),
    "onnx": lambda path, run, p: write_onnx(path, p),
    "packed": lambda path, run, p: run / "model.jopt",
    "run": lambda path, run, p: run,
    "checkpoint": lambda path, run, p: max((run / "checkpoints").iterdir(), key=lambda child: int(child.name)),
    "orbax": lambda path, run, p: write(path / "a", lambda a: v1.save(a, tree(p))),
}


def named(params):
    return {f"{layer}/{name}": array for layer, leaves in params.items() for name, array in leaves.items()}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_parameters(kind, trained, tmp_path):
    directory = trained / "run"
    params = finished.load(directory).params
    path = SOURCES[kind](tmp_path, directory, params)
    of_torch = kind in ("torch", "shards", "npz", "onnx")
    config = start.Pretrained(
        str(path),
        torch_files.RULES if of_torch else (),
        allow_unused=("step",) if kind == "orbax" else (),
    )
    model = models.model(torch_files.CNN)
    x = np.zeros((2, 6, 6, 1), np.float32)
    begins = start.load(
        config, model, layers.trace(model, x), shapes(model, jax.ShapeDtypeStruct(x.shape[1:], x.dtype)), x
    )
    assert begins.layout == ("torch" if of_torch else "flax")
    assert set(begins.params) == set(named(params))
    for name, array in named(params).items():
        np.testing.assert_array_equal(begins.params[name], array, err_msg=name)
        assert begins.params[name].dtype == array.dtype and begins.params[name].flags.c_contiguous


def test_the_digest_is_of_the_arrays_and_not_of_the_file(trained, tmp_path):
    arrays = load_file(trained / "torch.safetensors")
    save_file(arrays, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **dict(reversed(arrays.items())))
    paths = [str(tmp_path / name) for name in ("a.safetensors", "a.npz")]
    digests = start.digests([start.Pretrained(path) for path in paths])
    assert digests[paths[0]] == digests[paths[1]]
    np.savez(tmp_path / "a.npz", **{**arrays, "fc2.bias": arrays["fc2.bias"] + 1})
    assert start.digests([start.Pretrained(paths[1])])[paths[1]] != digests[paths[0]]


def test_safetensors_are_views_of_the_file(tmp_path):
    save_file({"a": np.arange(4, dtype=np.float32), "empty": np.zeros((0, 3), np.int8)}, tmp_path / "a.safetensors")
    arrays = read(tmp_path / "a.safetensors").arrays
    assert isinstance(arrays["a"].base, np.memmap) and not arrays["a"].flags.writeable
    assert arrays["a"].tolist() == [0, 1, 2, 3] and arrays["empty"].shape == (0, 3)


@pytest.mark.parametrize(
    "source",
    [
        {"Dense_0": {"bias": np.ones(2)}},
        {"Dense_0/bias": jnp.ones(2)},
        {"params": {"Dense_0": {"bias": np.ones(2)}}},
        ({"Dense_0": {"bias": np.ones(2)}}, {"batch_stats": {"BatchNorm_0": {"mean": np.ones(1)}}}),
    ],
)
def test_objects(source):
    names = list(start.from_object(source).arrays)
    assert names[0].endswith("Dense_0/bias")
    assert names[1:] in ([], ["model_state/batch_stats/BatchNorm_0/mean"])
