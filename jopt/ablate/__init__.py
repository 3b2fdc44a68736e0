"""Ablations: a grid of experiments in few programs, with paired statistics and a report."""

from jopt.ablate.config import Ablation as Ablation
from jopt.ablate.files import load_trial as load_trial
from jopt.ablate.lift import Layout as Layout
from jopt.ablate.lift import Lift as Lift
from jopt.ablate.results import Axis as Axis
from jopt.ablate.results import Results as Results
from jopt.ablate.session import run as run
from jopt.ablate.space import Range as Range
from jopt.ablate.space import Space as Space
from jopt.ablate.space import axis as axis
from jopt.ablate.space import choices as choices
from jopt.ablate.space import points as points
from jopt.ablate.space import product as product
from jopt.ablate.space import search as search
from jopt.ablate.space import zipped as zipped
