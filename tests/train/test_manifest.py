"""git_state: what may lie about in a repository must not end a run."""

import subprocess

from jopt.train.manifest import git_state


def git(directory, *args):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *args], cwd=directory, check=True, capture_output=True)


def test_untracked_links_folders_and_odd_names_are_hashed_by_what_they_are(tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    assert git_state(tmp_path) is None
    git(repository, "init")
    (repository / "a.py").write_text("1")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "a")
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
