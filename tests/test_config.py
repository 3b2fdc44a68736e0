"""Typed configs: types checked, JSON round trips, identity."""

import dataclasses
import json

import pytest

from jopt.config import ConfigError, canonical_json, check_types, fingerprint, from_dict, leaves, to_dict


@dataclasses.dataclass
class Part:
    rate: float = 0.1
    clip: float | None = None
    rules: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass
class Whole:
    name: str = "a"
    count: int = 1
    on: bool = False
    sizes: tuple[int, ...] = (1, 2)
    part: Part = dataclasses.field(default_factory=Part)
    optional: Part | None = None
    parts: list[Part] = dataclasses.field(default_factory=list)


FULL = Whole(
    name="b",
    sizes=(3,),
    part=Part(0.5, 1.0, (("a/.*", 0.0), ("b", 2.0))),
    optional=Part(clip=0.25),
    parts=[Part(), Part(rate=3.0)],
)


def test_json_round_trip_keeps_every_value_and_type():
    assert from_dict(Whole, json.loads(json.dumps(to_dict(FULL)))) == FULL
    assert from_dict(Whole, json.loads(json.dumps(to_dict(Whole())))) == Whole()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": 1}, "name"),
        ({"count": "1"}, "count"),
        ({"count": 1.5}, "count"),
        ({"count": True}, "count"),
        ({"on": 1}, "on"),
        ({"sizes": (1, "2")}, "sizes"),
        ({"sizes": 3}, "sizes"),
        ({"part": None}, "part"),
        ({"part": Part(rate="fast")}, "part.rate"),
        ({"part": Part(rate=True)}, "part.rate"),
        ({"part": Part(clip="none")}, "part.clip"),
        ({"part": Part(rules=(("a",),))}, "part.rules"),
        ({"optional": Part(rate=None)}, "optional.rate"),
        ({"parts": [Part(), Part(rate="x")]}, "parts[1].rate"),
        ({"parts": Part()}, "parts"),
    ],
)
def test_a_wrong_type_is_named_by_its_field(change, field):
    with pytest.raises(ConfigError) as error:
        check_types(dataclasses.replace(FULL, **change))
    assert error.value.field == field


def test_an_int_is_a_float_and_the_rest_is_well_typed():
    check_types(dataclasses.replace(FULL, part=Part(rate=1)))


def test_an_unknown_field_is_named():
    with pytest.raises(ConfigError) as error:
        from_dict(Whole, {"part": {"rte": 1.0}})
    assert (error.value.field, error.value.value) == ("part.rte", 1.0)
    assert all(field.name in error.value.accepted for field in dataclasses.fields(Part))


def test_leaves_are_named_by_dotted_paths():
    names = dict(leaves(FULL))
    assert names["part.rate"] == 0.5
    assert names["parts[1].rate"] == 3.0
    assert names["optional.clip"] == 0.25
    assert "optional" not in names


def test_identity_ignores_defaults_and_sees_every_change():
    assert canonical_json(Whole()) == "{}"
    assert canonical_json(Whole(part=Part(rate=0.1))) == "{}"
    configs = [Whole(), Whole(name="b"), Whole(part=Part(rate=0.2)), Whole(optional=Part()), Whole(parts=[Part()])]
    assert len({fingerprint(c) for c in configs}) == len(configs)


def test_the_fingerprint_is_a_fixed_function():
    # SHA-256 of "Whole:{}": a literal, because another rule would orphan every hash that was recorded.
    assert fingerprint(Whole()) == "57e0a3e8a63083d11e6e57e0a2d264707a6805c11f66192217c515c3f3dd18da"
