"""How a run is spread over devices: their axes, which arrays are split, and in which order sums are added."""

from jopt.mesh.arrays import columns as columns
from jopt.mesh.arrays import put as put
from jopt.mesh.arrays import put_columns as put_columns
from jopt.mesh.arrays import whole as whole
from jopt.mesh.partition import FSDP as FSDP
from jopt.mesh.partition import TENSOR as TENSOR
from jopt.mesh.partition import Rules as Rules
from jopt.mesh.partition import parameter_specs as parameter_specs
from jopt.mesh.partition import specs_of as specs_of
from jopt.mesh.spread import ONE as ONE
from jopt.mesh.spread import Spread as Spread
from jopt.mesh.spread import resolve as resolve
from jopt.mesh.spread import validate as validate
from jopt.mesh.sums import DATA as DATA
from jopt.mesh.sums import mean as mean
from jopt.mesh.sums import sealed as sealed
from jopt.mesh.sums import total as total
from jopt.mesh.sums import tree_sum as tree_sum
