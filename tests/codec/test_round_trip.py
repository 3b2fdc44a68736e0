"""Models come back bit for bit, and the ledger's sum is the file's length."""

import functools
import json
import pathlib
import tempfile
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_cases import CONTENTS, SPECS, array, lenet, quantized, same, tree

from jopt import codec
from jopt.codec import elements
from jopt.codec.grid import grid, to_codes, to_values
from jopt.codec.integers import values

NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), JSON, st.booleans())
def test_any_tree_comes_back(seed, metadata, huffman):
    rng = np.random.default_rng(seed)
    params, state = tree(rng), tree(rng)
    packed = codec.encode(params, model_state=state, metadata=metadata, huffman=huffman)
    file = codec.decode(packed.data)
    assert same(file.params, params) and same(file.model_state, state)
    assert json.dumps(file.metadata, sort_keys=True) == json.dumps(metadata, sort_keys=True)
    assert packed.ledger == file.ledger and file.ledger.total == len(packed.data)
    assert sum(file.ledger.by_kind().values()) == len(packed.data)


@pytest.mark.parametrize("name", elements.NAMES)
def test_every_dtype_with_every_content(name):
    rng = np.random.default_rng(elements.NAMES.index(name))
    dtype = elements.dtype(elements.NAMES.index(name), "")
    params = [array(rng, dtype, shape, content) for content in CONTENTS for shape in ((), (2, 0), (50, 7))]
    assert same(codec.decode(codec.encode(params).data).params, params)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SPECS), st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.booleans())
def test_quantized_kernels_come_back_with_their_integers(seed, spec, sparsity, huffman):
    rng = np.random.default_rng(seed)
    dtype = (np.float32, ml_dtypes.bfloat16, np.float16)[seed % 3]
    x, ends = quantized(rng, spec, sparsity=sparsity, dtype=dtype)
    packed = codec.encode({"w": x}, specs={"w": spec}, ranges={"w": ends}, huffman=huffman)
    file = codec.decode(packed.data)
    q = file.integers["w"]
    assert same(file.params, {"w": x}) and same(values(q, np.dtype(dtype)), x)
    assert q.spec == spec and q.codes.shape == x.shape
    if spec.symmetric:
        assert (q.high == np.maximum(-ends[0], ends[1])).all() and (q.low == -q.high).all()
    else:
        assert same(q.low, ends[0]) and same(q.high, ends[1])


def test_saved_files(tmp_path):
    rng = np.random.default_rng(0)
    params, specs = lenet(rng, (64, 30, 10))
    path = tmp_path / "model.jopt"
    state = {"BatchNorm_0": {"mean": np.zeros(30, np.float32)}}
    ledger = codec.save(path, params, model_state=state, specs=specs, metadata={"name": "lenet300"})
    assert path.stat().st_size == ledger.total
    file = codec.read(path)
    assert same(codec.load(path), params) and same(file.params, params) and same(file.model_state, state)
    assert file.metadata == {"name": "lenet300"} and file.ledger == ledger
    assert sorted(file.integers) == sorted(specs)
    assert [entry.path for entry in ledger.entries] == [
        "", "Dense_0/bias", "Dense_0/kernel", "Dense_1/bias", "Dense_1/kernel", "model_state/BatchNorm_0/mean"
    ]  # fmt: skip


def test_equal_models_give_equal_bytes():
    params, specs = lenet(np.random.default_rng(1), (20, 10, 5))
    turned = {k: dict(reversed(v.items())) for k, v in reversed(params.items())}
    a = codec.encode(params, specs=specs, metadata={"a": 1, "b": [1.5]}).data
    b = codec.encode(turned, specs=dict(reversed(specs.items())), metadata={"b": [1.5], "a": 1}).data
    assert a == b == codec.encode(codec.decode(a).params, specs=specs, metadata={"a": 1, "b": [1.5]}).data


def test_jax_arrays_numbers_and_foreign_byte_order():
    import jax.numpy as jnp

    params = {
        "a": jnp.arange(3, dtype=jnp.bfloat16),
        "b": 2.5,
        "c": np.array([1, 2], ">i4"),
        "d": np.ones((2, 3)).T,
    }
    loaded = codec.decode(codec.encode(params).data).params
    assert loaded["a"].dtype == ml_dtypes.bfloat16 and loaded["a"].tolist() == [0, 1, 2]
    assert loaded["b"].dtype == np.float64 and loaded["b"].shape == () and loaded["b"] == 2.5
    assert loaded["c"].dtype == np.int32 and loaded["c"].dtype.isnative and loaded["c"].tolist() == [1, 2]
    assert loaded["d"].shape == (3, 2)


def test_loaded_arrays_share_no_memory():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    loaded = codec.decode(codec.encode([x, x, np.zeros((2, 3), np.float32)]).data).params
    for a in loaded:
        a += 1
    assert (loaded[0] == x + 1).all() and (loaded[1] == x + 1).all() and (loaded[2] == 1).all()


def test_tied_tensors_are_written_once():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(50, 40)).astype(np.float32)
    once = codec.encode({"a": x}).ledger.total
    packed = codec.encode({"a": x, "b": {"c": x.copy()}, "d": x.view(np.int32), "e": x.T.copy().T})
    rows = {entry.path: entry for entry in packed.ledger.entries}
    assert rows["b/c"].encoding == rows["e"].encoding == "tied to a"
    assert rows["b/c"].total < 16 and rows["d"].total > 8000 and packed.ledger.total < once + 8100
    spec = codec.Spec(8)
    y, ends = quantized(rng, spec)
    both = codec.encode({"a": y, "b": y, "c": y}, specs={"a": spec, "b": spec}, ranges={"a": ends, "b": ends})
    file = codec.decode(both.data)
    assert sorted(file.integers) == ["a", "b"]  # c is the same array, but without a Spec.


DEEP = functools.reduce(lambda inner, _: [inner], range(70), np.zeros(1))


@pytest.mark.parametrize(
    ("error", "params", "options"),
    [
        (TypeError, {1: np.zeros(2)}, {}),
        (TypeError, {"a": [object()]}, {}),
        (TypeError, {"a": np.array(["abc"])}, {}),
        (TypeError, {"a": codec.encode({})}, {}),  # a NamedTuple
        (TypeError, {}, {"metadata": {"a": (1, 2)}}),
        (TypeError, {}, {"metadata": [float("nan")]}),
        (ValueError, {"a": np.zeros(2)}, {"specs": {"b": codec.Spec(4)}}),
        (ValueError, {"a": np.zeros(2)}, {"specs": {"a": codec.Spec(9)}}),
        (ValueError, {"a": np.zeros(2, np.float32)}, {"specs": {"a": codec.Spec(4, group=3)}}),
        (ValueError, DEEP, {}),
    ],
)
def test_invalid_arguments_are_refused(error, params, options):
    with pytest.raises(error):
        codec.encode(params, **options)


def test_a_codebook_as_large_as_allowed_without_its_zero():
    # 65536 values, each twice, among more zeros: zero does not fit into a codebook with them.
    values = np.arange(1, (1 << 16) + 1, dtype=np.float32)
    x = np.zeros(300_000, np.float32)
    x[: 2 << 16] = np.tile(values, 2)
    assert same(codec.decode(codec.encode([x]).data).params, [x])


def test_values_that_overflow_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.array([np.inf, -np.inf, np.nan, 1e300, -0.0, 5e-324])
        for dtype in (np.float64, np.float32, np.float16):
            with np.errstate(over="ignore"):
                y = x.astype(dtype)
            for spec in (codec.Spec(4), codec.Spec(1), codec.Spec(8, symmetric=False)):
                assert same(codec.decode(codec.encode({"y": y}, specs={"y": spec}).data).params, {"y": y})


def test_large_tensors_come_back():
    # Lanes of Huffman codes; few zeros, and runs of zeros longer than 2^16.
    rng = np.random.default_rng(5)
    w = rng.normal(size=(500, 400)).astype(np.float32)
    shared = np.round(np.clip(w, -3, 3) * np.float32(2.4)) / np.float32(2.4)
    lone, gone = np.zeros((500, 400), np.float32), w.copy()
    lone.reshape(-1)[[3, 70_000, 150_001]], gone.reshape(-1)[:100] = (0.1, -0.3, 0.7), 0
    far = np.concatenate([np.zeros(140_000, np.float32), w.reshape(-1)[:60_000]]).reshape(500, 400)
    ends = np.float32(-3), np.float32(3)
    g = grid(codec.Spec(4), *ends)
    sparse, codes = np.where(np.abs(w) > 1, shared, np.float32(0)), to_values(to_codes(w, g), g)
    params = {"noise": w, "few zeros": gone, "lone": lone, "far": far, "shared": shared, "sparse": sparse}
    params |= {"plus": shared + np.float32(0), "codes": codes}
    file = codec.decode(codec.encode(params, specs={"codes": codec.Spec(4)}, ranges={"codes": ends}).data)
    assert same(file.params, params) and list(file.integers) == ["codes"]
    encodings = {entry.path: entry.encoding for entry in file.ledger.entries}
    assert encodings == {
        "": "",
        "noise": "dense, float32 with coded exponents",
        "few zeros": "dense, float32 with coded exponents",
        "lone": "sparse (gaps), float32",
        "far": "sparse (coded gaps), float32 with coded exponents",
        "shared": "dense, codebook of 16, huffman",  # -0.0 is one of them.
        "plus": "dense, codebook of 15, huffman",
        "sparse": "sparse (coded gaps), codebook of 12, huffman",
        "codes": "dense, 4-bit integers, huffman",
    }


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(st.integers(0, 2**32 - 1), JSON)
def test_many_saved_trees_come_back(seed, metadata):
    rng = np.random.default_rng(seed)
    params, state = tree(rng, 4), tree(rng, 2)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "model.jopt"
        ledger = codec.save(path, params, model_state=state, metadata=metadata)
        assert ledger.total == path.stat().st_size
        file = codec.read(path)
    assert same(file.params, params) and same(file.model_state, state) and file.metadata == metadata
