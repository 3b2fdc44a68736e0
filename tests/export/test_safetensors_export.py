"""Parameters in a safetensors file: every bit comes back, every name is clear, equal trees are equal bytes."""

import builtins
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jopt.export import safetensors

KEYS = st.text(st.characters(exclude_characters=".", exclude_categories=("Cs",)), min_size=1, max_size=4)
DTYPES = (np.float32, np.float16, np.float64, np.int8, np.uint8, np.int32, np.uint64, np.bool_, ml_dtypes.bfloat16)


def leaf(dtype):
    shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    bits = arrays.arrays(np.uint8, shapes.map(lambda shape: (*shape, np.dtype(dtype).itemsize)))
    if dtype is np.bool_:
        return arrays.arrays(np.bool_, shapes)
    return bits.map(lambda b: b.view(dtype).reshape(b.shape[:-1]))


LEAVES = st.sampled_from(DTYPES).flatmap(leaf)
TREES = st.dictionaries(KEYS, st.one_of(LEAVES, st.dictionaries(KEYS, LEAVES, min_size=1, max_size=3)), max_size=4)


def same(a, b):
    """Structure, dtypes, shapes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


@settings(max_examples=40, deadline=None)
@given(
    params=TREES.filter(lambda tree: "model_state" not in tree), state=TREES, metadata=st.dictionaries(KEYS, KEYS)
)
def test_every_bit_comes_back(tmp_path_factory, params, state, metadata):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    size = safetensors.save(path, params, model_state=state, metadata=metadata)
    found = safetensors.load(path)
    same(found.params, params)
    same(found.model_state, state)
    assert found.metadata == metadata and size == path.stat().st_size


def test_the_library_reads_it_under_dotted_names(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    path = tmp_path / "a.safetensors"
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not contiguous
    params = {"Block_0": {"Dense_0": {"kernel": kernel, "bias": np.zeros((), np.float32)}}, "list": [np.ones(2)]}
    safetensors.save(path, params, model_state={"batch_stats": {"mean": np.ones(1)}}, metadata={"b": "2", "a": "1"})
    found = load_file(path)
    assert {name: value.shape for name, value in found.items()} == {
        "Block_0.Dense_0.bias": (),
        "Block_0.Dense_0.kernel": (3, 2),
        "list.0": (2,),
        "model_state.batch_stats.mean": (1,),
    }
    np.testing.assert_array_equal(found["Block_0.Dense_0.kernel"], kernel)
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"a": "1", "b": "2"}


def test_bytes_are_the_same_in_every_process(tmp_path):
    # The library alone orders metadata anew in each process.
    metadata = {str(i): "x" for i in range(20)}
    params = {name: np.full(3, i, np.float32) for i, name in enumerate("dacb")}
    safetensors.save(tmp_path / "here", params, metadata=metadata)
    safetensors.save(tmp_path / "turned", dict(reversed(params.items())), metadata=dict(reversed(metadata.items())))
    content = (tmp_path / "here").read_bytes()
    assert (tmp_path / "turned").read_bytes() == content
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == sorted(metadata) and int.from_bytes(content[:8], "little") % 8 == 0


def test_a_range_of_a_nested_layer_keeps_its_name(tmp_path):
    state = {"activation_ranges": {"Block_1/Conv_0": {"low": np.float32(0), "high": np.float32(2)}}}
    safetensors.save(tmp_path / "a", {}, model_state=state)
    same(safetensors.load(tmp_path / "a").model_state, jax.tree.map(np.asarray, state))


def test_a_range_of_a_network_that_is_one_layer_is_written(tmp_path):
    # The layer's path is empty: `models.Custom("flax.linen:Dense")`.
    state = {"activation_ranges": {"": {"low": np.float32(0), "high": np.float32(2)}}}
    safetensors.save(tmp_path / "a", {"kernel": np.ones(1)}, model_state=state)
    same(safetensors.load(tmp_path / "a").model_state, jax.tree.map(np.asarray, state))


@pytest.mark.parametrize(
    ("params", "state", "metadata", "said"),
    [
        ({"a.b": np.ones(1)}, None, None, r"keys of 'a\.b'"),
        ({"": np.ones(1)}, None, None, "empty"),
        (np.ones(1), None, None, "empty"),
        ({"model_state": {"a": np.ones(1)}}, None, None, "'model_state' as their first key"),
        ({"__metadata__": np.ones(1)}, None, None, "'__metadata__'"),
        ({"a": np.ones(1, complex)}, None, None, "'a' must be of a dtype of safetensors .*complex128"),
        ({"a": np.ones(1)}, {"b": np.array(["x"])}, None, r"'model_state\.b' must be of a dtype"),
        ({"a": np.ones(1)}, None, {"n": 3}, "metadata must be texts, got 3 for 'n'"),
    ],
)
def test_what_has_no_name_or_dtype_is_refused(tmp_path, params, state, metadata, said):
    with pytest.raises(ValueError, match=said):
        safetensors.save(tmp_path / "a", params, model_state=state, metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_damage_is_named(tmp_path):
    path = tmp_path / "a"
    safetensors.save(path, {"a": np.ones(4)})
    content = path.read_bytes()
    for damaged in (b"", content[:20], content[:-1], b"\xff" * 40):
        path.write_bytes(damaged)
        with pytest.raises(safetensors.SafetensorsError, match="not a safetensors"):
            safetensors.load(path)
    from safetensors.numpy import save

    path.write_bytes(save({"a": np.ones(1), "a.b": np.ones(1)}))
    with pytest.raises(safetensors.SafetensorsError, match="begins"):
        safetensors.load(path)


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **more):
        if name.partition(".")[0] == "safetensors":
            raise ImportError(name)
        return plain(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for act in (lambda: safetensors.save(tmp_path / "a", {}), lambda: safetensors.load(tmp_path / "a")):
        with pytest.raises(ImportError, match=r"jopt\[export\]"):
            act()
