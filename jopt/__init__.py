"""jopt: train and compress neural networks with pure functions, and measure what helped."""

from jopt.config import ConfigError as ConfigError
from jopt.rules import RuleError as RuleError
from jopt.transform import ParamTransform as ParamTransform
from jopt.transform import chain as chain
from jopt.transform import hold as hold
from jopt.transform import identity as identity
from jopt.transform import project_moments as project_moments
