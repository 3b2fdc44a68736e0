"""Metrics are those of scikit-learn, whatever the batches, the padding and the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from jopt import task as tasks
from jopt.config import ConfigError
from jopt.task import Classification, Metric, MultiLabel, NextToken, Regression, SequenceLabelling

ROWS, CLASSES, POSITIONS = 57, 4, 5
# Uneven, and each padded to 32 rows with numbers that must not count.
BATCHES = (32, 7, 18)


def batched(task, outputs, targets, weights):
    """The metrics of these examples, in uneven batches with padding."""
    collected: dict[str, list] = {}
    for start, size in zip(np.cumsum((0, *BATCHES)), BATCHES, strict=False):
        rows = slice(start, start + size)
        padding = [(0, 32 - size)]
        y = np.pad(outputs[rows], padding + [(0, 0)] * (outputs.ndim - 1), constant_values=np.nan)
        t = np.pad(targets[rows], padding + [(0, 0)] * (targets.ndim - 1))
        w = np.pad(weights[rows], padding)
        batch = jax.device_get(tasks.statistics(task, jnp.asarray(y), jnp.asarray(t), jnp.asarray(w)))
        for key, values in batch.items():
            collected.setdefault(key, []).append(values)
    per_example = {metric.key for metric in task.metrics if metric.per_example}
    joined = {
        key: jax.tree.map(lambda *leaves, f=np.concatenate if key in per_example else np.stack: f(leaves), *parts)
        for key, parts in collected.items()
    }
    return tasks.measured(task, joined)


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def weights_of(kind):
    rng = np.random.default_rng(1)
    return {
        "equal": np.ones(ROWS, np.float32),
        "weighted": rng.uniform(0.1, 2, ROWS).astype(np.float32),
        "some of no weight": (rng.uniform(size=ROWS) > 0.3).astype(np.float32),
    }[kind]


WEIGHTS = pytest.mark.parametrize("kind", ["equal", "weighted", "some of no weight"])


@WEIGHTS
def test_accuracy(kind):
    y, w = draw(ROWS, CLASSES), weights_of(kind)
    t = np.random.default_rng(2).integers(0, CLASSES, ROWS)
    values = batched(Classification(), y, t.astype(np.int32), w)
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(t, y.argmax(-1), sample_weight=w), abs=1e-6)
    p = np.exp(y.astype(np.float64))
    expected = metrics.log_loss(t, p / p.sum(-1, keepdims=True), sample_weight=w)
    assert values["loss"] == pytest.approx(expected, abs=1e-6)


@WEIGHTS
@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_regression(kind, shape):
    w, t = weights_of(kind), 100 + draw(ROWS, *shape)
    y = t + np.float32(0.3) * np.random.default_rng(3).normal(size=t.shape).astype(np.float32)
    values = batched(Regression(), y, t, w)
    expected = {
        "r2": metrics.r2_score(t, y, sample_weight=w),
        "mse": metrics.mean_squared_error(t, y, sample_weight=w),
        "rmse": metrics.mean_squared_error(t, y, sample_weight=w) ** 0.5,
        "mae": metrics.mean_absolute_error(t, y, sample_weight=w),
    }
    assert values == pytest.approx({**expected, "loss": expected["mse"]}, abs=1e-6)


@WEIGHTS
def test_multi_label(kind):
    y, w = draw(ROWS, 3), weights_of(kind)
    t = (np.random.default_rng(4).uniform(size=(ROWS, 3)) > 0.6).astype(np.uint8)
    chosen, values = (y > 0).astype(int), batched(MultiLabel(), y, t, w)
    expected = {
        "f1": metrics.f1_score(t, chosen, average="macro", sample_weight=w),
        "f1_micro": metrics.f1_score(t, chosen, average="micro", sample_weight=w),
        "exact_match": metrics.accuracy_score(t, chosen, sample_weight=w),
        "auc": metrics.roc_auc_score(t, y, average="macro", sample_weight=w),
        "loss": np.average([metrics.log_loss(t[:, i], 1 / (1 + np.exp(-y[:, i].astype(float))), sample_weight=w)
                            for i in range(3)]),
    }  # fmt: skip
    assert values == pytest.approx(expected, abs=1e-6)


@WEIGHTS
def test_labels_of_positions_some_of_which_do_not_count(kind):
    y, w = draw(ROWS, POSITIONS, CLASSES), weights_of(kind)
    t = np.random.default_rng(5).integers(-1, CLASSES, (ROWS, POSITIONS)).astype(np.int32)
    values, counted = batched(SequenceLabelling(), y, t, w), t >= 0
    chosen, true = y.argmax(-1)[counted], t[counted]
    each = np.repeat(w[:, None], POSITIONS, 1)[counted]
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(true, chosen, sample_weight=each), abs=1e-6)
    expected = metrics.f1_score(true, chosen, average="macro", sample_weight=each)
    assert values["f1"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bytes_per_token", [1.0, 3.5])
def test_next_token(bytes_per_token):
    y, t = draw(ROWS, POSITIONS, CLASSES), np.random.default_rng(6).integers(0, CLASSES, (ROWS, POSITIONS))
    values = batched(NextToken(bytes_per_token=bytes_per_token), y, t.astype(np.uint8), weights_of("equal"))
    p = np.exp(y.astype(np.float64)).reshape(-1, CLASSES)
    nats = metrics.log_loss(t.reshape(-1), p / p.sum(-1, keepdims=True))
    expected = {"bits_per_byte": nats / np.log(2) / bytes_per_token, "perplexity": np.exp(nats), "loss": nats}
    expected["accuracy"] = metrics.accuracy_score(t.reshape(-1), y.argmax(-1).reshape(-1))
    assert values == pytest.approx(expected, rel=1e-6)


def test_one_metric_of_all_outputs_is_that_of_their_batches():
    y, t, w = draw(ROWS, CLASSES), np.arange(ROWS, dtype=np.int32) % CLASSES, weights_of("weighted")
    task = Classification()
    values = batched(task, y, t, w)
    assert tasks.value(task, task.deciding, y, t, w) == pytest.approx(values["accuracy"], abs=1e-6)
    assert tasks.value(task, task.loss_metric, y, t, w) == pytest.approx(values["loss"], abs=1e-6)


def test_values_come_in_the_order_of_the_task_with_the_deciding_one_first():
    values = batched(Regression(), draw(ROWS), draw(ROWS), weights_of("equal"))
    assert list(values) == ["r2", "mse", "rmse", "mae", "loss"]


@pytest.mark.parametrize(
    ("changes", "field"), [({"key": "a b"}, "metric.key"), ({"better": "up"}, "metric m.better")]
)
def test_bad_metrics_are_refused(changes, field):
    arguments = {"key": "m", "label": "m", "statistics": lambda *_: {}, "finish": float}
    with pytest.raises(ConfigError) as caught:
        Metric(**{**arguments, **changes})
    assert caught.value.field == field


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_nan_never_improves(better):
    metric = Metric("m", "m", lambda *_: {}, float, better)
    assert metric.improves(1.0, 0.0) == (better == "higher")
    assert not metric.improves(float("nan"), 0.0) and not metric.improves(0.0, 0.0)
