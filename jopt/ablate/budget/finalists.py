"""Finalists: which points are confirmed with fresh seeds, and what those seeds decide."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from jopt.ablate.budget.estimates import PointEstimate
from jopt.ablate.budget.limits import AVERAGE, COSTS, MEETS, MISSES, VERDICTS, Limit, judge_all
from jopt.ablate.intervals import t_half_width


class Final(NamedTuple):
    """A finalist after its fresh seeds.

    Attributes:
      estimate: from the fresh seeds and the test part alone.
      verdict: one of `limits.VERDICTS`.
      reached: whether all earlier points of the sequence passed, so that its verdict counts as a claim.
    """

    estimate: PointEstimate
    verdict: str
    reached: bool


def choose(front: Sequence[PointEstimate], limits: Sequence[Limit], count: int, seeds: int) -> list[PointEstimate]:
    """The finalists, in the order in which they are judged; empty if no point may meet the budget.

    With a limit on the drop, the finalists are ordered from large to small. Among them is the smallest point of the
    front whose drop `seeds` seeds should show to be below the limit, if the rounds saw the true drop; larger
    points, in case it fails; smaller points, in case they pass too. Without such a limit, the finalists are the
    best points within the limits.

    Args:
      front: the Pareto set, by rising bytes.
      limits: of the budget.
      count: of finalists.
      seeds: that judge each finalist.
    """
    candidates = [e for e in front if judge_all(limits, e) != MISSES]
    limit = next((limit.value for limit in limits if limit.quantity not in COSTS), None)
    if limit is None:
        return sorted(candidates, key=lambda e: (e.drop, e.bytes))[:count]
    half = half_width(candidates, seeds)
    promising = [i for i, e in enumerate(candidates) if e.drop + half < limit]
    if promising:
        # Half of the finalists are larger than the most promising one: if it fails, one of them may still pass.
        first = max(0, min(promising[0] - count // 2, len(candidates) - count))
        chosen = candidates[first : first + count]
    else:
        # The smallest drop has the best chance of being shown.
        chosen = sorted(candidates, key=lambda e: e.drop)[:count]
    return sorted(chosen, key=lambda e: -e.bytes)


def half_width(estimates: Sequence[PointEstimate], seeds: int, confidence: float = 0.95) -> float:
    """Half the interval that `seeds` seeds will give a drop: `t_(seeds - 1) sd / sqrt(seeds)`.

    The sd is pooled over the points, because a few seeds each say little about it: the root of the mean variance,
    weighted by degrees of freedom.

    Returns:
      In units of the drop; 0 if no point has two seeds.

    Example:
      >>> pairs = [(2, 1.0), (4, 3.0)]
      >>> points = [PointEstimate({}, n, 0, 0.9, 0.9, 0.9, 0.2, 0.0, 0.4, sd, 1.0, 1.0) for n, sd in pairs]
      >>> round(half_width(points, 10), 4)                    # sd = sqrt((1 x 1 + 3 x 9) / 4), t_9 = 2.2622
      1.8927
    """
    spreads = [(e.seeds - 1, e.drop_sd) for e in estimates if e.seeds > 1 and math.isfinite(e.drop_sd)]
    freedom = sum(n for n, _ in spreads)
    if not freedom:
        return 0.0
    pooled = math.sqrt(sum(n * sd**2 for n, sd in spreads) / freedom)
    return t_half_width(pooled, seeds, (1 + confidence) / 2)


def decide(confirmed: Sequence[PointEstimate], limits: Sequence[Limit]) -> tuple[list[Final], Final | None]:
    """The verdicts of the fresh seeds, and the point to use.

    With a limit on the drop the points are tests in a fixed sequence, from large to small. The first point whose
    drop is not shown to be below its limit ends the sequence. Bytes and latency are not tests and do not end it.
    The probability that a point is wrongly recommended as 'meets it' is therefore at most (1 - confidence) / 2,
    however many points there are, without wider intervals (Maurer, Hothorn and Lehmacher 1995). Without such a
    limit no random quantity is claimed, and the first point within the limits is the answer.

    Args:
      confirmed: estimates from the fresh seeds, in the order of `choose`.
      limits: of the budget.

    Returns:
      All finalists in order, and the point to use: the last that was shown to meet the budget (without a limit on
      the
      drop: the first); or else the smallest (the first) that meets it on average; or else None.
    """
    verdicts = [judge_all(limits, e) for e in confirmed]
    tests = [limit for limit in limits if limit.quantity not in COSTS]
    sequential = bool(tests)
    failures = (i for i, e in enumerate(confirmed) if judge_all(tests, e) != MEETS)
    passed = next(failures, len(verdicts)) if sequential else 0
    finals = [
        Final(e, verdict, not sequential or i <= passed)
        for i, (e, verdict) in enumerate(zip(confirmed, verdicts, strict=True))
    ]
    shown = [final for final in finals[:passed] if final.verdict == MEETS]
    if shown:
        return finals, shown[-1]
    if not sequential and MEETS in verdicts:
        return finals, finals[verdicts.index(MEETS)]
    on_average = [final for final in finals if final.verdict != MISSES]
    if sequential:
        # The sequence ended before these points, so even one that passes alone is not claimed.
        on_average = [final._replace(verdict=AVERAGE) for final in on_average]
    if not on_average:
        return finals, None
    return finals, on_average[-1] if sequential else on_average[0]


def runner_up(finals: Sequence[Final], chosen: Final) -> Final | None:
    """The next best finalist that may meet the budget: by verdict, then by nearness in the sequence."""
    index = next(i for i, final in enumerate(finals) if final.estimate.key == chosen.estimate.key)
    others = [i for i, final in enumerate(finals) if i != index and final.verdict != MISSES]
    best = min(others, key=lambda i: (VERDICTS.index(finals[i].verdict), abs(i - index), i), default=None)
    return None if best is None else finals[best]
