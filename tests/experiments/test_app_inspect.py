"""jopt inspect: every byte of a file is shown, whoever wrote it, and damage is one line."""

import json
import re

import numpy as np
import pytest

from jopt import codec


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A pruned network with shared weights, packed without any run."""
    rng = np.random.default_rng(0)

    def layer(shape):
        kernel = np.round(rng.normal(size=shape).astype(np.float32) * 2) / 8
        return {"bias": rng.normal(size=shape[1]).astype(np.float32), "kernel": kernel * (rng.random(shape) < 0.1)}

    path = tmp_path_factory.mktemp("packed") / "model.jopt"
    params = {f"Dense_{i}": layer(s) for i, s in enumerate([(64, 300), (300, 100), (100, 10)])}
    codec.save(path, params, metadata={"name": "\x1b[31mby hand", "bits": [4, 4, 6]})
    return path


def test_the_whole_ledger_is_shown(app, path, tmp_path):
    page = tmp_path / "bytes.html"
    done = app("inspect", path, f"--html={page}", "--paper=lenet300")
    assert (done.returncode, done.stderr) == (0, "")
    size, ledger = path.stat().st_size, codec.read(path).ledger
    assert f"{size:,} bytes on the disk, each of them in these tables" in done.stdout
    assert "\x1b" not in done.stdout and " by hand" not in done.stdout.splitlines()[0]
    totals = re.findall(r"^ ?total +(.*?) *$", done.stdout, re.MULTILINE)
    assert len(totals) == 5
    assert totals[0].split()[0] == totals[2].split()[-1] == f"{size:,}" in totals[1]
    for entry in ledger.entries[1:]:
        if len(entry.shape) > 1:
            row = rf"{entry.path} .* {entry.parameters:,} .* {entry.total:,} .* {re.escape(entry.encoding)} "
            assert re.search(row, done.stdout)
        assert re.search(rf"{entry.path} .* {entry.total:,} *$", done.stdout, re.MULTILINE)
    # The paper's rows stand as printed there, each over one of the file's.
    printed = r"ip3 +paper +1K +26% +6 +4.3 +5 +3.2 +15.7% +12.70% *\n ?Dense_2/kernel +file +1,000 "
    assert re.search(printed, done.stdout)
    assert done.stdout.splitlines()[-1] == f"page: {page}"
    assert '<figure id="bytes">' in page.read_text()


def test_json_is_the_ledger_and_no_page_is_written(app, path):
    done = app("inspect", path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    described = json.loads(done.stdout)
    assert described["bytes"] == path.stat().st_size == sum(t["total"] for t in described["tensors"])
    assert described["by_kind"] == codec.read(path).ledger.by_kind()
    assert described["metadata"] == {"name": "\x1b[31mby hand", "bits": [4, 4, 6]}
    assert not list(path.parent.glob("*.html"))


def test_a_damaged_file_is_one_line(app, refused, path, tmp_path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.jopt").write_bytes(data)
    # A run directory stands for the file in it.
    assert refused(app("inspect", tmp_path), 1).startswith("CodecError: ")
    assert not list(tmp_path.glob("*.html"))


def test_the_page_never_replaces_the_model(app, refused, path, tmp_path):
    (tmp_path / "model.html").write_bytes(path.read_bytes())
    message = refused(app("inspect", tmp_path / "model.html", f"--html={tmp_path / 'model.html'}"), 2)
    assert "--html must be another file than the packed model" in message
    assert (tmp_path / "model.html").read_bytes() == path.read_bytes()
