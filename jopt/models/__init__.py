"""Models: a config, the Flax Linen modules it names, and the pure functions that training sees."""

from jopt.models.cnn import ConvNet as ConvNet
from jopt.models.cnn import ResNet as ResNet
from jopt.models.config import ModelConfig as ModelConfig
from jopt.models.config import activation as activation
from jopt.models.config import build as build
from jopt.models.config import model as model
from jopt.models.config import names as names
from jopt.models.config import validate as validate
from jopt.models.functional import Model as Model
from jopt.models.functional import check as check
from jopt.models.functional import from_linen as from_linen
from jopt.models.functional import from_nnx as from_nnx
from jopt.models.layers import Conv as Conv
from jopt.models.layers import Dropout as Dropout
from jopt.models.layers import conv_general_dilated as conv_general_dilated
from jopt.models.mlp import MLP as MLP
from jopt.models.mlp import XOR as XOR
from jopt.models.mlp import TiedMLP as TiedMLP
from jopt.models.network import Custom as Custom
from jopt.models.network import Network as Network
from jopt.models.rnn import RNN as RNN
