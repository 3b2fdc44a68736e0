"""Reads the initializers of an ONNX file, in the layout that PyTorch's layers have."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jopt.start.config import StartError


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """The initializers by name. Weights of MatMul, and of Gemm without transB, are turned to [out, in].

    Raises:
      StartError: if the package onnx is absent, or the file is damaged or keeps arrays outside of its directory.
      OSError: if it cannot be read.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        accepted = "of a kind that the installed packages read: ONNX files need pip install 'jopt[export]'"
        raise StartError("start.path", os.fspath(path), accepted) from error
    try:
        # The library refuses external data that lie outside of the model's directory.
        model = onnx.load(os.fspath(path))
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    except OSError:
        raise
    # protobuf's DecodeError, the checker's ValidationError and others: the packages name no common type.
    except Exception as error:
        raise StartError("start.path", os.fspath(path), f"a whole ONNX file ({error})") from error
    if not arrays:
        raise StartError("start.path", os.fspath(path), "an ONNX file with initializers")
    in_first = _read_in_first(model.graph)
    return {name: array.T if name in in_first and array.ndim == 2 else array for name, array in arrays.items()}


def _read_in_first(graph: Any) -> set[str]:
    """The initializers that a product reads as [in, out]."""
    names: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        if not transposed:
            names.add(node.input[1])
    return names
