"""Knowledge distillation: a student learns from what a teacher computes, its logits or its features.

Every loss is computed in float32, is a mean over the batch, and sends no gradient into the teacher.
"""

from jopt.distill.losses import FEATURE_LOSSES as FEATURE_LOSSES
from jopt.distill.losses import attention as attention
from jopt.distill.losses import combine as combine
from jopt.distill.losses import feature_mse as feature_mse
from jopt.distill.losses import loss as loss
from jopt.distill.losses import mse as mse
from jopt.distill.losses import similarity as similarity
from jopt.distill.method import STAGE as STAGE
from jopt.distill.method import Distillation as Distillation
from jopt.distill.method import Features as Features
from jopt.distill.method import LogitMSE as LogitMSE
from jopt.distill.method import SoftTargets as SoftTargets
