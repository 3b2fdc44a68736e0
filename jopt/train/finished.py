"""A finished run, read back from its directory: its network, to teach or to start another run with."""

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jopt import data, hyper, keys, models, trust
from jopt.config import ConfigError, require
from jopt.layers import Layers
from jopt.train import program
from jopt.train.checkpoint import read_last, steps_in
from jopt.train.config import STAGE, Experiment
from jopt.train.given import check_same
from jopt.train.plan import StagePlan, resolve, source_fields, trace_layers, with_layers
from jopt.train.state import TrainState, digest
from jopt.train.step import in_batches
from jopt.train.workdir import Workdir, WorkdirError, parts_from_python
from jopt.typing import ModelState, Params


class Finished(NamedTuple):
    """What a run ended with, in NumPy arrays.

    Attributes:
      config: its experiment.
      result: what its `result.json` holds.
      plan: its last stage.
      params: what the model computes with, as the run's own evaluation saw them: averaged where the run keeps an
        average, then masked, shared and quantized.
      model_state: batch statistics and the like, as evaluated: of `params`.
      state: the whole state: `state.params` and `state.model_state` are what training moved.
      dataset: what it was trained on, with the mean and standard deviation that its inputs are normalized with.
    """

    config: Experiment
    result: dict[str, Any]
    plan: StagePlan
    params: Params
    model_state: ModelState
    state: TrainState
    dataset: data.Dataset

    @property
    def model(self) -> models.Model:
        """The functions of its last stage's network, as its methods make it compute."""
        return self.plan.wrapped

    @property
    def layers(self) -> Layers:
        """What its model says about its parameters."""
        return self.plan.layers


def load(
    directory: str | os.PathLike[str],
    *,
    model: models.Model | None = None,
    dataset: data.Dataset | None = None,
    trusted: bool = False,
    data_dir: str | None = None,
) -> Finished:
    """Reads the last state of a finished run, and verifies it. The run's directory is not changed.

    The run's data are read (their shape decides the network's), but neither its teacher nor the source of its
    transferred parameters, which may be gone.

    Args:
      directory: the run's directory.
      model: the model that the run was given instead of `config.model`, if it was given one.
      dataset: the data set that the run was given as an object, if it was given one.
      trusted: lifts the rules for foreign configs (`docs/security.md`): modules that the run's files name are
        imported, and so run.
      data_dir: where its data are, instead of where its config says.

    Raises:
      WorkdirError: if there is no run, it has not finished, it was given other things than these, or its last
        checkpoint is absent or does not have the digest of its result.
      DamagedError: if that checkpoint is damaged.
    """
    files = Workdir(directory)
    if not files.config.is_file():
        raise WorkdirError(f"{files.path} is not the directory of a run: there is no config.json")
    if not files.result.is_file():
        raise WorkdirError(f"the run in {files.path} has not finished: there is no result.json")
    config, result = load_config(files, trusted=trusted, data_dir=data_dir), files.load_result()
    _check_given(files, {"model": model})
    if dataset is None:
        try:
            dataset = data.load(config.data, trusted=trusted)
        except data.DataError as error:
            if isinstance(config.data, data.Given):
                raise WorkdirError(f"{files.path}: {error}") from error
            raise
    try:
        check_same(config, dataset)
    except ConfigError as error:
        raise WorkdirError(f"{files.path}: {error}") from error
    examples, example = dataset.sizes[0], dataset.example
    structure, numbers = hyper.split(config)
    plans = trace_layers(resolve(config, examples, model), example)
    plan = plans[-1]

    def with_numbers(values: hyper.Hyper) -> StagePlan:
        again = resolve(hyper.join(structure, values), examples, model)
        return with_layers(again, [stage.layers for stage in plans])[-1]

    # The stages before, and the teacher, are not needed: the structure of the last state is that of a first stage.
    end = program.build(plan, with_numbers, example=example)
    like = jax.eval_shape(lambda seed: end.init(keys.root(seed), numbers), numbers["seed"])
    if not steps_in(files.checkpoints):
        raise WorkdirError(f"the run in {files.path} has no checkpoint in {files.checkpoints}; {files.remedy}")
    state = read_last(files.checkpoints, like, files.remedy).state
    # A checkpoint can be whole and still not be the one of the result: files copied from two runs, say.
    if digest({"params": state.params, "model_state": state.model_state, "ema": state.ema}) != result.get("digest"):
        raise WorkdirError(
            f"the last checkpoint in {files.checkpoints} (of step {int(state.step)}) is not of the model that "
            f"{files.result} tells of: their digests differ; {files.remedy}"
        )
    params, model_state = jax.device_get(jax.jit(end.seen)(state, numbers))
    return Finished(config, result, plan, params, model_state, state, dataset)


def load_config(files: Workdir, *, trusted: bool = False, data_dir: str | None = None) -> Experiment:
    """The config of a run that somebody else may have written.

    Args:
      files: the run's directory.
      trusted: lifts the rules for foreign configs (`docs/security.md`).
      data_dir: the user's own directory or file of data, instead of the config's.

    Raises:
      WorkdirError: if it is no config, or names code or a path that a foreign config may not.
    """
    config = files.load_config(trusted=trusted)
    if data_dir is not None:
        config.data = config.data.moved(data_dir)
    if not trusted:
        check_paths(config, files.path, own_data_dir=data_dir is not None)
    return config


def check_paths(config: Experiment, directory: Path, *, own_data_dir: bool = False) -> None:
    """Raises unless the paths that a foreign config names lie outside of its directory.

    Args:
      config: the foreign config.
      directory: where it was read from.
      own_data_dir: whether the main path of its data is the user's own.

    Raises:
      WorkdirError: naming the field.
    """
    sources = [(field, source) for field, source in source_fields(config) if not source.startswith(STAGE)]
    sources += [] if config.start is None else [("start.path", config.start.path)]
    own = config.data.main_path if own_data_dir else None
    read = [path for path in config.data.paths() if path.field != own]
    try:
        trust.check_paths([(f"data.{field}", path) for field, path, _ in read], directory, "--data_dir or --trust")
        for field, path, recursive in read:
            apart = not recursive or not trust.is_inside(str(directory), path)
            accepted = f"one that does not hold {directory}, as this config is not trusted (--data_dir or --trust)"
            require(apart, f"data.{field}", path, accepted)
        trust.check_paths(sources, directory, "--trust")
    except ConfigError as error:
        raise WorkdirError(f"{directory}: {error}") from error


def _check_given(files: Workdir, now: dict[str, models.Model | None]) -> None:
    then = parts_from_python(files, files.load_json(files.manifest))
    for name, part in now.items():
        if (part is not None) != (name in then):
            was, remedy = ("was", "give the same") if name in then else ("was not", "give none")
            raise WorkdirError(f"the run in {files.path} {was} given a {name} of its own: {remedy} to load it")


BATCH = 512


class Source(NamedTuple):
    """A trained network.

    Attributes:
      model: its functions.
      params: what they compute with: masked, quantized, averaged, as the run's evaluation saw them.
      model_state: batch statistics and the like.
      mean, std: what its inputs are normalized with, as `data.Dataset` has them.
      digest: of the run that it comes from, as in its result.json.
    """

    model: models.Model
    params: Params
    model_state: ModelState
    mean: PyTree
    std: PyTree
    digest: str


def load_source(
    directory: str,
    field: str,
    example: PyTree,
    output_shapes: tuple[tuple[int, ...], ...] | None,
    *,
    trusted: bool = False,
) -> Source:
    """The network that the finished run in `directory` ended with.

    Args:
      directory: a run's directory.
      field: the config field that names it, for errors.
      example: the inputs of one example that it must take, as shapes.
      output_shapes: of which its outputs for one example must have one; None is any.
      trusted: as for `load`.

    Raises:
      ConfigError: if there is no finished run, or one of another kind of data.
      WorkdirError, CheckpointError: if it is damaged.
    """
    require(
        Workdir(directory).result.exists(), field, directory, "the directory of a finished run, with result.json"
    )
    try:
        run = load(directory, trusted=trusted)
    except WorkdirError as error:
        raise WorkdirError(f"{field}: {error}") from error
    x = data.batch_of(example)
    try:
        apply = functools.partial(run.model.apply, train=False)
        shape = jax.eval_shape(lambda *a: apply(*a)[0], run.params, run.model_state, x).shape
    except Exception as error:
        accepted = f"a run whose network takes inputs of {data.leaf_shapes(example)}: {error}"
        require(False, field, directory, accepted)
        raise
    # Learning from outputs needs those of the task; taking parameters does not, as the head may be left out.
    fits = output_shapes is None or shape[1:] in output_shapes
    shapes = " or ".join(map(str, output_shapes or ()))
    require(fits, field, directory, f"a run with outputs {shapes} for an example and not {shape[1:]}")
    return Source(run.model, run.params, run.model_state, run.dataset.mean, run.dataset.std, run.result["digest"])


def match_inputs(source: Source, dataset: data.Dataset) -> models.Model:
    """The network of `source` for inputs that are normalized as `dataset` is."""
    ours, theirs = (dataset.mean, dataset.std), (source.mean, source.std)
    if jax.tree.structure(ours) == jax.tree.structure(theirs) and all(
        map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs))
    ):
        return source.model

    def apply(params: Params, model_state: ModelState, x: PyTree, **kwargs: object) -> tuple[jax.Array, ModelState]:
        # The student's inputs are normalized with its own data set's numbers, the teacher was trained with others:
        # the student's are taken back and the teacher's applied.
        x = data.normalize(data.denormalize(x, *ours), *jax.tree.map(jnp.asarray, theirs))
        return source.model.apply(params, model_state, x, **kwargs)

    return source.model._replace(apply=apply)


def compute_logits(source: Source, arrays: data.DeviceArrays) -> jax.Array:
    """The outputs of `source` for every example, normalized with its own numbers: float32 [examples, ...]."""

    def one_batch(inputs: PyTree) -> jax.Array:
        inputs = data.normalize(inputs, *jax.tree.map(jnp.asarray, (source.mean, source.std)))
        return source.model.apply(source.params, source.model_state, inputs, train=False)[0]

    return in_batches(one_batch, BATCH, arrays.inputs)
