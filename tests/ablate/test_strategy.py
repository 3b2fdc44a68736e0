"""The rule that chooses how trials share a device, and how they are cut into chunks."""

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.ablate import axis, run
from jopt.ablate.lift import Layout
from jopt.ablate.strategy import Sizes, chunks, lanes
from jopt.config import ConfigError
from jopt.report import Console

RATE = "optimizer.learning_rate"


@pytest.mark.parametrize(
    ("strategy", "sizes", "expected"),
    [
        ("auto", Sizes("cpu", 50_710, False), 1),
        ("auto", Sizes("cpu", 13, False), 16),
        ("auto", Sizes("cpu", 5_000, True), 1),
        ("auto", Sizes("gpu", 13, False), 32),
        ("auto", Sizes("tpu", 50_710, True), 32),
        ("map", Sizes("gpu", 13, False), 1),
        ("vmap", Sizes("cpu", 50_710, True), 16),
    ],
)
def test_the_rule(strategy, sizes, expected):
    assert lanes(strategy, sizes) == expected


@given(
    trials=st.integers(1, 3000),
    lanes=st.sampled_from([1, 8, 32]),
    devices=st.integers(1, 8),
    room=st.integers(0, 500),
)
@settings(max_examples=200, deadline=None)
def test_chunks_are_equal_and_hold_every_trial(trials, lanes, devices, room):
    layout = Layout(lanes, devices)
    most = layout.multiple + room
    count, width = chunks(trials, layout, most)
    assert count * width >= trials > (count - 1) * width - layout.multiple * count
    assert width % layout.multiple == 0
    assert width <= most


def test_a_chunk_smaller_than_its_lanes_is_refused():
    with pytest.raises(ConfigError) as caught:
        chunks(100, Layout(8, 2), 7)
    assert (caught.value.field, caught.value.value) == ("chunk", 7)
    assert re.findall(r"\d+", caught.value.accepted) == ["0", "16", "8", "2"]  # the least, lanes and devices


def test_the_fastest_of_the_candidates_is_taken_and_kept(grid, tmp_path, capsys):
    """What is fastest depends on the machine; that it is chosen, shown, written down and kept does not."""
    path = tmp_path / "measured"
    measured = grid(axis(RATE, (0.1, 0.01, 0.03, 0.3, 0.2, 0.02, 0.002, 0.001)), strategy="measure")
    first = run(measured, path, devices=1, observer=Console())
    lanes = json.loads((path / "ablation.json").read_text())["groups"][0]["lanes"]
    (chosen,) = [line for line in capsys.readouterr().out.splitlines() if "chosen" in line]
    assert lanes in (1, 16)
    assert ("map" if lanes == 1 else "vmap x 16") in chosen
    again = run(dataclasses.replace(measured, seeds=(0, 1, 2)), path, devices=1)
    assert json.loads((path / "ablation.json").read_text())["groups"][0]["lanes"] == lanes
    digests = {row["trial"]: row["digest"] for row in again.trials}
    assert all(digests[row["trial"]] == row["digest"] for row in first.trials)
