"""A function as a StableHLO artefact: parameters inside, any batch size, several platforms, no jopt to run it."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.core import ShapedArray
from jax.typing import ArrayLike
from jaxtyping import PyTree

from jopt import data
from jopt.config import choice
from jopt.files import write_bytes, write_json
from jopt.train.manifest import version

PLATFORMS = ("cpu", "cuda", "tpu")
"""What artefacts are lowered for unless told otherwise."""

_KNOWN = (*PLATFORMS, "rocm")
VERSION = 1


class StableHLOError(ValueError):
    """A file is not an artefact of `save`, or not whole."""


class Artefact(NamedTuple):
    """What `load` returns.

    Attributes:
      call: inputs [batch, ...] to outputs [batch, ...], for any batch size.
      metadata: what its JSON file says.
      exported: the `jax.export.Exported`, whose `mlir_module()` is the program's text.
    """

    call: Callable[[ArrayLike], jax.Array]
    metadata: dict[str, Any]
    exported: export.Exported


def lower(
    function: Callable[[Any], jax.Array],
    example: Sequence[int] | PyTree,
    *,
    normalization: tuple[PyTree, PyTree] | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> export.Exported:
    """A function as a StableHLO program, with a symbolic batch size.

    Args:
      function: a batch of inputs to outputs; what it closes over becomes constants of the program.
      example: the inputs of one example that the program takes: a `jax.ShapeDtypeStruct`, or a pytree of them, each
        of which becomes an input of the program; or a shape alone, of float32 (raw inputs: of uint8).
      normalization: (mean, standard deviation), each [channels] in raw units, or pytrees of them, to have the
        program take raw inputs and begin with `jopt.data.normalize`; None: it takes what the function takes.
      platforms: for which to lower it: 'cpu', 'cuda', 'rocm', 'tpu'. None of them need be here.

    Returns:
      A `jax.export.Exported`. Called, it gives the bits that `jax.jit(function)` gives.

    Raises:
      ConfigError: for an unknown platform.
      ValueError: from JAX, for a function in which the batch size decides more than shapes.

    Example:
      >>> exported = lower(lambda x: x @ np.ones((2, 1), np.float32), (2,))
      >>> exported.in_avals[0].shape, exported.call(jnp.ones((3, 2))).tolist()
      ((batch, 2), [[2.0], [2.0], [2.0]])
    """
    for name in platforms:
        choice("platforms", name, _KNOWN)

    def predict(x: PyTree) -> jax.Array:
        if normalization is not None:
            x = data.normalize(x, *jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), normalization))
        return function(x)

    # The text of the program has the name of the size: it is part of the file's bytes.
    batch = export.symbolic_shape("batch")
    if isinstance(example, Sequence) and all(isinstance(n, int) for n in example):
        example = jax.ShapeDtypeStruct(tuple(example), jnp.float32 if normalization is None else jnp.uint8)
    x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*batch, *leaf.shape), leaf.dtype), example)
    with _without_source_files():
        return export.export(jax.jit(predict), platforms=tuple(platforms))(x)


def save(
    path: str | os.PathLike[str], exported: export.Exported, metadata: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Writes an artefact and, beside it, `<path>.json`, which says what it is; each atomically.

    JAX promises that an artefact can be run by versions of jaxlib up to 6 months newer, and 3 weeks older, than the
    one that wrote it; the JSON names that one. Equal programs are equal bytes.

    Args:
      path: of the artefact.
      exported: what `lower` gave.
      metadata: other entries of the JSON file, such as `{'function': 'masked'}`.

    Returns:
      What the JSON file holds: `version`, `inputs` and `outputs` (dtype and shape, the symbolic size by its name),
      `platforms`, `calling_convention_version`, `jax`, `jaxlib`, `bytes`, `sha256` and `metadata`'s own.

    Raises:
      OSError: if they cannot be written.
    """
    content = bytes(exported.serialize())
    description = {
        "version": VERSION,
        "inputs": [_described(aval) for aval in exported.in_avals],
        "outputs": [_described(aval) for aval in exported.out_avals],
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **(metadata or {}),
    }
    write_bytes(path, content)
    # The artefact first: a JSON file that is there describes a file that is there.
    write_json(beside(path), description)
    return description


def load(path: str | os.PathLike[str]) -> Artefact:
    """Reads an artefact.

    Without jopt it is `jax.export.deserialize(bytearray(Path(path).read_bytes())).call`.

    Args:
      path: of the artefact.

    Returns:
      An `Artefact`.

    Raises:
      OSError: if the file cannot be read.
      StableHLOError: if it is not the file that its JSON file describes, that one is missing, or JAX cannot
        read it.
    """
    # The digest is verified before JAX reads a byte: what is damaged could be read as another program.
    content = Path(path).read_bytes()
    try:
        metadata = json.loads(beside(path).read_text())
    except (OSError, ValueError) as error:
        raise StableHLOError(f"{beside(path)} cannot be read: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("sha256") != hashlib.sha256(content).hexdigest():
        raise StableHLOError(
            f"{os.fspath(path)} is not the file that {beside(path)} describes: their SHA-256 differ"
        )
    try:
        exported = export.deserialize(bytearray(content))
    except Exception as error:  # whatever a version of JAX makes of another's bytes
        raise StableHLOError(
            f"{os.fspath(path)} was written by jaxlib {metadata.get('jaxlib')} (calling convention "
            f"{metadata.get('calling_convention_version')}); jaxlib {version('jaxlib')} cannot read it: {error}"
        ) from error
    return Artefact(exported.call, metadata, exported)


def beside(path: str | os.PathLike[str]) -> Path:
    """Where the JSON file of an artefact is.

    Example:
      >>> beside("out/masked.stablehlo").as_posix()
      'out/masked.stablehlo.json'
    """
    return Path(f"{os.fspath(path)}.json")


def _described(aval: ShapedArray) -> dict[str, Any]:
    return {"dtype": str(np.dtype(aval.dtype)), "shape": [n if isinstance(n, int) else str(n) for n in aval.shape]}


@contextlib.contextmanager
def _without_source_files() -> Iterator[None]:
    """Programs lowered inside name no files: bytes would depend on where jopt is installed."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name, None)
    if before is None:  # in a version of JAX without it, programs are only less equal
        yield
        return
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
