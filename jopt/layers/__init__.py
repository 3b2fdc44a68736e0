"""What a model says about its parameters: which are weights, of which kind of layer, and what their axes mean.

Every method and measure reads this, and nothing else, to tell a kernel from a bias, an output from an input, and
one copy of a scanned layer from the next.
"""

from jopt.layers.copies import over_copies as over_copies
from jopt.layers.copies import to_copies as to_copies
from jopt.layers.names import assumed as assumed
from jopt.layers.names import is_weight as is_weight
from jopt.layers.parameter import WEIGHTS as WEIGHTS
from jopt.layers.parameter import Layers as Layers
from jopt.layers.parameter import LayoutError as LayoutError
from jopt.layers.parameter import Parameter as Parameter
from jopt.layers.parameter import PlanRow as PlanRow
from jopt.layers.parameter import one_copy as one_copy
from jopt.layers.parameter import within_copy as within_copy
from jopt.layers.trace import parameters as parameters
from jopt.layers.trace import trace as trace
