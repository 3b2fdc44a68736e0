"""Reads Orbax checkpoints: any pytree of arrays, and the checkpoints of jopt's own runs."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jopt.rules import named_leaves
from jopt.start.config import StartError

# What a run's checkpoint holds in addition to the network: see `jopt.train.snapshot`.
_OF_A_RUN = ("sha256", "notes")


def is_orbax(path: Path) -> bool:
    """Whether a directory is an Orbax checkpoint."""
    return any((path / name).exists() for name in ("_CHECKPOINT_METADATA", "_METADATA"))


def read_orbax(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint in host memory, by their keys joined by slashes.

    Of a checkpoint of a jopt run only the network: the moving average where the run keeps one, else the parameters.

    Raises:
      StartError: if it cannot be read.
    """
    from orbax.checkpoint import v1

    ocp: Any = v1
    try:
        # Orbax finds no arrays at a relative path, and says nothing of it.
        tree = ocp.load(path.absolute(), _host_arrays(ocp.metadata(path.absolute()).metadata))
    # Orbax and TensorStore raise many types for a damaged checkpoint, of which none is documented.
    except Exception as error:
        accepted = f"an Orbax checkpoint of arrays that can be read ({error})"
        raise StartError("start.path", os.fspath(path), accepted) from error
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(tree)}
    if set(_OF_A_RUN) <= set(arrays):
        prefix = "ema/" if any(name.startswith("ema/") for name in arrays) else ""
        kept = (f"{prefix}params/", f"{prefix}model_state/")
        arrays = {n.removeprefix(prefix): leaf for n, leaf in arrays.items() if n.startswith(kept)}
    return arrays


def _host_arrays(metadata: Any) -> Any:
    """What Orbax has to read into: NumPy arrays, as the devices that wrote the arrays may not be here."""

    def like(leaf: Any) -> Any:
        # Numbers that are no arrays are described by their Python type's own value.
        if not hasattr(leaf, "dtype"):
            return leaf
        # Broadcasting one element takes no memory.
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)

    return jax.tree.map(like, metadata)
