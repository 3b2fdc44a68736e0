"""Finished runs as files for other programs: packed, StableHLO, ONNX, safetensors, and a model card."""

from jopt.export.functions import Unavailable as Unavailable
from jopt.export.run import FORMATS as FORMATS
from jopt.export.run import ExportError as ExportError
from jopt.export.run import Written as Written
from jopt.export.run import export as export
