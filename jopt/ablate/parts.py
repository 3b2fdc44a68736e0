"""Parts of an experiment that are checked by themselves: optimizers and methods, which hold a grid's numbers.

Where a part of a new point passes, and all else has passed at an earlier point, the point passes. These checks
only accept: what they do not accept goes to the check of the whole experiment, whose error is raised.
"""

import functools
from collections.abc import Sequence

from jopt import optim
from jopt.address import enter, steps
from jopt.config import ConfigError, check_types
from jopt.method import Method
from jopt.train.config import Experiment
from jopt.train.plan import StagePlan


def pass_alone(config: Experiment, parts: Sequence[str] | None) -> bool:
    """Whether these parts, each by its path, are optimizers and methods that pass what `validate` asks of them."""
    if parts is None:
        return False
    for path in parts:
        part = _part(config, path)
        try:
            check_types(part, path)
            if isinstance(part, optim.Config):
                optim.validate(part, path)
            elif isinstance(part, Method):
                part.validate(path)
            else:
                return False
        except ConfigError:
            return False
    return True


def fit_lengths(config: Experiment, parts: Sequence[str] | None, plans: Sequence[StagePlan]) -> bool:
    """Whether these parts are optimizers that fit the lengths of the stages in which they act.

    Of the parameters an optimizer reads only its rules, which are a part of the structure.
    """
    if parts is None:
        return False
    for path in parts:
        part = _part(config, path)
        if not isinstance(part, optim.Config):
            return False
        try:
            for plan in plans:
                if plan.optimizer_path == path:
                    optim.validate(part, path, plan.length.steps or None)
        except ConfigError:
            return False
    return True


def _part(config: Experiment, path: str) -> object:
    return functools.reduce(enter, steps(path), config)
