"""The optimizer step, top to bottom, and what it is made of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from jopt import data, intercept, keys, mesh, models, optim
from jopt import task as tasks
from jopt.train.plan import StagePlan
from jopt.train.state import TrainState, move_average
from jopt.train.trainables import Trainables
from jopt.transform import ParamTransform, State
from jopt.typing import ModelState, Params, Updates

Metrics = dict[str, jax.Array]


class Parts(NamedTuple):
    """What a stage's programs compute with. Its numbers are tracers, mostly.

    Attributes:
      plan: the stage.
      model: its network, wrapped by its methods.
      transform: from the parameters to what the network sees.
      optimizer: how the parameters move.
      trainables: which of the parameters belong to methods.
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

    def project(self, state: State, tree: Updates) -> Updates:
        """A tree of the parameters' structure in the subspace that the transform holds."""
        return tree if self.transform.project is None else self.transform.project(state, tree)

    def constrain(self, state: State, params: Params) -> Params:
        """The parameters after an optimizer step."""
        if self.transform.constrain is None:
            return params
        # Projected again, since a constraint may be any function: one that shifts weights would revive pruned ones.
        return self.project(state, self.transform.constrain(state, params))


class Batch(NamedTuple):
    """What a step trains on.

    Attributes:
      inputs: [batch, ...], augmented and normalized.
      targets: [batch, ...].
      weights: of the losses, float32 [batch, ...]; (): all are 1.
      teacher: the teacher's outputs, float32 [batch, ...]; None without a teacher.
      features: the teacher's layers that the student matches, by path.
    """

    inputs: PyTree
    targets: PyTree
    weights: Float[Array, "batch ..."] | tuple[()]
    teacher: Float[Array, "batch ..."] | None
    features: Mapping[str, jax.Array]


def step(
    p: Parts, key: jax.Array, arrays: data.DeviceArrays, state: TrainState, row: PyTree, shards: int | None = None
) -> tuple[TrainState, tuple[jax.Array, PyTree, Metrics]]:
    """One optimizer step.

    Args:
      p: the stage's parts.
      key: the run's root key.
      arrays: the training part.
      state: before the step.
      row: the examples: int32 [batch], or a `data.Split` of them; with shards, those of the device, [shards,
        batch / shards].
      shards: parts of the batch, on all devices, whose sums are added in a fixed order; None: there is one.

    Returns:
      The state after it, and `(loss, statistics of the task's metrics, parts of the loss)`.
    """
    if shards is None:
        results, grads = gradient(p, key, arrays, state, row)
    else:
        results, grads = gradient_of_shards(p, key, arrays, state, row, shards)
    value, statistics, model_state, parts = results
    # Masks, codebooks and ranges are fixed within a segment: to choose them costs more than a step, and between
    # segments what was chosen can be checked and saved.
    masks = state.transform_state
    # Before the projection: growth criteria such as RigL's need the gradients of pruned weights.
    if p.transform.observe is not None:
        masks = p.transform.observe(masks, state.params, grads)
    # Gradients in the subspace (zero where pruned, equal where shared) keep every moment in it, so momentum and
    # weight decay cannot revive a pruned weight. No projection of the moments themselves is needed in each step.
    grads = p.project(masks, grads)
    updates, opt_state = p.optimizer.update(grads, state.opt_state, state.params)
    # Optimizers that compute an entry from others (Muon) leave the subspace again; for all the others a
    # second projection would cost a pass over the parameters and change nothing.
    if optim.mixes_entries(p.plan.optimizer):
        updates = p.project(masks, updates)
    params = p.constrain(masks, optax.apply_updates(state.params, updates))
    # Frozen trainables have a zero gradient, but decoupled weight decay would still move them: they are put back.
    params = p.trainables.keep_frozen(params, state.params)
    ema = state.ema
    # Of the parameters before masks and quantization, which `apply` then treats as it treats `params`.
    if p.plan.ema_decay is not None:
        ema = move_average(ema, params, p.plan.ema_decay, state.step + 1 - p.plan.length.start)
    return TrainState(state.step + 1, params, model_state, opt_state, masks, ema), (value, statistics, parts)


class Results(NamedTuple):
    """What the forward pass of a batch gives beside its gradient.

    Attributes:
      loss: the mean.
      statistics: of the task's metrics, by key.
      model_state: after it.
      parts: of the loss, by name.
    """

    loss: jax.Array
    statistics: PyTree
    model_state: ModelState
    parts: Metrics


def gradient(
    p: Parts, key: jax.Array, arrays: data.DeviceArrays, state: TrainState, row: PyTree
) -> tuple[Results, Updates]:
    """The gradient of the mean loss of the examples of `row`."""
    batch = gather(p, key, arrays, state.step, row)
    (value, (aux, _)), grads = jax.value_and_grad(loss, argnums=1, has_aux=True)(p, state.params, state, batch, key)
    return Results(value, *aux), grads


def gradient_of_shards(
    p: Parts, key: jax.Array, arrays: data.DeviceArrays, state: TrainState, rows: PyTree, shards: int
) -> tuple[Results, Updates]:
    """The gradient of the mean loss of a batch, from those of its shards, added in the order of the shards.

    Each shard is a batch of its own: its augmentation and dropout have its own key, and batch statistics are of its
    examples alone; what they leave in the model state is averaged. Losses count by their weights.

    Args:
      p: the stage's parts.
      key: the run's root key.
      arrays: the training part.
      state: before the step.
      rows: of the device's shards, [shards of the device, batch / shards].
      shards: of all devices.
    """
    count = jax.tree.leaves(rows)[0].shape[0]

    def weighted(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        value, (aux, weight) = loss(p, params, state, batch, key)
        return value * weight, (aux, weight)

    def one_shard(i: jax.Array) -> PyTree:
        row = jax.tree.map(lambda x: x[i], rows)
        # A stream of its own, so that no two shards draw the same numbers.
        shard_key = keys.at(key, "shard", jax.lax.axis_index(mesh.DATA) * count + i)
        batch = gather(p, shard_key, arrays, state.step, row)
        (value, (aux, weight)), grads = jax.value_and_grad(weighted, has_aux=True)(state.params, batch, shard_key)
        statistics, model_state, parts = aux
        parts = jax.tree.map(lambda x: x * weight, parts)
        return (value, weight, statistics, parts, grads), model_state

    # One after the other, so that a shard's program is the same however many of them a device has: a batch of
    # shards (`vmap`) would add within products in another order.
    sums, model_states = jax.lax.map(mesh.sealed(one_shard, state.step), jnp.arange(count, dtype=jnp.int32))
    value, weight, statistics, parts, grads = mesh.total(sums, shards)
    # Where nothing counts all sums are 0.
    share = 1 / jnp.where(weight > 0, weight, 1)
    value, parts, grads = jax.tree.map(lambda x: x * share.astype(x.dtype), (value, parts, grads))
    return Results(value, statistics, mesh.mean(model_states, shards), parts), grads


def gather(p: Parts, key: jax.Array, arrays: data.DeviceArrays, number: jax.Array, row: PyTree) -> Batch:
    """The examples of `row`, augmented with the key of this step, and the teacher's outputs for them."""
    if isinstance(row, data.Split):
        inputs, targets, weights = row
    else:
        inputs, targets, weights = jax.tree.map(lambda a: a[row], (arrays.inputs, arrays.targets, arrays.weights))
    # Augmented by (seed, step) and not by an iterator's state: a resumed run sees the same images.
    inputs = data.varied(p.plan.data, keys.at(key, "augment", number), inputs)
    inputs = data.normalize(inputs, arrays.mean, arrays.std)
    if p.plan.distillation is None:
        return Batch(inputs, targets, weights, None, {})
    # Computed for the whole training part before the stage, where the inputs never change: a row look-up here.
    if p.teacher is None:
        return Batch(inputs, targets, weights, arrays.teacher[row], {})
    teacher = arrays.teacher
    run = intercept.capture(p.teacher.apply)
    (outputs, _), calls = run(teacher["params"], teacher["model_state"], inputs, train=False)
    features = {name: of_layer[-1].features for name, of_layer in calls.items()}
    return Batch(inputs, targets, weights, outputs, features)


def loss(
    p: Parts, params: Params, state: TrainState, batch: Batch, key: jax.Array
) -> tuple[jax.Array, tuple[tuple[PyTree, ModelState, Metrics], jax.Array]]:
    """The loss of a batch at `params`; `(statistics of metrics, new model state, parts of the loss)`; its weight.

    The weight is the sum of the losses' weights, or 1 where they all are 1: that of the batch among others.
    """
    distillation = p.plan.distillation
    features = distillation is not None and bool(distillation.features)
    run = intercept.capture(p.model.apply) if features else p.model.apply
    # `params` are in the subspace already, so the cheaper `forward` gives what `apply` would.
    seen = (p.transform.forward or p.transform.apply)(state.transform_state, params)

    def forward(seen: Params, model_state: ModelState, inputs: PyTree, key: jax.Array) -> Any:
        return run(seen, model_state, inputs, train=True, key=key)

    if p.plan.remat == "products":
        forward = jax.checkpoint(forward, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
    result = forward(seen, state.model_state, batch.inputs, keys.at(key, "dropout", state.step))
    # Layers are intercepted only where they are matched: keeping every activation costs memory.
    (outputs, model_state), calls = result if features else (result, {})
    task = p.plan.task
    losses = task.training_losses(outputs, batch.targets)
    weights = tasks.total_weights(task, losses, batch.targets, batch.weights)
    value, parts = tasks.mean_loss(losses, weights), {}
    if distillation is not None:
        assert batch.teacher is not None
        layers = {name: of_layer[-1].features for name, of_layer in calls.items()}
        value, parts = distillation.objective(
            outputs,
            losses,
            batch.teacher,
            weights=weights,
            student_features=layers,
            teacher_features=batch.features,
        )
    if (sown := models.sown_total(model_state)) is not None:
        value = value + sown
    ones = jnp.ones(losses.shape, jnp.float32) if weights is None else weights
    statistics = {m.key: m.statistics(outputs, batch.targets, ones) for m in task.trained_metrics}
    weight = jnp.float32(1) if weights is None else weights.sum()
    return value, ((statistics, model_state, parts), weight)


def in_batches(fn: Callable[..., PyTree], size: int, *arrays: PyTree, count: jax.Array | None = None) -> PyTree:
    """Applies `fn` to slices of at most `size` rows, one after the other, and joins the results.

    The last slice is shorter: no row is padded, so no result has to be left out of a mean.

    Args:
      fn: applied to a slice of each of the arrays; each of its results has an axis of rows, of any length.
      size: rows of a slice.
      *arrays: pytrees of arrays with equally many rows.
      count: int32 [], may be traced: only slices with one of the first so many rows are computed, the results of
        the others are 0. The number of rows must then be at most, or a multiple of, `size`.

    Example:
      >>> in_batches(lambda x: 2 * x, 2, jnp.arange(5)).tolist()
      [0, 2, 4, 6, 8]
      >>> in_batches(lambda x: 2 * x, 2, jnp.arange(6), count=jnp.int32(3)).tolist()
      [0, 2, 4, 6, 0, 0]
    """
    rows = jax.tree.leaves(arrays)[0].shape[0]
    if count is not None and rows > size:
        return _in_counted_batches(fn, size, rows, arrays, count)
    full_rows = rows // size * size
    parts = []
    if full_rows:
        folded = jax.tree.map(lambda a: a[:full_rows].reshape(-1, size, *a.shape[1:]), arrays)
        results = jax.lax.map(lambda xs: fn(*xs), folded)
        parts.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results))
    if full_rows < rows:
        parts.append(fn(*jax.tree.map(lambda a: a[full_rows:], arrays)))
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


def _in_counted_batches(
    fn: Callable[..., PyTree], size: int, rows: int, arrays: tuple[PyTree, ...], count: jax.Array
) -> PyTree:
    assert rows % size == 0, (rows, size)
    slices = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), arrays)
    one = jax.eval_shape(fn, *slices)
    results = jax.tree.map(lambda x: jnp.zeros((rows // size * x.shape[0], *x.shape[1:]), x.dtype), one)

    def one_slice(i: jax.Array, results: PyTree) -> PyTree:
        parts = fn(*jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, i * size, size), arrays))
        return jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, i * part.shape[0], 0),
            results,
            parts,
        )

    # The bound is a number of the program: a part with fewer examples takes less time, and no other program.
    return jax.lax.fori_loop(jnp.int32(0), (count + size - 1) // size, one_slice, results)
