"""jopt export: the files that were asked for, with their lengths, or one line on why not."""

import json
import re
import shutil

import pytest

from jopt import codec
from jopt.report.ledger import times


def test_files_and_their_bytes_are_listed(app, runs):
    done = app("export", runs / "a", "--format=packed,safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    out = runs / "a" / "export"
    dense = 4 * json.loads((runs / "a" / "result.json").read_text())["parameters"]
    assert {path.name for path in out.iterdir()} == {"model.jopt", "model.safetensors", "README.md"}
    for path in out.iterdir():
        size = path.stat().st_size
        compared = "" if path.suffix == ".md" else f"{times(dense, size)}x"
        row = rf"\b{re.escape(path.name)} +{size:,} +\S+ \w+ +{compared} *$"
        assert re.search(row, done.stdout, re.MULTILINE), (row, done.stdout)
    assert codec.read(out / "model.jopt").ledger.total == (out / "model.jopt").stat().st_size


def test_an_unknown_format_is_one_line(app, refused, tmp_path):
    message = refused(app("export", tmp_path, "--format=packed,onxx"), 2)
    assert "--format must be one of 'packed', 'stablehlo', 'onnx', 'safetensors'" in message and "'onxx'" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sizes", ["0", "1,x", "-1"])
def test_a_batch_size_that_is_none_is_one_line(forked, refused, tmp_path, sizes):
    message = refused(forked("export", tmp_path, f"--speed_batches={sizes}"), 2)
    assert "--speed_batches must be batch sizes of at least 1" in message
    assert not list(tmp_path.iterdir())


def test_the_readme_of_a_project_is_not_replaced(app, refused, tmp_path):
    (tmp_path / "README.md").write_text("# mine\n")
    message = refused(app("export", tmp_path / "run", f"--out={tmp_path}"), 1)
    assert "holds a README.md that is no model card of jopt's" in message
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "# mine\n"


@pytest.mark.parametrize("name", ["export", "export/README.md", "export/model.safetensors"])
def test_a_link_in_a_run_s_directory_leads_no_export_outside(forked, refused, runs, tmp_path, name):
    run, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(runs / "b", run)
    shutil.rmtree(run / "export", ignore_errors=True)
    outside.mkdir()
    (run / name).parent.mkdir(exist_ok=True)
    target = outside if name == "export" else outside / "card"
    (outside / "card").write_text('library_name: "jopt"')  # a model card, which an export may replace
    (outside / ".README.md.0a1b2c3d.tmp").write_text("mine")
    (run / name).symlink_to(target)
    before = sorted(tmp_path.rglob("*"))
    assert str(run / name) in refused(forked("export", run, "--format=safetensors"), 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_that_the_user_names_may_be_a_link(forked, runs, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    done = forked("export", runs / "b", "--format=safetensors", f"--out={tmp_path / 'link'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "real" / "README.md").exists()
