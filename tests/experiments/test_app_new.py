"""jopt new: a project that trains as it is, and never in the place of another one."""

import importlib.util
import json
import os
import re
import shutil

import pytest

from jopt.apps.new import templates

QUICK = ["--config.dense.epochs=2", "--config.pruned.epochs=3", "--config.quantized.epochs=1"]


@pytest.fixture(scope="module")
def project(app, tmp_path_factory):
    """A new project, and what was printed."""
    parent = tmp_path_factory.mktemp("projects")
    done = app("new", "my_digits", cwd=parent)
    assert (done.returncode, done.stderr) == (0, "")
    return parent / "my_digits", done.stdout


def test_the_files_are_there_under_the_name_of_the_project(project):
    path, printed = project
    made_by_training = {"runs", "__pycache__"}
    assert sorted({p.name for p in path.iterdir()} - made_by_training) == sorted(templates())
    assert {"README.md", "config.py", "data.py", "model.py"} <= set(templates())
    assert [p.name for p in path.parent.iterdir()] == ["my_digits"]
    for file, text in templates().items():
        assert (path / file).read_text() == text.replace("my_project", "my_digits")
    assert "my_digits" in (path / "config.py").read_text()
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask()
    assert printed.splitlines()[-1] == "jopt train --config=config.py --workdir=runs/first"


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.fixture(scope="module")
def trained(app, project):
    """The project, trained by the command that was printed; what it printed itself."""
    path, printed = project
    name, *args = printed.splitlines()[-1].split()[1:]
    return path, app(name, *args, *QUICK, "--quiet", cwd=path)


def test_the_printed_commands_train_it_from_its_directory(trained):
    path, done = trained
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    result = json.loads((path / "runs/first/result.json").read_text())
    assert result["accuracy"] > 0.5 and (path / "runs/first/model.jopt").stat().st_size == result["bytes"]
    assert json.loads((path / "runs/first/config.json").read_text())["name"] == "my_digits"


def test_the_commands_of_its_readme_work(forked, trained):
    path, _ = trained
    commands = re.findall(r"^    jopt (\w+) (.*?) +#", (path / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _ in commands] == ["train", "inspect", "predict", "export", "verify"]
    for name, arguments in commands:
        if name in ("predict", "verify"):
            done = forked(name, *arguments.split(), cwd=path)
            assert done.returncode == 0, done.stderr
    # Her modules run only where she says so.
    done = forked("predict", "runs/first", cwd=path)
    assert done.returncode == 1 and "--trust" in done.stderr


def test_data_that_are_not_the_models_any_more_are_one_line(forked, refused, trained, tmp_path):
    copy = shutil.copytree(trained[0], tmp_path / "copy")
    text = (copy / "data.py").read_text()
    (copy / "data.py").write_text(text.replace("    return {", "    inputs = inputs[:, :9]\n    return {"))
    line = refused(forked("predict", "runs/first", "--trust", cwd=copy), 2)
    assert "--data must be a set of examples of shape (64,) (this one has (9,)), got 'load'" in line


def test_each_file_can_be_imported(project):
    for file in project[0].glob("*.py"):
        spec = importlib.util.spec_from_file_location(f"new_{file.stem}", file)
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("name", ["my-digits", "2digits", "class", "", "my_digits", "file", "a b"])
def test_another_name_is_refused_in_one_line(forked, refused, project, name):
    parent = project[0].parent
    (parent / "file").touch()
    before = sorted(p for p in parent.rglob("*"))
    line = refused(forked("new", name, cwd=parent), 2)
    assert line.startswith("ConfigError: NAME must be ") and repr(name)[1:-1] in line
    assert sorted(p for p in parent.rglob("*")) == before


def test_an_empty_directory_is_taken_and_a_missing_parent_is_one_line(forked, refused, tmp_path):
    (tmp_path / "fresh").mkdir()
    assert forked("new", tmp_path / "fresh").returncode == 0
    assert (tmp_path / "fresh" / "config.py").is_file()
    assert "nowhere" in refused(forked("new", tmp_path / "nowhere" / "p"), 1)
