"""Finished runs as files for other programs: packed, StableHLO, ONNX, safetensors, and a model card."""

from jopt.export.formats import FORMATS as FORMATS
from jopt.export.formats import File as File
from jopt.export.formats import Format as Format
from jopt.export.formats import Missing as Missing
from jopt.export.formats import Options as Options
from jopt.export.formats import Written as Written
from jopt.export.formats import export as export
from jopt.export.formats import resolve as resolve
from jopt.export.source import ExportError as ExportError
from jopt.export.source import Source as Source
from jopt.export.source import Unavailable as Unavailable
from jopt.export.speed import BATCHES as BATCHES
