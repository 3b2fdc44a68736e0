"""Everything that an exporter needs of a finished run, as one object: its functions, their inputs, and its record.

The exporters read this and nothing else of `jopt.train`.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PyTree

from jopt import data, models, prune
from jopt.codec import MAX_BYTES
from jopt.config import changed_leaves, choice
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
"""From a batch of inputs to logits."""

Logits = Float[np.ndarray, "examples classes"]

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
      equal_predictions: those for which both predict the same class.
      largest_difference: of two logits.
      accuracy: of the function.
    """

    examples: int
    equal_predictions: int
    largest_difference: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Source:
    """A finished run, as exporters see it.

    Attributes:
      run: the run.
      workdir: its directory.
      manifest: what its `manifest.json` holds.
      inputs: of the test part, normalized.
      logits: of the model as it was evaluated, for these inputs.
      given_model: the model that the run was given instead of `config.model`, if it was given one.
      trusted: whether the run's packed file may name modules to import.
      max_bytes: memory that its tensors may take.
    """

    run: Finished
    workdir: Workdir
    manifest: Mapping[str, Any]
    inputs: np.ndarray
    logits: Logits
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
        """The shape of one example."""
        return self.inputs.shape[1:]

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
        return isinstance(self.dataset.test.inputs, np.ndarray) and self.dataset.test.inputs.ndim == 4

    @property
    def network(self) -> str:
        """The name of the network in its config, which a model that it was given replaces."""
        return self._network.name

    @property
    def dtype(self) -> str | None:
        """What its network computes in; None: it is a model of its own, which does not say."""
        return None if self.given_model is not None else self._network.dtype

    @property
    def _network(self) -> models.ModelConfig:
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

    def compare(self, call: Callable[[Any], Any], inputs: np.ndarray | None = None) -> Agreement:
        """Runs a function on the test part and compares its logits with the model's.

        Args:
          call: from a batch to logits.
          inputs: what it takes, in the order of the test part; None: normalized inputs.
        """
        return agreement(self.run, self.logits, logits(call, self.inputs if inputs is None else inputs))

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
        return jax.jit(lambda x: file.model.apply(file.params, file.model_state, x, train=False)[0])


def load(
    directory: str | os.PathLike[str],
    *,
    model: models.Model | None = None,
    trusted: bool = False,
    data_dir: str | None = None,
) -> Source:
    """Reads a finished run.

    Args:
      directory: the run's directory.
      model: the model that the run was given instead of `config.model`, if it was given one.
      trusted: lifts the rules for foreign configs (`docs/security.md`).
      data_dir: where its data are, instead of where its config says.

    Raises:
      WorkdirError: if there is no finished run.
    """
    # The reference is computed once: every format is compared with these logits.
    run, workdir = finished.load(directory, model=model, trusted=trusted, data_dir=data_dir), Workdir(directory)
    inputs = normalized_test(run)
    expected = logits(jax.jit(function(run, "masked")), inputs)
    return Source(run, workdir, workdir.load_json(workdir.manifest), inputs, expected, model, trusted)


def function(run: Finished, name: str) -> Forward:
    """One of the functions of a run, from normalized inputs to logits, its parameters inside.

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
      A function of float32 [batch, ...] to float32 [batch, classes].

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


def normalized_test(run: Finished) -> np.ndarray:
    """The test part's inputs as the model takes them: float32, normalized."""
    dataset = run.dataset
    return np.asarray(data.normalize(*map(jax.numpy.asarray, (dataset.test.inputs, dataset.mean, dataset.std))))


def logits(call: Callable[[Any], Any], inputs: np.ndarray) -> Logits:
    """What `call` gives for many inputs, in batches of one size.

    Example:
      >>> logits(lambda x: x.sum(-1, keepdims=True), np.ones((3, 2), np.float32)).tolist()
      [[2.0], [2.0], [2.0]]
    """
    batches = []
    for start in range(0, len(inputs), _BATCH):
        batch = inputs[start : start + _BATCH]
        # Another size would be another compilation: the last batch is filled up with its own last example.
        full = np.pad(batch, [(0, min(_BATCH, len(inputs)) - len(batch)), *[(0, 0)] * (batch.ndim - 1)], "edge")
        batches.append(np.asarray(call(full))[: len(batch)])
    return np.concatenate(batches)


def agreement(run: Finished, expected: Logits, other: Logits) -> Agreement:
    """Compares logits of the test part with those of the model as it was evaluated.

    Args:
      run: the finished run.
      expected: logits of its 'masked' function, [examples, classes].
      other: those of another.
    """
    classes = other.argmax(-1)
    return Agreement(
        len(other),
        int((classes == expected.argmax(-1)).sum()),
        float(np.abs(other.astype(np.float64) - expected).max()),
        float((classes == run.dataset.test.targets).mean()),
    )


def _forward(model: models.Model, params: PyTree, model_state: PyTree) -> Forward:
    # NumPy arrays on the host: constants of whatever program the function becomes a part of. As arguments, their
    # values would be unknown to the exporters, and as arrays on a device, tied to that device.
    params, model_state = jax.device_get((params, model_state))
    return lambda x: model.apply(params, model_state, x, train=False)[0]


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
    module = models.build(final_network(run.config))
    params, model_state = _bare("params", run.params), _bare("model_state", run.model_state)
    # Zeros of the parameters as evaluated, whatever made them: a mask, a codebook or a code of 0.
    x = jax.ShapeDtypeStruct((1, *run.dataset.test.inputs.shape[1:]), np.float32)
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
