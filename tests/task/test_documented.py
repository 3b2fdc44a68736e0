"""The task that docs/tasks.md prints is short, valid, and gives the numbers that it says."""

import dataclasses
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jopt import measure
from jopt import task as tasks

TEXT = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()


def test_the_task_of_the_document():
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    written = block[block.index("@dataclasses") :]
    assert len([line for line in written.splitlines() if line.strip()]) <= 15
    space: dict = {"__name__": "documented"}
    exec(block, space)
    task = space["Quantile"](quantile=0.9)
    task.validate()
    tasks.check_metrics(task)
    outputs, targets = np.ones((3, 1), np.float32), np.array([0, 1, 3], np.float32)
    assert task.losses(jnp.asarray(outputs), jnp.asarray(targets)).tolist() == pytest.approx([0.1, 0, 1.8])
    pinball, coverage = (tasks.value(task, metric, outputs, targets) for metric in task.metrics)
    assert (pinball, coverage) == pytest.approx((1.9 / 3, 2 / 3))
    assert task.deciding.key == "pinball" and task.predict(jnp.asarray(outputs)) is None
    columns = {column.key: column for column in measure.columns_of("stage", task=task)}
    assert (columns["pinball"].label, columns["pinball_change"].better) == ("test pinball loss", "lower")


def test_the_table_has_the_metrics_of_every_task():
    for name in ("Classification", "MultiLabel", "Regression", "SequenceLabelling", "NextToken"):
        task = getattr(tasks, name)()
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}("))
        listed = re.findall(r"`(\w+)`", row.split("|")[-2])
        assert listed == [metric.key for metric in task.metrics]
        fields = [field.name for field in dataclasses.fields(task)]
        assert re.findall(r"(\w+)=", row.split("|")[1]) == fields
