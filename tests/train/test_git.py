"""git_state: what may lie about in a repository must not end a run, delay it or be run."""

import os
import shutil
import subprocess

import pytest

from jopt.train import git as states
from jopt.train.git import git_state


def git(directory, *args):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *args], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A repository of one committed file."""
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init")
    (path / "a.py").write_text("1")
    git(path, "add", ".")
    git(path, "commit", "-m", "a")
    return path


def test_untracked_links_folders_and_odd_names_are_hashed_by_what_they_are(tmp_path, repository):
    assert git_state(tmp_path) is None
    clean = git_state(repository)
    assert clean is not None and not clean["dirty"]
    (repository / "folder").symlink_to(tmp_path)
    (repository / "nowhere").symlink_to("gone")
    (repository / "\u00e9 \n.txt").write_text("1")
    git(tmp_path, "init", "repository/inner")
    first = git_state(repository)
    assert first is not None and first["dirty"] and first["commit"] == clean["commit"]
    assert git_state(repository) == first
    (repository / "\u00e9 \n.txt").write_text("2")
    assert git_state(repository) != first


@pytest.mark.parametrize("content", ["2", "\0binary"])
def test_a_changed_file_is_hashed_by_its_content(repository, content):
    (repository / "a.py").write_text(content)
    first = git_state(repository)
    assert first["dirty"]
    (repository / "a.py").write_text(content + "3")
    assert git_state(repository)["diff_hash"] != first["diff_hash"]


def test_a_run_in_a_repository_does_not_change_its_state(repository):
    clean = git_state(repository)
    own = repository / "runs" / "a"
    own.mkdir(parents=True)
    (own / "metrics.jsonl").write_text("1")
    assert git_state(repository, own) == clean
    assert git_state(repository)["dirty"]


def test_large_files_are_known_by_size_and_time_and_the_state_says_so(repository, monkeypatch):
    monkeypatch.setattr(states, "_CONTENT_BYTES", 100)
    for name, size in (("data", 1000), ("module.py", 60), ("z.py", 60)):
        (repository / name).write_bytes(b"x" * size)
    first = git_state(repository)
    assert first["by_size"] == 2
    # The content of the smallest still counts.
    (repository / "module.py").write_bytes(b"y" * 60)
    second = git_state(repository)
    assert second["diff_hash"] != first["diff_hash"]
    stamp = (repository / "data").stat()
    (repository / "data").write_bytes(b"y" * 1000)
    os.utime(repository / "data", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert git_state(repository) == second
    os.utime(repository / "data", ns=(0, 0))
    assert git_state(repository) != second


def test_of_too_many_files_the_names_count(repository, monkeypatch):
    monkeypatch.setattr(states, "_FILES", 1)
    for name in ("b", "c", "d"):
        (repository / name).write_text("1")
    first = git_state(repository)
    assert first["by_size"] == 2
    (repository / "d").rename(repository / "e")
    assert git_state(repository)["diff_hash"] != first["diff_hash"]


def test_nothing_that_a_repository_configures_is_run(repository, tmp_path):
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\ncat\n")
    trap.chmod(0o755)
    for name in (
        "core.fsmonitor", "diff.external", "diff.odd.command", "diff.odd.textconv", "filter.odd.clean",
        "filter.a=b.clean", "filter.odd.smudge", "filter.long.process", "core.pager", "pager.diff",
    ):  # fmt: skip
        git(repository, "config", name, str(trap))
    git(repository, "config", "filter.odd.required", "true")
    (repository / ".gitattributes").write_text("a.py diff=odd filter=odd\nb.py filter=a=b\nc.py filter=long\n")
    for name in ("post-index-change", "fsmonitor-watchman"):
        (repository / ".git" / "hooks").mkdir(exist_ok=True)
        (repository / ".git" / "hooks" / name).symlink_to(trap)
    for name in ("b.py", "c.py"):
        (repository / name).write_text("1")
        git(
            repository, "-c", f"filter.{'a=b' if name == 'b.py' else 'long'}.clean=", "add", "--intent-to-add", name
        )
    (tmp_path / "ran").unlink(missing_ok=True)
    for name in ("a.py", "b.py", "c.py"):
        (repository / name).write_text("22")
    state = git_state(repository)
    assert state["dirty"] and state["diff_hash"]
    assert not (tmp_path / "ran").exists()
    # The trap would have been sprung by a plain `git diff`.
    git(repository, "diff", "HEAD", "--stat", "--ext-diff")
    assert (tmp_path / "ran").exists()


def test_a_git_that_takes_too_long_is_ended(repository, tmp_path, monkeypatch):
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    real = shutil.which("git")
    slow.write_text(f'#!/bin/sh\ncase "$*" in *"diff HEAD"*) exec sleep 60;; esac\nexec {real} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(states, "_SECONDS", 1.0)
    state = git_state(repository)
    assert state["commit"] and state["dirty"] is None and state["diff_hash"] is None


@pytest.mark.parametrize("count", ["x", "-1", "1_0"])
def test_a_count_of_settings_that_is_none_ends_no_run(repository, monkeypatch, count):
    monkeypatch.setenv("GIT_CONFIG_COUNT", count)
    git_state(repository)


def test_a_run_behind_a_link_does_not_change_the_state_of_its_repository(repository, tmp_path):
    (tmp_path / "link").symlink_to(repository)
    before = git_state(repository)
    (repository / "runs").mkdir()
    (repository / "runs" / "config.json").write_text("{}")
    assert git_state(repository, tmp_path / "link" / "runs") == before
