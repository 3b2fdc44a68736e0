"""Program: the pure functions that a run is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jopt import data, hyper, keys, models, optim
from jopt.train.config import Experiment, stage_optimizer
from jopt.train.state import TrainState
from jopt.transform import ParamTransform, identity

Metrics = dict[str, jax.Array]


class Program(NamedTuple):
    """The pure functions of one stage. Each can be jitted, lifted over a trial axis, or sharded.

    Attributes:
      init: `(key, hyper, previous=None) -> TrainState`, from `keys.root(seed)`. With `previous`, the state that
        the stage before ended in, its step, parameters, model state and, where it is of the same structure,
        transform state are taken over; the rest starts afresh.
      segment: `(state, hyper, data) -> (TrainState, metrics)`. So many optimizer steps; metrics are `loss` and
        `accuracy`, means over the segment's examples as they were trained on, and `first_bad_step`, the first
        step (0-based) whose loss was not finite, or -1.
      update: `(state, hyper, data) -> TrainState`. Updates masks, ranges and codebooks.
      evaluate: `(state, hyper, data) -> metrics`: `loss` and `accuracy`, means over all of `data`.
    """

    init: Callable[..., TrainState]
    segment: Callable[..., tuple[TrainState, Metrics]]
    update: Callable[..., TrainState]
    evaluate: Callable[..., Metrics]


def build(
    structure: hyper.Structure,
    *,
    stage: int = 0,
    steps: int,
    total_steps: int,
    batch_size: int,
    input_shape: tuple[int, ...],
    aligned: bool = False,
    model: Callable[[Experiment], models.Model] | None = None,
    transform: Callable[[Experiment, int], ParamTransform] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Program:
    """Builds the program of one stage from the structure of its experiment.

    Args:
      structure: `jopt.hyper.split(experiment)[0]`. The numbers come with every call, as `hyper`.
      stage: index of the stage.
      steps: optimizer steps in a segment.
      total_steps: optimizer steps in the stage, which schedules may need.
      batch_size: examples a step.
      input_shape: the shape of one example.
      aligned: promises that every segment begins with an epoch (see `jopt.data.indices`).
      model: what makes the model from the experiment; None is `jopt.models.model(experiment.model)`.
      transform: `(experiment, stage) -> ParamTransform`, what makes the stage's; None is the identity.
      mesh: a mesh with an axis `data`, over which each batch is split, everything else being the same on every
        device; None is one device.

    Returns:
      A `Program`.
    """
    make_model = model or (lambda config: models.model(config.model))
    make_transform = transform or (lambda config, stage: identity())

    def split_batch(x: jax.Array) -> jax.Array:
        if mesh is None or x.shape[0] % mesh.size:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec("data")))

    def replicate(tree: Any) -> Any:
        if mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))

    def parts(values: hyper.Hyper):
        config = hyper.join(structure, values)
        optimizer = optim.build(stage_optimizer(config, stage), total_steps)
        return config, make_model(config), optimizer, make_transform(config, stage)

    def init(key: jax.Array, values: hyper.Hyper, previous: TrainState | None = None) -> TrainState:
        config, net, optimizer, seen_as = parts(values)
        if previous is None:
            params, model_state = net.init(keys.stream(key, "init"), jnp.zeros((1, *input_shape), jnp.float32))
            step = jnp.int32(0)
        else:
            step, params, model_state = previous.step, previous.params, previous.model_state
        state = TrainState(
            step=step,
            params=params,
            model_state=model_state,
            opt_state=optimizer.init(params),
            transform_state=_carried(seen_as.init(params), previous),
            ema=() if config.ema_decay is None else jax.tree.map(jnp.copy, params),
        )
        return replicate(state)

    def segment(state: TrainState, values: hyper.Hyper, arrays: data.Arrays):
        config, net, optimizer, seen_as = parts(values)
        key = keys.root(values["seed"])
        rows = data.indices(key, state.step, steps, batch_size, arrays.labels.shape[0], aligned=aligned)

        def loss_of(params, state: TrainState, inputs, labels):
            logits, model_state = net.apply(
                seen_as.apply(state.transform_state, params),
                state.model_state,
                inputs,
                train=True,
                key=keys.at(key, "dropout", state.step),
            )
            losses = cross_entropy(logits, labels, config.label_smoothing)
            return losses.mean(), (jnp.sum(jnp.argmax(logits, -1) == labels), model_state)

        def one_step(state: TrainState, row: jax.Array):
            row = split_batch(row)
            inputs, labels = arrays.inputs[row], arrays.labels[row]
            inputs = data.augment(keys.at(key, "augment", state.step), inputs, config.data)
            inputs = data.normalize(inputs, arrays.mean, arrays.std)
            (loss, (correct, model_state)), grads = jax.value_and_grad(loss_of, has_aux=True)(
                state.params, state, inputs, labels
            )
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            ema = state.ema
            if config.ema_decay is not None:
                ema = optax.incremental_update(params, state.ema, 1 - config.ema_decay)
            state = TrainState(state.step + 1, params, model_state, opt_state, state.transform_state, ema)
            return state, (loss, correct)

        first = state.step
        state, (losses, correct) = jax.lax.scan(one_step, state, rows)
        bad = ~jnp.isfinite(losses)
        metrics = {
            "loss": losses.mean(),
            "accuracy": correct.sum() / (steps * batch_size),
            "first_bad_step": jnp.where(bad.any(), first + jnp.argmax(bad).astype(jnp.int32), -1),
        }
        return replicate((state, metrics))

    def update(state: TrainState, values: hyper.Hyper, arrays: data.Arrays) -> TrainState:
        del arrays
        *_, seen_as = parts(values)
        key = keys.at(keys.root(values["seed"]), "update", state.step)
        masks = seen_as.update(state.transform_state, state.params, step=state.step, key=key)
        return replicate(state._replace(transform_state=masks))

    def evaluate(state: TrainState, values: hyper.Hyper, arrays: data.Arrays) -> Metrics:
        config, net, _, seen_as = parts(values)
        params = seen_as.apply(state.transform_state, state.params if config.ema_decay is None else state.ema)

        def one_batch(inputs: jax.Array, labels: jax.Array):
            inputs = data.normalize(split_batch(inputs), arrays.mean, arrays.std)
            logits, _ = net.apply(params, state.model_state, inputs, train=False)
            return cross_entropy(logits, labels), jnp.argmax(logits, -1) == labels

        losses, correct = in_batches(one_batch, EVALUATION_BATCH, arrays.inputs, arrays.labels)
        return replicate({"loss": losses.mean(), "accuracy": correct.sum() / correct.shape[0]})

    return Program(init, segment, update, evaluate)


def _carried(fresh: Any, previous: TrainState | None) -> Any:
    """The transform's state of the stage before, if it is one of the same kind: masks outlive their stage."""
    if previous is None or jax.tree.structure(fresh) != jax.tree.structure(previous.transform_state):
        return fresh
    old, new = (
        [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(tree)]
        for tree in (previous.transform_state, fresh)
    )
    return previous.transform_state if old == new else fresh


EVALUATION_BATCH = 512


def in_batches(fn: Callable[..., Any], size: int, *arrays: jax.Array) -> Any:
    """Applies `fn` to slices of at most `size` rows, one after the other, and joins what it gives.

    The last slice is shorter: no row is padded, so that nothing has to be weighted out again.

    Example:
      >>> in_batches(lambda x: 2 * x, 2, jnp.arange(5)).tolist()
      [0, 2, 4, 6, 8]
    """
    rows = arrays[0].shape[0]
    whole = rows // size * size
    parts = []
    if whole:
        folded = [a[:whole].reshape(-1, size, *a.shape[1:]) for a in arrays]
        out = jax.lax.map(lambda xs: fn(*xs), tuple(folded))
        parts.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out))
    if whole < rows:
        parts.append(fn(*(a[whole:] for a in arrays)))
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: Any = None) -> jax.Array:
    """Softmax cross-entropy of each example, in nats.

    With smoothing a, the target is (1 - a) one_hot + a / classes (Szegedy et al. 2016, equation in section 7).

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch].
      smoothing: the share a, or None.

    Returns:
      float32 [batch].

    Example:
      >>> float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0]) == float(jnp.log(4.0))
      True
    """
    log_p = jax.nn.log_softmax(logits)
    # A product with the one-hot target, whose gradient fuses; that of an indexed pick is a scatter.
    picked = jnp.sum(log_p * jax.nn.one_hot(labels, logits.shape[-1], dtype=log_p.dtype), axis=-1)
    if smoothing is None:
        return -picked
    return -(1 - smoothing) * picked - smoothing * log_p.mean(-1)
