"""A packed model on a data set: in floating point and in integers, how good and how fast."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jopt import codec, data, measure, quantize, report
from jopt import task as tasks
from jopt.config import ConfigError, require
from jopt.data.images import Arranged
from jopt.measure import latency
from jopt.quantize import integer
from jopt.report import formats
from jopt.train import finished, packed
from jopt.train.program import EVALUATION_BATCH, Judgement
from jopt.train.step import in_batches
from jopt.train.workdir import Workdir

_UNASKED = 2**30  # Bytes that making a set which only the file asks for may take.


class Way(NamedTuple):
    """One way to compute the model: in floating point or in integers.

    Attributes:
      weights: a pytree of arrays, which are arguments of the program.
      apply: `(weights, normalized inputs) -> logits`.
    """

    # As arguments: XLA would fold constants of this size when it compiles, and keep a second copy.
    weights: PyTree
    apply: Callable[[PyTree, jax.Array], jax.Array]


class Outcome(NamedTuple):
    """The results of one way to compute the model.

    Attributes:
      metrics: the loss and the metrics of the task, by key.
      predictions: integers [examples, ...]; None where the task's outputs are no decisions.
      latencies: batch size to seconds of a call, from raw inputs to logits.
    """

    metrics: dict[str, float]
    predictions: np.ndarray | None
    latencies: dict[int, measure.Latency]


def dataset_for(
    model: packed.PackedModel,
    name: str | None,
    data_dir: str | None,
    max_bytes: int = codec.MAX_BYTES,
    *,
    trusted: bool = False,
    run: Path | None = None,
) -> data.Dataset:
    """The data set of this name (None: that of the model), in the layout of the model's inputs.

    Inputs are normalized with the mean and standard deviation of the model, not with those of the set.

    The file says which set, so the set is compared with the model before anything is downloaded or made, and what
    costs much needs the user's word.

    Args:
      model: the packed model.
      name: the user's choice; None: none.
      data_dir: the directory of prepared data sets; None is the default one, whatever the file says.
      max_bytes: memory that making a synthetic set may take.
      trusted: as for `jopt.data.load`, and whether a download or a large synthetic set needs no `name`.
      run: the directory of the run that the file lies in, if it does: a set that is read from a path the file does
        not tell is read from where that run read it.

    Raises:
      ConfigError: if its examples or classes are not those of the model; if it is large, or must be downloaded, and
        was not asked for.
    """
    # Nothing is trained, so a training part that is larger than memory is no obstacle.
    config = dataclasses.replace(model.data, train_examples=None, residency="host")
    if name is not None and name != config.label:
        config = data.named(name)
        # The labels of another set have another meaning, so the model's mapping does not apply.
        if isinstance(config, Arranged) and isinstance(model.data, Arranged):
            config = dataclasses.replace(config, layout=model.data.layout, normalize=model.data.normalize)
    config = config.moved(None) if data_dir is None else config.moved(None).moved(data_dir)
    if data_dir is None and run is not None:
        config = _read_by_run(config, run, trusted)
    try:
        config.validate()
    except ConfigError as error:
        if data_dir is not None or error.field.removeprefix("data.") not in config.PATHS:
            raise
        accepted = f"the path of {config.label!r}, as a packed file names none ({error.field}: {error.accepted})"
        raise ConfigError("--data_dir", data_dir, accepted) from error
    outline = config.outline(trusted=trusted)
    shape, classes, size, label = outline.shape, outline.num_classes, outline.bytes_to_make, config.label
    expected = jax.tree.map(lambda x: x.shape, model.stored)
    accepted = f"a set of examples of shape {expected} (this one has {shape})"
    require(shape in (None, expected), "--data", label, accepted)
    accepted = f"a set of {model.num_classes} classes (this one has {classes})"
    require(classes in (None, model.num_classes), "--data", label, accepted)
    accepted = f"a set that takes at most --max_bytes={max_bytes} to make (this one takes {size})"
    require(size <= max_bytes, "--data", label, accepted)
    cost = "downloaded" if outline.downloads else f"made, which takes {formats.binary(size)} of memory"
    accepted = f"given: the file names {label!r}, which would be {cost}; --data={label} asks for it"
    asked = trusted or name is not None
    require(asked or not (outline.downloads or size > _UNASKED), "--data", name, accepted)
    dataset = data.load(config, trusted=trusted)
    # A set whose outline does not say, such as one that a function gives, is compared once it is there.
    shapes = jax.tree.map(lambda x: x.shape[1:], dataset.train.inputs)
    accepted = f"a set of examples of shape {expected} (this one has {shapes})"
    require(shapes == expected, "--data", label, accepted)
    model.task.check(dataset)
    return dataset._replace(mean=model.mean, std=model.std)


def _read_by_run(config: data.Source, directory: Path, trusted: bool) -> data.Source:
    """The set with the paths that the run in a directory read it from, if it has no path of its own."""
    required = config.main_path is not None and getattr(config, config.main_path) in ("", ())
    files = Workdir(directory)
    if not required or not files.config.is_file():
        return config
    source = finished.load_config(files, trusted=trusted).data
    # Another set's paths lead to other examples: then the user is asked.
    if type(source) is not type(config):
        return config
    return dataclasses.replace(config, **{field: getattr(source, field) for field in config.PATHS})


def floating(model: packed.PackedModel) -> Way:
    """The model in floating point, as it was trained."""
    apply = model.model.apply
    return Way((model.params, model.model_state), lambda weights, x: apply(*weights, x, train=False)[0])


def integers(model: packed.PackedModel) -> Way:
    """The model in integers; see `jopt.quantize.integer.network`.

    Raises:
      ConfigError: if the file has no integers, or a layer cannot be computed with them.
    """
    if not model.integers:
        raise ConfigError("--integer", True, "absent: the file holds no tensor as integers with scales")
    activations = next((m for m in model.wrapping if isinstance(m, quantize.ActivationMethod)), None)
    if activations is None:
        raise ConfigError("--integer", True, "absent: the inputs of the file's layers are not quantized")
    try:
        network = integer.network(model.plain_model, model.params, model.model_state, model.integers, activations)
    except ValueError as error:
        raise ConfigError(
            "--integer", True, f"absent: the file cannot be computed in integers ({error})"
        ) from error
    # The integers are constants of the network's functions, so the program has no weights to pass.
    return Way((), lambda _, x: network(x))


def run(way: Way, task: tasks.Task, arrays: data.DeviceArrays, sizes: list[int], repeats: int) -> Outcome:
    """Judges all of `arrays` as a run does, then times calls with `sizes` of its examples, repeated if fewer."""

    def one_batch(weights: PyTree, inputs: PyTree) -> jax.Array:
        return way.apply(weights, data.normalize(inputs, arrays.mean, arrays.std))

    @jax.jit
    def judge(weights: PyTree, arrays: data.DeviceArrays) -> Judgement:
        def judge_batch(inputs: PyTree, targets: PyTree, of_losses: PyTree) -> Judgement:
            outputs = one_batch(weights, inputs)
            counts = jnp.ones(outputs.shape[:1], jnp.float32)
            if not isinstance(of_losses, tuple):
                counts = counts.reshape(-1, *(1,) * (of_losses.ndim - 1)) * of_losses
            return _judgement(task, outputs, targets, counts)

        # In the batches of a run's own evaluation: the same sums, so the same bits.
        return in_batches(judge_batch, EVALUATION_BATCH, arrays.inputs, arrays.targets, arrays.weights)

    # On the device once, or each timed call would include the transfer.
    weights, rows = jax.device_put(way.weights), arrays.rows
    judged = jax.device_get(judge(weights, arrays))
    latencies = {
        n: latency(
            one_batch, weights, jax.tree.map(lambda x, n=n: x[np.arange(n) % rows], arrays.inputs), repeats=repeats
        )
        for n in sizes
    }
    predictions = None if isinstance(judged.predictions, tuple) else np.asarray(judged.predictions)
    return Outcome(judged.measured(task, rows), predictions, latencies)


def _judgement(task: tasks.Task, outputs: jax.Array, targets: PyTree, weights: jax.Array) -> Judgement:
    """What `jopt.train.Program.judge` gives of a batch without padding."""
    statistics = tasks.statistics(task, outputs, targets, weights)
    rows = {metric.key for metric in task.metrics if metric.per_example}
    predictions = task.predict(outputs)
    return Judgement(
        {k: v if k in rows else jax.tree.map(lambda x: x[None], v) for k, v in statistics.items()},
        () if predictions is None else predictions,
    )


def agreement(outcomes: dict[str, Outcome]) -> str | None:
    """How many predictions two ways share, as a sentence; None where the task has no predictions."""
    (first, a), (other, b) = ((name, outcome.predictions) for name, outcome in outcomes.items())
    if a is None or b is None:
        return None
    what = "examples" if a.ndim == 1 else "positions"
    return f"In {other} {int((a == b).sum()):,} of {a.size:,} {what} are predicted as in {first}."


def tables(task: tasks.Task, outcomes: dict[str, Outcome]) -> list[report.Table]:
    """The tables of the metrics and of the latencies."""
    metrics = (*task.metrics, task.loss_metric)
    quality = [
        (name, *(formats.value(m.key, o.metrics[m.key], task) for m in metrics)) for name, o in outcomes.items()
    ]
    speed = [
        (
            name,
            formats.integer(n),
            *map(formats.duration, (t.median, t.p10, t.p90)),
            formats.si(measure.throughput(t, n)),
            formats.integer(t.n),
        )
        for name, o in outcomes.items()
        for n, t in o.latencies.items()
    ]
    device = jax.devices()[0]
    names = " ".join(dict.fromkeys((device.platform, device.device_kind)))
    where = f"measured on one device, {names}, by this machine's clock"
    header = ("computed in", "batch", "median", "p10", "p90", "examples/s", "calls")
    return [
        report.Table(
            "Predictions", ("computed in", *(m.label for m in metrics)), "l" + "r" * len(metrics), quality
        ),
        report.Table(f"Latency of a call and throughput ({where})", header, "l" + "r" * 6, speed),
    ]
