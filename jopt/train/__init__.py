"""Training: typed experiments, the pure program of a run, its loop, checkpoints, metrics and manifest."""

from jopt.task import cross_entropy as cross_entropy
from jopt.train.compiler import Compiler as Compiler
from jopt.train.compiler import enable_cache as enable_cache
from jopt.train.config import Experiment as Experiment
from jopt.train.config import Stage as Stage
from jopt.train.config import validate as validate
from jopt.train.early_stopping import EarlyStopping as EarlyStopping
from jopt.train.loop import NonFiniteError as NonFiniteError
from jopt.train.loop import run_segments as run_segments
from jopt.train.prepared import Prepared as Prepared
from jopt.train.prepared import prepare as prepare
from jopt.train.program import Program as Program
from jopt.train.program import build as build
from jopt.train.result import Result as Result
from jopt.train.session import run as run
from jopt.train.state import TrainState as TrainState
from jopt.train.state import digest as digest
from jopt.train.workdir import StopRequested as StopRequested
