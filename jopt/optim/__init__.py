"""Optimizers: a config, and the Optax transform that it describes."""

from jopt.optim.build import ParameterPlan as ParameterPlan
from jopt.optim.build import build as build
from jopt.optim.build import describe as describe
from jopt.optim.build import plan as plan
from jopt.optim.build import summary as summary
from jopt.optim.config import DEFAULTS as DEFAULTS
from jopt.optim.config import MIXING_NAMES as MIXING_NAMES
from jopt.optim.config import NAMES as NAMES
from jopt.optim.config import PAPER_NAMES as PAPER_NAMES
from jopt.optim.config import SCHEDULES as SCHEDULES
from jopt.optim.config import VARIANTS as VARIANTS
from jopt.optim.config import Config as Config
from jopt.optim.config import mixes_entries as mixes_entries
from jopt.optim.config import validate as validate
from jopt.optim.gradients import clip_by_global_norm as clip_by_global_norm
from jopt.optim.gradients import global_norm as global_norm
from jopt.optim.gradients import soft_threshold as soft_threshold
from jopt.optim.scaling import ScaleByMuonState as ScaleByMuonState
from jopt.optim.scaling import scale_by_adam as scale_by_adam
from jopt.optim.scaling import scale_by_muon as scale_by_muon
from jopt.optim.scaling import scale_by_paper_adagrad as scale_by_paper_adagrad
from jopt.optim.schedules import learning_rate as learning_rate
from jopt.optim.schedules import multiplier as multiplier
