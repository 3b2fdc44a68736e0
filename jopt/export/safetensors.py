"""The dense parameters as a safetensors file: named arrays, read by nearly every framework."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jopt.files import write_bytes
from jopt.rules import path_name
from jopt.start.safetensors import DTYPES

Tree = dict[str, Any]
"""Nested dictionaries of NumPy arrays."""

STATE = "model_state"
"""The first part of the names of the model's state."""

METADATA = "__metadata__"
"""The name under which a file holds its metadata, in place of a tensor's."""


class SafetensorsError(ValueError):
    """A file is not a safetensors file, or has an array of a dtype that NumPy lacks."""


class Tensors(NamedTuple):
    """What `load` returns.

    Attributes:
      params: nested dictionaries of NumPy arrays. A list or a tuple comes back as a dictionary with
        the keys '0', '1', ...
      model_state: the same; {} if there is none.
      metadata: texts by name.
    """

    params: Tree
    model_state: Tree
    metadata: dict[str, str]


def save(
    path: str | os.PathLike[str],
    params: PyTree,
    *,
    model_state: PyTree = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Writes parameters to a safetensors file, atomically.

    A parameter is named by its keys joined by dots, `Dense_0.kernel`; the model's state the same, behind
    `model_state.`. Equal arrays and metadata are equal bytes.

    Args:
      path: of the file.
      params: a pytree of concrete arrays; booleans, integers and floats of 8 to 64 bits, and bfloat16.
      model_state: the same.
      metadata: texts by name.

    Returns:
      The file's length in bytes.

    Raises:
      ImportError: if safetensors is not installed.
      ValueError: for a last key that is empty, a key that holds a dot, a parameter whose first key is 'model_state'
        or that is called '__metadata__', another dtype, or metadata that are no texts; naming it.
      OSError: if the file cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as where:
      ...     size = save(f"{where}/a", {"Dense_0": {"bias": np.float32([1, 2])}}, metadata={"by": "me"})
      ...     load(f"{where}/a")
      Tensors(params={'Dense_0': {'bias': array([1., 2.], dtype=float32)}}, model_state={}, metadata={'by': 'me'})
    """
    _library()
    from safetensors.numpy import save as to_bytes

    # `load` takes the state apart from the parameters by its first key.
    arrays = dict(_named(params, ()))
    if taken := [name for name in arrays if name.split(".")[0] == STATE]:
        raise ValueError(f"params must not have {STATE!r} as their first key, got {taken[0]!r}")
    # The format keeps the metadata under this name, so that no reader takes a file with a tensor of that name.
    if METADATA in arrays:
        raise ValueError(f"params must not have {METADATA!r} as a name, which the format uses itself")
    arrays |= _named({} if model_state is None else model_state, (STATE,))
    texts = dict(metadata or {})
    for name, text in texts.items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise ValueError(f"metadata must be texts, got {text!r} for {name!r}")
    content = _ordered(to_bytes(arrays), texts)
    write_bytes(path, content)
    return len(content)


def load(path: str | os.PathLike[str]) -> Tensors:
    """Reads a safetensors file, every array with its dtype and bits.

    Args:
      path: of the file, which `save` or another program wrote; names are split at their dots.

    Returns:
      The `Tensors`.

    Raises:
      ImportError: if safetensors is not installed.
      OSError: if the file cannot be read.
      SafetensorsError: if it is damaged, an array's dtype is none of NumPy's, or one name begins another.
    """
    library = _library()
    content = Path(path).read_bytes()
    try:
        tensors = dict(library.deserialize(content))
    except library.SafetensorError as error:
        raise SafetensorsError(f"{os.fspath(path)} is not a safetensors file: {error}") from error
    params: Tree = {}
    for name, tensor in tensors.items():
        if tensor["dtype"] not in DTYPES:
            raise SafetensorsError(f"{os.fspath(path)}: {name!r} is of dtype {tensor['dtype']}, which NumPy lacks")
        # A copy: what the library gives is read-only.
        array = np.frombuffer(bytes(tensor["data"]), DTYPES[tensor["dtype"]]).reshape(tensor["shape"]).copy()
        *above, last = name.split(".")
        branch = params
        for key in above:
            branch = branch.setdefault(key, {})
            if not isinstance(branch, dict):
                raise SafetensorsError(f"{os.fspath(path)}: the name of another array begins {name!r}")
        if last in branch:
            raise SafetensorsError(f"{os.fspath(path)}: {name!r} begins the name of another array")
        branch[last] = array
    model_state = params.pop(STATE, {})
    return Tensors(params, model_state, _header(content)[0].get("__metadata__", {}))


def _library() -> ModuleType:
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "safetensors files need the package safetensors, which is not installed: pip install 'jopt[export]'"
        ) from error
    return safetensors


def _named(tree: PyTree, above: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    seen: set[str] = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = [path_name((key,)) for key in path]
        name = ".".join((*above, *keys))
        array = np.array(leaf, order="C")
        if array.dtype not in DTYPES.values():
            accepted = ", ".join(str(dtype) for dtype in DTYPES.values())
            raise ValueError(f"{name!r} must be of a dtype of safetensors ({accepted}), got {array.dtype}")
        # What could not be read back is refused now: a dot would be split, and an equal name replace another.
        # An empty key in between is one: the name of a network that is a single layer.
        if not name or not keys[-1] or any("." in key for key in keys) or name in seen:
            raise ValueError(
                f"the keys of {name!r} must not end in an empty one, hold a dot or make the name of another array"
            )
        seen.add(name)
        yield name, array


def _header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header, and what stands behind it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _ordered(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The file with its metadata, sorted: the library's own come in another order in each process."""
    header, arrays = _header(content)
    if metadata:
        header = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # So that arrays begin at a multiple of 8, as the library has them.
    return len(text).to_bytes(8, "little") + text + arrays
