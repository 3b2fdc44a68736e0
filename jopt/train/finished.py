"""A finished run, read back from its directory: what it learned, to teach or to start another run."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jopt import data, hyper, keys, models
from jopt.layers import Layers
from jopt.train import compression, program, schedule
from jopt.train.checkpoint import Checkpoints
from jopt.train.config import Experiment
from jopt.train.state import TrainState, digest
from jopt.train.workdir import Workdir, WorkdirError
from jopt.transform import ParamTransform


class Finished(NamedTuple):
    """What a run ended with, in NumPy arrays.

    Attributes:
      config: its experiment.
      result: what its `result.json` holds.
      model: the functions of its last stage's network.
      params: what the model computes with, as the run's own evaluation saw them: averaged where the run keeps an
        average, then masked, shared and quantized.
      model_state: batch statistics and the like, as evaluated: of `params`.
      state: the whole state: `state.params` and `state.model_state` are what training moved.
      dataset: what it was trained on, with the mean and standard deviation that its inputs are normalized with.
      given: what it was given besides its config: 'model', 'transform'.
      layers: what its model says about its parameters.
    """

    config: Experiment
    result: dict[str, Any]
    model: models.Model
    params: Any
    model_state: Any
    state: TrainState
    dataset: data.Dataset
    given: tuple[str, ...] = ()
    layers: Layers = {}  # noqa: RUF012


def load(
    directory: str | os.PathLike[str],
    *,
    model: models.Model | None = None,
    transform: Callable[[Experiment, int], ParamTransform] | None = None,
) -> Finished:
    """Reads the last state of a finished run, and verifies it. A whole run's directory stays as it is.

    The run's data are read (their shape is the network's), but neither its teacher nor the source that it took
    parameters from, which may be gone.

    Args:
      directory: the run's directory.
      model: the model that the run was given instead of `config.model`, if it was given one.
      transform: the transform that it was given, if it was given one.

    Raises:
      WorkdirError: if there is no run, it has not finished, it was given other things than these, or its last
        checkpoint is absent or not the one that its result tells of.
      CheckpointError: if that checkpoint is damaged.
    """
    files = Workdir(directory)
    if not files.config.is_file():
        raise WorkdirError(f"{files.path} is not the directory of a run: there is no config.json")
    if not files.result.is_file():
        raise WorkdirError(f"the run in {files.path} has not finished: there is no result.json")
    config, result = files.load_config(), files.load_json(files.result)
    _check_given(files, {"model": model, "transform": transform})
    dataset = data.load(config.data)
    examples, last = dataset.train.labels.shape[0], len(config.stages) - 1
    place = schedule.stages(config, examples)[last]
    structure, numbers = hyper.split(config)
    known = compression.layers_of(config, last, dataset.train.inputs.shape[1:], model)
    end = program.build(
        structure,
        stage=last,
        begin=place.start,
        steps=place.segment_steps,
        total_steps=place.steps,
        last_update=place.last_update,
        batch_size=schedule.batch_size(config, examples),
        input_shape=dataset.train.inputs.shape[1:],
        model=None if model is None else lambda _: model,
        transform=transform,
        layers=known,
    )
    like = jax.eval_shape(lambda seed: end.init(keys.root(seed), numbers), numbers["seed"])
    # Opening it would make the directory.
    if not files.checkpoints.is_dir():
        raise WorkdirError(f"the run in {files.path} has no checkpoints")
    with Checkpoints(files.checkpoints, config.keep_checkpoints) as checkpoints:
        if not checkpoints.steps:
            raise WorkdirError(f"the run in {files.path} has no checkpoint in {files.checkpoints}")
        state = checkpoints.restore(checkpoints.steps[-1], like).state
    if digest({"params": state.params, "model_state": state.model_state, "ema": state.ema}) != result.get("digest"):
        raise WorkdirError(
            f"the last checkpoint in {files.checkpoints} (of step {int(state.step)}) is not of the model that "
            f"{files.result} tells of: their digests differ"
        )
    params, model_state = jax.device_get(jax.jit(end.seen)(state, numbers))
    net = compression.model(config, last, model)
    given = tuple(name for name, part in (("model", model), ("transform", transform)) if part is not None)
    return Finished(config, result, net, params, model_state, state, dataset, given, known)


def _check_given(files: Workdir, now: dict[str, Any]) -> None:
    then = files.load_json(files.manifest).get("given") or []
    for name, part in now.items():
        if (part is not None) != (name in then):
            was, wanted = ("was", "give the same") if name in then else ("was not", "give none")
            raise WorkdirError(f"the run in {files.path} {was} given a {name} of its own: {wanted} to load it")
