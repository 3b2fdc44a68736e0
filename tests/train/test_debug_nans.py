"""Diverged runs, replayed: the step, the layer and the operation at fault."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
import quick
from flax import linen as nn
from tiny import smallest_experiment

from jopt import models, optim
from jopt.report.observer import Silent
from jopt.train import NonFiniteError, prepare, run
from jopt.train.compiler import Compiler
from jopt.train.debug_nans import Replay
from jopt.train.staging import Staging

# Adam, whose state has leaves of the parameters' shapes, so that one leaf for another would show.
CONFIG = smallest_experiment(
    pack=False,
    segment_steps=3,
    epochs=3,
    checkpoint_every=1,
    optimizer=optim.Config(name="adam", learning_rate=0.01),
)


class Tail(nn.Module):
    """A last layer that takes `fn` of finite numbers."""

    fn: str

    @nn.compact
    def __call__(self, x, train):
        if self.fn == "log":
            return jnp.log(nn.relu(x) * 0)
        if self.fn == "sqrt":
            return jnp.sqrt(x * 0) + x
        if self.fn == "far":
            # Finite, but not their difference, which the loss takes.
            return 3e38 * jnp.sign(x - x.mean(-1, keepdims=True))
        return x if train else x / (x - x)


class Net(nn.Module):
    fn: str

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(nn.Dense(4)(x.reshape(x.shape[0], -1)))
        return Tail(self.fn)(nn.Dense(3)(x), train)


class Notes(Silent):
    def __init__(self):
        self.text = ""

    def note(self, sentence):
        self.text += sentence + "\n"


def diverge(config, path, model=None):
    """The error of a run, what the run said, and the last event of its manifest."""
    observer = Notes()
    with quick.compilation(), pytest.raises(NonFiniteError) as error:
        run(config, path, model=model, debug_nans=True, observer=observer)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["exit_status"] == "diverged"
    return error.value, observer.text, manifest["events"][-1]


def diverged(fn, path):
    return diverge(CONFIG, path, models.from_linen(Net(fn), mode="train"))


def test_a_logarithm_of_0_in_a_layer(tmp_path):
    error, text, event = diverged("log", tmp_path / "run")
    finding = error.finding
    assert (finding.part, finding.step, finding.value) == ("training", 0, "loss")
    assert (finding.operation.primitive, finding.operation.layer) == ("log", "Net/Tail_0")
    assert finding.operation.phase == "forward"
    assert "jnp.log(nn.relu(x) * 0)" in finding.operation.source and __file__[-20:] in finding.operation.source
    (numbers,) = finding.operation.inputs
    assert (numbers.low, numbers.high, numbers.kind) == (0, 0, "float32[8,3]")
    assert [(o.infinities, o.nans) for o in finding.operation.outputs] == [(24, 0)]
    # The first NaN is further on: -inf less -inf, in the loss.
    assert (finding.nan.primitive, finding.nan.layer) == ("sub", "")
    assert finding.sentence() in str(error) and "\n" not in str(error)
    assert finding.operation.source in text
    assert event["non_finite"]["operation"]["primitive"] == "log"


def test_a_derivative_is_at_fault_a_step_before_the_loss(tmp_path):
    error, _, _ = diverged("sqrt", tmp_path / "run")
    finding = error.finding
    assert "at step 1 " in str(error) and finding.step == 0
    assert (finding.operation.phase, finding.operation.layer) == ("backward", "Net/Tail_0")
    assert finding.operation.primitive == "div" and finding.operation.source.endswith("+ x")
    assert finding.nan.primitive == "mul" and finding.nan.phase == "backward"
    assert set(finding.gradients) == {f"Dense_{i}/{name}" for i in (0, 1) for name in ("kernel", "bias")}
    assert set(finding.parameters) == set(finding.gradients)


def test_a_loss_alone(tmp_path):
    error, _, _ = diverged("far", tmp_path / "run")
    operation = error.finding.operation
    assert (error.finding.step, operation.primitive, operation.layer) == (0, "sub", "")
    assert "log_softmax" in operation.source and max(x.high for x in operation.inputs) > 2e38


def test_an_evaluation(tmp_path):
    error, _, _ = diverged("evaluate", tmp_path / "run")
    finding = error.finding
    assert (finding.part, finding.step, finding.gradients, finding.parameters) == ("validation", 2, None, ())
    assert (finding.operation.primitive, finding.operation.phase) == ("div", "evaluation")
    assert finding.operation.layer.endswith("Tail_0")


def test_a_learning_rate_that_explodes_in_a_later_segment(tmp_path):
    optimizer = optim.Config(name="sgd", learning_rate=1e5)
    error, _, _ = diverge(dataclasses.replace(CONFIG, optimizer=optimizer, epochs=8), tmp_path / "run")
    finding = error.finding
    assert finding.step >= 3 and f"at step {finding.step} " in str(error)
    assert (finding.operation.primitive, finding.operation.layer) == ("dot_general", "MLP/Dense_1")
    assert max(abs(x.low) for x in finding.operation.inputs) > 1e10
    assert all(x.nans == x.infinities == 0 for x in finding.operation.inputs)
    assert len(finding.gradients) == 4


@pytest.fixture(scope="module")
def healthy():
    """A prepared run that does not diverge, and its first state."""
    prepared = prepare(CONFIG)
    with quick.compilation():
        return prepared, jax.jit(prepared.program_of(0, 3).init)(prepared.key, prepared.values)


def replay(prepared, state, arrays, part="training"):
    prepared = prepared._replace(arrays=arrays)
    found = Replay(Staging(prepared, Compiler(), lambda stage: state))
    found.keep(prepared.segments[0], state)
    with quick.compilation():
        return found.find(part, 0, 2, state)


@pytest.mark.parametrize("part, problem", [("training", "one by one"), ("validation", "no single operation")])
def test_a_replay_that_is_finite_says_so(healthy, part, problem):
    prepared, state = healthy
    finding = replay(prepared, state, prepared.arrays, part)
    assert finding.operation is None and problem in finding.problem and finding.problem in finding.sentence()


def test_data_that_are_not_finite(healthy):
    prepared, state = healthy
    train = prepared.arrays["train"]
    broken = train._replace(inputs=jnp.full_like(train.inputs, jnp.inf, jnp.float32))
    finding = replay(prepared, state, {**prepared.arrays, "train": broken})
    assert finding.operation is None and finding.problem.startswith("data/inputs")


def test_a_state_that_is_not_finite_from_the_start(healthy):
    prepared, state = healthy
    params = jax.tree.map(lambda x: x * jnp.nan, state.params)
    finding = replay(prepared, state._replace(params=params), prepared.arrays)
    assert (
        finding.step == 0 and "Dense_0/kernel" in finding.parameters and "before the first step" in finding.problem
    )


def test_an_update_of_the_optimizer(healthy):
    prepared, state = healthy
    # First moments at the end of the range, divided by the roots of second moments that are small.
    opt_state = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full_like(x, 3e38) if "mu" in jax.tree_util.keystr(path) else x, state.opt_state
    )
    finding = replay(prepared, state._replace(opt_state=opt_state), prepared.arrays)
    operation = finding.operation
    assert (finding.step, operation.phase, operation.layer, finding.gradients) == (0, "optimizer", "", ())
    assert finding.value in {f"params/{name}" for name in finding.parameters}
    assert "jopt/train/step.py" in operation.source or "jopt/optim" in operation.source
