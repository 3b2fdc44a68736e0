"""What a method, a column or a config from outside can get wrong is refused, or made right, before a run."""

import dataclasses
import json
import sys
import types
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import identity, measure, prune, quantize
from jopt.config import ConfigError, from_dict
from jopt.measure import Column
from jopt.method import Method
from jopt.rules import named_leaves
from jopt.train import Stage, finished, packed, prepare, run
from jopt.train.config import Experiment
from jopt.train.state import TrainState
from jopt.train.workdir import Workdir, WorkdirError
from jopt.transform import ParamTransform, Storage
from tests.tiny import tiny_experiment

MODULE = "made_up_methods"


def _centered(params):
    return jax.tree.map(lambda w: w - jnp.mean(w) if w.ndim > 1 else w, params)


@dataclasses.dataclass(frozen=True)
class Centered(Method):
    """Subtracts the mean of each matrix after each step, which would revive pruned weights."""

    name: ClassVar[str] = "centered"

    def build(self, **context):
        return identity()._replace(constrain=lambda state, params: _centered(params))


@dataclasses.dataclass(frozen=True)
class Scaled(Method):
    """Multiplies every parameter by one trained number, which starts at `first`."""

    name: ClassVar[str] = "scaled"
    first: float = 2.0

    def build(self, **context):
        return identity()._replace(
            learn=lambda state, params: {"g": jnp.float32(self.first)},
            apply=lambda state, params, learned: jax.tree.map(lambda w: w * learned["g"] / self.first, params),
        )


@dataclasses.dataclass(frozen=True)
class Again(Scaled):
    """Keeps its number under the key of `Scaled`."""

    name: ClassVar[str] = "again"
    key: ClassVar[str] = "scaled"


@dataclasses.dataclass(frozen=True)
class LikeALayer(Scaled):
    """Keeps its number under the name of a layer of the model."""

    name: ClassVar[str] = "like_a_layer"
    key: ClassVar[str] = "Dense_0"


def test_a_constraint_revives_no_pruned_weight(tmp_path):
    stages = [Stage("pruned", methods=(prune.OneShot(0.5),)), Stage("centered", methods=(Centered(),))]
    run(tiny_experiment(stages=stages), tmp_path / "run")
    whole = finished.load(tmp_path / "run", trusted=True)
    seen, latent = dict(named_leaves(whole.params)), dict(named_leaves(jax.device_get(whole.state.params)))
    kernels = [path for path, w in seen.items() if w.ndim > 1]
    assert any((seen[path] == 0).mean() > 0.4 for path in kernels)
    for path in kernels:
        np.testing.assert_array_equal(latent[path][seen[path] == 0], 0.0)


@pytest.mark.parametrize("name", ["optimizer", "steps", "", "two words"])
def test_a_method_has_a_name_of_its_own(name):
    cls = dataclasses.dataclass(frozen=True)(type("Named", (Centered,), {"name": name, "__module__": __name__}))
    with pytest.raises(ConfigError) as caught:
        prepare(tiny_experiment(stages=[Stage(methods=(cls(),))]))
    assert (caught.value.field, caught.value.value) == ("stages[0].methods", name)


def test_a_method_is_a_dataclass():
    cls = type("Plain", (Centered,), {"__annotations__": {"rate": float}, "rate": 0.5, "__module__": __name__})
    with pytest.raises(ConfigError) as caught:
        prepare(tiny_experiment(stages=[Stage(methods=(cls(),))]))
    assert (caught.value.field, caught.value.value) == ("stages[0].methods", "Plain")


@pytest.mark.parametrize(("methods", "key"), [((Scaled(), Again()), "scaled"), ((LikeALayer(),), "Dense_0")])
def test_what_methods_train_stands_under_keys_of_their_own(methods, key):
    with pytest.raises(ConfigError) as caught:
        _ = prepare(tiny_experiment(stages=[Stage(methods=methods)])).plans[0].trainables
    assert (caught.value.field, caught.value.value) == ("stages[0].methods", key)


def test_a_transform_that_learns_needs_no_update_of_its_own():
    prepared = prepare(tiny_experiment(stages=[Stage(methods=(Scaled(),))]))
    assert prepared.plans[0].trainables.keys == {"scaled"}
    assert Scaled().build().update((), {}, step=0, learned={"g": 1.0}) == ()


@pytest.mark.parametrize("key", ["stage", "seed", "status", "accuracy"])
def test_a_column_has_a_key_of_its_own(key):
    with pytest.raises(ConfigError) as caught:
        measure.load_columns([Column(key, "made up", "", None, ".3f", lambda measured: 1.0)])
    assert (caught.value.field, caught.value.value) == ("columns", key)


@pytest.mark.parametrize("value", [np.ones(3), "text", KeyError("nope")])
def test_a_column_that_fails_is_named(value):
    def compute(measured):
        if isinstance(value, Exception):
            raise value
        return value

    outcome = measure.StageOutcome("dense", {"kernel": np.ones((2, 2), np.float32)}, {"accuracy": 0.5})
    with pytest.raises(ConfigError) as caught:
        measure.stage_rows([outcome], columns=[Column("mine", "made up", "", None, ".3f", compute)])
    assert (caught.value.field, caught.value.value) == ("columns", "mine")


@pytest.mark.parametrize("column", [f"{MODULE}:x y", f"{MODULE}:x", f"{MODULE}:"])
def test_an_untrusted_config_imports_no_column(tmp_path, monkeypatch, column):
    (tmp_path / f"{MODULE}.py").write_text("raise AssertionError('its code ran')")
    monkeypatch.syspath_prepend(tmp_path)
    files = Workdir(tmp_path / "run")
    files.create(tiny_experiment())
    config = {**json.loads(files.config.read_text()), "columns": [column]}
    files.config.write_text(json.dumps(config))
    with pytest.raises((ConfigError, WorkdirError), match="columns"):
        prepare(files.load_config())
    assert MODULE not in sys.modules


def test_a_config_constructs_no_class_that_is_no_dataclass(monkeypatch):
    made = []
    module = types.ModuleType(MODULE)
    module.Costly = type("Costly", (), {"__init__": lambda self: made.append(self)})
    monkeypatch.setitem(sys.modules, MODULE, module)
    with pytest.raises(ConfigError) as caught:
        from_dict(Experiment, {"optimizer": {"custom": {"class": f"{MODULE}:Costly"}}}, trusted=True)
    assert caught.value.field == "optimizer.custom.class" and not made


@pytest.mark.parametrize("text", ["[]", "3", '{"stages": []}', "null"])
def test_a_config_that_is_none_is_told(tmp_path, text):
    files = Workdir(tmp_path)
    files.config.write_text(text)
    with pytest.raises(WorkdirError, match=r"config\.json"):
        files.load_config()


def test_two_runs_that_differ_in_a_class_alone_are_told_apart(tmp_path):
    files = Workdir(tmp_path / "run")
    files.create(tiny_experiment(stages=[Stage(methods=(quantize.Binary(),))]))
    with pytest.raises(WorkdirError, match=r"stages.0..quantize.*Binary.*XNOR"):
        files.check(tiny_experiment(stages=[Stage(methods=(quantize.XNOR(),))]))


def test_a_run_with_a_method_of_another_module_is_another_run(tmp_path):
    files = Workdir(tmp_path / "run")
    files.create(tiny_experiment(stages=[Stage(methods=(Centered(),))]))
    with pytest.raises(WorkdirError, match=r"another run; it differs in stages\[0\]\.methods ") as caught:
        files.check(tiny_experiment())
    assert "--trust" not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Eighths(Method):
    """Weights of 4 bits in steps of 1/8; how wide they are stored is read from the arrays."""

    name: ClassVar[str] = "quantize"
    rank: ClassVar[int] = 40
    from_state: bool = False

    def build(self, **context):
        def see(w):
            return w + jax.lax.stop_gradient(jnp.clip(jnp.round(w * 8), -7, 7) / 8 - w)

        def storage(bits, params):
            if not self.from_state:
                assert all(np.isfinite(np.asarray(w)).all() for w in jax.tree.leaves(params))
            spec = quantize.Spec(bits if self.from_state else int(bits))
            end = np.float32(7 / 8)
            return {path: Storage(spec, quantize.Range(-end, end)) for path, _ in named_leaves(params)}

        return ParamTransform(
            lambda params: jnp.int32(4),
            lambda state, params, **_: state,
            lambda state, params: jax.tree.map(see, params),
            storage=storage,
        )


@pytest.mark.parametrize("from_state", [False, True])
def test_what_says_how_integers_are_stored_gets_concrete_arrays(from_state):
    plan = prepare(tiny_experiment(stages=[Stage(methods=(Eighths(from_state=from_state),))])).plans[0]
    params = {"kernel": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}
    state = TrainState(np.int32(0), params, {}, (), (np.int32(4),), ())
    formats = packed.storage(plan, state)
    assert int(formats["kernel"].spec.bits) == 4 and formats["kernel"].range.high == np.float32(7 / 8)
