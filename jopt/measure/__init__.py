"""What a model costs: parameters, nonzeros, bytes, FLOPs, latency, throughput and memory."""

from jopt.measure.flops import Operations as Operations
from jopt.measure.flops import flops as flops
from jopt.measure.flops import flops_by_layer as flops_by_layer
from jopt.measure.flops import flops_by_scope as flops_by_scope
from jopt.measure.flops import operations as operations
from jopt.measure.flops import operations_by_scope as operations_by_scope
from jopt.measure.latency import Latency as Latency
from jopt.measure.latency import latency as latency
from jopt.measure.latency import peak_memory as peak_memory
from jopt.measure.latency import throughput as throughput
from jopt.measure.size import Layer as Layer
from jopt.measure.size import Size as Size
from jopt.measure.size import layers as layers
from jopt.measure.size import size as size
