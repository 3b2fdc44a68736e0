"""Optimizers and schedules from outside jopt: by reference or as callables, with numbers of their own, traced."""

import dataclasses
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import optim
from jopt.config import ConfigError, canonical_json, fingerprint, from_dict, to_dict
from jopt.hyper import join, split
from jopt.layers import Parameter
from jopt.optim import Config, multiplier

from . import outside
from .cases import cast, jit, random, train

pytestmark = pytest.mark.unoptimized

HERE = outside.__name__
REFERENCE = f"{HERE}:signed_momentum"
FORMS = {"callable": outside.signed_momentum, "reference": REFERENCE}


def hers(name=outside.signed_momentum, rho=0.5, **kwargs):
    return Config(name, custom=outside.Numbers(rho), **kwargs)


@pytest.mark.parametrize("form", FORMS)
def test_two_steps_by_hand(form):
    """Gradients 2 and -1 with rho 0.5: m = 1, then 0; sign(0) = 0, so only the first moves, by the rate 0.25."""
    optimizer = optim.build(hers(FORMS[form], learning_rate=0.25))
    grads = {"w": jnp.array([2.0, -1.0])}
    end, _ = train(optimizer, {"w": jnp.array(3.0)}, grads)
    assert float(end["w"]) == 2.75


def test_everything_of_ours_works_around_it():
    """Clipping, L2 in the gradient, a schedule and a rule: the momentum sees min(4, 1) + 0.5 * 2 = 2."""
    config = hers(
        learning_rate=1.0,
        clip_by_value=1.0,
        weight_decay=0.5,
        warmup_steps=2,
        learning_rate_rules=(("w", 0.5),),
    )
    optimizer = optim.build(config)
    params = {"w": jnp.array(2.0)}
    state = optimizer.init(params)
    updates, state = optimizer.update({"w": jnp.array(4.0)}, state, params)
    assert float(updates["w"]) == 0.0  # the first update of a warm-up
    assert [float(x.trace["w"]) for x in jax.tree.leaves(state, is_leaf=_is_trace) if _is_trace(x)] == [1.0]
    updates, _ = optimizer.update({"w": jnp.array(4.0)}, state, params)
    assert float(updates["w"]) == -0.25  # half of the rate, half by the rule


def _is_trace(node):
    return isinstance(node, optax.TraceState)


def test_decay_is_decoupled_where_it_is_asked_for():
    """The gradient is 0: decoupled decay moves by rate * decay * w, an L2 penalty by the sign of its gradient."""
    moved = {}
    for decoupled in (None, False, True):
        optimizer = optim.build(hers(learning_rate=0.5, weight_decay=0.25, decoupled=decoupled))
        params = {"w": jnp.array(2.0)}
        updates, _ = optimizer.update({"w": jnp.array(0.0)}, optimizer.init(params), params)
        moved[decoupled] = float(updates["w"])
    assert moved == {None: -0.5, False: -0.5, True: -0.25}


def test_decoupled_adam_is_adamw():
    params, grads = cast(random(8, steps=5), jnp.float32)
    numbers = {"learning_rate": 0.125, "weight_decay": 0.25}
    adamw = train(optim.build(Config("adamw", **numbers)), params, grads)[0]
    adam = train(optim.build(Config("adam", decoupled=True, **numbers)), params, grads)[0]
    jax.tree.map(np.testing.assert_array_equal, adam, adamw)


def test_her_numbers_are_traced_and_one_program_serves_a_grid():
    configs = [hers(REFERENCE, rho) for rho in (0.0, 0.5, 0.75)]
    structures, hypers = zip(*map(split, configs), strict=True)
    assert set(structures) == {structures[0]}
    assert [float(hyper["custom.rho"]) for hyper in hypers] == [0.0, 0.5, 0.75]
    params, grads = cast(random(9, steps=4), jnp.float32)

    def moved(hyper):
        return train(optim.build(join(structures[0], hyper)), params, grads)[0]

    together = jit(jax.vmap(moved))(jax.tree.map(lambda *x: np.stack(x), *hypers))
    for i, config in enumerate(configs):
        alone = jit(lambda c=config: train(optim.build(c), params, grads)[0])()
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6), together, alone)


def test_her_numbers_meet_float64_parameters():
    with jax.enable_x64(True):
        params, grads = cast(random(6, steps=3), jnp.float64)
        structure, hyper = split(hers())
        end, state = train(optim.build(join(structure, jax.tree.map(jnp.asarray, hyper))), params, grads)
    assert {x.dtype for x in jax.tree.leaves(end)} == {jnp.dtype("float64")}
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float64"), jnp.dtype("int32")}


def test_what_makes_another_program():
    base = split(hers(REFERENCE))[0]
    assert split(hers())[0] == base  # the callable and its reference are one
    assert split(hers(REFERENCE, 0.25, learning_rate=1.0))[0] == base
    slow = Config(REFERENCE, custom=outside.Numbers(slow=True))
    for other in (Config(f"{HERE}:of_layers"), slow, Config("sgd")):
        assert split(other)[0] != base


def test_layers_come_to_who_asks_for_them():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    layers = {"w": Parameter("w", "Dense", "kernel", (0,), (1,)), "b": Parameter("b", "Dense", "bias")}
    optimizer = optim.build(Config(outside.of_layers, learning_rate=1.0), layers=layers)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert (updates["w"] == -1).all() and (updates["b"] == 0).all()


def test_round_trip_through_json():
    config = hers(schedule=outside.half_way)
    plain = to_dict(config)
    assert plain["name"] == REFERENCE and plain["schedule"] == f"{HERE}:half_way"
    assert plain["custom"] == {"class": f"{HERE}:Numbers", "rho": 0.5, "slow": False}
    back = from_dict(Config, plain, trusted=True)
    assert back == dataclasses.replace(config, name=REFERENCE, schedule=f"{HERE}:half_way")
    assert canonical_json(back) == canonical_json(config)
    assert fingerprint(back) == fingerprint(config) != fingerprint(hers(schedule=outside.to_the_power))


def test_a_strangers_config_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "strangers_module.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plain = to_dict(hers())
    assert from_dict(Config, plain, trusted={HERE, "outside"}) == dataclasses.replace(hers(), name=REFERENCE)
    plain = to_dict(Config())
    name = "strangers_module:x"
    for changes, field in (
        ({"name": name}, "name"),
        ({"schedule": name}, "schedule"),
        ({"custom": {"class": name}}, "custom"),
    ):
        with pytest.raises(ConfigError) as error:
            from_dict(Config, plain | changes, "optimizer", trusted=False)
        assert error.value.field.startswith(f"optimizer.{field}") and error.value.value == name
    assert "strangers_module" not in sys.modules


def test_the_summary_names_hers():
    config = hers(rho=0.25, learning_rate=0.5, schedule=outside.half_way, decay_steps=4)
    assert optim.summary(config) == (
        "signed_momentum, learning_rate 0.5, schedule half_way, decay_steps 4, custom.rho 0.25, custom.slow False"
    )
    assert optim.summary(Config("adam")) == "adam, learning_rate 0.001"


def test_a_lambda_can_be_built_but_not_written():
    config = Config(lambda c: optax.identity(), learning_rate=1.0)
    params = {"w": jnp.array(2.0)}
    optimizer = optim.build(config)
    assert float(optimizer.update(params, optimizer.init(params))[0]["w"]) == -2.0
    with pytest.raises(ConfigError) as error:
        to_dict(config)
    assert error.value.field == "name"


@pytest.mark.parametrize("name", ["half_way", "to_the_power"])
def test_schedules_by_hand(name):
    """Warm-up 2, then from step 2 to 6: progress 0, 1/4, 1/2, 3/4, 1."""
    config = Config(schedule=f"{HERE}:{name}", warmup_steps=2, decay_steps=6, power=2.0)
    shape = {"half_way": [1, 1, 0.25, 0.25, 0.25], "to_the_power": [1, 9 / 16, 1 / 4, 1 / 16, 0]}[name]
    want = [0.0, 0.5 * shape[0], *shape, shape[-1]]
    np.testing.assert_allclose(multiplier(config, jnp.arange(8)), want, rtol=1e-6)
    callables = dataclasses.replace(config, schedule=getattr(outside, name))
    np.testing.assert_array_equal(multiplier(callables, jnp.arange(8)), multiplier(config, jnp.arange(8)))


BAD = {
    "no such module": ({"name": "no_such_module:make"}, "name"),
    "no such name": ({"name": f"{HERE}:nothing"}, "name"),
    "not a callable": ({"name": "math:pi"}, "name"),
    "no transform": ({"name": f"{HERE}:no_transform"}, "name"),
    "variant": ({"name": REFERENCE, "variant": "paper"}, "variant"),
    "no such schedule": ({"schedule": f"{HERE}:nothing"}, "schedule"),
    "a number": ({"custom": 3, "name": REFERENCE}, "custom"),
    "a class": ({"custom": outside.Numbers, "name": REFERENCE}, "custom"),
    "of the wrong type": ({"custom": outside.Numbers("fast"), "name": REFERENCE}, "custom.rho"),
    "nobody reads it": ({"custom": outside.Numbers()}, "custom"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_name_the_field(case):
    kwargs, field = BAD[case]
    with pytest.raises(ConfigError) as error:
        optim.validate(Config(**kwargs), "")
        optim.build(Config(**kwargs), total_steps=10).init({"w": jnp.ones(2)})
    assert error.value.field == field


def test_a_schedule_must_keep_the_shape():
    with pytest.raises(ConfigError) as error:
        multiplier(Config(schedule=outside.of_another_shape, decay_steps=4), jnp.arange(2))
    assert error.value.field == "schedule"


def test_a_schedule_from_outside_needs_an_end():
    with pytest.raises(ConfigError) as error:
        optim.build(Config(schedule=outside.half_way))
    assert error.value.field == "decay_steps"


def test_the_documents_examples_run():
    """In order, in one namespace; the optimizer that they define then moves by the sign of its momentum."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()
    space = {"params": {"Dense_0": {"scale": jnp.ones(2), "kernel": jnp.ones((2, 2))}}}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "optimizers.md", "exec"), space)
    optimizer = optim.build(Config(space["signed_momentum"], learning_rate=0.5, custom=space["Numbers"]()))
    params = {"w": jnp.array([2.0, -2.0])}
    updates, _ = optimizer.update({"w": jnp.array([0.25, -4.0])}, optimizer.init(params), params)
    assert updates["w"].tolist() == [-0.5, 0.5]
