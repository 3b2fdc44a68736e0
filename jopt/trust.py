"""What is foreign, and what a foreign file may ask for.

**Foreign** is every file that says what to compute and that the user did not write now: `config.json`,
`ablation.json` and `search.json` of a directory, a packed file, and the prepared data of a data set. A config file,
a Python call and the flags of this launch are the user's own. The rules are in `docs/security.md`; a caller lifts
them with `trusted=True`, an app with `--trust`.
"""

import contextlib
import importlib.machinery
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from jopt.config import ConfigError

Trusted: TypeAlias = bool | Collection[str]
"""Whether modules that a file names may be imported: True; False, only those of jopt's methods; or the names of
more modules, which the user's own config names too."""

_NAMES = ("clip", "cluster", "distill", "measure", "models", "optim", "prune", "quantize", "task", "transfer")
METHODS = frozenset(f"jopt.{name}" for name in _NAMES)
"""The packages of jopt that every config may name: what a config names is called, and these compute and do no more,
while `jopt.files:sweep` removes files."""

CONFIGS = METHODS | {"jopt.data", "jopt.start"}
"""The packages of jopt whose config classes every config may name: they only hold fields."""

IDENTITIES = ("config.json", "ablation.json", "search.json")
"""The files that say what a directory of a job holds."""
_RECORD = "manifest.json"


def is_trusted(module: str, trusted: Trusted) -> bool:
    """Whether a module may be imported because a config names it.

    Example:
      >>> is_trusted("jopt.prune.scores", False), is_trusted("jopt.files", False), is_trusted("os", True)
      (True, False, True)
      >>> is_trusted("a", {"a"})
      True
    """
    if isinstance(trusted, bool):
        return trusted or is_method(module)
    return is_method(module) or module in trusted


def is_method(module: str) -> bool:
    """Whether a module is of `METHODS`."""
    return ".".join(module.split(".")[:2]) in METHODS


def modules_in(plain: object) -> frozenset[str]:
    """The modules that a config names, from what `jopt.config.to_dict` gives.

    Example:
      >>> sorted(modules_in({"stages": [{"score": "her_package.score:taylor"}], "name": "mnist:3.0.1"}))
      ['her_package.score']
    """
    from jopt.reference import is_reference

    pending, modules = [plain], set()
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif is_reference(value):
            modules.add(value.partition(":")[0])
    return frozenset(modules)


def run_directory(path: str | os.PathLike[str]) -> Path | None:
    """The directory of a job (a run, an ablation, a search) that holds `path`, after resolving links; None without.

    The current directory and its parents are not looked at: whoever starts Python there runs what lies there.
    """
    path, current = Path(os.path.realpath(path)), Path(os.path.realpath(Path.cwd()))
    for directory in (path, *path.parents):
        if current.is_relative_to(directory):
            return None
        if (directory / _RECORD).exists() and any((directory / name).exists() for name in IDENTITIES):
            return directory
    return None


def check_module(module: str, field: str, reference: str) -> None:
    """Raises unless a module and its packages lie outside of every directory of a job. Imports nothing.

    Directories of runs are copied from machine to machine, and below the current directory they are namespace
    packages: without this check `runs.a.module:name` would run a file that somebody else put there.

    Raises:
      ConfigError: naming the directory.
    """
    for location in _locations(module):
        if directory := run_directory(location):
            raise ConfigError(
                field,
                reference,
                f"a module outside of run directories ({location} lies in {directory}): install it, or move it "
                "next to your config file",
            )


def _locations(module: str) -> Iterator[str]:
    """Where a module and the packages above it lie, outermost first."""
    # Not `importlib.util.find_spec`, which imports the packages above a module and so runs their code.
    search: list[str] | None = None
    for part in module.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, search)
        if spec is None:
            return
        # A namespace package is the sum of several directories, any of which may hold the next part.
        search = list(spec.submodule_search_locations or ())
        yield from search or filter(None, [spec.origin])


def check_paths(fields: Iterable[tuple[str, str | None]], directory: str | os.PathLike[str], remedy: str) -> None:
    """Raises unless the paths of a foreign config lie outside of its own directory, after resolving links.

    What lies in the directory came with the config, so reading data or a network from there would trust whoever
    wrote it. A relative path is relative to the current directory, as everywhere.

    Args:
      fields: `(field, path)`; None is no path.
      directory: where the config lies.
      remedy: what the user can do, for the message.

    Raises:
      ConfigError: naming the field.
    """
    for field, path in fields:
        if path is not None and is_inside(path, directory):
            accepted = f"a path outside of {directory}, as this config is not trusted ({remedy})"
            raise ConfigError(field, path, accepted)


def is_inside(path: str, directory: str | os.PathLike[str]) -> bool:
    """Whether a path is a directory or lies in it, after resolving links."""
    root = Path(os.path.realpath(directory))
    # Both with and without `~`, as readers of the field may expand it.
    return any(_same(parent, root) for p in _expansions(path) for parent in (p, *p.parents))


def _expansions(path: str) -> Iterator[Path]:
    # A NUL, or no home: readers of the field cannot use the path either, and say so.
    with contextlib.suppress(ValueError):
        yield Path(os.path.realpath(path))
    with contextlib.suppress(ValueError, RuntimeError):
        yield Path(os.path.realpath(Path(path).expanduser()))


def _same(a: Path, b: Path) -> bool:
    # By identity and not by name alone, which may differ in case on macOS.
    with contextlib.suppress(OSError):
        return a.samefile(b)
    return a == b
