"""EarlyStopping: a stage ends when the deciding metric of the validation part no longer improves."""

import dataclasses
import math
from collections.abc import Sequence

from jopt.config import join_path, require
from jopt.hyper import structural
from jopt.task import Metric


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Ends a stage early; the stages after it run as usual.

    The stage stops at the first evaluation at which the best value is so many evaluations old. Evaluations before
    the stage's methods have reached their targets (`Method.settled_at`: a sparsity that grows, say) do not count,
    so a stage that prunes is never left half pruned. The state is that of the stop, not of the best evaluation.

    Attributes:
      patience: evaluations without an improvement; `Experiment.evaluate_every` says how often there is one.
      min_change: an improvement is larger than this, in units of the metric.

    Example:
      >>> from jopt.task import ACCURACY
      >>> EarlyStopping(patience=2).is_over(ACCURACY, [0.5, 0.7, 0.6, 0.7])
      True
    """

    patience: int = 5
    min_change: float = structural(0.0)

    def validate(self, path: str) -> None:
        """Raises ConfigError naming the field, the value and what is accepted."""
        require(
            self.patience >= 1, join_path(path, "patience"), self.patience, "a number of evaluations, at least 1"
        )
        fine = 0 <= self.min_change < math.inf
        require(fine, join_path(path, "min_change"), self.min_change, "a finite number, at least 0")

    def is_over(self, metric: Metric, values: Sequence[float]) -> bool:
        """Whether the stage stops after evaluations with these values of the deciding metric, oldest first."""
        best, age = math.nan, 0
        for value in values:
            change = value - best if metric.better == "higher" else best - value
            improved = change > self.min_change or math.isnan(best)
            best, age = (value, 0) if improved else (best, age + 1)
        return age >= self.patience
