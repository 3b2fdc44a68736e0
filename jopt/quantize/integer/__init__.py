"""Integer execution: layers and whole networks computed on codes."""

from jopt.quantize.integer.contractions import Contraction as Contraction
from jopt.quantize.integer.contractions import assert_integer as assert_integer
from jopt.quantize.integer.contractions import contractions as contractions
from jopt.quantize.integer.network import network as network
from jopt.quantize.integer.operands import Codes as Codes
from jopt.quantize.integer.operands import encode_input as encode_input
from jopt.quantize.integer.operands import operand as operand
from jopt.quantize.integer.operands import values_of as values_of
from jopt.quantize.integer.ops import Sums as Sums
from jopt.quantize.integer.ops import average_pool as average_pool
from jopt.quantize.integer.ops import conv as conv
from jopt.quantize.integer.ops import dense as dense
from jopt.quantize.integer.ops import max_pool as max_pool
from jopt.quantize.integer.ops import relu as relu
from jopt.quantize.integer.ops import requantize as requantize
from jopt.quantize.integer.ops import rescale as rescale
from jopt.quantize.integer.recurrent import rnn_cell as rnn_cell
from jopt.quantize.tensors import QTensor as QTensor
from jopt.quantize.tensors import code_dtype as code_dtype
from jopt.quantize.tensors import dequantize as dequantize
from jopt.quantize.tensors import fit_range as fit_range
from jopt.quantize.tensors import quantize as quantize
