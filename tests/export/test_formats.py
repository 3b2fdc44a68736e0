"""Formats: ours, those of somebody else, and what is refused before anything is written."""

import csv
import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
import somebody

from jopt import codec
from jopt.apps import export as app
from jopt.config import ConfigError
from jopt.export import ExportError, File, Format, Missing, export, formats
from jopt.train.workdir import WorkdirError


def test_a_format_of_somebody_else_is_written_compared_and_in_the_card(exported, tmp_path):
    written = export(exported.run, tmp_path, ["safetensors", "somebody:FORMAT"])
    assert [(w.format, w.file.name) for w in written] == [
        ("safetensors", "model.safetensors"),
        ("csv", "weights.csv"),
        ("card", "README.md"),
    ]
    with (tmp_path / "weights.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["parameter"] == "Dense_0/kernel"]
    kernel = np.asarray(exported.finished.params["Dense_0"]["kernel"])
    np.testing.assert_array_equal(np.float32([row["value"] for row in rows]), kernel.ravel())
    card = (tmp_path / "README.md").read_text()
    assert written[1].agreement is not None and written[1].agreement.examples == 16
    assert re.search(r"^\| weights\.csv \| [\d,]+ \| the weights, a row each \|.* of 16 \|", card, re.MULTILINE)
    assert "csv.reader(open('weights.csv'))" in card
    assert "weights.csv" in str(app.files_table(written, 1000).rows)


def test_what_a_run_lacks_is_missing_with_the_reason(exported, tmp_path):
    wrong = dataclasses.replace(somebody.FORMAT, needs=("masked", "shrunken"))
    with pytest.raises(ConfigError):  # no function of that name: the format's own mistake, not the run's
        export(exported.run, tmp_path, [wrong])

    def write(source, directory, options):
        yield Missing("a.txt", f"raw inputs: {options.raw_inputs}")

    (card,) = export(exported.run, tmp_path, [Format("none", write, ("a.txt",))], raw_inputs=True)
    assert "- a.txt: raw inputs: True" in card.file.read_text()


def test_functions_that_a_run_lacks_are_the_reason_why_a_file_is_missing(exported, tmp_path, monkeypatch):
    def unavailable(self, name):
        raise formats.Unavailable(f"no {name} function: just so")

    monkeypatch.setattr(formats.Source, "function", unavailable)
    (card,) = export(exported.run, tmp_path, [somebody.FORMAT])
    assert "- weights.csv: no integer function: just so" in card.file.read_text()
    assert not (tmp_path / "weights.csv").exists()


def test_a_format_must_write_the_files_that_it_says(exported, tmp_path):
    def nothing(source, directory, options):
        yield File("a.txt", "what is not there")

    def other(source, directory, options):
        (directory / "b.txt").write_text("b")
        yield File("b.txt", "a file that it does not list")

    for write in (nothing, other):
        with pytest.raises(ExportError, match=r"'mine'.* .\.txt"):
            export(exported.run, tmp_path, [Format("mine", write, ("a.txt",))])
    assert not (tmp_path / "README.md").exists()
    for name in ("README.md", "model.safetensors"):
        with pytest.raises(ConfigError) as caught:
            export(exported.run, tmp_path, ["safetensors", Format("mine", nothing, (name,))])
        assert (caught.value.field, caught.value.value) == ("formats", "mine")


def test_exports_that_cannot_be_done_write_nothing(exported, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for name in ("tflite", "somebody:MISSING", "nobody.at.all:FORMAT", "somebody:write", ":", "somebody:"):
        with pytest.raises(ConfigError) as caught:
            export(exported.run, out, ("packed", name))
        assert (caught.value.field, caught.value.value) == ("formats", name)
        assert "'stablehlo'" in caught.value.accepted and "package.module:name" in caught.value.accepted
    with pytest.raises(ExportError, match="at least one of"):
        export(exported.run, out, ())
    with pytest.raises(WorkdirError, match=r"no config\.json"):
        export(tmp_path, out, ("packed",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"'safetensors'.*jopt\[export\]"):
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
    with pytest.raises(ExportError, match=r"model\.jopt.*parameters"):
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


def test_temporary_files_of_the_export_are_removed_and_nobody_else_s(exported, tmp_path):
    for name in (".model.safetensors.0a1b2c3d.tmp", ".README.md.0a1b2c3d.tmp", ".notes.abcdefgh.tmp"):
        (tmp_path / name).write_text("x")
    export(exported.run, tmp_path, ["safetensors"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".notes.abcdefgh.tmp", "README.md", "model.safetensors"]
