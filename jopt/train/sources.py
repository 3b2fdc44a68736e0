"""Where a stage's teacher or its transferred parameters come from: a finished run, or an earlier stage."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt import data, models
from jopt.config import require
from jopt.train.batches import in_batches
from jopt.train.config import STAGE as STAGE
from jopt.train.workdir import Workdir, WorkdirError

BATCH = 512


class Source(NamedTuple):
    """A trained network.

    Attributes:
      model: its functions.
      params: what they compute with: masked, quantized, averaged, as the run's evaluation saw them.
      model_state: batch statistics and the like.
      mean, std: float32 [channels], what its inputs are normalized with.
      digest: of the run that it comes from, as in its result.json.
    """

    model: models.Model
    params: Any
    model_state: Any
    mean: np.ndarray
    std: np.ndarray
    digest: str


def load_source(directory: str, field: str, input_shape: tuple[int, ...], num_classes: int | None) -> Source:
    """The network that the finished run in `directory` ended with.

    Args:
      directory: a run's directory.
      field: the config field that names it, for errors.
      input_shape: the shape of one example that it must take.
      num_classes: the number of logits that it must give; None is any.

    Raises:
      ConfigError: if there is no finished run, or one of another kind of data.
      WorkdirError, CheckpointError: if it is damaged.
    """
    from jopt.train.finished import load  # A run that prepares itself by means of another run.

    require(
        Workdir(directory).result.exists(), field, directory, "the directory of a finished run, with result.json"
    )
    try:
        found = load(directory)
    except WorkdirError as error:
        raise WorkdirError(f"{field}: {error}") from error
    x = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    try:
        shape = jax.eval_shape(
            lambda x: found.model.apply(found.params, found.model_state, x, train=False)[0], x
        ).shape
    except Exception as error:
        accepted = f"a run whose network takes inputs of {' x '.join(map(str, input_shape))}: {error}"
        require(False, field, directory, accepted)
        raise
    # Who learns from logits needs as many classes; who takes parameters may have another head.
    fits = num_classes is None or shape == (1, num_classes)
    require(fits, field, directory, f"a run with {num_classes} classes and not {shape[-1]}")
    return Source(
        found.model, found.params, found.model_state, found.dataset.mean, found.dataset.std, found.result["digest"]
    )


def along(source: Source, dataset: data.Dataset) -> models.Model:
    """The network of `source` for inputs that are normalized as `dataset` is."""
    if np.array_equal(source.mean, dataset.mean) and np.array_equal(source.std, dataset.std):
        return source.model

    def apply(params: Any, model_state: Any, x: jax.Array, **more: Any) -> Any:
        shape = (1,) * (x.ndim - 1) + dataset.mean.shape
        raw = x * dataset.std.reshape(shape) + dataset.mean.reshape(shape)
        x = data.normalize(raw, jnp.asarray(source.mean), jnp.asarray(source.std))
        return source.model.apply(params, model_state, x, **more)

    return source.model._replace(apply=apply)


def logits(source: Source, arrays: data.Arrays) -> jax.Array:
    """What `source` makes of every example, normalized as it knows them: float32 [examples, classes]."""

    def one_batch(inputs: jax.Array) -> jax.Array:
        inputs = data.normalize(inputs, jnp.asarray(source.mean), jnp.asarray(source.std))
        return source.model.apply(source.params, source.model_state, inputs, train=False)[0]

    return in_batches(one_batch, BATCH, arrays.inputs)
