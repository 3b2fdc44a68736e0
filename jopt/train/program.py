"""Program: the pure functions of a stage."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jopt import data, hyper, intercept, keys, mesh, models, quantize
from jopt import task as tasks
from jopt.train.plan import StagePlan, trainables_key
from jopt.train.state import TrainState, Variables, average_examples, evaluated, merge, start_average
from jopt.train.step import Metrics, Parts, in_batches, step
from jopt.transform import State, chain, project_moments
from jopt.typing import ModelState, Params

EVALUATION_BATCH = 512


class Judgement(NamedTuple):
    """What a network does with a part of the data.

    Attributes:
      statistics: of the loss and of the task's metrics, by key, for `jopt.task.measured`: [batches, ...] of metrics
        that are summed, else [rows, ...].
      predictions: integers [rows, ...], what the network decides, as the task says; of padding, any. (): its
        outputs are no decisions.
    """

    statistics: dict[str, PyTree]
    predictions: jax.Array | tuple[()]

    def measured(self, task: tasks.Task, examples: int) -> dict[str, float]:
        """The loss and the task's metrics, on the host.

        Args:
          task: the task.
          examples: how many rows are not padding.
        """
        rows = {metric.key for metric in task.metrics if metric.per_example}
        return tasks.measured(
            task,
            {
                key: jax.tree.map(lambda x: x[:examples], values) if key in rows else values
                for key, values in self.statistics.items()
            },
        )


class Program(NamedTuple):
    """The pure functions of one stage. Each can be jitted, lifted over a trial axis, or sharded.

    Attributes:
      init: `(key, hyper, previous=None, weights=None) -> TrainState`, from `keys.root(seed)`. With `previous`, the
        state that the stage before ended in, its step, parameters and model state are taken over, and the state of
        the transforms that are frozen; the rest starts afresh. `weights` replace initial values, by path.
      segment: `(state, hyper, data) -> (TrainState, metrics)`. So many optimizer steps; metrics are `loss`, the
        mean over the segment's examples as they were trained on, `statistics` of the task's metrics for each step,
        `first_bad_step`, the first step (0-based) whose loss was not finite, or -1, and the parts of the loss where
        there is a teacher. At its end
        the moving average gets the batch statistics of its own parameters.
      update: `(state, hyper, data) -> TrainState`. Updates masks, ranges and codebooks; in the stage's first call
        also calibrates activations and re-estimates batch statistics.
      judge: `(variables, hyper, data) -> Judgement`: of what `seen` gives, on all examples of `data`.
      rewind: `(state, hyper, origin=None, weights=None) -> TrainState`. Parameters and model state become those of
        `origin`, or what `Stage.start` draws and `weights` replace, under the masks that were chosen; the optimizer
        starts afresh.
      predict: `(variables, hyper, data) -> outputs`, float32 [rows, ...], of what `seen` gives.
      seen: `(state, hyper) -> Variables`, what the model computes with when it is evaluated: `evaluated(state)`,
        the parameters masked, shared and quantized.
    """

    init: Callable[..., TrainState]
    segment: Callable[..., tuple[TrainState, Metrics]]
    update: Callable[..., TrainState]
    judge: Callable[..., Judgement]
    rewind: Callable[..., TrainState]
    predict: Callable[..., jax.Array]
    seen: Callable[..., Variables]


def build(
    plan: StagePlan,
    numbers: Callable[[hyper.Hyper], StagePlan],
    *,
    example: PyTree,
    steps: int | None = None,
    aligned: bool = False,
    teacher: Callable[[hyper.Hyper], models.Model] | None = None,
    spread: mesh.Spread = mesh.ONE,
) -> Program:
    """Builds the program of one stage.

    Args:
      plan: the stage; of its numbers only those that are structure are read.
      numbers: the same stage with these numbers, concrete or traced, put in.
      example: the inputs of one example, as shapes.
      steps: optimizer steps in a segment; None: as the plan says.
      aligned: promises that every segment begins with an epoch (see `jopt.data.indices`).
      teacher: the teacher's functions, where its outputs are not in the data.
      spread: how the stage is spread over devices.

    Returns:
      A `Program`.
    """
    # The last segment of a stage may be shorter. Its length is structure, as that of a scan must be.
    count = plan.length.segment_steps if steps is None else steps

    # Called inside each function, so inside its trace: there the numbers are tracers, and a sweep over learning
    # rates or sparsities runs one program. Parts that are built once out here would hold their numbers as
    # constants.
    def parts(values: hyper.Hyper) -> Parts:
        return Parts.of(numbers(values), None if teacher is None else teacher(values))

    def init(
        key: jax.Array,
        values: hyper.Hyper,
        previous: TrainState | None = None,
        weights: Variables | None = None,
    ) -> TrainState:
        return init_state(parts(values), key, example, previous, weights)

    def rewind(
        state: TrainState,
        values: hyper.Hyper,
        origin: Variables | None = None,
        weights: Variables | None = None,
    ) -> TrainState:
        p = parts(values)
        params, model_state = init_variables(p, keys.root(values["seed"]), example, weights)
        if origin is not None:
            params, model_state = merge(params, origin.params), merge(model_state, origin.model_state)
        # Rewinding resets the network, not what the stage chose: ranges of activations stay, as masks do.
        params, model_state = (
            p.trainables.keep(params, state.params),
            p.trainables.keep(model_state, state.model_state),
        )
        return settle(p, state, params, model_state)

    def segment(state: TrainState, values: hyper.Hyper, arrays: data.DeviceArrays) -> tuple[TrainState, Metrics]:
        p, key = parts(values), keys.root(values["seed"])
        rows = segment_rows(arrays, key, state.step, count, p.plan.batch_size, aligned)
        begin = state.step

        # Made again inside of what runs on each device: numbers from outside are arrays of all devices there.
        def inside(values: hyper.Hyper) -> tuple[Parts, jax.Array]:
            return (p, key) if spread.shards is None else (parts(values), keys.root(values["seed"]))

        def one_step(
            row: PyTree, state: TrainState, values: hyper.Hyper, arrays: data.DeviceArrays
        ) -> tuple[TrainState, PyTree]:
            p, key = inside(values)
            return step(p, key, arrays, state, row, spread.shards)

        def refreshed(state: TrainState, values: hyper.Hyper, arrays: data.DeviceArrays) -> TrainState:
            p, key = inside(values)
            return refresh_average(p, state, key, arrays)

        # A step's examples are its row already; those of the others need not be at hand.
        beside = arrays._replace(inputs=(), targets=(), weights=()) if isinstance(rows, data.Split) else arrays

        def one_kept(state: TrainState, row: PyTree) -> tuple[TrainState, PyTree]:
            state, metrics = spread.on_shards(one_step, state.step)(row, state, values, beside)
            return spread.keep(state), metrics

        state, (losses, statistics, terms) = jax.lax.scan(one_kept, state, rows)
        if p.plan.ema_decay is not None:
            state = spread.alike(refreshed, state.step)(state, values, arrays)
        # Found in the program and reported at the boundary: a check in each step would wait for the device.
        bad = ~jnp.isfinite(losses)
        metrics = {
            "loss": spread.alike(jnp.mean, state.step)(losses),
            "statistics": statistics,
            "first_bad_step": jnp.where(bad.any(), begin + jnp.argmax(bad).astype(jnp.int32), -1),
            **{name: spread.alike(jnp.mean, state.step)(value) for name, value in terms.items()},
        }
        return spread.keep((state, metrics))

    def update(state: TrainState, values: hyper.Hyper, arrays: data.DeviceArrays) -> TrainState:
        p, key = parts(values), keys.at(keys.root(values["seed"]), "update", state.step)
        state = choose(p, state, key, arrays)
        # A condition in the program, not a flag of it: the first update and all later ones are one compilation.
        first = state.step == p.plan.length.start
        return jax.lax.cond(first, lambda s: calibrate(p, s, key, arrays), lambda s: s, state)

    def seen(state: TrainState, values: hyper.Hyper) -> Variables:
        p = parts(values)
        variables = evaluated(state)
        return variables._replace(params=p.transform.apply(state.transform_state, variables.params))

    # Of what the model sees, not of a state: masks and fake quantization are the same for every batch and every
    # part, and are compiled once.
    def outputs_of(
        variables: Variables, values: hyper.Hyper, arrays: data.DeviceArrays
    ) -> Callable[[PyTree], jax.Array]:
        # The network alone: a stage's schedules would be constants in what stages could share.
        model = numbers(values).wrapped
        params, model_state = variables

        def one_batch(inputs: PyTree) -> jax.Array:
            inputs = data.normalize(spread.split(inputs), arrays.mean, arrays.std)
            return model.apply(params, model_state, inputs, train=False)[0]

        return one_batch

    def predict(variables: Variables, values: hyper.Hyper, arrays: data.DeviceArrays) -> jax.Array:
        one_batch, count = outputs_of(variables, values, arrays), _count(arrays)
        return in_batches(one_batch, EVALUATION_BATCH, arrays.inputs, count=count)

    def judge(variables: Variables, values: hyper.Hyper, arrays: data.DeviceArrays) -> Judgement:
        one_batch, task, count = outputs_of(variables, values, arrays), plan.task, _count(arrays)
        row = jnp.arange(arrays.rows, dtype=jnp.int32)

        # Statistics of a batch, not the outputs of all: those of a language model would not fit into memory.
        def judge_batch(inputs: PyTree, targets: PyTree, weights: PyTree, row: jax.Array) -> Judgement:
            outputs = one_batch(inputs)
            is_example = (row < (arrays.rows if count is None else count)).astype(jnp.float32)
            if not isinstance(weights, tuple):
                is_example = is_example.reshape(-1, *(1,) * (weights.ndim - 1)) * weights
            statistics = tasks.statistics(task, outputs, targets, is_example)
            per_example = {metric.key for metric in task.metrics if metric.per_example}
            predictions = task.predict(outputs)
            return Judgement(
                {
                    key: part if key in per_example else jax.tree.map(lambda x: x[None], part)
                    for key, part in statistics.items()
                },
                () if predictions is None else predictions,
            )

        parts = (arrays.inputs, arrays.targets, arrays.weights, row)
        return in_batches(judge_batch, EVALUATION_BATCH, *parts, count=count)

    def kept(fn: Callable[..., PyTree]) -> Callable[..., Any]:
        # The second argument of each is the swept numbers.
        return lambda *args: spread.keep(spread.alike(fn, args[1]["seed"])(*args))

    return Program(
        init=kept(init),
        segment=segment,
        update=kept(update),
        judge=kept(judge),
        rewind=kept(rewind),
        predict=kept(predict),
        seen=kept(seen),
    )


def segment_rows(
    arrays: data.DeviceArrays, key: jax.Array, first_step: jax.Array, count: int, batch: int, aligned: bool = False
) -> PyTree:
    """What each of so many steps trains on: rows of `arrays`, int32 [steps, batch], or the examples themselves."""
    # What a host gathered for a segment lies in the order of its steps.
    if isinstance(arrays.drawn, dict):
        return data.Split(arrays.inputs, arrays.targets, arrays.weights)
    # The order is a function of (seed, step): a run that resumes here needs no state of an iterator.
    return data.indices(key, first_step, count, batch, arrays.rows, aligned=aligned)


def _count(arrays: data.DeviceArrays) -> jax.Array | None:
    return None if isinstance(arrays.count, tuple) else arrays.count


def init_variables(
    p: Parts, key: jax.Array, example: PyTree, weights: Variables | None = None
) -> tuple[Params, ModelState]:
    """Initial parameters and model state: those of step 0, or newly drawn ones for the start 'random'."""
    # A stream of another name: 'random' must not draw the numbers that the run itself began with.
    name = f"init/{p.plan.name}" if p.plan.start == "random" else "init"
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), data.batch_of(example))
    params, model_state = p.model.init(keys.stream(key, name), zeros)
    if weights is not None:
        # Copies: the trainer donates its state, and a shared buffer would delete the weights with it.
        new_params, new_state = jax.tree.map(jnp.copy, tuple(weights))
        params, model_state = merge(params, new_params), merge(model_state, new_state)
    return params, model_state


def init_state(
    p: Parts,
    key: jax.Array,
    example: PyTree,
    previous: TrainState | None = None,
    weights: Variables | None = None,
) -> TrainState:
    """The state that a stage starts from, given the one in which the stage before ended."""
    params, model_state = init_variables(p, key, example, weights)
    if previous is not None and not p.plan.starts_network:
        params, model_state = merge(params, previous.params), merge(model_state, previous.model_state)
    # The transforms meet the parameters that the stage really starts from: ranges and first values depend on them.
    masks = p.transform.init(params)
    method_chain = chain(*(transform for _, transform in p.plan.transforms))
    params = p.trainables.start(method_chain, masks, params, p.trainables.learned)
    if previous is None:
        return settle(p, TrainState(jnp.int32(0), params, model_state, (), masks, ()), params, model_state)
    if not p.plan.starts_network:
        # `start` gave all trainables first values; those of frozen methods are as their own stage left them.
        params = p.trainables.keep_frozen(params, previous.params)
        masks = carry_over(p.plan, masks, previous.transform_state)
    return settle(p, previous._replace(transform_state=masks), params, model_state)


def carry_over(plan: StagePlan, masks: tuple[State, ...], before: tuple[State, ...]) -> tuple[State, ...]:
    """The transforms' states at the start of a stage, given fresh ones and those in which the stage before ended.

    A frozen method keeps its state; a method that the stage names again decides what it continues from (`resume`).
    """
    assert plan.previous is not None
    old = {a.method.name: (a, state) for (a, _), state in zip(plan.previous.transforms, before, strict=True)}
    states = []
    for (applied, _), state in zip(plan.transforms, masks, strict=True):
        # By name: the methods of two stages, and so their places in the chain, need not be the same.
        if applied.method.name in old:
            earlier, ended = old[applied.method.name]
            state = ended if earlier.stage == applied.stage else applied.method.resume(state, ended, plan.name)
        states.append(state)
    return tuple(states)


def settle(p: Parts, state: TrainState, params: Params, model_state: ModelState) -> TrainState:
    """The state with these parameters, in the transform's subspace, and with fresh moments."""
    # The step relies on parameters and moments being in the subspace already, so a stage must begin in it.
    # Some optimizers begin with moments that are not zero (Adagrad's accumulator): these are projected too.
    params = p.constrain(state.transform_state, p.project(state.transform_state, params))
    opt_state = project_moments(p.transform, state.transform_state, p.optimizer, p.optimizer.init(params))
    ema = () if p.plan.ema_decay is None else start_average(params, model_state)
    return state._replace(params=params, model_state=model_state, opt_state=opt_state, ema=ema)


def choose(p: Parts, state: TrainState, key: jax.Array, arrays: data.DeviceArrays) -> TrainState:
    """The state with masks, ranges and codebooks chosen, and parameters and moments in their subspace."""
    # New examples at each choice, so that masks do not fit a single draw. XLA drops this where nothing needs it.
    inputs, targets, weights = draw_examples(arrays, key, "calibration", p.plan.calibration_examples)
    now = p.transform.apply(state.transform_state, state.params)
    context: dict[str, Any] = {"grads": None}
    if "grads" in p.transform.needs:
        # At the weights that the model sees, and of the pruned ones too: how the loss would change if they grew
        # back.
        def mean_loss(seen: Params) -> jax.Array:
            losses = p.plan.task.losses(p.model.apply(seen, state.model_state, inputs, train=False)[0], targets)
            return tasks.mean_loss(losses, tasks.total_weights(p.plan.task, losses, targets, weights))

        context["grads"] = jax.grad(mean_loss)(now)
    if "layers" in p.transform.needs:
        context["layers"] = intercept.statistics(
            p.model.apply, now, state.model_state, inputs, activation=p.plan.activation
        )
    context |= {"step": state.step, "key": keys.stream(key, "choice")}
    masks = p.transform.update(state.transform_state, state.params, **context)
    # New masks mean a new subspace: everything held in the old one is projected once, here, so that no step has to.
    # The average as well, else it would hold weights that no longer exist.
    params, ema = p.project(masks, state.params), state.ema
    if p.plan.ema_decay is not None:
        ema = ema._replace(params=p.project(masks, ema.params))
    opt_state = project_moments(p.transform, masks, p.optimizer, state.opt_state)
    return state._replace(params=params, ema=ema, opt_state=opt_state, transform_state=masks)


def calibrate(p: Parts, state: TrainState, key: jax.Array, arrays: data.DeviceArrays) -> TrainState:
    """The state after a stage's first choice of masks: methods are calibrated, batch statistics re-estimated."""
    params, model_state = state.params, state.model_state
    # Trainables of the stage's own methods get their first values only now: a step size is fitted to the weights
    # that it quantizes, and which of them survive was not known before.
    started = [trainables_key(a.method) for a in p.plan.applied if p.plan.names(a)]
    method_chain = chain(*(transform for _, transform in p.plan.transforms))
    params = p.trainables.start(method_chain, state.transform_state, params, started)
    for applied in p.plan.applied:
        # Frozen methods were calibrated in their own stage.
        examples = applied.method.calibration_examples() if p.plan.names(applied) else 0
        if examples:
            inputs, *_ = draw_examples(arrays, key, applied.method.name, examples)
            seen = p.transform.apply(state.transform_state, params)
            params, model_state = applied.method.calibrate(p.plan.model, params, model_state, inputs, seen=seen)
    # Last, as masks and ranges change what each layer receives, and so its batch statistics.
    if p.plan.recalibrate:
        inputs, *_ = draw_examples(arrays, key, "recalibrate", p.plan.recalibrate * p.plan.batch_size)
        variables = Variables(params, model_state)
        model_state = recalibrate(p, state._replace(params=params), variables, key, inputs)
    state = state._replace(params=params, model_state=model_state)
    if p.plan.ema_decay is not None:
        # No step has been taken: the average still is the parameters, and starts from what they are now.
        state = state._replace(ema=start_average(params, model_state))
    return state


def refresh_average(p: Parts, state: TrainState, key: jax.Array, arrays: data.DeviceArrays) -> TrainState:
    """The state with batch statistics of the moving average's own parameters, at the end of a segment."""
    # The statistics of training belong to the moving parameters. With those, the average would be evaluated as a
    # network that never was; Izmailov et al. (2018) re-estimate them for the same reason.
    key = keys.at(key, "average", state.step)
    inputs, *_ = draw_examples(arrays, key, "recalibrate", average_examples(p.plan.batch_size))
    # Everything but batch statistics (ranges of activations, counts) is taken from training.
    ema = Variables(state.ema.params, state.model_state)
    return state._replace(ema=ema._replace(model_state=recalibrate(p, state, ema, key, inputs)))


def recalibrate(p: Parts, state: TrainState, variables: Variables, key: jax.Array, inputs: PyTree) -> ModelState:
    """The model state of `variables` with batch statistics from whole batches of `inputs`."""
    size = p.plan.batch_size
    # Statistics depend on the batch size, so they are taken with the size of training, and a rest is dropped.
    batches = jax.tree.map(lambda x: x[: len(x) // size * size].reshape(-1, size, *x.shape[1:]), inputs)
    seen = p.transform.apply(state.transform_state, variables.params)
    return quantize.recalibrate(p.model, seen, variables.model_state, batches, key=keys.stream(key, "dropout"))


def draw_examples(
    arrays: data.DeviceArrays, key: jax.Array, name: str, examples: int
) -> tuple[PyTree, PyTree, PyTree]:
    """So many examples, drawn without replacement: normalized inputs, targets and weights."""
    if isinstance(arrays.drawn, dict):
        split = arrays.drawn[name]
    else:
        row = data.drawn(key, name, examples, arrays.rows)
        split = data.Split(*jax.tree.map(lambda a: a[row], (arrays.inputs, arrays.targets, arrays.weights)))
    return data.normalize(split.inputs, arrays.mean, arrays.std), split.targets, split.weights


def draws_of_update(plan: StagePlan, root: jax.Array, step: int) -> dict[str, tuple[jax.Array, int]]:
    """`name -> (key, examples)` of what `choose` and `calibrate` draw at a step."""
    key = keys.at(root, "update", jnp.int32(step))
    counts = {"calibration": plan.calibration_examples}
    for applied in plan.applied:
        if plan.names(applied) and (examples := applied.method.calibration_examples()):
            counts[applied.method.name] = examples
    if plan.recalibrate:
        counts["recalibrate"] = plan.recalibrate * plan.batch_size
    return {name: (key, examples) for name, examples in counts.items()}


def draws_of_segment(plan: StagePlan, root: jax.Array, stop: int) -> dict[str, tuple[jax.Array, int]]:
    """`name -> (key, examples)` of what a segment that ends at a step draws."""
    if plan.ema_decay is None:
        return {}
    key = keys.at(root, "average", jnp.int32(stop))
    return {"recalibrate": (key, average_examples(plan.batch_size))}
