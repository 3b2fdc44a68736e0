"""The best point of a grid, and all that it cannot be told apart from."""

from typing import NamedTuple

from jopt.ablate import intervals
from jopt.ablate.paired import compare, resolution, verdict
from jopt.ablate.results import Results
from jopt.ablate.summary import by_seed, grouped


class Best(NamedTuple):
    """The best point of a grid, and those that it cannot be told apart from.

    Attributes:
      index: its place among `results.points()`; None if no point is without a diverged trial.
      alike: the places of the points not shown to be worse than it, itself included, best mean first.
      compared: how many points were compared, itself included: those without a diverged trial.
    """

    index: int | None
    alike: tuple[int, ...]
    compared: int


def best(results: Results, confidence: float = 0.95) -> Best:
    """The point with the best mean, and all that are not shown to be worse than it.

    Each is compared with the best one, paired by seed, by `jopt.ablate.paired.verdict`, the adjusted interval
    counting all the others. The set so holds the truly best of the compared points with at least this confidence,
    whichever came out on top. A point with a diverged trial is not compared. The best one's own mean is too good:
    it is the luckiest of them.

    Args:
      results: of the ablation.
      confidence: in [0.5, 1).

    Reference:
      Hsu 1981.
    """
    intervals.check_confidence(confidence)
    values = {}
    for index, rows in enumerate(grouped(results)):
        own = by_seed(rows, results.metric)
        if len(own) == len(rows):
            values[index] = own
    if not values:
        return Best(None, (), 0)
    higher = results.decisive.better == "higher"
    means = {index: intervals.mean(list(own.values())) * (1 if higher else -1) for index, own in values.items()}
    ranked = sorted(values, key=lambda index: (-means[index], index))
    step = resolution(x for own in values.values() for x in own.values())
    top = ranked[0]

    def worse(index: int) -> bool:
        seeds = [seed for seed in values[index] if seed in values[top]]
        own, others = ([values[i][seed] for seed in seeds] for i in (index, top))
        found = compare(own, others, confidence=confidence, comparisons=len(values) - 1, resolution=step)
        return verdict(found, higher) == "worse"

    alike = [index for index in ranked if index == top or not worse(index)]
    return Best(top, tuple(alike), len(values))
