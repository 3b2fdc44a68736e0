"""Files are there whole or not at all, and are the only ones that a kill leaves."""

import json
import os
import stat
from pathlib import Path

import pytest

from jopt import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        files.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_directory_in_the_way_is_an_error_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "result.json").mkdir()
    with pytest.raises(OSError):
        files.write_text(tmp_path / "result.json", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


with_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files through /proc")


@pytest.fixture
def operations(monkeypatch):
    """The order of syncs and renames, by the names of what they are done to."""
    names = []

    def named(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    def sync(descriptor: int) -> None:
        names.append(f"sync {named(descriptor)}")
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        names.append(f"rename {Path(target).name}")
        real_replace(source, target)

    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    return names


@with_proc
def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_return(tmp_path, operations):
    files.write_text(tmp_path / "a", "text")
    assert [name.split(".")[0] for name in operations[:1]] == ["sync "]
    assert operations[1:] == ["rename a", f"sync {tmp_path.name}"]


@with_proc
def test_a_tree_is_synced_to_its_last_file_and_a_new_directory_in_its_parent(tmp_path, operations):
    files.make_directory(tmp_path / "x" / "y")
    assert operations == [f"sync {tmp_path.name}", "sync x"]
    (tmp_path / "x" / "y" / "f").write_text("f")
    operations.clear()
    files.sync_tree(tmp_path / "x")
    assert operations == ["sync f", "sync y", "sync x"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read(tmp_path, mask):
    previous = os.umask(mask)
    try:
        files.write_text(tmp_path / "a", "text")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_stale_temporary_files_are_removed_and_nothing_else(tmp_path):
    for name in (".result.json.0a1b2c3d.tmp", ".metrics.jsonl.a_b_c_d_.tmp", "result.json", ".lock", "a.tmp"):
        (tmp_path / name).write_text("x")
    files.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "a.tmp", "result.json"]


def test_only_temporary_files_of_given_names_are_removed(tmp_path):
    for name in (".a.json.0a1b2c3d.tmp", ".notes.abcdefgh.tmp", ".a.json.x.0a1b2c3d.tmp"):
        (tmp_path / name).write_text("x")
    files.sweep(tmp_path, ["a.json", "b"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.json.x.0a1b2c3d.tmp", ".notes.abcdefgh.tmp"]


@pytest.mark.parametrize(
    "edit",
    [
        {"accuracy": 1.0},
        {"new": 1},
        {files.CHECKSUMS: None, "accuracy": 0.5} | {files.CHECKSUMS: {}},
        {files.CHECKSUMS: {"self": "0" * 64}},
    ],
)
def test_an_edit_of_a_sealed_object_is_found(edit):
    sealed = files.seal({"accuracy": 0.5, "stages": ({"loss": 1e-8},)}, metrics="ab")
    again = json.loads(json.dumps(sealed))
    assert files.unseal(again) == {"accuracy": 0.5, "stages": [{"loss": 1e-8}]}
    with pytest.raises(ValueError):
        files.unseal(again | edit)
    with pytest.raises(ValueError):
        files.unseal(again | {files.CHECKSUMS: again[files.CHECKSUMS] | {"metrics": "cd"}})
