"""Bad configs are refused at the edge, naming the field, the value and what would be accepted."""

import math

import pytest

from jopt import optim
from jopt.config import ConfigError, from_dict, to_dict
from jopt.hyper import split
from jopt.optim import Config, validate

BAD = [
    ("name", "adamm", {}, "'adam'"),
    ("variant", "papers", {}, "'optax', 'paper'"),
    ("variant", "paper", {"name": "sgd"}, "'optax' for 'sgd' ('paper' exists for 'adagrad'"),
    ("variant", "paper", {"name": "adamw"}, "'optax' for 'adamw'"),
    ("schedule", "cosin", {}, "'cosine'"),
    ("learning_rate", 0.0, {}, "above 0"),
    ("learning_rate", -0.1, {}, "above 0"),
    ("learning_rate", math.nan, {}, "finite"),
    ("learning_rate", math.inf, {}, "finite"),
    ("learning_rate", "fast", {}, "of type float"),
    ("learning_rate", True, {}, "of type float"),
    ("momentum", 1.0, {}, "[0, 1)"),
    ("momentum", -0.1, {}, "[0, 1)"),
    ("b1", 1.0, {}, "[0, 1)"),
    ("b2", 1.5, {}, "[0, 1)"),
    ("decay", math.nan, {}, "[0, 1)"),
    ("eps", 0.0, {}, "above 0"),
    ("bias_correction", 1, {}, "of type bool"),
    ("weight_decay", -1e-4, {}, "at least 0"),
    ("l1", -1.0, {}, "at least 0"),
    ("proximal_l1", math.inf, {}, "at least 0"),
    ("clip_by_global_norm", 0.0, {}, "None for no clipping"),
    ("clip_by_value", -1.0, {}, "above 0"),
    ("adaptive_clip", 0.0, {}, "above 0"),
    ("warmup_steps", -1, {}, "at least 0"),
    ("warmup_steps", 0.5, {}, "of type int"),
    ("warmup_steps", 10, {"decay_steps": 10}, "less than decay_steps (10)"),
    ("warmup_steps", 60, {"schedule": "cosine", "accumulate_steps": 2}, "less than the stage's updates (50)"),
    ("decay_steps", 0, {}, "at least 1"),
    ("decay_steps", -5, {}, "None for the whole stage"),
    ("end_fraction", 1.5, {}, "[0, 1]"),
    ("power", 0.0, {}, "above 0"),
    ("decay_rate", 0.0, {}, "(0, 1]"),
    ("boundaries", (0.5, 0.25), {}, "increasing fractions in (0, 1)"),
    ("boundaries", (0.5, 1.0), {}, "increasing fractions"),
    ("boundaries", (math.nan,), {}, "increasing fractions"),
    ("peak_fraction", 1.0, {}, "(0, 1)"),
    ("initial_fraction", -0.5, {}, "[0, 1]"),
    ("accumulate_steps", 0, {}, "at least 1"),
    ("accumulate_steps", 2.0, {}, "of type int"),
    ("weight_decay_rules", (("[", 0.1),), {}, "a regular expression"),
    ("weight_decay_rules", ((".*", -0.1),), {}, "at least 0"),
    ("learning_rate_rules", ((".*", 0.0),), {}, "above 0 ('freeze' is for 0)"),
    ("learning_rate_rules", (("a",),), {}, "of type"),
    ("freeze", ("(",), {}, "a regular expression"),
    ("freeze", ".*", {}, "of type"),
]


@pytest.mark.parametrize(("field", "value", "more", "accepted"), BAD)
def test_bad_value(field, value, more, accepted):
    config = Config(**{field: value, **more})
    with pytest.raises(ConfigError, match=rf"^stages\[0\]\.optimizer\.{field}\b") as error:
        validate(config, "stages[0].optimizer", total_steps=100)
    message = str(error.value)
    assert accepted in message
    leaf = value
    while isinstance(leaf, tuple) and field != "boundaries":
        leaf = leaf[0] if isinstance(leaf[-1], tuple) or "regular" in accepted or len(leaf) == 1 else leaf[-1]
    assert repr(leaf) in message


@pytest.mark.parametrize("name", optim.NAMES)
@pytest.mark.parametrize("schedule", optim.SCHEDULES)
def test_good_values(name, schedule):
    validate(Config(name, schedule=schedule, warmup_steps=3, weight_decay=0.0, momentum=0.0), total_steps=10)
    validate(Config(name, learning_rate=1, accumulate_steps=1, decay_rate=1.0, boundaries=()))


def test_build_refuses_an_unknown_name_too():
    for bad in ({"name": "adamm"}, {"variant": "paper", "name": "lion"}, {"schedule": "cosin"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            optim.build(Config(**bad))


def test_round_trip_through_json():
    config = Config("sgd", clip_by_value=1.0, weight_decay_rules=((".*bias", 0.0),), freeze=("a",))
    assert from_dict(Config, to_dict(config)) == config


def test_what_makes_another_program():
    base = split(Config())[0]
    assert split(Config(learning_rate=1.0, warmup_steps=7, power=3.0))[0] == base
    for more in ({"name": "sgd"}, {"b1": 0.5}, {"decay_steps": 5}, {"freeze": ("a",)}, {"schedule": "step"}):
        assert split(Config(**more))[0] != base
