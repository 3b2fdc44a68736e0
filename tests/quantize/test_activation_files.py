"""Metadata of packed files about activations, of earlier versions and of this one; and frozen methods."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.config import CLASS, ConfigError, canonical_json, changed, from_dict, to_dict
from jopt.models import from_linen
from jopt.models.mlp import MLP
from jopt.quantize import (
    Activations,
    LSQActivations,
    MovingAverageActivations,
    PACTActivations,
    Percentile,
    activations_from_metadata,
    auto,
)
from jopt.reference import name_of

OLD = [
    ({}, Activations()),
    ({"method": "percentile", "bits": 4}, Activations(4)),
    ({"percentile": 99.0, "symmetric": True}, Activations(symmetric=True, calibration=Percentile(99.0))),
    ({"method": "absmax", "percentile": 99.0, "momentum": 0.5}, Activations(calibration="absmax")),
    (
        {"method": "mse", "bits": None, "rules": [["Dense_.", 8]]},
        Activations(None, calibration="mse", rules=(("Dense_.", 8),)),
    ),
    (
        {"method": "moving_average", "momentum": 0.99, "examples": 64},
        MovingAverageActivations(momentum=0.99, examples=64),
    ),
    ({"method": "moving_average", "percentile": 90.0}, MovingAverageActivations()),
    (
        {"method": "lsq", "bits": 2, "rules": [["a", None], ["b", 4]]},
        LSQActivations(2, rules=(("a", None), ("b", 4))),
    ),
    ({"method": "lsq", "momentum": 0.5, "state": True}, LSQActivations(state=True)),
    ({"method": "pact", "percentile": 99.5}, PACTActivations(percentile=99.5)),
]


@pytest.mark.parametrize(("metadata", "expected"), OLD, ids=str)
def test_fields_of_earlier_versions_give_the_method_of_today(metadata, expected):
    assert activations_from_metadata(metadata) == expected


@pytest.mark.parametrize("method", [expected for _, expected in OLD], ids=str)
def test_a_method_comes_back_from_metadata_and_json(method):
    metadata = {CLASS: name_of(type(method)), **json.loads(canonical_json(method))}
    assert activations_from_metadata(metadata) == method
    assert from_dict(type(method), to_dict(method)) == method
    assert metadata[CLASS].startswith("jopt.quantize:") and metadata == {CLASS: metadata[CLASS], **changed(method)}


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"method": "max"}, "activations.method"),
        ({"bits": 9}, "activations.bits"),
        ({"bits": "8"}, "activations.bits"),
        ({"colour": 1}, "activations.colour"),
        ({"percentile": 40.0}, "activations.calibration.percentile"),
        ({"method": "moving_average", "momentum": 1.0}, "activations.momentum"),
        ({CLASS: "jopt.quantize:LSQActivations", "momentum": 0.5}, "activations.momentum"),
        ({CLASS: "jopt.quantize:Spec"}, "activations.class"),
        ({CLASS: "somebodys_module:Method"}, "activations.class"),
        ({CLASS: "jopt.quantize:Activations", "calibration": "somebodys_module:f"}, "activations.calibration"),
    ],
)
def test_metadata_that_say_something_else_are_named(metadata, field):
    with pytest.raises(ConfigError) as caught:
        activations_from_metadata(metadata)
    assert caught.value.field == field


def test_a_reference_in_a_file_is_resolved_only_where_it_is_trusted_or_ours():
    metadata = {CLASS: "jopt.quantize:Activations", "calibration": "jopt.quantize:auto"}
    assert activations_from_metadata(metadata) == Activations(calibration="jopt.quantize:auto")
    assert name_of(auto) == "jopt.quantize:auto"
    with pytest.raises(ConfigError):
        activations_from_metadata({**metadata, "calibration": "http.cookies:SimpleCookie"})


@pytest.mark.parametrize(
    "method",
    [Activations(3), MovingAverageActivations(3, momentum=0.5), LSQActivations(3), PACTActivations(3)],
    ids=str,
)
def test_a_frozen_method_moves_no_range(method):
    model, x = (
        from_linen(MLP((5,), num_classes=3)),
        jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), jnp.float32),
    )
    params, state = method.calibrate(model, *model.init(jax.random.key(0), x), x)
    frozen, moving = method.wrap(model, frozen=True), method.wrap(model)
    logits, after = frozen.apply(params, state, 3 * x, train=True)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    np.testing.assert_array_equal(logits, moving.apply(params, state, 3 * x, train=False)[0])
    gradients = jax.grad(lambda p: (frozen.apply(p, state, 3 * x, train=True)[0] ** 2).sum())(params)
    assert all(float(g) == 0 for g in jax.tree.leaves(gradients.get(method.key, {})))
    assert np.any(gradients["Dense_0"]["kernel"] != 0)
    # The same model, not frozen, moves what it can: the test can fail.
    _, moved = moving.apply(params, state, 3 * x, train=True)
    trained = jax.grad(lambda p: (moving.apply(p, state, 3 * x, train=True)[0] ** 2).sum())(params)
    moves = not np.array_equal(jax.tree.leaves(moved), jax.tree.leaves(state)) or method.key in trained
    assert moves == (not isinstance(method, Activations))


def test_what_the_trainer_asks_of_a_method():
    method = LSQActivations(examples=64)
    assert (method.name, method.rank, method.key, method.calibration_examples()) == (
        "activations",
        60,
        "activation_ranges",
        64,
    )
    assert method.build() is None and method.freeze() is None and method.plan({}) == []
