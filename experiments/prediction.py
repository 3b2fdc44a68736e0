"""A packed model on a data set: in floating point and in integers, how good and how fast."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jopt import codec, data, measure, quantize, report
from jopt.config import ConfigError, require
from jopt.measure import latency
from jopt.quantize import integer
from jopt.report import formats
from jopt.train import packed
from jopt.train.program import EVALUATION_BATCH
from jopt.train.step import cross_entropy, in_batches

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
      accuracy: share of examples whose class is predicted.
      loss: mean cross-entropy, nats.
      predictions: int32 [examples].
      latencies: batch size to seconds of a call, from raw inputs to logits.
    """

    accuracy: float
    loss: float
    predictions: np.ndarray
    latencies: dict[int, measure.Latency]


def dataset_for(
    model: packed.PackedModel,
    name: str | None,
    data_dir: str | None,
    max_bytes: int = codec.MAX_BYTES,
    *,
    trusted: bool = False,
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

    Raises:
      ConfigError: if its examples or classes are not those of the model; if it is large, or must be downloaded, and
        was not asked for.
    """
    config = dataclasses.replace(model.data, train_examples=None)
    if name is not None and name != config.label:
        config = data.named(name)
        # The labels of another set have another meaning, so the model's mapping does not apply.
        if isinstance(config, data.images.Arranged) and isinstance(model.data, data.images.Arranged):
            config = dataclasses.replace(config, layout=model.data.layout, normalize=model.data.normalize)
    config = config.moved(None) if data_dir is None else config.moved(None).moved(data_dir)
    config.validate()
    if outline := config.outline(trusted=trusted):
        shape, classes, size = outline.shape, outline.num_classes, outline.bytes_to_make
        accepted = f"a set of examples of shape {model.input_shape} (this one has {shape})"
        require(shape == model.input_shape, "--data", config.label, accepted)
        accepted = f"a set of {model.num_classes} classes (this one has {classes})"
        require(classes == model.num_classes, "--data", config.label, accepted)
        accepted = f"a set that takes at most --max_bytes={max_bytes} to make (this one takes {size})"
        require(size <= max_bytes, "--data", config.label, accepted)
        cost = "downloaded" if outline.downloads else f"made, which takes {formats.binary(size)} of memory"
        accepted = (
            f"given: the file names {config.label!r}, which would be {cost}; --data={config.label} asks for it"
        )
        asked = trusted or name is not None
        require(asked or not (outline.downloads or size > _UNASKED), "--data", name, accepted)
    return data.load(config, trusted=trusted)._replace(mean=model.mean, std=model.std)


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


def run(way: Way, arrays: data.DeviceArrays, sizes: list[int], repeats: int) -> Outcome:
    """Predicts all of `arrays`, then times calls with `sizes` of its examples, repeated if there are fewer."""

    def one_batch(weights: PyTree, inputs: jax.Array) -> jax.Array:
        return way.apply(weights, data.normalize(inputs, arrays.mean, arrays.std))

    @jax.jit
    def evaluate(weights: PyTree, inputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        # In the batches of a run's own evaluation: the same sums, so the same bits.
        logits = in_batches(lambda x: one_batch(weights, x), EVALUATION_BATCH, inputs)
        predictions = logits.argmax(-1)
        correct = predictions == labels
        return cross_entropy(logits, labels).mean(), correct.sum() / correct.shape[0], predictions

    # On the device once, or each timed call would include the transfer.
    weights = jax.device_put(way.weights)
    loss, accuracy, predictions = jax.device_get(evaluate(weights, arrays.inputs, arrays.targets))
    rows = arrays.targets.shape[0]
    latencies = {n: latency(one_batch, weights, arrays.inputs[np.arange(n) % rows], repeats=repeats) for n in sizes}
    return Outcome(float(accuracy), float(loss), predictions, latencies)


def tables(outcomes: dict[str, Outcome]) -> list[report.Table]:
    """The tables of the predictions and of the latencies."""
    quality = [(name, formats.percent(o.accuracy), formats.number(o.loss)) for name, o in outcomes.items()]
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
        report.Table("Predictions", ("computed in", "accuracy", "loss"), "lrr", quality),
        report.Table(f"Latency of a call and throughput ({where})", header, "l" + "r" * 6, speed),
    ]
