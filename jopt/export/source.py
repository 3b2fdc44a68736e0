"""Everything that an exporter needs of a finished run, as one object: its functions, their inputs, and its record.

The exporters read this and nothing else of `jopt.train`.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree, Shaped

from jopt import data, measure, models, prune
from jopt import task as tasks
from jopt.codec import MAX_BYTES
from jopt.config import changed_leaves, choice
from jopt.data import Dataset
from jopt.quantize import integer
from jopt.quantize.activations import KEY, ActivationMethod, split
from jopt.quantize.tensors import QTensor
from jopt.train import finished, packed
from jopt.train.display import command
from jopt.train.finished import Finished
from jopt.train.packed import integers, seen_before, storage
from jopt.train.plan import final_network
from jopt.train.state import digest, evaluated
from jopt.train.workdir import Workdir

Forward = Callable[[Any], jax.Array]
"""From a batch of inputs to outputs, such as logits."""

Outputs = Shaped[np.ndarray, "examples ..."]

NAMES = ("float", "masked", "shrunk", "integer")
WHAT = {
    "float": "the model before quantization: masked and shared, in float32",
    "masked": "the model as it was evaluated: masked, shared, quantization simulated in float32",
    "shrunk": "the masked model without the units that its zeros leave dead",
    "integer": "codes multiplied and added up in integers",
}
_BATCH = 512


class Unavailable(ValueError):
    """A run has no such function, and why."""


class ExportError(ValueError):
    """An export cannot be done: the file that it names was not written, nor those after it."""


class Parts(NamedTuple):
    """A model and what it computes with."""

    model: models.Model
    params: PyTree
    model_state: PyTree


class IntegerParts(NamedTuple):
    """What `jopt.quantize.integer.network` makes a function of."""

    model: models.Model
    params: PyTree
    model_state: PyTree
    weights: dict[str, QTensor]
    activations: ActivationMethod


class Agreement(NamedTuple):
    """How a function compares with the model as it was evaluated, on the test part.

    Attributes:
      examples: all of them.
      equal_predictions: decisions that both make alike, such as classes; None where the task has no decisions.
      largest_difference: of two outputs.
      value: the task's deciding metric, of the function.
      decisions: all of them: of an example one class, of a sequence one for each position.
    """

    examples: int
    equal_predictions: int | None
    largest_difference: float
    value: float
    decisions: int = 0

    @property
    def same(self) -> str:
        """How many decisions are equal, in words."""
        return "-" if self.equal_predictions is None else f"{self.equal_predictions:,} of {self.decisions:,}"


@dataclasses.dataclass(frozen=True)
class Source:
    """A finished run, as exporters see it.

    Attributes:
      run: the run.
      workdir: its directory.
      manifest: what its `manifest.json` holds.
      inputs: of the test part, normalized: an array, or a pytree of arrays.
      outputs: of the model as it was evaluated, for these inputs.
      given_model: the model that the run was given instead of `config.model`, if it was given one.
      trusted: whether the run's packed file may name modules to import.
      max_bytes: memory that its tensors may take.
    """

    run: Finished
    workdir: Workdir
    manifest: Mapping[str, Any]
    inputs: PyTree
    outputs: Outputs
    given_model: models.Model | None = None
    trusted: bool = False
    max_bytes: int = MAX_BYTES

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.run.config.name

    @property
    def dataset(self) -> data.Dataset:
        """What it was trained on; `mean` and `std` are what its inputs are normalized with."""
        return self.run.dataset

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, where its inputs are one array."""
        return self.inputs.shape[1:]

    @property
    def example(self) -> PyTree:
        """The inputs of one example, normalized, as shapes and dtypes."""
        return self.dataset.example

    @property
    def stored(self) -> PyTree:
        """The inputs of one example as the data set has them, as shapes and dtypes."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.dataset.test.inputs)

    @property
    def task(self) -> tasks.Task:
        """How its outputs meet targets."""
        return self.run.plan.task

    @property
    def metric(self) -> measure.Column:
        """The column of its task's deciding metric."""
        return measure.built_in(self.task)[0]

    @property
    def result(self) -> dict[str, Any]:
        """What its `result.json` holds."""
        return self.run.result

    @property
    def metadata(self) -> dict[str, str]:
        """What a file says about where it comes from."""
        return {"library": "jopt", "name": self.name, "digest": str(self.result["digest"])}

    @property
    def seed(self) -> int:
        """What its random numbers come from."""
        return self.run.config.seed

    @property
    def is_packed(self) -> bool:
        """Whether the bytes in its result are those of a packed file."""
        return self.run.config.pack

    @property
    def images(self) -> bool:
        """Whether its inputs are images."""
        inputs = self.dataset.test.inputs
        of_pixels = isinstance(inputs, np.ndarray) and inputs.ndim == 4 and inputs.dtype == np.uint8
        return of_pixels and getattr(self.run.config.data, "layout", "image") == "image"

    @property
    def network(self) -> str:
        """The name of the network in its config, which a model that it was given replaces."""
        return str(getattr(self._network, "name", type(self._network).__name__))

    @property
    def dtype(self) -> str | None:
        """What its network computes in; None: it is a model of its own, which does not say."""
        return None if self.given_model is not None else getattr(self._network, "dtype", None)

    @property
    def _network(self) -> models.Network:
        return final_network(self.run.config)

    @property
    def methods(self) -> set[str]:
        """The methods that act on the last stage, and 'distill' where any stage has a teacher."""
        stages = self.run.config.stages
        distilled = any(method.name == "distill" for stage in stages for method in stage.methods)
        return {*(a.method.name for a in self.run.plan.applied), *["distill"] * distilled}

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of its config that differ from their defaults, by path."""
        return dict(changed_leaves(self.run.config))

    @property
    def command(self) -> list[str]:
        """The command that made it; [] if there was none."""
        return command(self.manifest["argv"]) if self.manifest.get("argv") else []

    def function(self, name: str) -> Forward:
        """One of the functions of the run; see `function`."""
        return function(self.run, name)

    def float_parts(self) -> Parts:
        """What its 'float' function is made of; see `float_parts`."""
        return float_parts(self.run)

    def integer_parts(self) -> IntegerParts:
        """What its 'integer' function is made of; see `integer_parts`."""
        return integer_parts(self.run)

    def compare(self, call: Callable[[Any], Any], inputs: PyTree = None) -> Agreement:
        """Runs a function on the test part and compares its outputs with the model's.

        Args:
          call: from a batch to outputs.
          inputs: what it takes, in the order of the test part; None: normalized inputs.
        """
        return agreement(self.run, self.outputs, outputs_of(call, self.inputs if inputs is None else inputs))

    def packed(self) -> bytes:
        """The packed model: the run's own file, or packed now.

        Raises:
          ExportError: if the run's file is another model's.
        """
        # The run's own file is passed on byte by byte, so that what was reported is what is released.
        path = self.workdir.packed
        if not path.is_file():
            return packed.encode(packed.packing_of(self.run)).data
        file = packed.load(path, model=self.given_model, trusted=self.trusted, max_bytes=self.max_bytes)
        if digest({"params": file.params, "model_state": file.model_state}) != digest(
            {"params": self.run.params, "model_state": self.run.model_state}
        ):
            raise ExportError(f"{path} is not the packed model of this run: its parameters are others")
        return path.read_bytes()

    def unpacked(self, path: str | os.PathLike[str]) -> Forward:
        """The function of a packed file of this run."""
        file = packed.load(path, model=self.given_model, trusted=self.trusted, max_bytes=self.max_bytes)
        return jax.jit(_forward(file.model, file.params, file.model_state))


def load(
    directory: str | os.PathLike[str],
    *,
    model: models.Model | None = None,
    data: Dataset | None = None,
    trusted: bool = False,
    data_dir: str | None = None,
) -> Source:
    """Reads a finished run.

    Args:
      directory: the run's directory.
      model: the model that the run was given instead of `config.model`, if it was given one.
      data: the data set that the run was given as an object, if it was given one.
      trusted: lifts the rules for foreign configs (`docs/security.md`).
      data_dir: where its data are, instead of where its config says.

    Raises:
      WorkdirError: if there is no finished run.
    """
    # The reference is computed once: every format is compared with these outputs.
    run = finished.load(directory, model=model, dataset=data, trusted=trusted, data_dir=data_dir)
    workdir = Workdir(directory)
    inputs = normalized_test(run)
    expected = outputs_of(jax.jit(function(run, "masked")), inputs)
    return Source(run, workdir, workdir.load_json(workdir.manifest), inputs, expected, model, trusted)


def function(run: Finished, name: str) -> Forward:
    """One of the functions of a run, from normalized inputs to outputs, its parameters inside.

    Args:
      run: the finished run.
      name: 'float': the model before quantization: masked and shared, from the parameters that the optimizer moved,
        or their average where the run keeps one. 'masked': the model as it was evaluated, with which the others are
        compared; without quantization it is the float one. 'shrunk': the masked one without its dead units
        (`jopt.prune.shrink_all` of what is not 0), equal to it but for rounding; where inputs of layers are
        quantized, a constant that a dead unit leaves to the next bias is no longer rounded to that layer's codes.
        'integer': of a run that quantizes weights and activations, computed on their codes
        (`jopt.quantize.integer.network`).

    Returns:
      A function of a batch of inputs, as the network takes them, to float32 [batch, ...].

    Raises:
      ConfigError: for another name.
      Unavailable: if the run has no such function.
    """
    choice("function", name, NAMES)
    if name == "float":
        return _forward(*float_parts(run))
    if name == "masked":
        return _forward(run.model, run.params, run.model_state)
    return _forward(*_shrunk(run)) if name == "shrunk" else _integer(run)


def normalized_test(run: Finished) -> PyTree:
    """The test part's inputs as the model takes them: numbers normalized, in float32, and tokens as they are."""
    dataset = run.dataset
    trees = jax.tree.map(jax.numpy.asarray, (dataset.test.inputs, dataset.mean, dataset.std))
    return jax.tree.map(np.asarray, data.normalize(*trees))


def outputs_of(call: Callable[[Any], Any], inputs: PyTree) -> Outputs:
    """What `call` gives for many inputs, in batches of one size.

    Args:
      call: from a batch of inputs to an array [batch, ...].
      inputs: an array [examples, ...], or a pytree of such arrays.

    Example:
      >>> outputs_of(lambda x: x.sum(-1, keepdims=True), np.ones((3, 2), np.float32)).tolist()
      [[2.0], [2.0], [2.0]]
    """
    batches, count = [], data.examples_in(inputs)
    size = min(_BATCH, count)
    for start in range(0, count, _BATCH):
        # Another size would be another compilation: the last batch is filled up with the last example.
        rows = np.minimum(np.arange(start, start + size), count - 1)
        outputs = np.asarray(call(jax.tree.map(lambda x, rows=rows: x[rows], inputs)))
        batches.append(outputs[: count - start])
    return np.concatenate(batches)


def agreement(run: Finished, expected: Outputs, other: Outputs) -> Agreement:
    """Compares outputs of the test part with those of the model as it was evaluated.

    Args:
      run: the finished run.
      expected: outputs of its 'masked' function, [examples, ...].
      other: those of another.
    """
    task = run.plan.task
    ours, theirs = (task.predict(jax.numpy.asarray(outputs)) for outputs in (other, expected))
    return Agreement(
        len(other),
        None if ours is None or theirs is None else int((ours == theirs).sum()),
        float(np.abs(other.astype(np.float64) - expected).max()),
        tasks.value(task, task.deciding, other, run.dataset.test.targets, run.dataset.test.weights),
        0 if ours is None else int(np.prod(ours.shape)),
    )


def _forward(model: models.Model, params: PyTree, model_state: PyTree) -> Forward:
    # NumPy arrays on the host: constants of whatever program the function becomes a part of. As arguments, their
    # values would be unknown to the exporters, and as arrays on a device, tied to that device.
    host = jax.device_get((params, model_state))
    # Arrays of JAX in each trace only: a model may look up rows of them, which NumPy's do not let a trace do.
    return lambda x: model.apply(*jax.tree.map(jax.numpy.asarray, host), x, train=False)[0]


def _has_given_model(run: Finished) -> bool:
    # A stage that names a network replaces the given one.
    return run.plan.network is None


def _activations(run: Finished) -> ActivationMethod | None:
    """The method that quantizes the layers' inputs, if one does."""
    methods = [applied.method for applied in run.plan.wrapping]
    return next((method for method in methods if isinstance(method, ActivationMethod)), None)


def _bare(name: str, tree: PyTree) -> PyTree:
    """Parameters or model state without the ranges of activations."""
    return split(name, tree)[0] if isinstance(tree, dict) else tree


def float_parts(run: Finished) -> Parts:
    """What the 'float' function is made of.

    Raises:
      Unavailable: if the run has none.
    """
    params = run.params
    if any(applied.method.name == "quantize" for applied, _ in run.plan.transforms):
        # What the optimizer moved has been rounded by no quantizer, but is not masked and shared yet either.
        latent = evaluated(run.state).params
        params = seen_before(run.plan, "quantize", run.state.transform_state, latent)
    return Parts(run.plan.model, _bare("params", params), _bare("model_state", run.model_state))


def integer_parts(run: Finished) -> IntegerParts:
    """What the 'integer' function is made of.

    Raises:
      Unavailable: if the run has none.
    """
    activations = _activations(run)
    weights = integers(run.plan, storage(run.plan, run.state), run.params)
    if activations is None or not weights:
        raise Unavailable(
            f"no integer function: the run does not quantize its {'activations' if weights else 'weights'}"
        )
    return IntegerParts(run.plan.model, run.params, run.model_state, weights, activations)


def _shrunk(run: Finished) -> Parts:
    if _has_given_model(run):
        raise Unavailable(
            "no shrunk function: the run was given a model of its own, which jopt.prune.shrink takes as a module"
        )
    network = final_network(run.config)
    if not isinstance(network, models.ModelConfig):
        raise Unavailable(
            "no shrunk function: jopt.prune.shrink takes the module of a network of jopt's, and this run's network "
            f"is a {type(network).__name__}"
        )
    module = models.build(network)
    params, model_state = _bare("params", run.params), _bare("model_state", run.model_state)
    # Zeros of the parameters as evaluated, whatever made them: a mask, a codebook or a code of 0.
    x = data.batch_of(run.dataset.example)
    nonzero = jax.tree.map(lambda w: np.asarray(w) != 0, params)
    try:
        small = prune.shrink_all(module, params, nonzero, model_state=model_state, x=x)
    except ValueError as error:
        raise Unavailable(f"no shrunk function: {error}") from error
    model, params, model_state = models.from_linen(small.model), small.params, small.model_state
    # Layers keep their paths when units are removed, so the ranges of their inputs still fit.
    activations = _activations(run)
    if activations is not None:
        model = activations.wrap(model, frozen=True)
        params, model_state = (
            {**tree, KEY: old[KEY]} if KEY in old else tree
            for tree, old in ((params, run.params), (model_state or {}, run.model_state))
        )
    return Parts(model, params, model_state)


def _integer(run: Finished) -> Forward:
    parts = integer_parts(run)
    try:
        return integer.network(*parts)
    except ValueError as error:
        raise Unavailable(f"no integer function: {error}") from error
