"""The feature classes that the files of a prepared set name, checked before TFDS imports them.

TFDS builds a set of a named version from its files, and imports whatever module `features.json` names for a
feature: a directory of data could run any code that Python finds, such as a file in it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from jopt.data.cache import DataError

PREFIX = "tensorflow_datasets.core.features."
"""Where the classes of TFDS's own features are."""
FILE = "features.json"
# As TFDS writes it; as its JSON parser takes it too; and in files of TFDS 4.0 to 4.2.
_KEYS = ("pythonClassName", "python_class_name", "type")
_NESTED = "json"  # A text that holds the JSON of a feature without a message of its own.


def check(folder: Path, *, trusted: bool = False) -> None:
    """Raises if the files of a prepared set name a feature class that is not of TFDS itself.

    Args:
      folder: the one that TFDS reads, of a version; it need not exist.
      trusted: accept them; TFDS then imports their modules, and so runs them.

    Raises:
      DataError: naming the file and the class, or if the file is not JSON.
    """
    path = folder / FILE
    if trusted or not path.exists():
        return
    for python_class in _classes(path):
        if not python_class.startswith(PREFIX):
            raise DataError(
                f"{path} names the feature class {python_class!r}, and reading the set would run its "
                f"module: only classes of {PREFIX.rstrip('.')} are accepted; if you trust the directory, "
                "read it with trusted=True (apps: --trust)",
                field=str(path),
                value=python_class,
                accepted=f"a class of {PREFIX.rstrip('.')}",
            )


def _classes(path: Path) -> Iterator[str]:
    """Every text in a file that TFDS could take for the name of a feature class."""
    try:
        pending = [json.loads(path.read_text("utf-8"))]
        while pending:
            value = pending.pop()
            if isinstance(value, list):
                pending += value
            elif isinstance(value, dict):
                yield from (value[key] for key in _KEYS if isinstance(value.get(key), str))
                if isinstance(nested := value.get(_NESTED), str):
                    pending.append(json.loads(nested))
                pending += value.values()
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); copy or prepare the set again",
            field=str(path),
            accepted="the JSON file that TFDS wrote",
        ) from error
