"""Bad configs are refused at the edge, naming the field, the value and what would be accepted."""

import math

import pytest

from jopt import optim
from jopt.config import ConfigError, from_dict, to_dict
from jopt.hyper import split
from jopt.optim import Config, validate

BAD = [
    ("name", "adamm", {}),
    ("variant", "papers", {}),
    ("variant", "paper", {"name": "sgd"}),
    ("variant", "paper", {"name": "adamw"}),
    ("schedule", "cosin", {}),
    ("learning_rate", 0.0, {}),
    ("learning_rate", -0.1, {}),
    ("learning_rate", math.nan, {}),
    ("learning_rate", math.inf, {}),
    ("learning_rate", "fast", {}),
    ("learning_rate", True, {}),
    ("momentum", 1.0, {}),
    ("momentum", -0.1, {}),
    ("b1", 1.0, {}),
    ("b2", 1.5, {}),
    ("decay", math.nan, {}),
    ("eps", 0.0, {}),
    ("bias_correction", 1, {}),
    ("weight_decay", -1e-4, {}),
    ("l1", -1.0, {}),
    ("proximal_l1", math.inf, {}),
    ("clip_by_global_norm", 0.0, {}),
    ("clip_by_value", -1.0, {}),
    ("adaptive_clip", 0.0, {}),
    ("warmup_steps", -1, {}),
    ("warmup_steps", 0.5, {}),
    ("warmup_steps", 10, {"decay_steps": 10}),
    ("warmup_steps", 60, {"schedule": "cosine", "accumulate_steps": 2}),
    ("decay_steps", 0, {}),
    ("decay_steps", -5, {}),
    ("end_fraction", 1.5, {}),
    ("power", 0.0, {}),
    ("decay_rate", 0.0, {}),
    ("boundaries", (0.5, 0.25), {}),
    ("boundaries", (0.5, 1.0), {}),
    ("boundaries", (math.nan,), {}),
    ("peak_fraction", 1.0, {}),
    ("initial_fraction", -0.5, {}),
    ("accumulate_steps", 0, {}),
    ("accumulate_steps", 2.0, {}),
    ("weight_decay_rules", (("[", 0.1),), {}),
    ("weight_decay_rules", ((".*", -0.1),), {}),
    ("learning_rate_rules", ((".*", 0.0),), {}),
    ("learning_rate_rules", (("a",),), {}),
    ("freeze", ("(",), {}),
    ("freeze", ".*", {}),
]


@pytest.mark.parametrize(("field", "value", "others"), BAD)
def test_bad_value(field, value, others):
    config = Config(**{field: value, **others})
    with pytest.raises(ConfigError) as error:
        validate(config, "stages[0].optimizer", total_steps=100)
    # A rule is named by its number, and its pattern or its value is what came in.
    path, _, index = error.value.field.partition(f"optimizer.{field}")
    assert path == "stages[0]." and index in ("", "[0]")
    accepted = [value] if not index else [value[0], *value[0]] if isinstance(value[0], tuple) else [value[0]]
    assert any(error.value.value is x for x in accepted)


@pytest.mark.parametrize("name", optim.NAMES)
@pytest.mark.parametrize("schedule", optim.SCHEDULES)
def test_good_values(name, schedule):
    validate(Config(name, schedule=schedule, warmup_steps=3, weight_decay=0.0, momentum=0.0), total_steps=10)
    validate(Config(name, learning_rate=1, accumulate_steps=1, decay_rate=1.0, boundaries=()))


def test_build_refuses_an_unknown_name_too():
    for bad in ({"name": "adamm"}, {"variant": "paper", "name": "lion"}, {"schedule": "cosin"}):
        with pytest.raises(ConfigError) as error:
            optim.build(Config(**bad))
        assert error.value.field == next(iter(bad))


def test_round_trip_through_json():
    config = Config("sgd", clip_by_value=1.0, weight_decay_rules=((".*bias", 0.0),), freeze=("a",))
    assert from_dict(Config, to_dict(config)) == config


def test_what_makes_another_program():
    base = split(Config())[0]
    assert split(Config(learning_rate=1.0, warmup_steps=7, power=3.0))[0] == base
    for changes in ({"name": "sgd"}, {"b1": 0.5}, {"decay_steps": 5}, {"freeze": ("a",)}, {"schedule": "step"}):
        assert split(Config(**changes))[0] != base
