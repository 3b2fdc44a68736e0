"""The functions of a finished run that can leave it: float, masked, shrunk and integer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jopt import data, models, prune, quantize
from jopt.config import choice
from jopt.quantize import integer
from jopt.quantize.activations import KEY, split
from jopt.quantize.tensors import QTensor
from jopt.train.codes import integers, seen_before, storage
from jopt.train.finished import Finished
from jopt.train.state import evaluated

Forward = Callable[[Any], jax.Array]

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


class Parts(NamedTuple):
    """A model and what it computes with."""

    model: models.Model
    params: Any
    model_state: Any


class IntegerParts(NamedTuple):
    """What `jopt.quantize.integer.network` makes a function of."""

    model: models.Model
    params: Any
    model_state: Any
    weights: dict[str, QTensor]
    activations: quantize.ActivationConfig


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


def function(run: Finished, name: str) -> Forward:
    """One of the functions of a run, from normalized inputs to logits, its parameters inside.

    Args:
      run: the finished run.
      name: 'float': the model before quantization: masked and shared, from the parameters that the optimizer moved,
        or their average where the run keeps one. 'masked': the model as it was evaluated, what the others are held
        against; without quantization it is the float one. 'shrunk': the masked one without its dead units
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


def logits(call: Callable[[Any], Any], inputs: np.ndarray) -> np.ndarray:
    """What `call` gives for many inputs, in batches of one size.

    Example:
      >>> logits(lambda x: x.sum(-1, keepdims=True), np.ones((3, 2), np.float32)).tolist()
      [[2.0], [2.0], [2.0]]
    """
    out = []
    for start in range(0, len(inputs), _BATCH):
        batch = inputs[start : start + _BATCH]
        # Another size would be another compilation: the last batch is filled up with its own last example.
        full = np.pad(batch, [(0, min(_BATCH, len(inputs)) - len(batch)), *[(0, 0)] * (batch.ndim - 1)], "edge")
        out.append(np.asarray(call(full))[: len(batch)])
    return np.concatenate(out)


def agreement(run: Finished, expected: np.ndarray, found: np.ndarray) -> Agreement:
    """Compares logits of the test part with those of the model as it was evaluated.

    Args:
      run: the finished run.
      expected: logits of its 'masked' function, [examples, classes].
      found: those of another.
    """
    classes = found.argmax(-1)
    return Agreement(
        len(found),
        int((classes == expected.argmax(-1)).sum()),
        float(np.abs(found.astype(np.float64) - expected).max()),
        float((classes == run.dataset.test.labels).mean()),
    )


def _forward(model: models.Model, params: Any, model_state: Any) -> Forward:
    # NumPy arrays on the host: constants of whatever program the function becomes a part of.
    params, model_state = jax.device_get((params, model_state))
    return lambda x: model.apply(params, model_state, x, train=False)[0]


def _own_model(run: Finished) -> bool:
    return run.plan.network is None


def _plain(run: Finished) -> models.Model:
    """The model without quantized activations."""
    return run.plan.model


def _activations(run: Finished) -> Any:
    """The method that quantizes the layers' inputs, if one does."""
    return next((applied.method for applied in run.plan.wrapping if applied.method.name == "activations"), None)


def _bare(name: str, tree: Any) -> Any:
    """Parameters or model state without the ranges of activations."""
    return split(name, tree)[0] if isinstance(tree, dict) else tree


def float_parts(run: Finished) -> Parts:
    """What the 'float' function is made of.

    Raises:
      Unavailable: if the run has none.
    """
    params = run.params
    if any(applied.method.name == "quantize" for applied, _ in run.plan.transforms):
        latent = evaluated(run.state).params
        params = seen_before(run.plan, "quantize", run.state.transform_state, latent)
    return Parts(_plain(run), _bare("params", params), _bare("model_state", run.model_state))


def integer_parts(run: Finished) -> IntegerParts:
    """What the 'integer' function is made of.

    Raises:
      Unavailable: if the run has none.
    """
    part = _activations(run)
    found = integers(run.plan, storage(run.plan, run.state), run.params)
    if part is None or not found:
        what = "weights" if not found else "activations"
        raise Unavailable(f"no integer function: the run does not quantize its {what}")
    return IntegerParts(_plain(run), run.params, run.model_state, found, part)


def _shrunk(run: Finished) -> Parts:
    if _own_model(run):
        raise Unavailable(
            "no shrunk function: the run was given a model of its own, which jopt.prune.shrink takes as a module"
        )
    assert run.plan.network is not None
    module = models.build(run.plan.network)
    params, model_state = _bare("params", run.params), _bare("model_state", run.model_state)
    x = jax.ShapeDtypeStruct((1, *run.dataset.test.inputs.shape[1:]), np.float32)
    kept = jax.tree.map(lambda w: np.asarray(w) != 0, params)
    try:
        small = prune.shrink_all(module, params, kept, model_state=model_state, x=x)
    except ValueError as error:
        raise Unavailable(f"no shrunk function: {error}") from error
    model, params, model_state = models.from_linen(small.model), small.params, small.model_state
    part = _activations(run)
    if part is not None:
        model = part.wrap(model, frozen=True)
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
