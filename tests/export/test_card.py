"""The card: a header that YAML reads, code that runs, numbers that the run's files have."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jopt.export import FORMATS, Missing, Written, card, export, source
from jopt.export.card import front_matter


@pytest.fixture(scope="module")
def text(exported):
    return (exported.directory / "README.md").read_text()


def header(text):
    return yaml.safe_load(text.split("---\n")[1])


SCALARS = st.one_of(st.text(), st.integers(-(2**40), 2**40), st.booleans(), st.none(), st.floats(allow_nan=False))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@example({"loss": 1e-05, "false": None, "null": [], "a: b": {}, "size": [{"name": "- x"}]})
@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=3))
def test_the_header_is_yaml_whatever_it_holds(values):
    try:
        written = front_matter(values)
    except ValueError:
        assert "inf" in repr(values).lower()
        return
    assert written.startswith("---\n") and written.endswith("\n---")
    assert (yaml.safe_load(written[4:-4]) or {}) == values


def test_the_header_of_the_card(exported, text):
    found = header(text)
    assert found["library_name"] == "jopt" and found["datasets"] == ["synthetic"]
    tags = ["jopt", "jax", "packed", "stablehlo", "safetensors", "pruning", "quantization"]
    assert found["tags"] == tags
    (model,) = found["model-index"]
    assert model["name"] == exported.finished.config.name
    (result,) = model["results"]
    assert {m["type"]: m["value"] for m in result["metrics"]} == {
        key: exported.finished.result[key] for key in ("accuracy", "loss")
    }
    assert result["task"]["type"] == "image-classification" and result["dataset"]["split"] == "test"


def test_the_card_lists_the_files_that_are_there(exported, text):
    table = text.split("## Files")[1].split("## Use")[0]
    rows = dict(re.findall(r"^\| ([\w.\\]+) \| ([\d,]+) \|", table, re.MULTILINE))
    sizes = {name.replace("\\", ""): int(size.replace(",", "")) for name, size in rows.items()}
    there = {path.name: path.stat().st_size for path in exported.directory.iterdir()}
    assert sizes == {name: size for name, size in there.items() if name != "README.md"}
    assert {written.file.name: written.bytes for written in exported.written} == there
    assert [written.format for written in exported.written][-1] == "card"


def test_its_code_runs_in_another_process(outside, exported):
    lines = outside.printed.splitlines()
    # The packed model, the first artefact, and the names in the safetensors file.
    assert len(lines) == 3 and lines[0] == lines[1] and re.fullmatch(r"\[\d \d\]", lines[0])
    shapes = eval(lines[2])
    assert shapes["Dense_0.kernel"] == (16, 8)
    assert shapes["model_state.activation_ranges.Dense_0.high"] == ()


def test_it_says_what_was_set_how_it_was_made_and_what_not_to_expect(exported, text):
    for heading in ("Measures", "Files", "Use", "How it was made", "Limits"):
        assert text.count(f"\n## {heading}\n") == 1
    assert r"| stages\[0\].prune.sparsity | 0.5 |" in text and "| model.features |" in text
    manifest = json.loads((exported.run / "manifest.json").read_text())
    for fact in (manifest["config_hash"], manifest["dataset_fingerprint"], exported.finished.result["digest"]):
        assert fact in text
    assert "with seed 0" in text and "16 examples, so one of them is 6.2 percentage points" in text
    assert '\n# a "tiny": \\_run\\_ \\| of {all}\n' in text  # the title shows as it stands
    # Between the bars of a table nothing is left that would make another column.
    for line in text.splitlines():
        if line.startswith("| stages"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3


@pytest.fixture(scope="module")
def read_back(exported):
    return source.load(exported.run)


def test_equal_runs_give_equal_cards(read_back):
    files = [
        Written("stablehlo", Path("masked.stablehlo"), 5, "one"),
        Written("stablehlo", Path("shrunk.stablehlo"), 4, "two", "print(0, '{name}')"),
        Written("stablehlo", Path("other"), 4, "two", "print(0, '{name}')"),
    ]
    missing = [Missing("integer.stablehlo", "why | not")]
    once = card.card(read_back, files, missing)
    turned = dataclasses.replace(read_back, manifest=dict(reversed(read_back.manifest.items())))
    assert once == card.card(turned, files, missing)
    assert r"- integer.stablehlo: why \| not" in once
    assert "`shrunk.stablehlo` (the same for `other`):" in once and "print(0, 'shrunk.stablehlo')" in once
    bare = card.card(dataclasses.replace(read_back, manifest={}), [], [])
    assert "jaxlib up to 6 months" in once and "jaxlib up to 6 months" not in bare


def test_a_loss_that_is_no_number_is_left_out(read_back):
    run = read_back.run._replace(result={**read_back.run.result, "loss": None})
    text = card.card(dataclasses.replace(read_back, run=run), [], [])
    (metric,) = header(text)["model-index"][0]["results"][0]["metrics"]
    assert metric["type"] == "accuracy"


def test_the_code_for_inputs_normalizes(exported):
    dataset = exported.finished.dataset
    for mean in (np.float32([1.1, 2.2, 3.3]), np.float32([1.1, 2.2] * 3), np.float32([0.3] * 4)):
        space = {}
        exec(card.inputs_code(mean, mean, (2, len(mean))), space)
        np.testing.assert_array_equal(space["x"], np.broadcast_to(-mean / mean, (2, 2, len(mean))))
        assert space["x"].dtype == np.float32
    space = {}
    exec(card.inputs_code(dataset.mean, dataset.std, (4, 4, 1)), space)
    assert space["x"].shape == (2, 4, 4, 1)


@pytest.mark.slow
def test_all_formats_and_their_code(exported, tmp_path):
    written = export(exported.run, tmp_path)
    assert {w.format for w in written} == {*FORMATS, "card"}
    code = "\n".join(re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    classes = done.stdout.splitlines()
    assert len(classes) == 4 and classes[0] == classes[1]  # packed, StableHLO, ONNX, the names of safetensors
    said = (tmp_path / "README.md").read_text()
    for name in ("model.jopt", "masked.stablehlo", "integer.stablehlo", "quantized.onnx"):
        assert re.search(rf"^\| {name} \|.* 16 of 16 \|", said, re.MULTILINE), name
