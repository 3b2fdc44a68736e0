"""One page of interactive plots of a grid of experiments, whole in itself."""

from jopt.report.interactive.data import SIZES as SIZES
from jopt.report.interactive.data import Axis as Axis
from jopt.report.interactive.data import Curve as Curve
from jopt.report.interactive.data import Estimate as Estimate
from jopt.report.interactive.data import Point as Point
from jopt.report.interactive.data import Study as Study
from jopt.report.interactive.data import Trial as Trial
from jopt.report.interactive.page import Section as Section
from jopt.report.interactive.page import command as command
from jopt.report.interactive.page import page as page
from jopt.report.interactive.page import paragraph as paragraph
from jopt.report.interactive.page import plots as plots
from jopt.report.interactive.page import table as table
from jopt.report.interactive.pareto import front as front
