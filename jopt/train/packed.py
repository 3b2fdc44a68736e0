"""The packed model of a run, `model.jopt`: the network, its parameters and what its inputs are normalized with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt import codec, data, models, quantize
from jopt.codec import Ledger
from jopt.config import ConfigError, canonical_json, from_dict
from jopt.quantize.activations import KEY
from jopt.quantize.integer import QTensor
from jopt.train import compression
from jopt.train.codes import codes
from jopt.train.config import Experiment, network
from jopt.transform import Storage

if TYPE_CHECKING:
    from jopt.train.finished import Finished

# What changes the inputs in training only.
_AUGMENTATION = ("shift", "crop_padding", "flip")


class PackedError(ValueError):
    """A packed file holds arrays, but not a network that was trained here."""


class PackedModel(NamedTuple):
    """A network, rebuilt from its packed file alone.

    Attributes:
      name: the experiment's.
      network: the model's config; None where the run was given a model of its own.
      data: the data set's config, without augmentation.
      activations: how the layers' inputs are quantized; None where they are not.
      model: its functions, with quantized activations where it has them.
      params: what they compute with, NumPy arrays.
      model_state: batch statistics, ranges of activations and the like.
      integers: path to the integers behind a parameter that is held as such.
      mean, std: float32 [channels], what its inputs are normalized with.
      input_shape: of one example.
      num_classes: the number of its logits.
      ledger: where the file's bytes go.
      metadata: the file's metadata as they are.
    """

    name: str
    network: models.Config | None
    data: data.Config
    activations: quantize.ActivationConfig | None
    model: models.Model
    params: Any
    model_state: Any
    integers: dict[str, QTensor]
    mean: np.ndarray
    std: np.ndarray
    input_shape: tuple[int, ...]
    num_classes: int
    ledger: Ledger
    metadata: Mapping[str, Any]


class Packing(NamedTuple):
    """What goes into the packed file of a stage.

    Attributes:
      config: the experiment.
      stage: index of the stage.
      params: what the model computes with, NumPy arrays.
      model_state: batch statistics and the like.
      dataset: what it was trained on.
      codes: the integers behind quantized parameters; None: the values speak for themselves.
      own_model: whether the run was given a model of its own, so that the config may name none.
    """

    config: Experiment
    stage: int
    params: Any
    model_state: Any
    dataset: data.Dataset
    codes: Mapping[str, Storage] | None = None
    own_model: bool = False


def encode(packing: Packing) -> codec.Packed:
    """The packed file of a stage, as bytes with their ledger."""
    return codec.encode(packing.params, **_options(packing))


def save(path: str | os.PathLike[str], packing: Packing) -> Ledger:
    """Writes the packed file of a stage, atomically.

    Returns:
      The file's ledger.

    Raises:
      OSError: if it cannot be written.
    """
    return codec.save(path, packing.params, **_options(packing))


def of(run: Finished) -> Packing:
    """What the packed file of a finished run holds, also where its config asked for none."""
    stage = len(run.config.stages) - 1
    return Packing(
        run.config,
        stage,
        run.params,
        run.model_state,
        run.dataset,
        None if "transform" in run.given else codes(run.config, stage, run.state, run.layers),
        "model" in run.given,
    )


def _options(packing: Packing) -> dict[str, Any]:
    return {"model_state": packing.model_state, "storage": packing.codes, "metadata": metadata(packing)}


def metadata(packing: Packing) -> dict[str, Any]:
    """What a packed file says besides its arrays: as little as rebuilds the network, for every byte counts.

    Configs are held by the fields that differ from their defaults.

    Returns:
      A dictionary for JSON: `name`, `model` (absent for a model of one's own), `data`, `input`, `classes`, `mean`,
      `std`, and `activations` where they are quantized.
    """
    config, stage, dataset = packing.config, packing.stage, packing.dataset
    source = {k: v for k, v in _changed(config.data).items() if k not in (*_AUGMENTATION, "data_dir")}
    found = {
        "name": config.name,
        "data": source,
        "input": list(dataset.train.inputs.shape[1:]),
        "classes": dataset.num_classes,
        "mean": _numbers(dataset.mean),
        "std": _numbers(dataset.std),
    }
    if not packing.own_model or any(s.model is not None for s in config.stages[: stage + 1]):
        found["model"] = _changed(network(config, stage))
    if (part := compression.acting(config, stage).get("activations")) is not None:
        found["activations"] = _changed(part.config)
    return found


def load(path: str | os.PathLike[str], *, model: models.Model | None = None) -> PackedModel:
    """Rebuilds a network from its packed file.

    Args:
      path: of the file.
      model: the model that the run was given instead of `config.model`, if it was given one.

    Raises:
      OSError: if the file cannot be read.
      CodecError: if it is damaged.
      PackedError: if it is whole, but holds no network of a run.
    """
    file = codec.read(path)
    try:
        return _rebuilt(file, model)
    except (ConfigError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        if isinstance(error, PackedError):
            raise PackedError(f"{os.fspath(path)}: {error}") from error
        what = f"has no {error}" if isinstance(error, KeyError) else f"says: {error}"
        raise PackedError(
            f"{os.fspath(path)} holds arrays, but no network as a run of jopt packs it: its metadata {what}"
        ) from error


def _rebuilt(file: codec.File, own: models.Model | None) -> PackedModel:
    said: Any = {} if file.metadata is None else file.metadata
    if not isinstance(said, dict):
        raise TypeError(f"they must be an object, got {type(said).__name__}")
    named = said.get("model")
    net = None if named is None else from_dict(models.Config, named, "model")
    if net is None and own is None:
        if "input" not in said:
            raise KeyError("model")
        raise PackedError("the run was given a model of its own: give it here too")
    if net is not None:
        models.validate(net)
    plain = models.model(net) if net is not None else own
    assert plain is not None
    ranges = said.get("activations")
    activations = None if ranges is None else from_dict(quantize.ActivationConfig, ranges, "activations")
    found = PackedModel(
        name=str(said["name"]),
        network=net,
        data=from_dict(data.Config, said["data"], "data"),
        activations=activations,
        model=plain if activations is None else quantize.activations(plain, activations),
        params=file.params,
        model_state=file.model_state,
        integers={path: _tensor(q) for path, q in file.integers.items() if not path.startswith(f"{KEY}/")},
        mean=np.array(said["mean"], np.float32),
        std=np.array(said["std"], np.float32),
        input_shape=tuple(int(n) for n in said["input"]),
        num_classes=int(said["classes"]),
        ledger=file.ledger,
        metadata=said,
    )
    _check(found)
    return found


def _check(found: PackedModel) -> None:
    """Raises unless the model takes the parameters that the file holds."""
    x = jax.ShapeDtypeStruct((1, *found.input_shape), np.float32)
    try:
        shape = jax.eval_shape(
            lambda x: found.model.apply(found.params, found.model_state, x, train=False)[0], x
        ).shape
    except Exception as error:
        raise PackedError(f"the network that its metadata name does not take its parameters: {error}") from error
    if shape != (1, found.num_classes):
        raise PackedError(f"the network gives logits {shape}, its metadata say {(1, found.num_classes)}")


def _tensor(q: codec.Integers) -> QTensor:
    spec = quantize.Spec(q.spec.bits, q.spec.symmetric, q.spec.axis, q.spec.narrow, q.spec.group)
    codes, scale, zero_point, low, high = jax.tree.map(jnp.asarray, (q.codes, q.scale, q.zero_point, q.low, q.high))
    return QTensor(codes, scale, zero_point, spec, None if low is None else quantize.Range(low, high))


def _changed(config: Any) -> dict[str, Any]:
    return json.loads(canonical_json(config))


def _numbers(values: np.ndarray) -> list[float]:
    """The shortest decimal numbers that are these float32s."""
    return [float(str(v)) for v in values]
