"""What a search proposes next, worked by hand on small ladders."""

import numpy as np
import pytest

from jopt.ablate import axis, choices
from jopt.ablate.budget import Knob, Search
from jopt.ablate.budget.config import Ladder, SearchSpace, ladders
from jopt.ablate.budget.proposals import Proposal, coarse, fit, neighbours, refine
from jopt.ablate.pareto import pareto_front
from jopt.config import ConfigError
from jopt.prune import Gradual
from jopt.quantize import Weights
from jopt.train import Experiment, Stage

SPARSITY = Ladder("s", axis("s", (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)).points, (0, 5), False)
BITS = Ladder("b", axis("b", (32, 8, 4, 2)).points, (0, 2), False)
WIDTH = Ladder("w", choices("w", {"large": {"w": 300}, "small": {"w": 100}}).points, (0, 1), True)
SHARE = Ladder("c", choices("c", {0: {"c": None}, 16: {"c": 16}, 8: {"c": 8}}).points, (0, 1), True)


def experiment():
    return Experiment(stages=[Stage("train", methods=(Gradual(), Weights()))])


def test_numbers_are_combined_and_structures_leave_the_control_one_at_a_time():
    proposed = coarse(SearchSpace((SPARSITY, BITS, WIDTH, SHARE)))
    assert proposed[0] == (0, 0, 0, 0)
    assert len(proposed) == 2 * 2 * 3 and len(set(proposed)) == len(proposed)
    assert {cell[2:] for cell in proposed} == {(0, 0), (1, 0), (0, 1)}
    assert {cell[:2] for cell in proposed} == {(0, 0), (0, 2), (5, 0), (5, 2)}


def test_excluded_points_are_left_out_of_every_round():
    space = SearchSpace((SPARSITY, WIDTH), ({"s": 0.0, "w": "small"},))
    assert coarse(space) == [(0, 0), (5, 0), (5, 1)]
    # The neighbours of (0, 0) are (2, 0) and (0, 1), which is excluded.
    assert refine([(0, 0)], space, {(0, 0), (5, 0)}, 9) == [(2, 0)]


def test_gaps_are_halved_towards_the_nearest_tried_point_on_the_same_line():
    tried = {(0, 0), (5, 0), (0, 2), (5, 2)}
    # Sparsity between cells 0 and 5 at 4 bits: 2, rounded down; bits between 32 and 4: 8; below 4 bits: 2.
    assert neighbours((5, 2), [SPARSITY, BITS], tried) == [(2, 2), (5, 1), (5, 3)]
    tried |= {(2, 2), (5, 1), (5, 3)}
    assert neighbours((5, 2), [SPARSITY, BITS], tried) == [(3, 2)]
    assert neighbours((2, 2), [SPARSITY, BITS], tried) == [(1, 2), (3, 2), (2, 1), (2, 3)]


def test_halving_ends_and_tries_every_option_of_a_line():
    tried, rounds = {(0,), (5,)}, 0
    while new := refine(sorted(tried), SearchSpace((SPARSITY,)), tried, 99):
        tried |= set(new)
        rounds += 1
    assert tried == {(i,) for i in range(6)} and rounds <= 3


def test_a_limited_round_serves_every_point_of_the_front_in_turn():
    tried = {(0, 0), (5, 0), (0, 2), (5, 2)}
    unlimited = refine([(5, 2), (0, 0)], SearchSpace((SPARSITY, BITS)), tried, 99)
    assert unlimited == [(2, 2), (2, 0), (5, 1), (0, 1), (5, 3)]
    assert refine([(5, 2), (0, 0)], SearchSpace((SPARSITY, BITS)), tried, 3) == unlimited[:3]
    assert tried == {(0, 0), (5, 0), (0, 2), (5, 2)}


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (100, Proposal([(1,), (2,), (3,)], [(4,), (5,)])),
        (18, Proposal([(1,), (2,), (3,)], [(4,), (5,)])),
        (15, Proposal([(1,), (2,)], [(4,), (5,)])),  # 5 points: the control, two new ones, two again
        (6, Proposal([(1,)], [])),
        (5, None),
        (0, None),
        (-3, None),
    ],
)
def test_a_round_fits_into_the_trials_that_are_left(room, expected):
    assert fit([(1,), (2,), (3,)], [(4,), (5,)], 3, room) == expected


def test_nothing_new_is_no_round():
    assert fit([], [(1,)], 3, 100) is None


def test_the_front_of_three_costs():
    # The second is dominated by the first; the third is dearer in bytes but faster; the last two are equal.
    costs = [(10, 1.0, 5.0), (10, 1.0, 6.0), (20, 1.0, 4.0), (5, 3.0, 5.0), (5, 3.0, 5.0)]
    assert pareto_front(costs) == [3, 4, 0, 2]
    assert pareto_front([cost[:2] for cost in costs]) == [3, 4, 0, 1]
    assert pareto_front([]) == []


def test_knobs_are_told_apart_by_whether_they_make_another_program():
    config = Search(
        experiment=experiment(),
        knobs=(
            Knob(axis("stages[0].prune.sparsity", (0.0, 0.9))),
            Knob(axis("stages[0].prune.pattern", ("unstructured", "channel"))),
            Knob(axis("stages[0].quantize.bits", (32, 8, 4)), start=(32, 4)),
        ),
    )
    checked = ladders(config)
    assert [ladder.structural for ladder in checked] == [False, True, False]
    assert [ladder.name for ladder in checked] == ["prune.sparsity", "pattern", "bits"]
    assert checked[2].start == (0, 2)


BITS_KNOB = Knob(axis("stages[0].quantize.bits", (32, 8, 4)))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"knobs": ()}, "knobs"),
        ({"knobs": (BITS_KNOB, BITS_KNOB)}, "knobs"),
        ({"knobs": (Knob(BITS_KNOB.space, (32, 5)),)}, "the start of the knob 'bits'"),
        ({"knobs": (Knob(BITS_KNOB.space, (8, 4)),)}, "the start of the knob 'bits'"),
        ({"knobs": (Knob(axis("stages[0].quantize.bitz", (8, 4))),)}, "stages[0].quantize.bitz"),
        ({"excluded": ({"bit": 8},)}, "excluded[0]"),
        ({"excluded": ({"bits": 5},)}, "excluded[0]['bits']"),
        ({"excluded": ({"bits": 32},)}, "excluded[0]"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (3, 0)}, "seeds[1]"),
        ({"points": 0}, "points"),
        ({"survivors": True}, "survivors"),
        ({"finalists": 0}, "finalists"),
        ({"confirm": 1}, "confirm"),
        ({"metric": "bytes"}, "metric"),
        ({"confidence": 95}, "confidence"),
        ({"batch": 0}, "batch"),
    ],
)
def test_bad_searches_are_refused_by_name(changes, field):
    config = Search(**({"experiment": experiment(), "knobs": (BITS_KNOB,)} | changes))
    with pytest.raises(ConfigError) as caught:
        ladders(config)
    assert caught.value.field == field


def test_the_front_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    for size, dimensions in ((30, 2), (30, 3), (1, 2)):
        # Few values, so that there are ties in one cost and in all.
        costs = rng.integers(0, 6, (size, dimensions)).tolist()
        undominated = [
            i for i, a in enumerate(costs)
            if not any(all(y <= x for x, y in zip(a, b, strict=True)) and a != b for b in costs)
        ]  # fmt: skip
        assert pareto_front(costs) == sorted(undominated, key=lambda i: (costs[i], i))
