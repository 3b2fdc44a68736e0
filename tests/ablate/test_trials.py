"""Trials: what a grid stands for, by what names, in how many programs, and with what randomness."""

import copy
import json
import random

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt import clip, cluster, data, distill, hyper, keys, models, optim, prune, quantize, transfer
from jopt.ablate import Ablation, axis, choices, points, product
from jopt.ablate.checks import control
from jopt.ablate.trials import axes, groups, plain, restore, trials, with_fields
from jopt.address import get as value_at
from jopt.config import check_types, fingerprint, tagged_json, to_dict
from jopt.train import Experiment, Stage, prepare

pytestmark = pytest.mark.unoptimized

RATE = "optimizer.learning_rate"
PRUNED = [Stage(methods=(prune.OneShot(sparsity=0.5), quantize.Weights()))]


def ids(ablation):
    return [trial.id for trial in trials(ablation)]


def test_trials_are_points_by_seeds_the_seed_fastest(grid):
    listed = trials(grid(seeds=(3, 1)))
    assert [(t.point["learning_rate"], t.seed) for t in listed] == [(0.1, 3), (0.1, 1), (0.01, 3), (0.01, 1)]
    assert [(t.config.optimizer.learning_rate, t.config.seed) for t in listed] == [
        (t.point["learning_rate"], t.seed) for t in listed
    ]
    assert listed[1].overrides == {RATE: 0.1, "seed": 1}


@pytest.mark.parametrize("address", ["rate", RATE, "learning_rate", "optimizer.learning_rate"])
def test_a_control_is_named_by_its_axis_or_by_an_address_of_its_field(grid, address):
    assert control(grid(axis("learning_rate", (0.1, 0.01), name="rate"), control={address: 0.01})) == {"rate": 0.01}


def test_a_control_can_name_a_field_that_only_some_points_have(grid):
    some = points({"stages": [Stage()], "epochs": 1}, {"stages": PRUNED, "epochs": 1})
    assert control(grid(some, control={"epochs": 1})) == {"epochs": 1}
    swept = grid(
        product(axis("stages", (PRUNED,)), axis("sparsity", (0.5, 0.75))), control={"train.prune.sparsity": 0.5}
    )
    assert control(swept) == {"set.sparsity": 0.5}
    assert [trial.point["set.sparsity"] for trial in trials(swept)][:: len(swept.seeds)] == [0.5, 0.75]


def test_the_ablations_own_experiment_stays_as_it_is(grid):
    ablation = grid(axis("stages", ([Stage("a")], [Stage("b")])))
    before = to_dict(ablation.experiment)
    for trial in trials(ablation):
        trial.config.stages[0].name = "changed"
    assert to_dict(ablation.experiment) == before and ids(ablation) == ids(ablation)


# Names


def test_an_id_is_what_the_trial_is_whatever_grid_it_is_in(grid, small):
    alone = ids(grid(axis(RATE, (0.01,)), seeds=(7,)))[0]
    within = trials(grid(product(axis(RATE, (0.1, 0.01)), axis("batch_size", (4, 8))), seeds=(5, 7)))
    same = [t.id for t in within if (t.config.optimizer.learning_rate, t.config.batch_size, t.seed) == (0.01, 8, 7)]
    listed = ids(grid(points({"batch_size": 8, RATE: 0.01}), seeds=(7,), name="other", chunk=3, metric="loss"))
    named = ids(grid(choices("way", {"slow": {RATE: 0.01}}), seeds=(7,)))
    config = small(seed=7, optimizer=optim.Config("sgd", learning_rate=0.01))
    assert same == listed == named == [alone] == [fingerprint(config)[:12]]


def test_an_id_does_not_hang_on_how_a_number_is_spelt(grid, small):
    a = ids(grid(product(axis(RATE, (1,)), axis("optimizer.boundaries", ((1, 2),)))))
    b = ids(grid(product(axis(RATE, (1.0,)), axis("optimizer.boundaries", ((1.0, 2.0),)))))
    c = ids(
        grid(
            axis("epochs", (2,)),
            experiment=small(optimizer=optim.Config("sgd", learning_rate=1, boundaries=(1, 2))),
        )
    )
    d = ids(grid(axis("optimizer", (optim.Config("sgd", learning_rate=1, boundaries=(1.0, 2)),))))
    e = ids(
        grid(axis(RATE, (np.float64(1),)), experiment=small(optimizer=optim.Config("sgd", boundaries=(1.0, 2.0))))
    )
    assert a == b == c == d == e


def test_whole_numbers_within_rules_and_lists_of_stages_are_as_good_as_floats(grid):
    def ids_of(number):
        rules = (("Dense_0/kernel", number), (".*", None))
        return ids(
            grid(axis("stages", ([Stage(methods=(prune.Gradual(rules=rules), clip.Range(-1, number + 1)))],)))
        )

    assert ids_of(0) == ids_of(0.0)


def test_a_part_is_set_after_its_whole_in_whatever_order_they_are_named(grid):
    optimizers = choices("optimizer", {"a": {"optimizer": optim.Config("adam", learning_rate=9.0)}})
    part = axis(RATE, (0.1, 0.2))
    listed = [trials(grid(product(*order))) for order in ((optimizers, part), (part, optimizers))]
    assert [t.id for t in listed[0]] == [t.id for t in listed[1]]
    assert [t.config.optimizer.learning_rate for t in listed[1]] == [0.1, 0.1, 0.2, 0.2]
    assert {t.config.optimizer.name for t in listed[1]} == {"adam"}


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4, unique=True))
def test_neither_order_nor_company_changes_an_id(order, seeds):
    values = [1e-4, 3e-4, 1e-3, 0.1, 1.0, 30.0]
    experiment = Experiment()

    def by_point(values):
        listed = trials(Ablation(experiment=experiment, space=axis(RATE, values), seeds=tuple(seeds)))
        return {(t.point["learning_rate"], t.seed): t.id for t in listed}

    all_points = by_point(values)
    assert by_point([values[i] for i in order[:3]]).items() <= all_points.items()
    assert len(set(all_points.values())) == 6 * len(seeds)


# What ablation.json holds

OVERRIDES = {
    "a float": (RATE, 0.1 + 0.2),
    "a tiny float": (RATE, 5e-324),
    "a whole float": (RATE, 1),
    "an integer": ("epochs", 3),
    "a seed": ("seed", 2**32 - 1),
    "a bool": ("data.flip", True),
    "a string": ("optimizer.name", "adam"),
    "a string in other letters": ("name", "Größe, \"1\"\n"),
    "nothing": ("stages[0].prune", None),
    "an optional number": ("label_smoothing", 0.1),
    "integers": ("model.features", (300, 100)),
    "no integers": ("model.features", ()),
    "floats": ("optimizer.boundaries", (0.5, 1)),
    "strings": ("optimizer.freeze", ("Dense_0/.*", "Dense_1/.*")),
    "rules": ("stages[0].prune.rules", (("Dense_0/kernel", 0.5), (".*", None))),
    "rules of integers": ("stages[0].quantize.rules", (("Dense_0/kernel", 4), (".*", None))),
    "pairs": ("stages[0].distill", distill.SoftTargets("stage:a", features=distill.Features((("x", "y"),)))),
    "a number in a stage": ("stages[0].prune.sparsity", 0.9),
    "a part of a config": ("optimizer", optim.Config("adamw", weight_decay=0.1, freeze=("Dense_0",))),
    "a config where none was": ("stages[0].share", cluster.Share()),
    "a config within": ("data", data.Synthetic(shape=(4, 4, 1), num_classes=4)),
    "a model": ("stages[0].model", models.ModelConfig("cnn", features=(4,))),
    "activations": ("stages[0].activations", quantize.Activations()),
    "a transfer": ("stages[0].transfer", transfer.Transfer("a", rules=(("a", "b"), ("c", None)))),
    "all stages": (
        "stages",
        [Stage("dense", epochs=1), Stage("prune", steps=0, methods=(prune.Gradual(sparsity=0.75),), start="dense")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OVERRIDES)
def test_a_trial_comes_back_from_json_as_it_was(grid, small, kind):
    path, value = OVERRIDES[kind]
    base = small(stages=copy.deepcopy(PRUNED))
    config = with_fields(base, {path: value})
    check_types(config)
    stored = value_at(config, path)
    assert (stored == value and stored is not value) or not isinstance(value, list)
    text = json.dumps({"experiment": to_dict(base), "overrides": plain({path: stored})})
    loaded = json.loads(text)
    again = restore(loaded["experiment"], loaded["overrides"])
    assert again == config and fingerprint(again) == fingerprint(config)
    assert loaded == json.loads(text), "restoring changes nothing of what it reads"


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.sets(st.sampled_from(sorted(set(OVERRIDES) - {"a seed"}))))
def test_any_overrides_together_come_back_in_whatever_order(rng: random.Random, kinds):
    fields = dict(OVERRIDES[kind] for kind in sorted(kinds))
    if fields.get("stages[0].prune", "") is None or "stages" in fields:
        fields = {path: value for path, value in fields.items() if not path.startswith("stages[0]")}
    base = Experiment(stages=copy.deepcopy(PRUNED))
    config = with_fields(base, fields)
    paths = list(fields)
    rng.shuffle(paths)
    assert with_fields(base, {path: fields[path] for path in paths}) == config
    stored = json.loads(json.dumps(plain({path: value_at(config, path) for path in paths})))
    assert restore(json.loads(json.dumps(to_dict(base))), stored) == config


# Programs

KINDS = {
    "traced": [
        (RATE, (0.1, 0.2)),
        ("optimizer.momentum", (0.5, 0.9)),
        ("stages[0].prune.sparsity", (0.0, 0.5)),
        ("stages[0].quantize.bits", (2, 32)),
        ("task.label_smoothing", (0.1, 0.2)),
        ("optimizer.clip_by_global_norm", (0.5, 1.0)),
    ],
    "structural": [
        ("optimizer.name", ("sgd", "adam")),
        ("epochs", (1, 2)),
        ("batch_size", (4, 8)),
        ("model.features", ((4,), (8,))),
        ("task.label_smoothing", (None, 0.1)),
        ("optimizer.clip_by_global_norm", (None, 1.0)),
        ("data.noise", (10.0, 20.0)),
        ("data.validation_fraction", (0.1, 0.2)),
        ("data.shift", (0, 1)),
        ("stages[0].prune", (prune.OneShot(0.5), prune.Gradual(0.5))),
        ("stages[0].prune.score", ("magnitude", "random")),
        ("stages[0].quantize", (None, quantize.Weights())),
        ("stages", ([Stage("a")], [Stage("a"), Stage("b")])),
    ],
}


@pytest.mark.parametrize(
    ("path", "values", "kind"), [(*case, kind) for kind, cases in KINDS.items() for case in cases]
)
def test_a_number_in_the_program_makes_one_program_and_everything_else_one_each(grid, small, path, values, kind):
    experiment = small(stages=copy.deepcopy(PRUNED), optimizer=optim.Config("momentum", momentum=0.9))
    ablation = grid(axis(path, values, name="x"), experiment=experiment)
    listed = trials(ablation)
    (grid_axis,) = axes(ablation, listed)
    assert (grid_axis.name, grid_axis.fields, grid_axis.kind, len(grid_axis.values)) == ("x", (path,), kind, 2)
    assert len(groups(listed)) == (1 if kind == "traced" else 2)


def test_groups_are_in_order_of_their_first_trial_and_keep_the_grids_order(grid):
    listed = trials(grid(product(axis(RATE, (0.1, 0.2)), axis("batch_size", (8, 4)))))
    by_program = groups(listed)
    assert [g.index for g in by_program] == [0, 1]
    assert [[t.config.batch_size for t in g.trials] for g in by_program] == [[8] * 4, [4] * 4]
    assert [[(t.point["learning_rate"], t.seed) for t in g.trials] for g in by_program] == [
        [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    ] * 2


def test_an_axis_of_alternatives_sets_all_their_fields(grid):
    space = choices("way", {"plain": {}, "fast": {RATE: 1.0}, "long": {RATE: 0.5, "epochs": 4}})
    ablation = grid(space)
    (grid_axis,) = axes(ablation, trials(ablation))
    assert (
        grid_axis.fields == (RATE, "epochs")
        and grid_axis.kind == "structural"
        and grid_axis.values == ("plain", "fast", "long")
    )


def test_the_trials_of_a_group_have_the_same_numbers_by_name(grid, small):
    listed = trials(grid(product(axis(RATE, (0.1, 0.2)), axis("batch_size", (4, 8))), experiment=small()))
    for group in groups(listed):
        names = {tuple(sorted(hyper.split(t.config)[1])) for t in group.trials}
        assert len(names) == 1


# Paired by design


def beginning(config, stage=0):
    """A trial's first parameters, and the examples of its first epochs."""
    p = prepare(config)
    state = p.program_of(stage, p.plans[stage].length.segment_steps).init(p.key, p.values)
    order = data.indices(p.key, 0, 8, p.batch_size, p.dataset.train.targets.shape[0])
    return state.params, np.asarray(order)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_trials_of_a_seed_share_initialization_and_data_order_whatever_else_differs(grid, small):
    space = choices(
        "way",
        {
            "plain": {},
            "another optimizer": {"optimizer": optim.Config("adam", learning_rate=1e-3)},
            "pruned and quantized": {"stages": copy.deepcopy(PRUNED), "label_smoothing": 0.1},
            "averaged, for longer": {"ema_decay": 0.9, "epochs": 3, "name": "other"},
        },
    )  # fmt: skip
    listed = trials(grid(space, experiment=small()))
    first, *others = (beginning(t.config) for t in listed if t.seed == 0)
    for way, (params, order) in zip(list(space.points)[1:], others, strict=True):
        # A pruned trial begins with the same parameters under its masks.
        if way.labels["way"] != "pruned and quantized":
            assert same(params, first[0])
        assert np.array_equal(order, first[1])
    params, order = beginning(listed[1].config)
    assert listed[1].seed == 1 and not same(params, first[0]) and not np.array_equal(order, first[1])


def test_a_batch_of_half_the_size_takes_the_same_examples_in_the_same_order(grid):
    key = keys.root(3)
    large_batches, halves = (np.asarray(data.indices(key, 0, 32 // size, size, 32)) for size in (8, 4))
    assert np.array_equal(large_batches.ravel(), halves.ravel())
    assert sorted(large_batches.ravel()) == list(range(32))


def test_data_sets_of_two_classes_are_two_values_and_two_sets(grid):
    listed = trials(grid(axis("data", (data.Digits(), data.Xor()))))
    (data_axis,) = axes(grid(axis("data", (data.Digits(), data.Xor()))), listed)
    assert list(data_axis.values) == ["Digits", "Xor"]
    assert tagged_json(data.Digits()) != tagged_json(data.Xor())
