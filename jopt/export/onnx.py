"""ONNX files of a model: in float32, and quantized, computing on the codes that jopt computes on."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jopt import intercept
from jopt.config import choice
from jopt.export import onnx_codes, onnx_quantize
from jopt.export.onnx_graph import Graph, read, write
from jopt.export.onnx_tidy import fold, tidy
from jopt.export.onnx_trace import INPUT, trace
from jopt.files import write_bytes
from jopt.quantize.activation_config import ActivationConfig
from jopt.quantize.activations import split

if TYPE_CHECKING:
    from onnx import ModelProto

    from jopt.quantize import QTensor


def save(path, model, params, model_state, input_shape, *, mean=None, std=None, metadata=None) -> int:
    content = encode(model, params, model_state, input_shape, mean=mean, std=std, metadata=metadata)
    write_bytes(path, content)
    return len(content)


def encode(model, params, model_state, input_shape, *, mean=None, std=None, metadata=None) -> bytes:
    traced = trace(model.apply, params, model_state, input_shape, mean=mean, std=std)
    graph = read(traced.proto, traced.constants)
    tidy(graph)
    fold(graph)
    return write(graph, metadata or {}).SerializeToString(deterministic=True)


def encode_quantized(model, params, model_state, input_shape, weights, activations, *, mean=None, std=None, metadata=None, form="integer") -> bytes:
    choice("form", form, onnx_quantize.FORMS)
    bare, learned = split("params", params)
    state, held = split("model_state", model_state)
    x = np.zeros((1, *input_shape), np.float32)
    layers = intercept.names(model.apply, bare, state, x, train=False)
    grids = onnx_codes.inputs(activations, layers, learned, held)
    codes = {path: onnx_codes.weight(q) for path, q in weights.items()}
    traced = trace(model.apply, bare, state, input_shape, mean=mean, std=std, layers=list(grids))
    ones = {name: np.ones((1,) * len(layers[layer][0].input.shape), np.float32) for layer, name in traced.marks.items()}
    graph = read(traced.proto, {**traced.constants, **ones})
    tidy(graph, kept={*codes, *ones.keys()})
    onnx_quantize.quantize(graph, codes, grids, traced.marks, form)
    fold(graph)
    return write(graph, metadata or {}).SerializeToString(deterministic=True)
