"""Targets that a task cannot learn from are refused by name, before anything compiles."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import data, task
from jopt.config import ConfigError
from jopt.data import DataError, Dataset
from jopt.task import Custom, Task, check_functions, check_metrics

X = np.zeros((12, 3), np.float32)
CLASSES = np.arange(12, dtype=np.int32) % 3
NUMBERS = np.linspace(0, 1, 12, dtype=np.float32)
LABELS = np.eye(3, dtype=np.uint8)[CLASSES]
TOKENS = np.arange(48, dtype=np.int32).reshape(12, 4) % 7


def dataset(targets, **options):
    return Dataset.from_arrays((X, targets), validation=(X, targets), test=(X, targets), **options)


@pytest.mark.parametrize(
    ("chosen", "targets"),
    [
        (task.Classification(), CLASSES),
        (task.Regression(), NUMBERS),
        (task.Regression(), np.stack([NUMBERS, NUMBERS], 1)),
        (task.MultiLabel(), LABELS),
        (task.MultiLabel(), LABELS.astype(np.float32)),
        (task.SequenceLabelling(), TOKENS),
        (task.NextToken(), TOKENS),
    ],
)
def test_the_targets_of_each_task_are_accepted(chosen, targets):
    chosen.check(dataset(targets))


@pytest.mark.parametrize(
    ("chosen", "targets"),
    [
        (task.Classification(), NUMBERS),
        (task.Classification(), LABELS),
        (task.Classification(), TOKENS),
        (task.Classification(), {"a": CLASSES}),
        (task.SequenceLabelling(), {"a": TOKENS}),
        (task.NextToken(), {"a": TOKENS}),
        (task.Regression(), CLASSES),
        (task.Regression(), {"a": NUMBERS}),
        (task.MultiLabel(), CLASSES),
        (task.MultiLabel(), LABELS + np.uint8(1)),
        (task.MultiLabel(), LABELS.astype(np.float32) / np.float32(2)),
        (task.SequenceLabelling(), CLASSES),
        (task.SequenceLabelling(), TOKENS.astype(np.float32)),
        (task.NextToken(), CLASSES),
        (task.NextToken(), TOKENS.astype(np.float32)),
        (task.NextToken(), TOKENS.reshape(12, 2, 2)),
    ],
)
def test_other_targets_are_refused_and_named(chosen, targets):
    with pytest.raises(DataError) as caught:
        chosen.check(dataset(targets))
    assert caught.value.field == "targets of 'train'" and caught.value.accepted


@pytest.mark.parametrize("chosen", [task.SequenceLabelling(), task.NextToken()])
def test_positions_below_0_do_not_count_and_are_accepted(chosen):
    targets = np.where(TOKENS == 2, np.int32(-1), TOKENS)
    chosen.check(dataset(targets))
    assert chosen.mask(jnp.asarray(targets)).tolist() == (targets >= 0).tolist()


@pytest.mark.parametrize(
    ("chosen", "field"),
    [
        (task.Classification(label_smoothing=1.0), "task.label_smoothing"),
        (task.MultiLabel(threshold=1.0), "task.threshold"),
        (task.Regression(loss="cubic"), "task.loss"),
        (task.Regression(delta=1.0), "task.delta"),
        (task.Regression(loss="huber"), "task.delta"),
        (task.Regression(loss="huber", delta=-1.0), "task.delta"),
        (task.NextToken(bytes_per_token=0.0), "task.bytes_per_token"),
        (Custom(reference="jopt.task:LOSS"), "task.reference"),
        (Custom(reference="jopt.task:no"), "task.reference"),
        (Custom(reference="builtins:dict"), "task.reference"),
        (Custom(reference="jopt.task:Regression", options={"lose": "absolute"}), "task.options"),
        (Custom(reference="jopt.task:Regression", options={"loss": "cubic"}), "task.options.loss"),
    ],
)
def test_bad_tasks_are_refused_by_field(chosen, field):
    with pytest.raises(ConfigError) as caught:
        chosen.validate()
    assert caught.value.field == field


@pytest.mark.parametrize("keys", [("loss",), ("bytes",), ("digest",), ("a", "a")])
def test_metrics_with_the_name_of_another_number_are_refused(keys):
    @dataclasses.dataclass(frozen=True)
    class Named(Task):
        name: ClassVar[str] = "named"

        @property
        def metrics(self):
            return tuple(task.Metric(key, key, lambda *_: {}, float) for key in keys)

    with pytest.raises(ConfigError) as caught:
        check_metrics(Named())
    assert (caught.value.field, caught.value.value) == ("task.metrics", keys[0])


def test_a_task_without_metrics_is_decided_by_its_loss():
    @dataclasses.dataclass(frozen=True)
    class Plain(Task):
        loss_unit: ClassVar[str] = "m"

    deciding = Plain().deciding
    assert (deciding.key, deciding.better, deciding.unit) == ("loss", "lower", "m")


def test_classes_of_bytes_are_counted():
    # Of unsigned integers no -1 can be the largest.
    assert dataset(CLASSES.astype(np.uint8)).num_classes == 3
    assert (
        data.Dataset.from_arrays((X, TOKENS.astype(np.uint8)), test=(X, TOKENS.astype(np.uint8))).num_classes == 7
    )


@dataclasses.dataclass(frozen=True)
class Distance(Task):
    """A task whose functions may be replaced by wrong ones."""

    name: ClassVar[str] = "distance"

    def losses(self, outputs, targets):
        return jnp.abs(outputs[:, 0] - targets)


def with_metric(statistics, finish=lambda s: s["sum"], **fields):
    metric = task.Metric("far", "far", statistics, finish, **fields)
    return {"metrics": property(lambda _: (metric,))}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"losses": lambda _, y, t: jnp.abs(y[:, 0] - t).mean()}, "task.losses"),
        ({"losses": lambda _, y, t: y[:, 0] > t}, "task.losses"),
        ({"losses": lambda _, y, t: y.reshape(3, 5)}, "task.losses"),
        ({"losses": Task.losses}, "task.losses"),
        ({"training_losses": lambda _, y, t: (y, t)}, "task.training_losses"),
        ({"mask": lambda _, t: t}, "task.mask"),
        ({"mask": lambda _, t: t[:1] > 0}, "task.mask"),
        ({"predict": lambda _, y: y}, "task.predict"),
        ({"predict": lambda _, y: y.argmax()}, "task.predict"),
        (with_metric(lambda y, t, w: y @ t), "task.metrics.far"),
        (with_metric(lambda y, t, w: {"other": w.sum()}), "task.metrics.far"),
        (with_metric(lambda y, t, w: {"sum": w.sum()}, per_example=True), "task.metrics.far"),
    ],
)
def test_functions_that_give_the_wrong_thing_are_refused_by_name(wrong, field):
    outputs = jax.ShapeDtypeStruct((2, 1), jnp.float32)
    check_functions(Distance(), outputs, dataset(NUMBERS))
    with pytest.raises(ConfigError) as caught:
        check_functions(type("Wrong", (Distance,), wrong)(), outputs, dataset(NUMBERS))
    assert caught.value.field == field


@pytest.mark.parametrize("chosen", [task.Regression(), task.NextToken(), Distance()])
def test_weights_are_of_examples_or_of_their_losses(chosen):
    inputs, targets = (TOKENS, TOKENS) if chosen.name == "next_token" else (X, NUMBERS)
    outputs = jax.ShapeDtypeStruct((2, 4, 7) if chosen.name == "next_token" else (2, 1), jnp.float32)

    def weighted(*shape):
        part = (inputs, targets, np.ones((12, *shape)))
        return Dataset.from_arrays(part, validation=part, test=part)

    check_functions(chosen, outputs, weighted())
    if chosen.name == "next_token":
        check_functions(chosen, outputs, weighted(4))
    # With an axis too many they would meet the losses of other examples, without an error where lengths agree.
    for shape in ((1,), (12,)):
        with pytest.raises(DataError) as caught:
            check_functions(chosen, outputs, weighted(*shape))
        assert (caught.value.field, caught.value.value) == ("weights", [12, *shape])
