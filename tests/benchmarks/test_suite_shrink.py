"""Suite `shrink` end to end at its smallest; what it calls a shrunk network; no time is asserted."""

import math

import jax
import pytest

from experiments.benchmarks import machine, shrink, tables
from jopt import models, report

pytestmark = pytest.mark.unoptimized

SMALL = shrink.Network("MLP 6-20-8-3", models.Config("mlp", (20, 8), num_classes=3), (6,))


def test_rows_and_table():
    rows = shrink.shrink(1, 0.0, [SMALL], [1, 4])
    assert [(row.batch_size, row.removed) for row in rows] == [(b, r) for b in (1, 4) for r in shrink.REMOVED]
    assert [row.units for row in rows[:4]] == [28, 14, 7, 3]
    assert [row.flops for row in rows[4:]] == [
        4 * 2 * (6 * a + a * b + b * 3) for a, b in ((20, 8), (10, 4), (5, 2), (2, 1))
    ]
    assert rows[0].parameters == 7 * 20 + 21 * 8 + 9 * 3
    for row in rows:
        assert 0 < row.seconds.p10 <= row.seconds.median <= row.seconds.p90 < math.inf
        assert row.examples_per_second == row.batch_size / row.seconds.median
    assert rows[0].speedup.median == 1
    assert machine.to_json(rows)[3]["removed"] == 0.9
    text = report.to_markdown(tables.shrink_table(rows))
    assert text.count("removed") == 8 and "MLP 6-20-8-3, batch 4" in text


def test_the_networks_of_the_suite_shrink_as_they_say():
    module, params, units = shrink.shrunk(shrink.NETWORKS[2], 0.75)
    assert (module.channels, module.hidden, units) == ((4, 8), (16,), 28)
    assert params["Dense_0"]["kernel"].shape == (7 * 7 * 8, 16)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 10 * 4 + 37 * 8 + 393 * 16 + 170
