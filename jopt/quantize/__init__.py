"""Quantization: specs, integers, fake quantization, calibration, weights, activations, binary and ternary."""

from jopt.quantize.activation_config import ActivationConfig as ActivationConfig
from jopt.quantize.activation_config import ActivationRow as ActivationRow
from jopt.quantize.activation_config import plan_activations as plan_activations
from jopt.quantize.activation_config import validate_activations as validate_activations
from jopt.quantize.activations import activations as activations
from jopt.quantize.batch_norm import fold as fold
from jopt.quantize.batch_norm import fold_batch_norm as fold_batch_norm
from jopt.quantize.bias import correct_biases as correct_biases
from jopt.quantize.bias import match_statistics as match_statistics
from jopt.quantize.bias import output_shift as output_shift
from jopt.quantize.binary import binarize as binarize
from jopt.quantize.binary import binary as binary
from jopt.quantize.binary import ternarize as ternarize
from jopt.quantize.binary import ternary as ternary
from jopt.quantize.binary import xnor as xnor
from jopt.quantize.calibrate import calibrate as calibrate
from jopt.quantize.check import check as check
from jopt.quantize.config import Config as Config
from jopt.quantize.config import build as build
from jopt.quantize.config import specs as specs
from jopt.quantize.config import validate as validate
from jopt.quantize.fake import fake_quantize as fake_quantize
from jopt.quantize.grid import Range as Range
from jopt.quantize.groups import scale_shape as scale_shape
from jopt.quantize.integer import QTensor as QTensor
from jopt.quantize.integer import dequantize as dequantize
from jopt.quantize.integer import quantize as quantize
from jopt.quantize.learned import lsq as lsq
from jopt.quantize.learned import lsq_step as lsq_step
from jopt.quantize.learned import pact as pact
from jopt.quantize.plan import plan as plan
from jopt.quantize.ranges import absmax as absmax
from jopt.quantize.ranges import auto as auto
from jopt.quantize.ranges import dynamic as dynamic
from jopt.quantize.ranges import minmax as minmax
from jopt.quantize.ranges import mse as mse
from jopt.quantize.ranges import percentile as percentile
from jopt.quantize.recalibrate import recalibrate as recalibrate
from jopt.quantize.shim import (
    XNOR as XNOR,
)
from jopt.quantize.shim import (
    Activations as Activations,
)
from jopt.quantize.shim import (
    Binary as Binary,
)
from jopt.quantize.shim import (
    LSQActivations as LSQActivations,
)
from jopt.quantize.shim import (
    MovingAverageActivations as MovingAverageActivations,
)
from jopt.quantize.shim import (
    PACTActivations as PACTActivations,
)
from jopt.quantize.shim import (
    Ternary as Ternary,
)
from jopt.quantize.shim import (
    Weights as Weights,
)
from jopt.quantize.shim import (
    activations_from_metadata as activations_from_metadata,
)
from jopt.quantize.spec import Spec as Spec
from jopt.quantize.stored import integers as integers
from jopt.quantize.weights import weights as weights
