"""Interception: what the layers of a model compute, seen and changed from outside.

A *layer* is a module of Flax Linen, Flax NNX or Equinox that owns a kernel and maps one array to one array:
`Dense`, `Linear`, `Conv`, `DenseGeneral`, the recurrent layers of `jopt.models`. Its path is its parameters' path
without the last part: `Dense_0`, `Block_0/Conv_1`, and the empty string for a model that is one layer. A layer may
run inside a transformation (`nn.remat`, `nn.scan`, `nn.RNN`, `jax.vmap`, and those of NNX). This works on any
function that runs such modules (those of NNX and Equinox as `jopt.models.from_nnx` and `from_equinox` run them),
with no change to the model. It works while the function is traced: give the function itself, and jit what comes
back.
"""

from jopt.intercept.calls import LayerCall as LayerCall
from jopt.intercept.calls import capture as capture
from jopt.intercept.calls import names as names
from jopt.intercept.calls import operands as operands
from jopt.intercept.calls import unless_nested as unless_nested
from jopt.intercept.hooks import attach as attach
from jopt.intercept.hooks import path_of as path_of
from jopt.intercept.nested import thread as thread
from jopt.intercept.replace import refuse_jitted as refuse_jitted
from jopt.intercept.replace import replace_inputs as replace_inputs
from jopt.intercept.replace import replace_layers as replace_layers
from jopt.intercept.statistics import statistics as statistics
