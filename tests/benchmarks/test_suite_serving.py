"""Suite `serving` end to end at its smallest; what it compares with what; no time is asserted."""

import math

import numpy as np
import pytest

from experiments.benchmarks import machine, serving, tables
from experiments.benchmarks.shrink import Network
from jopt import models, report

SMALL = Network("MLP 6-20-8-3", models.Config("mlp", (20, 8), num_classes=3), (6,))


def test_what_is_compared_with_what():
    assert serving.TARGETS[serving.MLP, serving.ORT_INTEGER] == 1.8
    assert {serving.AGAINST[name] for name in (serving.ORT_INTEGER, serving.ORT_QDQ)} == {serving.ORT}
    assert {serving.AGAINST[name] for name in (serving.XLA_INTEGER, serving.XLA_SHRUNK)} == {serving.XLA}
    assert serving.BATCHES == (1, 64, 256)
    mlp, lenet = serving.NETWORKS
    assert (mlp.config.features, mlp.shape) == ((1024, 1024), (784,))
    assert (lenet.config.name, lenet.shape) == ("lenet5", (28, 28, 1))


@pytest.mark.slow
def test_rows_and_table():
    pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")
    rows = serving.serving(1, 0.0, [SMALL], [1, 4])
    names = [
        serving.ORT,
        serving.ORT_INTEGER,
        serving.ORT_QDQ,
        serving.XLA,
        serving.XLA_INTEGER,
        serving.XLA_SHRUNK,
    ]
    assert [(row.batch_size, row.contender) for row in rows] == [(b, name) for b in (1, 4) for name in names]
    for row in rows:
        assert 0 < row.seconds.p10 <= row.seconds.median <= row.seconds.p90 < math.inf
        assert (row.speedup is None) == (row.contender not in serving.AGAINST)
        assert (row.bytes is None) == row.contender.startswith("XLA")
    assert machine.to_json(rows)[1]["speedup"]["against"] == serving.ORT
    text = report.to_markdown(tables.serving_table(rows))
    assert "MLP 6-20-8-3, batch 4" in text and text.count("int8") == 6


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_no_contender():
    pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")
    made = serving.quantized(SMALL)
    other = made._replace(params={k: {n: v + 1 for n, v in p.items()} for k, p in made.params.items()})
    files = serving.encoded(SMALL, other)
    small = serving.shrunk(SMALL, 0.5)[:2]
    with pytest.raises(RuntimeError, match="logits are not XLA's"):
        serving.contenders(SMALL, made, files, small, np.ones((2, 6), np.float32))
