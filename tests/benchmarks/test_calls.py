"""Suites `shrink` and `serving` end to end at their smallest; what they compare with what; no time is asserted."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from benchmarks import calls, output
from benchmarks.contenders import MLP_1024, SERVING_NETWORKS, SHRINK_NETWORKS, Network
from benchmarks.timing import Options
from jopt import models, report

SMALL = Network("MLP 6-20-8-3", models.ModelConfig("mlp", (20, 8), num_classes=3), (6,))
ONCE = Options(repeats=1, seconds=0)


def assert_spread(value):
    assert 0 < value.p10 <= value.median <= value.p90 < math.inf


@pytest.mark.unoptimized
def test_shrinking_has_a_row_for_each_batch_and_share():
    rows = calls.shrink(ONCE, [SMALL], [1, 4])
    shares = [f"{100 * removed:g} % removed" for removed in calls.REMOVED]
    assert [(row.case, row.contender) for row in rows] == [
        (f"MLP 6-20-8-3, batch {batch}", share) for batch in (1, 4) for share in shares
    ]
    assert [row.values["units"] for row in rows[:4]] == [28, 14, 7, 3]
    assert [row.values["flops"] for row in rows[4:]] == [
        4 * 2 * (6 * a + a * b + b * 3) for a, b in ((20, 8), (10, 4), (5, 2), (2, 1))
    ]
    assert rows[0].values["parameters"] == 7 * 20 + 21 * 8 + 9 * 3
    for row in rows:
        assert_spread(row.values["seconds_per_call"])
        batch = int(row.case.rpartition(" ")[2])
        assert row.values["examples_per_second"] == batch / row.values["seconds_per_call"].median
        assert ("speedup" in row.values) == (row.contender != shares[0])
    text = report.to_markdown(output.table("shrink", rows))
    assert text.count("| · ") == 8 and "MLP 6-20-8-3, batch 4" in text


@pytest.mark.unoptimized
def test_the_networks_of_the_suite_shrink_as_they_say():
    module, params, units = calls.shrunk(SHRINK_NETWORKS[2], 0.75)
    assert (module.channels, module.hidden, units) == ((4, 8), (16,), 28)
    assert params["Dense_0"]["kernel"].shape == (7 * 7 * 8, 16)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 10 * 4 + 37 * 8 + 393 * 16 + 170


def test_what_serving_compares_with_what():
    assert calls.SERVING_TARGETS[MLP_1024.name, calls.ORT_INTEGER] == 1.8
    assert {calls.REFERENCES[name] for name in (calls.ORT_INTEGER, calls.ORT_QDQ)} == {calls.ORT}
    assert {calls.REFERENCES[name] for name in (calls.XLA_INTEGER, calls.XLA_SHRUNK)} == {calls.XLA}
    assert calls.BATCHES == (1, 64, 256)
    mlp, lenet = SERVING_NETWORKS
    assert (mlp.config.features, mlp.shape) == ((1024, 1024), (784,))
    assert (lenet.config.name, lenet.shape) == ("lenet5", (28, 28, 1))


@pytest.mark.slow
def test_serving_has_a_row_for_each_batch_and_way():
    pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")
    rows = calls.serving(dataclasses.replace(ONCE, torch=False, qwix=False), [SMALL], [1, 4])
    ways = [calls.ORT, calls.ORT_INTEGER, calls.ORT_QDQ, calls.XLA, calls.XLA_INTEGER, calls.XLA_SHRUNK]
    assert [(row.case, row.contender) for row in rows] == [
        (f"MLP 6-20-8-3, batch {batch}", way) for batch in (1, 4) for way in ways
    ]
    for row in rows:
        assert_spread(row.values["seconds_per_call"])
        assert ("speedup" in row.values) == (row.contender in calls.REFERENCES)
        assert (row.values["bytes"] is None) == row.contender.startswith("XLA")
    assert output.to_json(rows)[1]["against"] == calls.ORT
    text = report.to_markdown(output.table("serving", rows))
    assert "MLP 6-20-8-3, batch 4" in text and text.count("| · ") == 12


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_no_contender():
    pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")
    codes = calls.quantized(SMALL)
    other = codes._replace(params={k: {n: v + 1 for n, v in p.items()} for k, p in codes.params.items()})
    files = calls.onnx_files(SMALL, other)
    small = calls.shrunk(SMALL, 0.5)[:2]
    with pytest.raises(RuntimeError, match="logits"):
        calls.serving_contenders(SMALL, codes, files, small, np.ones((2, 6), np.float32))
