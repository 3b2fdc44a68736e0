"""The engine: a scanned segment is the textbook loop, for any model, on one device or several."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from judged import evaluate
from quick import jit

from jopt import data, hyper, keys, models, optim, task
from jopt.config import ConfigError
from jopt.method import Method
from jopt.task import cross_entropy
from jopt.train import Experiment, Stage, TrainState, prepare
from jopt.train.program import in_batches
from jopt.transform import ParamTransform

pytestmark = pytest.mark.unoptimized


def train(config: Experiment, steps: int, **parts) -> tuple[TrainState, dict]:
    """`steps` steps of `config` in one segment."""
    p = prepare(config, **parts)
    program = p.program_of(0, steps)
    state = jit(program.init)(p.key, p.values)
    return jit(program.segment)(state, p.values, p.arrays["train"])


def assert_trees_equal(a, b, **tolerance):
    compare = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    jax.tree.map(lambda x, y: compare(x, y, **tolerance), a, b)


def by_hand(config: Experiment, steps: int):
    """The same steps without jopt.train: a Python loop over Flax and Optax."""
    dataset = data.load(config.data)
    module = models.build(config.model)
    shape = dataset.train.inputs.shape[1:]
    params = module.init(keys.stream(keys.root(config.seed), "init"), jnp.zeros((1, *shape)))["params"]
    tx = optax.adam(config.optimizer.learning_rate)
    state = tx.init(params)

    @jit
    def step(params, state, x, y):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(module.apply({"params": params}, x), y).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    rows = data.indices(keys.root(config.seed), 0, steps, config.batch_size, len(dataset.train.targets))
    for row in np.asarray(rows):
        x = (dataset.train.inputs[row].astype(np.float32) - dataset.mean) / dataset.std
        params, state = step(params, state, x, dataset.train.targets[row])
    return params


def test_a_segment_is_the_textbook_loop(tiny):
    config = tiny()
    state, _ = train(config, 20)
    with jax.numpy_dtype_promotion("standard"):  # optax.adam raises a float to an integer power
        expected = by_hand(config, 20)
    # Two compilations of the same sums round differently: 20 steps of Adam at 1e-2 stay within 1e-5.
    assert_trees_equal(state.params, expected, rtol=0, atol=1e-5)
    assert state.step == 20


@pytest.mark.optimized
def test_segments_join_bit_for_bit(tiny):
    """Four segments of five steps are one run of the loop over them, whoever cuts it."""
    p = prepare(tiny(ema_decay=0.9))
    program = p.program_of(0, 5)
    segment = jax.jit(program.segment)
    state = first = jax.jit(program.init)(p.key, p.values)
    for _ in range(4):
        state, _ = segment(state, p.values, p.arrays["train"])
    again = first
    for i in range(4):
        again, _ = segment(jax.tree.map(np.asarray, again) if i == 2 else again, p.values, p.arrays["train"])
    assert_trees_equal(state, again)


def test_numbers_are_traced_one_program_serves_every_rate_and_seed(tiny):
    p = prepare(tiny(ema_decay=0.5, task=task.Classification(label_smoothing=0.1)))
    program = p.program_of(0, 3)
    segment, init = jax.jit(program.segment), jax.jit(program.init)
    losses = set()
    for seed in (0, 1):
        for rate in (1e-3, 1e-1):
            for smoothing in (0.1, 0.2):
                values = p.values | {
                    "seed": jnp.uint32(seed),
                    "optimizer.learning_rate": jnp.float32(rate),
                    "task.label_smoothing": jnp.float32(smoothing),
                }
                state = init(keys.root(values["seed"]), values)
                losses.add(float(segment(state, values, p.arrays["train"])[1]["loss"]))
    assert segment._cache_size() == init._cache_size() == 1
    assert len(losses) == 8, "and each of them counts"


def test_a_lifted_program_is_the_loop_over_its_trials(tiny):
    """vmap over seeds and rates: the joint on which ablations stand."""
    p = prepare(tiny())
    program = p.program_of(0, 5)

    def trial(seed, rate):
        values = {**p.values, "seed": seed, "optimizer.learning_rate": rate}
        return program.segment(program.init(keys.root(seed), values), values, p.arrays["train"])[0].params

    seeds, rates = np.arange(3, dtype=np.uint32), np.float32([1e-3, 1e-2, 3e-2])
    lifted, single = jit(jax.vmap(trial))(seeds, rates), jit(trial)
    for i in range(3):
        alone = single(seeds[i], rates[i])
        # Batched matrix products sum in another order.
        assert_trees_equal(jax.tree.map(lambda x, i=i: x[i], lifted), alone, rtol=0, atol=1e-5)


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(36, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.out = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x.reshape(x.shape[0], -1)))))


def dict_model() -> models.Model:
    def init(key, x):
        size = int(np.prod(x.shape[1:]))
        a, b = jax.random.split(key)
        return {
            "w1": jax.random.normal(a, (size, 16)) / size**0.5,
            "w2": jax.random.normal(b, (16, 4)) / 4,
        }, {}

    def apply(params, state, x, *, train, key=None):
        return jax.nn.relu(x.reshape(x.shape[0], -1) @ params["w1"]) @ params["w2"], state

    return models.Model(init, apply)


@pytest.mark.parametrize("model", [models.from_nnx(NNXNet), dict_model()], ids=["nnx", "dict"])
def test_any_model_trains_through_the_engine(tiny, model):
    config = tiny(batch_size=32)
    _, before = train(config, 1, model=model)
    state, after = train(config, 60, model=model)
    assert after["loss"] < before["loss"] / 2
    p = prepare(config, model=model)
    evaluated = evaluate(p.program_of(0, 1), state, p.values, p.arrays["test"])
    assert evaluated["accuracy"] > 0.9


def test_batch_statistics_move_in_training_and_not_in_evaluation(tiny):
    p = prepare(tiny(batch_size=32), model=models.from_nnx(NNXNet))
    program = p.program_of(0, 2)
    first = jit(program.init)(p.key, p.values)
    state, _ = jit(program.segment)(first, p.values, p.arrays["train"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), first.model_state, state.model_state)
    assert moved["norm"] == {"mean": True, "var": True}


@pytest.mark.parametrize("name", ["mlp", pytest.param("cnn", marks=pytest.mark.slow), "batch_norm"])
def test_data_parallel_is_one_device_to_rounding(tiny, name):
    model = models.from_nnx(NNXNet) if name == "batch_norm" else None
    config = tiny(
        model=models.ModelConfig(name="cnn" if name == "cnn" else "mlp", features=(4,), num_classes=4),
        optimizer=optim.Config("sgd", learning_rate=0.05),
    )
    one, one_metrics = train(config, 4, model=model)
    many, many_metrics = train(dataclasses.replace(config, data_parallel=True), 4, model=model)
    assert len(jax.tree.leaves(many.params)[0].sharding.device_set) == 8
    # The batch is summed over devices in another order; plain SGD does not amplify that. Batch normalization
    # divides by a deviation, which adds a digit.
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if name == "batch_norm" else {"rtol": 1e-5, "atol": 1e-6}
    assert_trees_equal(one.params, many.params, **tolerance)
    assert_trees_equal(one.model_state, many.model_state, **tolerance)
    np.testing.assert_allclose(one_metrics["loss"], many_metrics["loss"], rtol=1e-5)


def test_data_parallel_wants_a_batch_that_divides(tiny):
    with pytest.raises(ConfigError) as caught:
        prepare(tiny(data_parallel=True, batch_size=12))
    assert (caught.value.field, caught.value.value) == ("batch_size", 12)
    assert " 8 " in caught.value.accepted and "data_parallel" in caught.value.accepted


def test_bfloat16_computes_low_and_keeps_parameters_and_loss_high(tiny):
    config = tiny()
    low = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16"))
    p = prepare(low)
    program = p.program_of(0, 2)
    text = str(jax.make_jaxpr(program.segment)(p.like(0), p.values, p.arrays["train"]))
    assert "bf16[16,36]" in text
    state, metrics = train(low, 60)
    assert {x.dtype for x in jax.tree.leaves((state.params, metrics["loss"]))} == {jnp.dtype("float32")}
    assert metrics["loss"] < 0.5


def test_label_smoothing_against_the_definition():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 1, 0], np.int32)
    a = 0.3
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    target = (1 - a) * np.eye(3)[labels] + a / 3
    expected = -(target * np.log(p)).sum(-1)
    # A handful of float32 operations on numbers of order 1.
    np.testing.assert_allclose(cross_entropy(logits, labels, a), expected, rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(logits, labels), -np.log(p)[np.arange(5), labels], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_a_label_that_is_no_class_makes_the_loss_nan(smoothing):
    logits = jax.random.normal(jax.random.key(0), (4, 3))
    for wrong in (-1, 3, 300):
        labels, good = jnp.array([0, wrong, 2, 1]), jnp.array([0, 1, 2, 1])
        losses, reference = (cross_entropy(logits, x, smoothing) for x in (labels, good))
        assert np.isnan(losses).tolist() == [False, True, False, False]
        np.testing.assert_array_equal(losses[jnp.array([0, 2, 3])], reference[jnp.array([0, 2, 3])])
        assert np.isnan(losses.mean())


@pytest.mark.parametrize("n", [1, 3, 4, 7, 8])
def test_evaluation_sees_every_row_once_whatever_the_batch(n):
    x = jnp.arange(n)
    np.testing.assert_array_equal(in_batches(lambda v: v * 10, 4, x), x * 10)


def test_evaluation_is_the_mean_over_the_whole_part(tiny):
    config = tiny()
    p = prepare(config)
    program = p.program_of(0, 6)
    state, _ = train(config, 6)
    got = evaluate(program, state, p.values, p.arrays["validation"])
    part = p.dataset.validation
    x = (part.inputs.astype(np.float32) - p.dataset.mean) / p.dataset.std
    logits = models.build(config.model).apply({"params": state.params}, x)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, part.targets).mean()
    np.testing.assert_allclose(got["loss"], loss, rtol=1e-5)
    assert got["accuracy"] == np.float32((np.argmax(logits, -1) == part.targets).sum() / len(part.targets))


def test_the_first_step_with_a_non_finite_loss_is_named(tiny):
    _, metrics = train(tiny(optimizer=optim.Config("sgd", learning_rate=1e30)), 6)
    _, good = train(tiny(), 6)
    assert metrics["first_bad_step"] in (1, 2)
    assert good["first_bad_step"] == -1


@dataclasses.dataclass(frozen=True)
class Halve(Method):
    """Shows the model its weights times a factor, which each update halves."""

    name: ClassVar[str] = "halve"

    def build(self, **context):
        del context
        return ParamTransform(
            init=lambda params: jnp.float32(1),
            update=lambda state, params, *, step, grads=None, key=None: state / 2,
            apply=lambda state, params: jax.tree.map(lambda x: x * state, params),
        )


def test_a_param_transform_is_what_the_model_sees_and_update_moves_it(tiny):
    p = prepare(tiny(stages=[Stage(methods=(Halve(),))]))
    program = p.program_of(0, 2)
    state = jit(program.init)(p.key, p.values)
    halved = jit(program.update)(state, p.values, p.arrays["train"])
    assert halved.transform_state == (0.5,)
    plain = prepare(tiny()).program_of(0, 2)
    by_hand = state._replace(params=jax.tree.map(lambda x: x / 2, state.params), transform_state=())
    a = evaluate(program, halved, p.values, p.arrays["test"])
    b = evaluate(plain, by_hand, p.values, p.arrays["test"])
    assert_trees_equal(a, b)


def test_a_stage_takes_over_what_was_learnt_and_starts_the_rest_afresh(tiny):
    stages = [Stage("a", steps=3), Stage("b", steps=3, optimizer=optim.Config("momentum", learning_rate=0.1))]
    p = prepare(tiny(stages=stages, ema_decay=0.5))
    first, second = p.program_of(0, 3), p.program_of(1, 3)
    state = jit(first.init)(p.key, p.values)
    state, _ = jit(first.segment)(state, p.values, p.arrays["train"])
    begun = jit(second.init)(p.key, p.values, state)
    assert_trees_equal((begun.params, begun.step, begun.ema.params), (state.params, state.step, state.params))
    assert all(not x.any() for x in jax.tree.leaves(begun.opt_state))
    state, _ = jit(second.segment)(begun, p.values, p.arrays["train"])
    assert state.step == 6


def test_the_model_state_and_everything_else_keeps_its_types(tiny):
    """A segment's output can be its next input: same structure, shapes, dtypes."""
    p = prepare(tiny(optimizer=optim.Config("adamw", clip_by_global_norm=1.0, accumulate_steps=2), ema_decay=0.9))
    program = p.program_of(0, 2)
    before = p.like(0)
    after, _ = jax.eval_shape(program.segment, before, p.values, p.arrays["train"])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
    assert hyper.split(p.config)[1].keys() == p.values.keys()


def test_masks_outlive_the_stage_that_chose_them(tiny):
    halved = Stage("halve", steps=2, methods=(Halve(),))
    p = prepare(tiny(stages=[halved, Stage("tune", steps=2), Stage("plain", steps=2, release=("halve",))]))
    state = jit(p.program_of(0, 2).init)(p.key, p.values)
    state = p.program_of(0, 2).update(state, p.values, p.arrays["train"])
    tuned = p.program_of(1, 2).init(p.key, p.values, state)
    assert tuned.transform_state == (0.5,)
    assert p.program_of(1, 2).update(tuned, p.values, p.arrays["train"]).transform_state == (0.5,)
    assert p.program_of(2, 2).init(p.key, p.values, tuned).transform_state == ()
