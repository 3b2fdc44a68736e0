"""Writes a new project: a directory with a config, data, a model and a README, that trains as it is.

jopt new my_project
"""

import contextlib
import importlib.resources
import keyword
import secrets
import shutil
from pathlib import Path

from absl import flags

from jopt.config import ConfigError, require
from jopt.files import move, sync_tree
from jopt.paths import expanded

FLAGS = flags.FlagValues()

# The name of the project in the templates.
_PLACEHOLDER = "my_project"


def main(argv: list[str]) -> None:
    """Writes the project that `argv` names."""
    if len(argv) != 2:
        raise ConfigError("NAME", " ".join(argv[1:]), "one name, of a directory that does not exist yet")
    project = expanded(argv[1], "NAME")
    names = write(project)
    print(f"{project}: {', '.join(names)}")
    print(f"cd {project}\njopt train --config=config.py --workdir=runs/first")


def write(project: Path) -> list[str]:
    """Writes the files of a new project, all of them or none.

    Args:
      project: its directory, new or empty. The last part is the project's name.

    Returns:
      The names of its files.

    Raises:
      ConfigError: for a name that is no Python identifier, or a directory that holds files.
      OSError: if it cannot be written.
    """
    name = project.name
    accepted = "a Python identifier, such as my_project"
    require(name.isidentifier() and not keyword.iskeyword(name), "NAME", name, accepted)
    accepted = "the name of a directory that does not exist yet, or is empty"
    require(not project.exists() or _is_empty(project), "NAME", str(project), accepted)
    texts = {file: text.replace(_PLACEHOLDER, name) for file, text in templates().items()}
    # Beside it and renamed: a full disk or a kill leaves no half of a project.
    fresh = project.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
    fresh.mkdir()
    try:
        for file, text in texts.items():
            (fresh / file).write_text(text)
        sync_tree(fresh)
        move(fresh, project)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return list(texts)


def templates() -> dict[str, str]:
    """The files of a new project: name to text."""
    directory = importlib.resources.files("jopt.apps") / "templates"
    # Python may have compiled them where it installed them, to a folder.
    return {file.name: file.read_text() for file in sorted(directory.iterdir(), key=str) if file.is_file()}


def _is_empty(path: Path) -> bool:
    with contextlib.suppress(NotADirectoryError):
        return not any(path.iterdir())
    return False
