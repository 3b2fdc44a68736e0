"""The optimizer step, top to bottom, and what it is made of."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt import data, intercept, keys, models, optim
from jopt.train import average
from jopt.train.batches import cross_entropy
from jopt.train.plan import StagePlan
from jopt.train.state import TrainState
from jopt.train.trainables import Trainables
from jopt.transform import ParamTransform

Metrics = dict[str, jax.Array]


class Parts(NamedTuple):
    """What a stage computes with, its numbers (tracers, mostly) put in.

    Attributes:
      plan: the stage.
      model: its network, as its methods make it compute.
      transform: what the network sees of the parameters.
      optimizer: how they move.
      trainables: the methods' own among what the optimizer moves.
      teacher: the functions of the teacher that computes along; None: its logits are in the data, or there is none.
    """

    plan: StagePlan
    model: models.Model
    transform: ParamTransform
    optimizer: optax.GradientTransformationExtraArgs
    trainables: Trainables
    teacher: models.Model | None

    @classmethod
    def of(cls, plan: StagePlan, teacher: models.Model | None = None) -> "Parts":
        """The parts of a stage."""
        optimizer = optim.build(plan.optimizer, max(plan.length.steps, 1), plan.layers)
        return cls(plan, plan.wrapped, plan.transform, optimizer, plan.trainables, teacher)

    def project(self, state: Any, tree: Any) -> Any:
        """A tree of the parameters' structure in the subspace that the transform holds."""
        return tree if self.transform.project is None else self.transform.project(state, tree)

    def constrain(self, state: Any, params: Any) -> Any:
        """The parameters after an optimizer step."""
        return params if self.transform.constrain is None else self.transform.constrain(state, params)


class Batch(NamedTuple):
    """What a step trains on.

    Attributes:
      inputs: float32 [batch, ...], augmented and normalized.
      labels: int32 [batch].
      teacher: the teacher's logits, float32 [batch, classes]; None without a teacher.
      features: the teacher's layers that the student matches, by path.
    """

    inputs: jax.Array
    labels: jax.Array
    teacher: jax.Array | None
    features: Mapping[str, jax.Array]


def step(
    p: Parts, key: jax.Array, arrays: data.Arrays, state: TrainState, row: jax.Array
) -> tuple[TrainState, Any]:
    """One optimizer step.

    Args:
      p: the stage's parts.
      key: the run's root key.
      arrays: the training part.
      state: before the step.
      row: int32 [batch], the examples.

    Returns:
      The state after it, and `(loss, correct predictions, parts of the loss)`.
    """
    batch = gather(p, key, arrays, state.step, row)
    gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)
    (value, (correct, model_state, parts)), grads = gradient(p, state.params, state, batch, key)
    masks = state.transform_state
    if p.transform.observe is not None:
        masks = p.transform.observe(masks, state.params, grads)
    # Gradients in the subspace keep every moment there; optimizers that mix entries leave it again.
    grads = p.project(masks, grads)
    updates, opt_state = p.optimizer.update(grads, state.opt_state, state.params)
    if optim.mixes_entries(p.plan.optimizer):
        updates = p.project(masks, updates)
    params = p.constrain(masks, optax.apply_updates(state.params, updates))
    params = p.trainables.keep_frozen(params, state.params)
    ema = state.ema
    if p.plan.ema_decay is not None:
        ema = average.moved(ema, params, p.plan.ema_decay, state.step + 1 - p.plan.length.start)
    return TrainState(state.step + 1, params, model_state, opt_state, masks, ema), (value, correct, parts)


def gather(p: Parts, key: jax.Array, arrays: data.Arrays, number: jax.Array, row: jax.Array) -> Batch:
    """The examples of `row`, augmented with the key of this step, and what the teacher makes of them."""
    inputs, labels = arrays.inputs[row], arrays.labels[row]
    inputs = data.augment(keys.at(key, "augment", number), inputs, p.plan.data)
    inputs = data.normalize(inputs, arrays.mean, arrays.std)
    if p.plan.distillation is None:
        return Batch(inputs, labels, None, {})
    if p.teacher is None:
        return Batch(inputs, labels, arrays.teacher[row], {})
    teacher = arrays.teacher
    run = intercept.capture(p.teacher.apply)
    (logits, _), calls = run(teacher["params"], teacher["model_state"], inputs, train=False)
    return Batch(inputs, labels, logits, {name: outputs[-1].output for name, outputs in calls.items()})


def loss(p: Parts, params: Any, state: TrainState, batch: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
    """The loss of a batch at `params`, and `(correct predictions, new model state, parts of the loss)`."""
    distillation = p.plan.distillation
    features = distillation is not None and bool(distillation.features)
    run = intercept.capture(p.model.apply) if features else p.model.apply
    seen = (p.transform.forward or p.transform.apply)(state.transform_state, params)
    outputs = run(seen, state.model_state, batch.inputs, train=True, key=keys.at(key, "dropout", state.step))
    (logits, model_state), calls = outputs if features else (outputs, {})
    losses = cross_entropy(logits, batch.labels, p.plan.label_smoothing)
    value, parts = losses.mean(), {}
    if distillation is not None:
        assert batch.teacher is not None
        layers = {name: outputs[-1].output for name, outputs in calls.items()}
        value, parts = distillation.objective(
            logits, losses, batch.teacher, student_features=layers, teacher_features=batch.features
        )
    return value, (jnp.sum(jnp.argmax(logits, -1) == batch.labels), model_state, parts)
