"""Rounds: which points to try next. Pure functions of what was tried, in places on the ladders."""

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from jopt.ablate.budget.config import Ladder

Place = tuple[int, ...]
"""A point: for each knob the place of its option on the ladder. All zeros is the control."""


class Proposal(NamedTuple):
    """What a round runs besides the control.

    Attributes:
      new: points that no round has tried.
      again: points of earlier rounds that get fresh seeds.
    """

    new: list[Place]
    again: list[Place]


def nothing_excluded(place: Place) -> bool:
    """Lets every point pass."""
    del place
    return False


def coarse(ladders: Sequence[Ladder], excluded: Callable[[Place], bool] = nothing_excluded) -> list[Place]:
    """The first round: all combinations of the numbers' start options, for one structure after the other.

    Traced knobs cost nothing but trials, so theirs are combined in full. Each combination of structural ones is a
    compilation, so these leave the control's one at a time (a star); their combinations come when the front asks
    for them.

    Args:
      ladders: of the knobs.
      excluded: points that are left out.

    Returns:
      The points, the control first.

    Example:
      >>> from jopt.ablate import axis, choices
      >>> bits = Ladder("bits", axis("bits", (32, 8, 4)).points, (0, 2), False)
      >>> widths = Ladder("width", axis("width", (300, 100)).points, (0, 1), True)
      >>> coarse([bits, widths])
      [(0, 0), (2, 0), (0, 1), (2, 1)]
    """
    structural = [i for i, ladder in enumerate(ladders) if ladder.structural]
    traced = [i for i, ladder in enumerate(ladders) if not ladder.structural]
    structures = [{}] + [{i: at} for i in structural for at in ladders[i].start if at != 0]
    out: dict[Place, None] = {}
    for structure in structures:
        for values in itertools.product(*(ladders[i].start for i in traced)):
            chosen = dict(zip(traced, values, strict=True)) | structure
            place = tuple(chosen.get(i, 0) for i in range(len(ladders)))
            if not excluded(place):
                out[place] = None
    return list(out)


def beside(place: Place, ladders: Sequence[Ladder], tried: Collection[Place]) -> list[Place]:
    """The untried points next to one: on each ladder half-way to the nearest tried option, either side.

    All other knobs stay as they are. Where nothing was tried on a side, it is the next option there. Between two
    options that are neighbours on the ladder there is nothing to try.

    Args:
      place: of the point.
      ladders: of the knobs.
      tried: the points of all rounds so far.

    Returns:
      At most two points a knob, in the order of the knobs, towards untouched first.

    Example:
      >>> from jopt.ablate import axis
      >>> bits = Ladder("bits", axis("bits", (32, 8, 6, 4, 3, 2)).points, (0, 3, 5), False)
      >>> beside((3,), [bits], [(0,), (3,), (5,)])
      [(1,), (4,)]
    """
    out = []
    for i, ladder in enumerate(ladders):
        line = [other[i] for other in tried if other[:i] == place[:i] and other[i + 1 :] == place[i + 1 :]]
        here = place[i]
        below = max((at for at in line if at < here), default=None)
        above = min((at for at in line if at > here), default=None)
        towards = [
            here - 1 if below is None else (here + below) // 2,
            here + 1 if above is None else (here + above) // 2,
        ]
        for at in towards:
            found = (*place[:i], at, *place[i + 1 :])
            if 0 <= at < len(ladder.options) and at != here and found not in tried:
                out.append(found)
    return out


def refine(
    front: Sequence[Place],
    ladders: Sequence[Ladder],
    tried: Collection[Place],
    most: int,
    excluded: Callable[[Place], bool] = nothing_excluded,
) -> list[Place]:
    """The new points of a later round: those beside the points of the front.

    Args:
      front: the points to refine, the most promising first.
      ladders: of the knobs.
      tried: the points of all rounds so far.
      most: new points at most; each point of the front gets one in turn, until there are so many.
      excluded: points that are left out.
    """
    known = set(tried)
    proposals = [[p for p in beside(place, ladders, known) if not excluded(p)] for place in front]
    found: dict[Place, None] = {}
    for turn in itertools.zip_longest(*proposals):
        found |= {place: None for place in turn if place is not None}
    return list(found)[:most]


def fit(new: Sequence[Place], again: Sequence[Place], seeds: int, room: int) -> Proposal | None:
    """As much of a proposal as the trials that are left allow, the control included; None if that is no new point.

    Args:
      new: new points, the most promising first.
      again: points to run again, likewise.
      seeds: of the round.
      room: trials that are left.

    Example:
      >>> fit([(1,), (2,), (3,)], [(4,), (5,)], seeds=3, room=12)
      Proposal(new=[(1,), (2,)], again=[(4,)])
      >>> fit([(1,)], [], seeds=3, room=5) is None
      True
    """
    most = room // seeds - 1
    if most < 1:
        return None
    # New points keep half of the room at least, rounded up.
    kept = list(new[: max(most - len(again), (most + 1) // 2)])
    return Proposal(kept, list(again[: most - len(kept)])) if kept else None
