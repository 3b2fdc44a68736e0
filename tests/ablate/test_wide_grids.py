"""Wide grids: what a plan computes grows with the distinct parts of a grid, and not with its trials."""

import dataclasses
import json
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest
from ablate_cases import results
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt import cluster, optim, prune, quantize
from jopt.ablate import axis, choices, product, zipped
from jopt.ablate import checks as ablation_checks
from jopt.ablate import plan as plans
from jopt.ablate import template as templates
from jopt.ablate.checks import validate
from jopt.ablate.study import study
from jopt.ablate.summary import summarize
from jopt.ablate.trials import axes, groups, trials
from jopt.address import with_values
from jopt.config import ConfigError, fingerprint, require
from jopt.hyper import split
from jopt.method import Method
from jopt.train import Stage
from jopt.train.plan import validate as validate_experiment

pytestmark = pytest.mark.unoptimized

RATE, DECAY = "optimizer.learning_rate", "optimizer.weight_decay"


def rates(count):
    return axis(RATE, np.linspace(0.01, 0.5, count).tolist())


def sparsities(count):
    return axis("prune.sparsity", np.linspace(0.1, 0.8, count).tolist())


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of the functions of a plan whose time is not that of a dictionary's."""
    counts = Counter()

    def counted(module, name):
        function = getattr(module, name)

        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    for module, name in (
        (templates, "with_values"),
        (templates, "check_types"),
        (templates, "identity_text"),
        (templates.hyper, "split"),
        (ablation_checks, "validate_experiment"),
        (ablation_checks, "pass_alone"),
        (plans, "check_parameters"),
        (plans, "shapes"),
        (plans, "prepare"),
    ):
        counted(module, name)
    return counts


def planned(ablation):
    """The plan of a grid, as a launch makes it."""
    listed = validate(ablation)
    axes(ablation, listed)
    plans.plan(ablation, groups(listed), 1, {}, plans.Loader())
    return listed


def test_neither_points_nor_seeds_make_a_plan_resolve_or_check_again(grid, small, calls):
    pruned = small(stages=[Stage(methods=(prune.Gradual(sparsity=0.5),))])

    def of_size(side, seeds):
        calls.clear()
        space = product(rates(side), sparsities(side))
        assert len(planned(grid(space, experiment=pruned, seeds=tuple(range(seeds))))) == side * side * seeds
        return dict(calls)

    small_plan, wide_plan, deep_plan = of_size(4, 2), of_size(12, 2), of_size(4, 20)
    assert deep_plan == small_plan
    # Of the whole experiment only the first point; then each optimizer and each method is checked by itself.
    assert small_plan.pop("pass_alone") == 7 and wide_plan.pop("pass_alone") == 23
    assert small_plan.pop("check_parameters") == 3 and wide_plan.pop("check_parameters") == 11
    assert small_plan == wide_plan and max(wide_plan.values()) <= 4


def test_points_of_a_few_programs_are_resolved_once_a_program(grid, small, calls):
    space = product(axis("optimizer.name", ("sgd", "adam")), axis("model.features", ((3,), (4,))), rates(25))
    listed = planned(grid(space))
    assert len(listed) == 200 and len(groups(listed)) == 4
    assert calls["with_values"] == calls["check_types"] == calls["prepare"] == 4


GRIDS = {
    "zipped numbers and lengths": lambda: {
        "space": zipped(rates(4), axis(DECAY, (0.0, 0.1, 0.2, 0.3)), axis("epochs", (1, 2, 1, 2)))
    },
    "methods with numbers of other axes": lambda: {
        "space": product(
            axis("stages[0].prune", (prune.Gradual(sparsity=0.5), prune.OneShot(sparsity=0.5))), sparsities(3)
        )
    },
    "a whole tuple of methods with a number inside": lambda: {
        "space": product(axis("stages[0].methods", ((quantize.Weights(),),)), axis("bits", (2, 4, 8)))
    },
    "none, a number and a whole number": lambda: {
        "space": product(axis("optimizer.clip_by_global_norm", (None, 1.0, 2)), axis("ema_decay", (0.5, 0.9)))
    },
    "two fields of one axis": lambda: {
        "space": choices("way", {"a": {RATE: 0.1, DECAY: 0.1}, "b": {DECAY: 0.2, RATE: 0.2}, "c": {RATE: 0.3}})
    },
    "NumPy's numbers": lambda: {"space": axis(RATE, np.linspace(0.01, 0.1, 4))},
    "zeros of either sign": lambda: {"space": axis(DECAY, (0.5, -0.0, 0.0))},
    "one field by two addresses": lambda: {
        "space": product(axis("learning_rate", (0.1, 0.2), "a"), axis(RATE, (0.3,), "b")),
        "seeds": (0,),
    },
}


@pytest.mark.parametrize("case", GRIDS)
def test_a_trial_is_what_its_point_sets_in_the_experiment(grid, small, case):
    ablation = grid(**GRIDS[case]())
    if case == "one field by two addresses":
        with pytest.raises(ConfigError):
            trials(ablation)
        return
    listed = iter(trials(ablation))
    for point in ablation.space.points:
        for seed in ablation.seeds:
            trial = next(listed)
            config = with_values(ablation.experiment, {**point.fields, "seed": seed})
            assert json.dumps(repr(trial.config)) == json.dumps(repr(config))
            assert trial.id == fingerprint(config)[:12]
            assert trial.resolved.template.structure == split(config)[0]


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-5, 5),
    st.sampled_from([0.0, -0.0, 1e-3, 0.9, 0.999, 1, 0, 512, 10]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6), st.sampled_from([0, 1, 10, 2**32 - 1]))
def test_ids_are_fingerprints_whatever_the_numbers(grid, numbers, seed):
    space = None
    for rate, decay in numbers:
        point = product(axis(RATE, (rate,)), axis("optimizer.b1", (decay,)))
        space = point if space is None else space + point
    ablation = grid(space, seeds=(seed,))
    try:
        listed = trials(ablation)
    except ConfigError as error:
        assert "unlike every other" in error.accepted
        return
    for trial, point in zip(listed, space.points, strict=True):
        assert trial.id == fingerprint(with_values(ablation.experiment, {**point.fields, "seed": seed}))[:12]


class CountedRow(dict):
    """A row of a table that counts how often a cell is read."""

    reads = 0

    def __getitem__(self, key):
        CountedRow.reads += 1
        return super().__getitem__(key)


def test_a_report_reads_each_trial_so_many_times_whatever_their_number():
    def reads_of(points):
        made = results({"rate": [0.01 * (i + 1) for i in range(points)]}, lambda rate, seed: rate + seed / 100)
        made = made._replace(trials=[CountedRow(row) for row in made.trials])
        summary = summarize(made)
        CountedRow.reads = 0
        study(made, summary)
        return CountedRow.reads

    assert reads_of(80) == 4 * reads_of(20)


@dataclasses.dataclass(frozen=True)
class Cautious(Method):
    """A method that looks at the optimizer's rate."""

    name: ClassVar[str] = "cautious"
    most: float = 1.0

    def validate_with(self, context):
        rate = context.optimizer.learning_rate
        require(rate <= self.most, f"{context.mine.path}.most", self.most, f"at least the rate {rate}")


BAD = {
    "a method": (axis("prune.sparsity", (0.1, 0.2, 0.3)), "stages[0].prune.sparsity", 1.5),
    "the optimizer": (rates(3), RATE, -1.0),
    "the root": (axis("ema_decay", (0.5, 0.6)), "ema_decay", 1.0),
    "a stage's optimizer": (
        axis("stages[0].optimizer.learning_rate", (0.1, 0.2)),
        "stages[0].optimizer.learning_rate",
        0.0,
    ),
    "a method of a later stage": (axis("second.quantize.bits", (2, 4)), "stages[1].quantize.bits", 77),
    "a number that the optimizer does not pair with": (
        axis("optimizer.warmup_steps", (1, 2)),
        "optimizer.warmup_steps",
        10**6,
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("last", [True, False])
def test_one_bad_number_of_a_wide_grid_is_named_at_its_first_point(grid, small, case, last):
    good, field, value = BAD[case]
    experiment = small(
        optimizer=optim.Config("sgd", schedule="cosine"),
        stages=[
            Stage("first", methods=(prune.Gradual(sparsity=0.5),), optimizer=optim.Config("sgd")),
            Stage("second", methods=(quantize.Weights(bits=8),)),
        ],
    )
    name = next(iter(good.points[0].labels))
    bad = good + axis(field, (value,), name)
    other = axis("optimizer.momentum", (0.1, 0.2))
    ablation = grid(product(other, bad) if last else product(bad, other), experiment=experiment)
    with pytest.raises(ConfigError) as error:
        planned(ablation)
    assert error.value.field.startswith(f"{field} (at the point ") and error.value.value == value
    assert "momentum = 0.1" in error.value.field and f"{name} = {value}" in error.value.field


def test_methods_that_look_at_others_are_checked_at_every_point(grid, small):
    cautious = small(stages=[Stage(methods=(Cautious(),))])
    space = product(axis(RATE, (0.1, 0.5)), axis("cautious.most", (1.0, 0.4)))
    with pytest.raises(ConfigError) as error:
        validate(grid(space, experiment=cautious))
    assert error.value.field == "stages[0].cautious.most (at the point learning_rate = 0.5, most = 0.4)"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_grid_is_refused_just_where_one_of_its_points_is(grid, small, drawn):
    experiment = small(
        stages=[Stage(methods=(prune.Gradual(sparsity=0.5), cluster.Share(clusters=4)))],
    )
    number = st.sampled_from([-1.0, 0.0, 1e-30, 0.1, 0.5, 1.0, 1 - 2**-20, 2.0])
    names = ("optimizer.learning_rate", "optimizer.b1", "prune.sparsity", "prune.end", "share.begin", "ema_decay")
    values = {name: drawn.draw(st.lists(number, min_size=1, max_size=3, unique=True)) for name in names[:4]}
    ablation = grid(product(*(axis(name, options) for name, options in values.items())), experiment=experiment)
    refused = None
    for point in ablation.space.points:
        try:
            validate_experiment(with_values(experiment, point.fields))
        except ConfigError as error:
            refused = (error, point)
            break
    if refused is None:
        validate(ablation)
        return
    with pytest.raises(ConfigError) as raised:
        validate(ablation)
    labels = ", ".join(f"{name} = {value}" for name, value in refused[1].labels.items())
    assert raised.value.field == f"{refused[0].field} (at the point {labels})"
