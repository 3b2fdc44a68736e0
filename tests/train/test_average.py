"""The moving average: its recursion, and that whoever reads it gets batch statistics of its own parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from judged import evaluate
from quick import jit

from jopt import data, distill, keys, models, optim, prune, quantize, train, transfer
from jopt.export import source as functions
from jopt.train import Compiler, Experiment, Stage, finished, packed, prepare
from jopt.train.checkpoint import Checkpoints, MismatchError
from jopt.train.staging import Staging
from jopt.train.state import Variables, evaluated, to_host

pytestmark = [pytest.mark.unoptimized, pytest.mark.usefixtures("undrawn")]

EPSILON = 1e-5


class Net(nn.Module):
    """Two normalizations, dropout that must be given a key, and a state that is no batch statistic."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(x.shape[0], -1)
        for width in (12, 8):
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=EPSILON)
            x = nn.relu(norm(nn.Dense(width)(x)))
        calls = self.variable("counts", "calls", jnp.zeros, (), jnp.int32)
        if train:
            calls.value += 1
        return nn.Dense(4)(nn.Dropout(0.2, deterministic=not train)(x))


NET = models.from_linen(Net())


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def examples(dataset, part):
    inputs = getattr(dataset, part).inputs.astype(np.float64)
    return ((inputs - dataset.mean) / dataset.std).reshape(len(inputs), -1)


def forward(params, x, statistics=None):
    """Net in NumPy float64: logits, and the statistics, those of `x` where none are given."""
    p, used = float64(params), {}
    for i in range(2):
        x = x @ p[f"Dense_{i}"]["kernel"] + p[f"Dense_{i}"]["bias"]
        batch_statistics = (
            {"mean": x.mean(0), "var": x.var(0)} if statistics is None else statistics[f"BatchNorm_{i}"]
        )
        norm = used[f"BatchNorm_{i}"] = float64(batch_statistics)
        x = (x - norm["mean"]) / np.sqrt(norm["var"] + EPSILON)
        x = np.maximum(x * p[f"BatchNorm_{i}"]["scale"] + p[f"BatchNorm_{i}"]["bias"], 0)
    return x @ p["Dense_2"]["kernel"] + p["Dense_2"]["bias"], used


def expected(params, dataset, part):
    """Logits of a part with the statistics of these parameters over the training part: in one batch, so exact."""
    return forward(params, examples(dataset, part), forward(params, examples(dataset, "train"))[1])[0]


def close(actual, correct):
    """Sums of 96 examples in float32 against float64; statistics of other parameters are off by 0.1 and more."""
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), actual, correct)


def whole(tiny, **changes) -> Experiment:
    """One batch is the training part, so that its statistics need no drawing; the optimizer moves far."""
    return tiny(batch_size=0, ema_decay=0.5, optimizer=optim.Config("adam", learning_rate=0.1), **changes)


def test_the_average_is_the_recursion_with_warm_up_and_starts_again_in_each_stage(tiny):
    half = prune.OneShot(sparsity=0.5)
    p = prepare(tiny(ema_decay=0.3, stages=[Stage("a", steps=5), Stage("b", steps=5, methods=(half,))]))
    state = None
    for stage in range(2):
        program = p.program_of(stage, 1)
        state = jit(program.init)(p.key, p.values, *(() if state is None else (state,)))
        state = jit(program.update)(state, p.values, p.arrays["train"])
        average, segment = float64(state.params), jit(program.segment)
        for decay in (2 / 11, 3 / 12, 0.3, 0.3, 0.3):  # (1 + t) / (10 + t), until it is more than 0.3
            state, _ = segment(state, p.values, p.arrays["train"])
            average = jax.tree.map(lambda m, w, d=decay: d * m + (1 - d) * w, average, float64(state.params))
            # Each step rounds numbers below 1 a few times: 6e-8.
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=0, atol=5e-7), state.ema.params, average
            )
    for name in ("Dense_0", "Dense_1"):
        pruned = np.asarray(state.params[name]["kernel"]) == 0
        assert pruned.mean() == 0.5
        np.testing.assert_array_equal(state.ema.params[name]["kernel"][pruned], 0)


def test_at_the_end_of_a_segment_the_statistics_are_those_of_the_average(tiny):
    p = prepare(whole(tiny, stages=[Stage(steps=4, recalibrate=1)]), model=NET)
    program = p.program_of(0, 4)
    first = jit(program.init)(p.key, p.values)
    begun = jit(program.update)(first, p.values, p.arrays["train"])
    # Before the first step it is the network itself, with the statistics that the stage starts with.
    jax.tree.map(np.testing.assert_array_equal, begun.ema, Variables(begun.params, begun.model_state))
    close(begun.ema.model_state["batch_stats"], forward(begun.params, examples(p.dataset, "train"))[1])
    state, _ = jit(program.segment)(begun, p.values, p.arrays["train"])
    statistics = forward(state.ema.params, examples(p.dataset, "train"))[1]
    close(state.ema.model_state["batch_stats"], statistics)
    raw = state.model_state["batch_stats"]["BatchNorm_1"]["var"]
    assert np.abs(raw - statistics["BatchNorm_1"]["var"]).max() > 0.1
    # What is no statistic is the run's.
    assert int(state.ema.model_state["counts"]["calls"]) == int(state.model_state["counts"]["calls"]) == 4


def test_statistics_are_drawn_by_seed_and_step_and_trials_are_runs(tiny):
    p = prepare(tiny(ema_decay=0.5, optimizer=optim.Config("sgd", learning_rate=0.1)), model=NET)
    program = p.program_of(0, 3)
    first = jit(program.init)(p.key, p.values)

    def trial(seed, decay):
        values = {**p.values, "seed": seed, "ema_decay": decay}
        return program.segment(first, values, p.arrays["train"])[0].ema

    seeds, decays = np.arange(2, dtype=np.uint32), np.float32([0.1, 0.9])
    lifted, single = jit(jax.vmap(trial))(seeds, decays), jit(trial)
    x = examples(p.dataset, "train")
    for seed in range(2):
        alone = single(seeds[seed], decays[seed])
        close(jax.tree.map(lambda leaf, seed=seed: leaf[seed], lifted), alone)
        # All 96 examples in six batches of 16, in an order that is a function of (seed, stream, step).
        key = keys.stream(keys.at(keys.root(seed), "average", 3), "recalibrate")
        batches = np.asarray(jax.random.permutation(key, 96)).reshape(6, 16)
        used = [forward(alone.params, x[rows])[1] for rows in batches]
        close(alone.model_state["batch_stats"], jax.tree.map(lambda *per_batch: np.mean(per_batch, 0), *used))


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A finished run whose average is far from what the optimizer moved, quantized and packed."""
    path = tmp_path_factory.mktemp("average")
    config = Experiment(
        data=data.Synthetic(shape=(6, 6, 1), num_classes=4, train=96, validation=40, test=24, noise=4.0),
        optimizer=optim.Config(name="adam", learning_rate=0.1),
        batch_size=0,
        ema_decay=0.5,
        pack=True,
        stages=[Stage(steps=6, methods=(quantize.Weights(bits=8),))],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plotly.offline.get_plotlyjs", lambda: "")
        result = train.run(config, path, model=NET, quiet=True)
    return path, result, finished.load(path, model=NET)


def test_the_average_is_evaluated_with_its_own_statistics(ended):
    _, result, run = ended
    logits, labels = expected(run.params, run.dataset, "test"), run.dataset.test.targets
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    # The run's own statistics, of other parameters, give another loss.
    raw = forward(run.params, examples(run.dataset, "test"), run.state.model_state["batch_stats"])[0]
    assert np.abs(raw - logits).max() > 0.1
    assert result["loss"] == pytest.approx(-log_p[np.arange(len(labels)), labels].mean(), rel=1e-3)
    assert result["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())


def test_the_average_is_loaded_packed_and_exported_with_its_own_statistics(ended):
    path, result, run = ended
    logits = expected(run.params, run.dataset, "test")
    x = functions.normalized_test(run)
    close(NET.apply(run.params, run.model_state, x, train=False)[0], logits)
    file = packed.load(path / "model.jopt", model=NET)
    close(file.model.apply(file.params, file.model_state, x, train=False)[0], logits)
    close(functions.function(run, "masked")(x), logits)
    again = packed.encode(packed.packing_of(run))
    assert again.ledger.total == result["bytes"] and again.data == (path / "model.jopt").read_bytes()
    # Without quantization, of the average's parameters, not of those that the optimizer moved.
    statistics = forward(run.params, examples(run.dataset, "train"))[1]
    latent = forward(run.state.ema.params, examples(run.dataset, "test"), statistics)[0]
    close(functions.function(run, "float")(x), latent)


def test_another_run_learns_from_the_average_with_its_own_statistics(ended, monkeypatch):
    path, _, run = ended
    monkeypatch.setattr(finished, "load", functools.partial(finished.load, model=NET))
    source = finished.load_source(str(path), "stages[0].distill.teacher", run.dataset.example, ((4,),))
    arrays = data.device_arrays(run.dataset, "train")
    close(finished.compute_logits(source, arrays), expected(run.params, run.dataset, "train"))


def test_later_stages_learn_and_take_from_the_average_with_its_own_statistics(tiny):
    later = Stage(
        "b",
        steps=4,
        methods=(distill.SoftTargets(teacher="stage:a"),),
        transfer=transfer.Transfer("stage:a", include_state=True),
    )
    p = prepare(whole(tiny, stages=[Stage("a", steps=4), later]), model=NET)
    program = p.program_of(0, 4)
    state = jit(program.segment)(jit(program.init)(p.key, p.values), p.values, p.arrays["train"])[0]
    state = to_host(state)
    staging = Staging(p, Compiler(), lambda stage: state)
    close(staging.arrays(1)["train"].teacher, expected(state.ema.params, p.dataset, "train"))
    begun = staging.begin(1, state)
    jax.tree.map(np.testing.assert_array_equal, begun.params, state.ema.params)
    statistics = forward(state.ema.params, examples(p.dataset, "train"))[1]
    close(evaluated(begun).model_state["batch_stats"], statistics)
    close(begun.model_state["batch_stats"], statistics)


def test_the_average_of_a_network_with_batch_norm_is_no_worse_than_the_network(tiny):
    """Digits, three normalized layers: 93 % and 10 % with the raw statistics, and 97.5 % without an average."""

    class Digits(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = x.reshape(x.shape[0], -1)
            for _ in range(3):
                x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(64)(x)))
            return nn.Dense(10)(x)

    config = Experiment(
        data=data.Digits(),
        optimizer=optim.Config(name="adam", learning_rate=0.01),
        epochs=6,
        batch_size=32,
        ema_decay=0.99,
    )
    p = prepare(config, model=models.from_linen(Digits()))
    program = p.program_of(0, 234)
    state, segment = jit(program.init)(p.key, p.values), jit(program.segment)
    for decay in (0.99, 0.999):
        values = p.values | {"ema_decay": jnp.float32(decay)}
        ended, _ = segment(state, values, p.arrays["train"])
        assert evaluate(program, ended, values, p.arrays["test"])["accuracy"] > 0.97


def test_a_checkpoint_without_the_averages_statistics_is_named(tmp_path, tiny):
    p = prepare(tiny(ema_decay=0.5))
    state = jit(p.program_of(0, 1).init)(p.key, p.values)
    for name, wrap in (("run", lambda s: s), ("chunk", lambda s: {"state": s})):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(1, wrap(state._replace(ema=state.ema.params)), {"score": 0.0})
            checkpoints.wait()
            with pytest.raises(MismatchError, match=r"ema_decay.*batch statistics"):
                checkpoints.restore(1, wrap(state))
            with pytest.raises(MismatchError, match=r"another model.*: (state/)?ema/"):
                checkpoints.restore(1, wrap(state._replace(ema=())))
