"""Metric rows of a run that never was."""

import numpy as np
import pytest


def make_rows(seed=0, stages=(("train", 30), ("prune", 20), ("fine-tune", 10)), accuracy=True):
    rng, rows, step = np.random.default_rng(seed), [], 0
    row = {}
    for stage, segments in stages:
        for i in range(segments):
            step += 100
            loss = float((2.3 * np.exp(-step / 600) + 0.05) * np.exp(0.05 * rng.normal()))
            row = {"step": step, "stage": stage, "time": 1.7e9 + step, "loss": loss}
            if accuracy:
                row["accuracy"] = min(1.0, 1 - loss / 2.6)
            rows.append({**row, "split": "train", "steps_per_second": 1500.0, "learning_rate": 1e-3})
            if i % 3 == 2:
                rows.append({**row, "split": "validation", "loss": 1.2 * loss})
    rows.append({**row, "split": "test"})
    return rows


@pytest.fixture
def metric_rows():
    return make_rows
