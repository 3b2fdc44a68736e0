"""With `shards` a run has the same bits on every number of devices, and goes on on another one."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judged import assert_trees_equal
from tiny import IMAGES, tiny_experiment

from jopt import data, mesh, models, optim, prune, quantize
from jopt.config import ConfigError
from jopt.train import Stage, run
from jopt.train.prepared import prepare
from jopt.train.workdir import ChangedError, StopRequested, WorkdirError

SHARDS = 8
LAYOUTS = {
    "one device": {},
    "two": {"mesh": (("data", 2),)},
    "as many as shards": {"mesh": (("data", -1),)},
    "fsdp": {"mesh": (("data", 4),), "partition": ("fsdp",)},
}
STAGES = [
    Stage(),
    Stage("pruned", methods=(prune.OneShot(sparsity=0.5, score="wanda"),)),
    Stage("low", methods=(quantize.Weights(bits=4), quantize.Activations(bits=8)), recalibrate=2),
]
CASES = {
    "methods": {"stages": STAGES, "ema_decay": 0.9, "pack": True},
    # Its kernel is split along its last axis.
    "clipped": {
        "model": models.ModelConfig("mlp", features=(64,), num_classes=4),
        "optimizer": optim.Config("momentum", learning_rate=0.05, clip_by_global_norm=0.5, accumulate_steps=2),
        "ema_decay": 0.9,
    },
    "muon": {"optimizer": optim.Config("muon", learning_rate=1e-2)},
    "batch norm": {"model": models.ModelConfig("resnet18", features=(4,), num_classes=4), "epochs": 1},
    "recomputed": {"remat": "products"},
    "augmented": {"data": dataclasses.replace(IMAGES, shift=1, residency="host")},
    "weights": {"model": models.ModelConfig("mlp", features=(16,), num_classes=4, dropout=0.2)},
}


def config(case="clipped", **changes):
    return tiny_experiment(shards=SHARDS, **CASES[case] | changes)


def digest(config, directory):
    return run(config, directory)["digest"]


DEFAULT = ("clipped", "augmented")


@pytest.mark.parametrize(
    "case", [case if case in DEFAULT else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_the_number_of_devices_changes_no_bit(case, tmp_path):
    digests = {name: digest(config(case, **layout), tmp_path / name) for name, layout in LAYOUTS.items()}
    assert len(set(digests.values())) == 1, digests


def test_another_number_of_shards_is_another_order(tmp_path):
    two = dataclasses.replace(config(), shards=2)
    assert digest(config(), tmp_path / "8") != digest(two, tmp_path / "2")


def test_a_run_goes_on_on_other_devices(tmp_path):
    expected = digest(config("methods"), tmp_path / "whole")
    for layout in LAYOUTS.values():
        asked = itertools.count()
        with pytest.raises(StopRequested):
            run(config("methods", **layout), tmp_path / "moved", should_stop=lambda _, a=asked: next(a) == 1)
    assert digest(config("methods"), tmp_path / "moved") == expected


def test_the_gradient_is_that_of_the_batch():
    experiment = tiny_experiment(optimizer=optim.Config("sgd", learning_rate=0.1))
    states = []
    for changes in ({}, {"shards": SHARDS}):
        p = prepare(dataclasses.replace(experiment, **changes))
        program = p.program_of(0, 3)
        states.append(jax.jit(program.segment)(jax.jit(program.init)(p.key, p.values), p.values, p.arrays["train"]))
    # One sum in another order.
    assert_trees_equal(states[0][0].params, states[1][0].params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(states[0][1]["loss"], states[1][1]["loss"], rtol=1e-6)


def test_losses_count_by_their_weights():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6)).astype(np.float32), rng.integers(0, 4, 64).astype(np.int32)
    # Whole shards without weight, too.
    w = np.where(np.arange(64) % 16 < 4, 0, rng.uniform(size=64)).astype(np.float32)
    dataset = data.Dataset.from_arrays((x, y, w), validation=(x, y, w), test=(x, y, w))
    experiment = tiny_experiment(optimizer=optim.Config("sgd", learning_rate=0.1), batch_size=64)
    params = []
    for changes in ({}, {"shards": 16}):
        p = prepare(dataclasses.replace(experiment, **changes), dataset=dataset)
        program = p.program_of(0, 1)
        state, _ = jax.jit(program.segment)(jax.jit(program.init)(p.key, p.values), p.values, p.arrays["train"])
        params.append(state.params)
    assert_trees_equal(*params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 8, 12])
def test_aligned_blocks_are_subtrees_of_the_sum(count):
    parts = jnp.asarray(np.random.default_rng(count).normal(size=(count, 7)) * 10.0 ** np.arange(7), jnp.float32)
    whole = mesh.tree_sum(parts)
    for block in (2, 4):
        if count % block == 0:
            sums = jnp.stack([mesh.tree_sum(parts[i : i + block]) for i in range(0, count, block)])
            np.testing.assert_array_equal(mesh.tree_sum(sums), whole)
    np.testing.assert_allclose(whole, np.sum(np.asarray(parts, np.float64), 0), rtol=1e-5)


def test_without_shards_another_mesh_is_refused(tmp_path):
    plain = tiny_experiment(data_parallel=True)
    with pytest.raises(StopRequested):
        asked = itertools.count()
        run(plain, tmp_path, should_stop=lambda _: next(asked) == 1)
    with pytest.raises(WorkdirError) as caught:
        run(tiny_experiment(mesh=(("data", 2),)), tmp_path)
    assert "mesh" in str(caught.value)


def test_a_mesh_of_all_devices_is_recorded(tmp_path, monkeypatch):
    plain = tiny_experiment(mesh=(("data", -1),))
    with pytest.raises(StopRequested):
        asked = itertools.count()
        run(plain, tmp_path, should_stop=lambda _: next(asked) == 1)
    devices = jax.devices()[:4]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    with pytest.raises(ChangedError) as caught:
        run(plain, tmp_path)
    assert [change.name for change in caught.value.changes] == ["mesh"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mesh": (("data", 16),)}, "mesh"),
        ({"mesh": (("data", 3),)}, "batch_size"),
        ({"mesh": (("data", -1), ("model", 3))}, "mesh"),
        ({"mesh": (("data", -1), ("model", -1))}, "mesh"),
        ({"mesh": (("model", 2),)}, "mesh"),
        ({"mesh": (("data", 2), ("data", 2))}, "mesh[0]"),
        ({"mesh": (("data", 0),)}, "mesh[0]"),
        ({"mesh": (("da ta", 2),)}, "mesh[0]"),
        ({"mesh": ("data", 2)}, "mesh"),
        ({"mesh": (("data", 2),), "data_parallel": True}, "data_parallel"),
        ({"shards": 0}, "shards"),
        ({"shards": 3}, "batch_size"),
        ({"shards": 2, "mesh": (("data", 4),)}, "shards"),
        ({"shards": 4, "mesh": (("data", 2), ("model", 2))}, "shards"),
        ({"partition": ("fsdp",)}, "partition[0]"),
        ({"mesh": (("data", 2),), "partition": ("tensor",)}, "partition[0]"),
        ({"mesh": (("data", 2),), "partition": ("zero",)}, "partition[0]"),
        ({"mesh": (("data", 2),), "partition": ((".*", ("model",)),)}, "partition[0]"),
        ({"mesh": (("data", 2),), "partition": ((".*", ("data", "data")),)}, "partition[0]"),
        ({"mesh": (("data", 8),), "partition": ((".*_0/kernel", ("data",)),)}, "partition rule '.*_0/kernel'"),
        ({"mesh": (("data", 2),), "partition": ((".*_0/bias", ("", "data")),)}, "partition rule '.*_0/bias'"),
        ({"remat": "all"}, "remat"),
        ({"batch_size": 12, "data_parallel": True}, "batch_size"),
    ],
)
def test_bad_meshes_name_their_field(changes, field):
    with pytest.raises(ConfigError) as caught:
        prepare(tiny_experiment(**changes))
    assert caught.value.field == field and caught.value.accepted
