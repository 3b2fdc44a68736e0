"""Reads safetensors files: arrays are views of the file, and nothing in it is trusted.

The format is a length, a JSON header and bytes, so no package is needed to read it.
"""

import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jopt.start.config import StartError

INDEX = ".safetensors.index.json"
"""How the name of an index of several files ends, as Hugging Face has it."""

_MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation.

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "U16": np.uint16,
        "I16": np.int16,
        "U32": np.uint32,
        "I32": np.int32,
        "U64": np.uint64,
        "I64": np.int64,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F32": np.float32,
        "F64": np.float64,
    }.items()
}
"""The dtypes of the format, by the names that its headers have."""


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, as read-only views of it.

    Raises:
      StartError: if it is damaged, or has a dtype that NumPy lacks.
      OSError: if it cannot be read.
    """

    def require(condition: bool, problem: str) -> None:
        if not condition:
            raise StartError("start.path", os.fspath(path), f"a whole safetensors file ({problem})")

    size = path.stat().st_size
    require(size >= 8, f"it has {size} bytes and no header")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # Before anything is read: a damaged length may claim more than there is memory for.
        require(length <= min(_MAX_HEADER, size - 8), f"its header claims {length:,} bytes of {size - 8:,}")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        require(False, f"its header is not JSON: {error}")
        raise
    require(isinstance(header, dict), "its header is no JSON object")
    header.pop("__metadata__", None)
    data_bytes = size - 8 - length
    spans, arrays = [], {}
    # A file without bytes cannot be mapped.
    buffer = np.memmap(path, np.uint8, "r", 8 + length) if data_bytes else np.zeros(0, np.uint8)
    for name, entry in header.items():
        problem, dtype, shape, begin, end = _entry(entry, data_bytes)
        require(not problem, f"{name!r} {problem}")
        spans.append((begin, end, name))
        # Not `buffer.view`, which wants aligned offsets: a header of any length is valid.
        arrays[name] = np.ndarray(shape, dtype, buffer, begin)
    spans.sort()
    for (_, end, name), (begin, _, other) in itertools.pairwise(spans):
        require(end <= begin, f"{name!r} and {other!r} overlap")
    return arrays


def _entry(entry: Any, data_bytes: int) -> tuple[str, np.dtype, tuple[int, ...], int, int]:
    """What is wrong with an array's entry in the header, or '', and what it says."""
    nothing = np.dtype(np.uint8), (), 0, 0
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        return "has no dtype, shape and data_offsets", *nothing
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        return f"is of dtype {entry['dtype']!r}, not one of {', '.join(DTYPES)}", *nothing
    dtype, shape, offsets = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        return "has a shape or offsets that are no lists of sizes", *nothing
    begin, end = offsets
    if not begin <= end <= data_bytes:
        return f"ends at byte {end:,} of {data_bytes:,}", *nothing
    if end - begin != math.prod(shape) * dtype.itemsize:
        return f"has {end - begin:,} bytes for the shape {shape}", *nothing
    return "", dtype, tuple(shape), begin, end


def _are_sizes(values: object) -> bool:
    # `True` is an int to Python.
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


def read_sharded(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an index and the safetensors files in its directory that it names.

    Raises:
      StartError: if the index is damaged, names a file elsewhere, or an array is not where it says.
      OSError: if a file cannot be read.
    """

    def require(condition: bool, problem: str) -> None:
        if not condition:
            raise StartError("start.path", os.fspath(path), f"an index of safetensors files ({problem})")

    try:
        index = json.loads(path.read_bytes())
        files = index["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StartError(
            "start.path", os.fspath(path), "an index of safetensors files, JSON with the field 'weight_map'"
        ) from error
    require(isinstance(files, Mapping), "weight_map is no JSON object")
    arrays: dict[str, np.ndarray] = {}
    shards: dict[str, dict[str, np.ndarray]] = {}
    present = {child.name for child in path.parent.iterdir() if child.is_file()}
    for name, shard in files.items():
        # A downloaded index must not make files be read that did not come with it.
        # Links are followed: stores of downloaded files are made of links to one directory.
        fine = isinstance(shard, str) and shard in present
        require(fine, f"{name!r} is in {shard!r}, which is no file in the directory of the index")
        if shard not in shards:
            shards[shard] = read_safetensors(path.parent / shard)
        require(name in shards[shard], f"{shard!r} has no {name!r}")
        arrays[name] = shards[shard][name]
    extra = [name for shard in shards.values() for name in shard if name not in files]
    require(not extra, f"the files hold {', '.join(map(repr, extra[:5]))}, which it does not list")
    return arrays
