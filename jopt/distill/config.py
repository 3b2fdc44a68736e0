"""What a student learns, from whom, and how much of it."""

import dataclasses
import math
from collections.abc import Callable

from jopt.config import check_types, choice, join_path, require
from jopt.distill.features import FEATURE_LOSSES
from jopt.hyper import as_traced

# A teacher that is no directory is this and the name of an earlier stage.
STAGE = "stage:"
LOSSES = ("mse", "soft")


@dataclasses.dataclass
class Config:
    """What a student learns from its teacher, and how much of it.

    The loss is `(1 - weight) * hard + weight * soft + feature_weight * features`; see `objective`.

    Attributes:
      teacher: the directory of a finished run, or `stage:<name>`, the state in which that earlier stage of the same
        experiment ended.
      loss: 'soft', the divergence of the softened outputs (`loss`), or 'mse', of the logits (`mse`).
      temperature: T of 'soft', above 0; 'mse' does not read it.
      weight: the share of the teacher's logits in the loss, in [0, 1]; the labels' is the rest.
      features: pairs of a student's layer and the teacher's layer that it is to match.
      feature_loss: one of `FEATURE_LOSSES`.
      feature_weight: multiplies the sum of the pairs' losses; above 0 if there are pairs.

    Example:
      >>> validate(Config(teacher="runs/big", temperature=2.0))
    """

    teacher: str = ""
    loss: str = "soft"
    temperature: float = 4.0
    weight: float = 0.9
    features: tuple[tuple[str, str], ...] = ()
    feature_loss: str = "mse"
    feature_weight: float = 0.0


def validate(config: Config, path: str = "distill") -> None:
    """Checks a config of plain Python values. Whether the teacher exists is seen where it is loaded.

    Raises:
      ConfigError: names the field, the value and what would be accepted.

    Example:
      >>> validate(Config(teacher="runs/big", weight=1.5))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: distill.weight must be a number in [0, 1], got 1.5
    """
    check_types(config, path)

    def number(name: str, good: Callable[[float], bool], accepted: str) -> None:
        value = getattr(config, name)
        # In the program the number is a float32, where 1e-50 is 0.
        fine = all(math.isfinite(x) and good(x) for x in (value, as_traced(value)))
        require(fine, join_path(path, name), value, accepted)

    teacher = config.teacher
    accepted = f"the directory of a finished run, or {STAGE}<name of an earlier stage>"
    require(bool(teacher.removeprefix(STAGE).strip()), join_path(path, "teacher"), teacher, accepted)
    choice(join_path(path, "loss"), config.loss, LOSSES)
    choice(join_path(path, "feature_loss"), config.feature_loss, FEATURE_LOSSES)
    number("temperature", lambda x: x > 0, "a finite number above 0")
    number("weight", lambda x: 0 <= x <= 1, "a number in [0, 1]")
    number("feature_weight", lambda x: x >= 0, "a finite number, at least 0")
    for i, pair in enumerate(config.features):
        field = f"{join_path(path, 'features')}[{i}]"
        require(all(name.strip() for name in pair), field, pair, "a student's layer and a teacher's layer")
        require(config.features.index(pair) == i, field, pair, "another pair than those before it")
    weight, field = config.feature_weight, join_path(path, "feature_weight")
    if config.features:
        require(weight > 0, field, weight, "above 0 where features are given")
    else:
        require(weight == 0, field, weight, "0 where no features are given")
