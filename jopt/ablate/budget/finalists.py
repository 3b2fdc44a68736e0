"""Finalists: which points are run again with seeds that nothing was chosen by, and what follows from that."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from jopt.ablate.budget.estimates import Estimate
from jopt.ablate.budget.limits import AVERAGE, MEETS, MISSES, VERDICTS, Limit, judge_all


class Final(NamedTuple):
    """A finalist, after its fresh seeds.

    Attributes:
      estimate: from the fresh seeds and the test part alone.
      verdict: of the budget, one of `limits.VERDICTS`.
      reached: whether the points before it in the sequence all passed, so that its verdict counts as a claim.
    """

    estimate: Estimate
    verdict: str
    reached: bool


def choose(front: Sequence[Estimate], limits: Sequence[Limit], most: int, seeds: int) -> list[Estimate]:
    """The finalists, in the order in which they are to be judged; empty if no point may meet the budget.

    With a limit on the drop, from large to small: the smallest point of the front whose drop `seeds` seeds should
    show to be below the limit, if it is what the rounds saw; larger ones beside it, in case it does not hold;
    smaller ones, in case they do. Without such a limit, the most accurate points within the limits.

    Args:
      front: the Pareto set, by rising bytes.
      limits: of the budget.
      most: how many.
      seeds: that each finalist will be judged by.
    """
    fine = [e for e in front if judge_all(limits, e) != MISSES]
    limit = next((limit.value for limit in limits if limit.quantity == "accuracy_drop"), None)
    if limit is None:
        return sorted(fine, key=lambda e: (e.drop, e.bytes))[:most]
    half = half_width(fine, seeds)
    hopeful = [i for i, e in enumerate(fine) if e.drop + half < limit]
    if hopeful:
        first = max(0, min(hopeful[0] - most // 2, len(fine) - most))
        chosen = fine[first : first + most]
    else:
        # The least drop has the best chance of being shown.
        chosen = sorted(fine, key=lambda e: e.drop)[:most]
    return sorted(chosen, key=lambda e: -e.bytes)


def half_width(estimates: Sequence[Estimate], seeds: int, confidence: float = 0.95) -> float:
    """Half the interval that `seeds` seeds will give a drop: `t_(seeds - 1) sd / sqrt(seeds)`.

    The sd is pooled over the points, for few seeds each say little of it: the root of the mean variance, weighted
    by degrees of freedom.

    Returns:
      Percentage points; 0 where no point has two seeds.

    Example:
      >>> seen = [(2, 1.0), (4, 3.0)]
      >>> points = [Estimate({}, n, 0, 0.9, 0.9, 0.9, 0.2, 0.0, 0.4, sd, 1.0, 1.0) for n, sd in seen]
      >>> round(half_width(points, 10), 4)                    # sd = sqrt((1 x 1 + 3 x 9) / 4), t_9 = 2.2622
      1.8927
    """
    from scipy import special

    known = [(e.seeds - 1, e.drop_sd) for e in estimates if e.seeds > 1 and math.isfinite(e.drop_sd)]
    freedom = sum(n for n, _ in known)
    if not freedom:
        return 0.0
    pooled = math.sqrt(sum(n * sd**2 for n, sd in known) / freedom)
    return float(special.stdtrit(seeds - 1, (1 + confidence) / 2)) * pooled / math.sqrt(seeds)


def decide(confirmed: Sequence[Estimate], limits: Sequence[Limit]) -> tuple[list[Final], Final | None]:
    """What the fresh seeds say, and the point to use.

    With a limit on the drop the points are tests in a fixed order, from large to small, and the first whose drop is
    not shown to keep to its limit ends them; bytes and latency are no tests, and end nothing. So however many there
    are, a point is recommended wrongly as 'meets it' with a chance of at most (1 - confidence) / 2, and no interval
    is widened (Maurer, Hothorn and Lehmacher 1995). Without such a limit nothing random is claimed, and the first
    that keeps to the limits is the answer.

    Args:
      confirmed: estimates from the fresh seeds, in the order of `choose`.
      limits: of the budget.

    Returns:
      All finalists in order; and the one to use: the last that was shown to meet the budget (without a limit on
      the drop: the first), or else the smallest (the first) that meets it on average, or else None.
    """
    verdicts = [judge_all(limits, e) for e in confirmed]
    tests = [limit for limit in limits if limit.quantity == "accuracy_drop"]
    sequential = bool(tests)
    failed = (i for i, e in enumerate(confirmed) if judge_all(tests, e) != MEETS)
    passed = next(failed, len(verdicts)) if sequential else 0
    finals = [
        Final(e, verdict, not sequential or i <= passed)
        for i, (e, verdict) in enumerate(zip(confirmed, verdicts, strict=True))
    ]
    shown = [final for final in finals[:passed] if final.verdict == MEETS]
    if shown:
        return finals, shown[-1]
    if not sequential and MEETS in verdicts:
        return finals, finals[verdicts.index(MEETS)]
    likely = [final for final in finals if final.verdict != MISSES]
    if sequential:
        # Nothing is claimed, not even of a later one that would have passed alone.
        likely = [final._replace(verdict=AVERAGE) for final in likely]
    if not likely:
        return finals, None
    return finals, likely[-1] if sequential else likely[0]


def runner_up(finals: Sequence[Final], chosen: Final) -> Final | None:
    """The next best of the finalists that may meet the budget: by verdict, then by nearness in the sequence."""
    place = next(i for i, final in enumerate(finals) if final.estimate.key == chosen.estimate.key)
    others = [i for i, final in enumerate(finals) if i != place and final.verdict != MISSES]
    best = min(others, key=lambda i: (VERDICTS.index(finals[i].verdict), abs(i - place), i), default=None)
    return None if best is None else finals[best]
