"""Suite `masks`: both contenders choose the same weights; the app writes what docs/benchmarks.md says."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import masks

pytestmark = pytest.mark.unoptimized

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("size", [1, 10, 1001])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_both_contenders_keep_the_same_weights(size, sparsity):
    scores = masks.distinct_scores(size)
    assert np.unique(scores).size == size and bool((scores > 0).all())
    chosen = [np.asarray(choose()) for choose in masks.enter(scores, jnp.float32(sparsity)).values()]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert chosen[0].sum() == max(1, size - round(sparsity * size))


def test_masks_that_differ_are_not_timed(monkeypatch):
    monkeypatch.setattr(masks, "mask_by_sort", lambda scores, sparsity: scores > jnp.inf)
    with pytest.raises(RuntimeError, match=r"the masks of 20 weights differ: \[2, 0\] are kept"):
        masks.masks([20], 1, 0.0)


def test_the_app_writes_the_documented_json(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmark", "--only=masks", "--weights=300", "--weights=500"]
    command += ["--repeats=1", "--seconds=0", f"--json={tmp_path / 'b.json'}", f"--markdown={tmp_path / 'b.md'}"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ.copy(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b.json").read_text())["masks"]
    assert [row["weights"] for row in rows] == [300, 500]
    for row in rows:
        assert set(row) == {"weights", "sparsity", "seconds_per_mask", "ratios"}
        assert set(row["seconds_per_mask"]) == {masks.JOPT, masks.SORT}
        assert all(0 < s["p10"] <= s["median"] <= s["p90"] < math.inf for s in row["seconds_per_mask"].values())
        assert [r["against"] for r in row["ratios"]] == [masks.SORT]
    assert masks.SORT in (tmp_path / "b.md").read_text()
