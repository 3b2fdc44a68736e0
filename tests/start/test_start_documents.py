"""The examples of docs/pretrained.md can be run as printed."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from jopt import models, start
from jopt.train import prepare
from jopt.train.plan import shapes

TEXT = (Path(__file__).parents[2] / "docs" / "pretrained.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_config_loads_what_pytorch_saves(tmp_path):
    space: dict = {}
    exec(compile(BLOCKS[1], "pretrained.md", "exec"), space)
    config = space["get_config"]()
    params, _ = jax.tree.map(
        lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape).astype(np.float32),
        shapes(models.model(config.model), jax.ShapeDtypeStruct((8, 8, 1), np.float32)),
    )
    names = {"conv1": "Conv_0", "conv2": "Conv_1", "fc1": "Dense_0", "fc2": "Dense_1"}
    arrays = {f"{torch}.bias": params[ours]["bias"] for torch, ours in names.items()}
    arrays |= {f"{torch}.weight": params[ours]["kernel"].T for torch, ours in names.items()}
    arrays |= {f"{n}.weight": params[names[n]]["kernel"].transpose(3, 2, 0, 1) for n in ("conv1", "conv2")}
    file = tmp_path / config.start.path
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
    prepared = prepare(dataclasses.replace(config, start=dataclasses.replace(config.start, path=str(file))))
    assert prepared.start is not None and not prepared.start.unused
    np.testing.assert_array_equal(prepared.start.params["Conv_1/kernel"], params["Conv_1"]["kernel"])
    np.testing.assert_array_equal(prepared.start.params["Dense_1/kernel"], params["Dense_1"]["kernel"])
    # The page shows two rows of this plan.
    rows = {row.path: row for row in prepared.start.rows}
    shown = dict(re.findall(r"^     (\S+/kernel) .*  (\S.*)$", TEXT, re.MULTILINE))
    assert {path: rows[path].reason for path in shown} == shown and len(shown) == 2


def test_the_rules_are_valid():
    space: dict = {}
    exec(compile(BLOCKS[2] + BLOCKS[3], "pretrained.md", "exec"), space)
    start.validate(space["start"])
    assert len(space["start"].full_rules[0].targets) == 3
