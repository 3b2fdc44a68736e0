"""The card: a header that YAML reads, code that runs, numbers that the run's files have."""

import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jopt import codec
from jopt.config import ConfigError
from jopt.export import FORMATS, ExportError, card, export
from jopt.export.front_matter import front_matter
from jopt.train.workdir import Workdir, WorkdirError


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


def test_equal_runs_give_equal_cards(exported, text):
    files = [
        card.File("masked.stablehlo", "stablehlo", 5, "one"),
        card.File("shrunk.stablehlo", "stablehlo", 4, "two", "print(0, '{name}')"),
        card.File("other", "stablehlo", 4, "two", "print(0, '{name}')"),
    ]
    manifest = Workdir(exported.run).load_json(Workdir(exported.run).manifest)
    absent = {"integer.stablehlo": "why | not"}
    once = card.card(exported.finished, manifest, files, absent)
    assert once == card.card(exported.finished, dict(reversed(manifest.items())), files, absent)
    assert r"- integer.stablehlo: why \| not" in once
    assert "`shrunk.stablehlo` (the same for `other`):" in once and "print(0, 'shrunk.stablehlo')" in once
    bare = card.card(exported.finished, {}, [], {})
    assert "jaxlib up to 6 months" in once and "jaxlib up to 6 months" not in bare


def test_a_loss_that_is_no_number_is_left_out(exported):
    run = exported.finished._replace(result={**exported.finished.result, "loss": None})
    (metric,) = header(card.card(run, {}, [], {}))["model-index"][0]["results"][0]["metrics"]
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


def test_exports_that_cannot_be_done_write_nothing(exported, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"formats must be one of .*'stablehlo', got 'tflite'"):
        export(exported.run, out, ("packed", "tflite"))
    with pytest.raises(ExportError, match="at least one of"):
        export(exported.run, out, ())
    with pytest.raises(WorkdirError, match="not the directory of a run"):
        export(tmp_path, out, ("packed",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"'safetensors' needs safetensors.*pip install 'jopt\[export\]'"):
        export(exported.run, out, ("packed", "safetensors"))
    assert not out.exists()


def test_the_packed_file_of_the_run_is_taken_as_it_is(exported, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(exported.run, run)
    packed = (exported.directory / "model.jopt").read_bytes()
    (run / "model.jopt").write_bytes(packed)
    (file, _) = export(run, run, ("packed",))  # beside the run, which must not lose it
    assert file.file.read_bytes() == packed and (run / "README.md").exists() and (run / "report.md").exists()


def test_a_packed_file_of_another_run_or_a_damaged_one_is_not_passed_on(exported, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(exported.run, run)
    whole = exported.directory / "model.jopt"
    file = codec.read(whole)
    other = jax.tree.map(lambda leaf: leaf + leaf.dtype.type(1), file.params)
    codec.save(run / "model.jopt", other, model_state=file.model_state, metadata=file.metadata)
    with pytest.raises(ExportError, match=r"model\.jopt is not the packed model of this run"):
        export(run, tmp_path / "out", ("packed",))
    (run / "model.jopt").write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(codec.CodecError):
        export(run, tmp_path / "out", ("packed",))
    assert not (tmp_path / "out" / "model.jopt").exists()


def test_artefacts_of_raw_inputs(exported, tmp_path):
    written = export(exported.run, tmp_path, ("stablehlo",), raw_inputs=True)
    assert [w.file.name for w in written if w.format == "stablehlo" and w.file.suffix == ".stablehlo"] == [
        f"{name}.stablehlo" for name in ("masked", "float", "shrunk", "integer")
    ]
    code = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    assert code[-1].endswith("print(predict(raw).argmax(-1))\n")
    said = json.loads((tmp_path / "integer.stablehlo.json").read_text())
    assert said["inputs"][0]["dtype"] == "uint8" and said["test"]["equal_predictions"] == 16


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
