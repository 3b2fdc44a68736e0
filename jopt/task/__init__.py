"""Tasks: how outputs meet targets. Losses, metrics that are exact over batches, and which one decides."""

from jopt.task.base import LOSS as LOSS
from jopt.task.base import RESERVED as RESERVED
from jopt.task.base import Task as Task
from jopt.task.base import check_metrics as check_metrics
from jopt.task.base import mean_loss as mean_loss
from jopt.task.base import measured as measured
from jopt.task.base import statistics as statistics
from jopt.task.base import total_weights as total_weights
from jopt.task.base import value as value
from jopt.task.check import check_functions as check_functions
from jopt.task.classes import ACCURACY as ACCURACY
from jopt.task.classes import Classification as Classification
from jopt.task.classes import MultiLabel as MultiLabel
from jopt.task.classes import SequenceLabelling as SequenceLabelling
from jopt.task.custom import Custom as Custom
from jopt.task.losses import binary_cross_entropy as binary_cross_entropy
from jopt.task.losses import cross_entropy as cross_entropy
from jopt.task.metrics import Metric as Metric
from jopt.task.metrics import mean as mean
from jopt.task.metrics import weighted_sums as weighted_sums
from jopt.task.next_token import NextToken as NextToken
from jopt.task.regression import Regression as Regression
