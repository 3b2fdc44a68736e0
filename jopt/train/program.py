"""Program: the pure functions that a run is made of."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jopt import clip, data, distill, hyper, intercept, keys, models, optim, quantize
from jopt.layers import Layers
from jopt.train import average, compression
from jopt.train.batches import cross_entropy, in_batches
from jopt.train.config import Experiment, network, new_network, stage_optimizer
from jopt.train.state import TrainState, Variables, evaluated, merge
from jopt.transform import ParamTransform, project_moments

Metrics = dict[str, jax.Array]
EVALUATION_BATCH = 512


class Program(NamedTuple):
    """The pure functions of one stage. Each can be jitted, lifted over a trial axis, or sharded.

    Attributes:
      init: `(key, hyper, previous=None) -> TrainState`, from `keys.root(seed)`. With `previous`, the state that
        the stage before ended in, its step, parameters and model state are taken over, and the state of the
        transforms that are held; the rest starts afresh.
      segment: `(state, hyper, data) -> (TrainState, metrics)`. So many optimizer steps; metrics are `loss` and
        `accuracy`, means over the segment's examples as they were trained on, `first_bad_step`, the first step
        (0-based) whose loss was not finite, or -1, and the parts of the loss where there is a teacher. At its end
        the moving average gets the batch statistics of its own parameters.
      update: `(state, hyper, data) -> TrainState`. Updates masks, ranges and codebooks; in the stage's first call
        also calibrates activations and re-estimates batch statistics.
      evaluate: `(state, hyper, data) -> metrics`: `loss` and `accuracy`, means over all of `data`.
      rewind: `(state, hyper, origin=None) -> TrainState`. Parameters and model state become those of `origin`, or
        what `Stage.start` draws, under the masks that were chosen; the optimizer has seen nothing.
      predict: `(state, hyper, data) -> logits`, float32 [examples, classes].
      seen: `(state, hyper) -> Variables`, what the model computes with when it is evaluated: `state.evaluated`,
        the parameters masked, shared and quantized.
    """

    init: Callable[..., TrainState]
    segment: Callable[..., tuple[TrainState, Metrics]]
    update: Callable[..., TrainState]
    evaluate: Callable[..., Metrics]
    rewind: Callable[..., TrainState]
    predict: Callable[..., jax.Array]
    seen: Callable[..., Variables]


class Origin(NamedTuple):
    """Where a stage's parameters come from, if not from the stage before."""

    params: Any
    model_state: Any


class _Parts(NamedTuple):
    """What a stage is made of, with the numbers (tracers, mostly) put in."""

    config: Experiment
    plain_model: models.Model
    model: models.Model
    optimizer: optax.GradientTransformationExtraArgs
    transform: ParamTransform
    constrain: Callable[[Any], Any]


def build(
    structure: hyper.Structure,
    *,
    stage: int = 0,
    begin: int = 0,
    steps: int,
    total_steps: int,
    last_update: int | None = None,
    batch_size: int,
    input_shape: tuple[int, ...],
    aligned: bool = False,
    model: Callable[[Experiment], models.Model] | None = None,
    transform: Callable[[Experiment, int], ParamTransform] | None = None,
    teacher: Callable[[Experiment], models.Model] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    layers: Layers | None = None,
) -> Program:
    """Builds the program of one stage from the structure of its experiment.

    Args:
      structure: `jopt.hyper.split(experiment)[0]`. The numbers come with every call, as `hyper`.
      stage: index of the stage.
      begin: the step at which the stage starts.
      steps: optimizer steps in a segment.
      total_steps: optimizer steps in the stage, which schedules may need.
      last_update: the step of the stage's last update, which pruning may need; None: not known.
      batch_size: examples a step.
      input_shape: the shape of one example.
      aligned: promises that every segment begins with an epoch (see `jopt.data.indices`).
      model: what makes the model from the experiment; None is what the config names for this stage.
      transform: `(experiment, stage) -> ParamTransform`, what makes the stage's; None is what the config names.
      teacher: what makes the teacher's functions from the experiment, where its outputs are not in the data.
      mesh: a mesh with an axis `data`, over which each batch is split, everything else being the same on every
        device; None is one device.
      layers: what the stage's model says about its parameters; None: it is traced for it.

    Returns:
      A `Program`.
    """
    if layers is None:
        config = structure.template
        layers = compression.layers_of(config, stage, input_shape, None if model is None else model(config))

    def split_batch(x: jax.Array) -> jax.Array:
        if mesh is None or x.shape[0] % mesh.size:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec("data")))

    def replicate(tree: Any) -> Any:
        if mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))

    def parts(values: hyper.Hyper) -> _Parts:
        config = hyper.join(structure, values)
        own = None if model is None else model(config)
        acting = compression.acting(config, stage)
        limits = acting["clip"].config if "clip" in acting else None
        return _Parts(
            config,
            compression.plain_model(config, stage, own),
            compression.model(config, stage, own),
            optim.build(stage_optimizer(config, stage), max(total_steps, 1), layers),
            compression.transform(
                config, stage, begin=begin, steps=total_steps, last_update=last_update, known=layers
            )
            if transform is None
            else transform(config, stage),
            (lambda params: params)
            if limits is None
            else compression.beside(functools.partial(clip.constrain, limits, layers=layers)),
        )

    def fresh(net: models.Model, key: jax.Array, config: Experiment) -> tuple[Any, Any]:
        here = config.stages[stage]
        name = f"init/{here.name}" if here.start == "random" else "init"
        return net.init(keys.stream(key, name), jnp.zeros((1, *input_shape), jnp.float32))

    def settle(p: _Parts, state: TrainState, params: Any, model_state: Any) -> TrainState:
        """The state with these parameters, in the transform's subspace, and moments that have seen nothing."""
        params = p.constrain(_projected(p.transform, state.transform_state, params))
        opt_state = project_moments(p.transform, state.transform_state, p.optimizer, p.optimizer.init(params))
        ema = () if p.config.ema_decay is None else average.begun(params, model_state)
        return state._replace(params=params, model_state=model_state, opt_state=opt_state, ema=ema)

    def recalibrated(p: _Parts, state: TrainState, which: Variables, key: jax.Array, inputs: jax.Array) -> Any:
        """The model state of `which` with batch statistics from whole batches of `inputs`."""
        inputs = inputs[: inputs.shape[0] // batch_size * batch_size]
        batches = inputs.reshape(-1, batch_size, *inputs.shape[1:])
        seen = p.transform.apply(state.transform_state, which.params)
        return quantize.recalibrate(p.model, seen, which.model_state, batches, key=keys.stream(key, "dropout"))

    def init(key: jax.Array, values: hyper.Hyper, previous: TrainState | None = None) -> TrainState:
        p = parts(values)
        params, model_state = fresh(p.model, key, p.config)
        if previous is None:
            state = TrainState(jnp.int32(0), params, model_state, (), p.transform.init(params), ())
            return replicate(settle(p, state, params, model_state))
        if not new_network(p.config, stage):
            params, model_state = merge(params, previous.params), merge(model_state, previous.model_state)
        masks = p.transform.init(params)
        if transform is None:
            masks = compression.carried(p.config, stage, masks, previous.transform_state)
        elif _alike(masks, previous.transform_state):
            masks = previous.transform_state
        state = previous._replace(transform_state=masks)
        return replicate(settle(p, state, params, model_state))

    def rewind(state: TrainState, values: hyper.Hyper, origin: Origin | None = None) -> TrainState:
        p = parts(values)
        params, model_state = fresh(p.model, keys.root(values["seed"]), p.config)
        if origin is not None:
            params, model_state = merge(params, origin.params), merge(model_state, origin.model_state)
        # The ranges that were chosen for activations stay, as masks do.
        params = compression.with_ranges(params, state.params)
        model_state = compression.with_ranges(model_state, state.model_state)
        return replicate(settle(p, state, params, model_state))

    def segment(state: TrainState, values: hyper.Hyper, arrays: data.Arrays):
        p = parts(values)
        key = keys.root(values["seed"])
        rows = data.indices(key, state.step, steps, batch_size, arrays.labels.shape[0], aligned=aligned)
        see = p.transform.forward or p.transform.apply
        lesson = p.config.stages[stage].distill

        def loss_of(params, state: TrainState, inputs, labels, taught):
            run = p.model.apply if lesson is None or not lesson.features else intercept.capture(p.model.apply)
            out = run(
                see(state.transform_state, params),
                state.model_state,
                inputs,
                train=True,
                key=keys.at(key, "dropout", state.step),
            )
            (logits, model_state), calls = out if run is not p.model.apply else (out, {})
            losses = cross_entropy(logits, labels, p.config.label_smoothing)
            loss, more = losses.mean(), {}
            if lesson is not None:
                outputs = {name: own[-1].output for name, own in calls.items()}
                known, theirs = taught
                loss, more = distill.objective(
                    lesson, logits, losses, known, student_features=outputs, teacher_features=theirs
                )
            return loss, (jnp.sum(jnp.argmax(logits, -1) == labels), model_state, more)

        def one_step(state: TrainState, row: jax.Array):
            row = split_batch(row)
            inputs, labels = arrays.inputs[row], arrays.labels[row]
            inputs = data.augment(keys.at(key, "augment", state.step), inputs, p.config.data)
            inputs = data.normalize(inputs, arrays.mean, arrays.std)
            own_teacher = None if teacher is None else teacher(p.config)
            taught = _lesson(lesson, own_teacher, arrays.teacher, row, inputs)
            (loss, (correct, model_state, more)), grads = jax.value_and_grad(loss_of, has_aux=True)(
                state.params, state, inputs, labels, taught
            )
            masks = state.transform_state
            if p.transform.observe is not None:
                masks = p.transform.observe(masks, state.params, grads)
            grads = _projected(p.transform, masks, grads)
            updates, opt_state = p.optimizer.update(grads, state.opt_state, state.params)
            if stage_optimizer(p.config, stage).name in optim.MIXING_NAMES:
                updates = _projected(p.transform, masks, updates)
            params = p.constrain(optax.apply_updates(state.params, updates))
            ema = state.ema
            if p.config.ema_decay is not None:
                ema = average.moved(ema, params, p.config.ema_decay, state.step + 1 - begin)
            return TrainState(state.step + 1, params, model_state, opt_state, masks, ema), (loss, correct, more)

        first = state.step
        state, (losses, correct, more) = jax.lax.scan(one_step, state, rows)
        if p.config.ema_decay is not None:
            key = keys.at(key, "average", state.step)
            inputs, _ = _drawn(arrays, key, "recalibrate", average.examples(batch_size))
            # All that is no batch statistic (ranges of activations, counts) is as training left it.
            ema = Variables(state.ema.params, state.model_state)
            state = state._replace(ema=ema._replace(model_state=recalibrated(p, state, ema, key, inputs)))
        bad = ~jnp.isfinite(losses)
        metrics = {
            "loss": losses.mean(),
            "accuracy": correct.sum() / (steps * batch_size),
            "first_bad_step": jnp.where(bad.any(), first + jnp.argmax(bad).astype(jnp.int32), -1),
            **{name: value.mean() for name, value in more.items()},
        }
        return replicate((state, metrics))

    def update(state: TrainState, values: hyper.Hyper, arrays: data.Arrays) -> TrainState:
        p = parts(values)
        here = p.config.stages[stage]
        key = keys.at(keys.root(values["seed"]), "update", state.step)
        inputs, labels = _drawn(arrays, key, "calibration", here.calibration_examples)
        now = p.transform.apply(state.transform_state, state.params)
        more, grads = {}, None
        if "grads" in p.transform.needs:
            # Of the weights that the model sees, the pruned ones included: what they would do if they grew back.
            grads = jax.grad(
                lambda seen: cross_entropy(
                    p.model.apply(seen, state.model_state, inputs, train=False)[0], labels
                ).mean()
            )(now)
        if "layers" in p.transform.needs:
            activation = models.activation(network(p.config, stage))
            more["layers"] = intercept.statistics(
                p.model.apply, now, state.model_state, inputs, activation=activation
            )
        more |= {"step": state.step, "grads": grads, "key": keys.stream(key, "choice")}
        masks = p.transform.update(state.transform_state, state.params, **more)
        params, ema = _projected(p.transform, masks, state.params), state.ema
        if p.config.ema_decay is not None:
            ema = ema._replace(params=_projected(p.transform, masks, ema.params))
        opt_state = project_moments(p.transform, masks, p.optimizer, state.opt_state)
        state = state._replace(params=params, ema=ema, opt_state=opt_state, transform_state=masks)
        return replicate(
            jax.lax.cond(state.step == begin, lambda s: at_start(p, s, key, arrays), lambda s: s, state)
        )

    def at_start(p: _Parts, state: TrainState, key: jax.Array, arrays: data.Arrays) -> TrainState:
        """What happens once, when the stage's masks are chosen: activations calibrated, batch statistics anew."""
        here = p.config.stages[stage]
        if here.activations is not None:
            inputs, _ = _drawn(arrays, key, "activations", here.activations.examples)
            seen = p.transform.apply(state.transform_state, state.params)
            params, model_state = quantize.calibrate(
                p.plain_model, here.activations, state.params, state.model_state, inputs, seen=seen
            )
            state = state._replace(params=params, model_state=model_state)
        if here.recalibrate:
            inputs, _ = _drawn(arrays, key, "recalibrate", here.recalibrate * batch_size)
            which = Variables(state.params, state.model_state)
            state = state._replace(model_state=recalibrated(p, state, which, key, inputs))
        if p.config.ema_decay is not None:
            # No step has been taken: the average still is the parameters, and starts from what they have now.
            state = state._replace(ema=average.begun(state.params, state.model_state))
        return state

    def seen(state: TrainState, values: hyper.Hyper) -> Variables:
        which = evaluated(state)
        return which._replace(params=parts(values).transform.apply(state.transform_state, which.params))

    def predict(state: TrainState, values: hyper.Hyper, arrays: data.Arrays) -> jax.Array:
        p, (params, model_state) = parts(values), seen(state, values)

        def one_batch(inputs: jax.Array):
            inputs = data.normalize(split_batch(inputs), arrays.mean, arrays.std)
            return p.model.apply(params, model_state, inputs, train=False)[0]

        return replicate(in_batches(one_batch, EVALUATION_BATCH, arrays.inputs))

    def evaluate(state: TrainState, values: hyper.Hyper, arrays: data.Arrays) -> Metrics:
        logits = predict(state, values, arrays)
        losses, correct = cross_entropy(logits, arrays.labels), jnp.argmax(logits, -1) == arrays.labels
        return replicate({"loss": losses.mean(), "accuracy": correct.sum() / correct.shape[0]})

    return Program(init, segment, update, evaluate, rewind, predict, seen)


def _projected(transform: ParamTransform, state: Any, tree: Any) -> Any:
    return tree if transform.project is None else transform.project(state, tree)


def _drawn(arrays: data.Arrays, key: jax.Array, name: str, examples: int) -> tuple[jax.Array, jax.Array]:
    """So many examples, drawn without replacement: normalized inputs and labels."""
    count = arrays.labels.shape[0]
    order = jax.random.permutation(keys.stream(key, name), jnp.arange(count, dtype=jnp.int32))
    row = order[: min(examples, count)]
    return data.normalize(arrays.inputs[row], arrays.mean, arrays.std), arrays.labels[row]


def _alike(fresh: Any, old: Any) -> bool:
    """Whether two trees have the same structure, shapes and dtypes."""
    if jax.tree.structure(fresh) != jax.tree.structure(old):
        return False
    a, b = ([(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(tree)] for tree in (fresh, old))
    return a == b


def _lesson(
    config: distill.Config | None, teacher: models.Model | None, known: Any, row: jax.Array, inputs: jax.Array
) -> tuple[Any, Any]:
    """The teacher's logits for a batch, and its layers' outputs by path: looked up, or computed on these inputs."""
    if config is None:
        return None, {}
    if teacher is None:
        return known[row], {}
    run = intercept.capture(teacher.apply)
    (logits, _), calls = run(known["params"], known["model_state"], inputs, train=False)
    return logits, {name: own[-1].output for name, own in calls.items()}
