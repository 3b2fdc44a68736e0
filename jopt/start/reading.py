"""Reads a source: a flat dictionary of names and NumPy arrays, from each kind of file and directory.

Nothing here unpickles: a pickle runs code of whoever wrote it.
"""

import errno
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jopt.rules import named_leaves
from jopt.start.config import StartError
from jopt.start.onnx import read_onnx
from jopt.start.orbax import is_orbax, read_orbax
from jopt.start.safetensors import INDEX, read_safetensors, read_sharded

ACCEPTED = (
    f"a .safetensors, {INDEX}, .npz, .onnx or .jopt file, an Orbax checkpoint, or the directory of a finished run"
)

_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


class Source(NamedTuple):
    """Named arrays.

    Attributes:
      arrays: by name, as the file names them; a tree's keys are joined by slashes.
      layout: 'flax' or 'torch' where the kind of the source decides it; else 'auto'.
    """

    arrays: Mapping[str, np.ndarray]
    layout: str = "auto"


def read(path: str | os.PathLike[str], *, trusted: bool = False) -> Source:
    """Reads a source. Arrays of safetensors files are views of the file; all others are in memory.

    Args:
      path: of a file or a directory; `~` is expanded.
      trusted: lifts the rules for foreign configs where it is the directory of a run (`docs/security.md`).

    Raises:
      StartError: if there is nothing, it is of another kind, it is damaged, or a package to read it is absent.
      OSError: if it cannot be read.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as where:
      ...     np.savez(f"{where}/a.npz", **{"Dense_0/bias": np.ones(2)})
      ...     read(f"{where}/a.npz").arrays["Dense_0/bias"].tolist()
      [1.0, 1.0]
    """
    try:
        file = Path(path).expanduser()
        exists = file.exists()
    except (ValueError, RuntimeError) as error:
        raise StartError("start.path", os.fspath(path), f"{ACCEPTED} ({error})") from error
    if not exists:
        raise StartError("start.path", os.fspath(path), f"{ACCEPTED}, and there is none")
    if file.is_dir():
        return _read_directory(file, trusted=trusted)
    if file.name.endswith(INDEX):
        return Source(read_sharded(file))
    readers: dict[str, Callable[[Path], Source]] = {
        ".safetensors": lambda file: Source(read_safetensors(file)),
        ".npz": lambda file: Source(read_npz(file)),
        ".onnx": lambda file: Source(read_onnx(file), "torch"),
        ".jopt": _read_packed,
    }
    if file.suffix in _PICKLES:
        convert = "safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, FILE)"
        accepted = f"a file without Python objects: in the process that can load this one, {convert} writes it"
        raise StartError("start.path", os.fspath(path), accepted)
    if file.suffix not in readers:
        raise StartError("start.path", os.fspath(path), ACCEPTED)
    return readers[file.suffix](file)


def from_object(source: PyTree) -> Source:
    """The source that a dictionary of arrays, a pytree of parameters, or `(params, model_state)` is.

    Example:
      >>> tuple(from_object(({"Dense_0": {"bias": np.ones(2)}}, {"batch_stats": {"mean": np.ones(1)}})).arrays)
      ('Dense_0/bias', 'model_state/batch_stats/mean')
    """
    layout = "auto"
    if isinstance(source, tuple) and len(source) == 2:
        # What a model's `init` gives is as the model has it.
        params, model_state = source
        arrays = {**dict(named_leaves(params)), **dict(named_leaves({"model_state": model_state or {}}))}
        layout = "flax"
    else:
        arrays = dict(named_leaves(source))
    return Source({name: np.asarray(jax.device_get(array)) for name, array in arrays.items()}, layout)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file.

    Raises:
      StartError: if it is damaged, or an array holds Python objects.
      OSError: if it cannot be read.
    """
    arrays = {}
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as members:
            for info in members.infolist():
                name = info.filename.removesuffix(".npy")
                with members.open(info) as member:
                    arrays[name] = _read_npy(name, member, info.file_size)
    # NumPy, zipfile and zlib each have their own for a damaged file; a member may be encrypted.
    except (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise StartError("start.path", os.fspath(path), f"an npz file of plain arrays ({error})") from error
    except OSError as error:
        # zipfile goes where a damaged file sends it.
        if error.errno != errno.EINVAL:
            raise
        accepted = "an npz file of plain arrays (it has parts before its beginning)"
        raise StartError("start.path", os.fspath(path), accepted) from error
    return arrays


def _read_npy(name: str, file: IO[bytes], size: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    # The third version differs from the second in the encoding of field names alone.
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError(f"{name!r} holds Python objects")
    # Before memory is taken for it: a damaged header may claim any shape.
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"{name!r} has {size - file.tell():,} bytes for the shape {shape}")
    return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")


def _read_directory(path: Path, *, trusted: bool) -> Source:
    if (path / "result.json").is_file():
        # Imported here: a run's config has a `Pretrained`.
        from jopt.train import finished
        from jopt.train.workdir import WorkdirError

        try:
            run = finished.load(path, trusted=trusted)
        except WorkdirError as error:
            raise StartError("start.path", os.fspath(path), f"a finished run that can be read ({error})") from error
        return from_object((run.params, run.model_state))
    if is_orbax(path):
        return Source(read_orbax(path))
    if index := sorted(path.glob(f"*{INDEX}")):
        accepted = f"a file in it, such as {index[0].name}"
        raise StartError("start.path", os.fspath(path), accepted)
    raise StartError("start.path", os.fspath(path), ACCEPTED)


def _read_packed(path: Path) -> Source:
    from jopt import codec

    try:
        file = codec.read(path)
    except codec.CodecError as error:
        raise StartError("start.path", os.fspath(path), f"a whole packed file ({error})") from error
    return from_object((file.params, file.model_state))
