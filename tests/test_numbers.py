"""Public functions refuse concrete numbers that are out of range, by field and value, and let tracers pass."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import clip, cluster, data, distill, hyper, models, optim, prune, quantize
from jopt.config import ConfigError
from jopt.optim import gradients
from jopt.prune.schedule import cosine_share

NAN, INF = math.nan, math.inf
X = jnp.ones((2, 3))


def configs():
    """(build, config class, its other fields, a field, bad values)."""
    positive, unit, least_zero = (-1.0, 0.0, NAN, INF), (-0.1, 1.0, NAN), (-1.0, NAN)
    optimizers = {
        "learning_rate": positive,
        "momentum": unit,
        "b1": unit,
        "b2": unit,
        "decay": unit,
        "eps": positive,
        "weight_decay": least_zero,
        "l1": least_zero,
        "proximal_l1": least_zero,
        "clip_by_global_norm": positive,
        "clip_by_value": positive,
        "adaptive_clip": positive,
        "end_fraction": (-0.5, 1.5),
        "power": positive,
        "decay_rate": (0.0, 1.5),
        "peak_fraction": (0.0, 1.0),
        "initial_fraction": (-0.5, 1.5),
        "warmup_steps": (-1,),
        "decay_steps": (0, -3),
        "accumulate_steps": (0, -1),
    }
    for field, bad in optimizers.items():
        yield optim.build, optim.Config, {}, field, bad
    methods = {
        prune.OneShot: {"sparsity": unit, "begin": unit},
        prune.Gradual: {"sparsity": unit, "initial_sparsity": unit, "begin": unit, "end": (1.5, NAN)},
        prune.Iterative: {"sparsity": unit, "begin": unit, "end": (1.5, NAN), "rounds": (0,)},
        prune.RigL: {"sparsity": unit, "drop_fraction": unit, "begin": unit, "end": (1.5, NAN)},
        prune.SET: {"sparsity": unit, "drop_fraction": unit, "begin": unit, "end": (1.5, NAN)},
        prune.NofM: {"n": (0, -1), "m": (2, 0), "begin": unit},
        quantize.Weights: {"bits": (0, 9, -1), "group": (0, -4)},
        quantize.Ternary: {"threshold": least_zero},
        cluster.Share: {"iterations": (-1,), "begin": (-0.5, 1.0), "clusters": (0, -1, 5000)},
        clip.Range: {"low": (0.5, NAN, -INF), "high": (-0.5, NAN, INF)},
    }
    for kind, numbers in methods.items():
        for field, bad in numbers.items():
            yield build_method, kind, {}, field, bad
    for field, bad in {"dropout": unit, "num_classes": (0,)}.items():
        yield models.model, models.ModelConfig, {"name": "mlp"}, field, bad
    ranges = {"bits": (0, 9), "examples": (0,)}
    activations = {
        quantize.Activations: ranges,
        quantize.LSQActivations: ranges,
        quantize.PACTActivations: {**ranges, "percentile": (50.0, 101.0, NAN)},
        quantize.MovingAverageActivations: {**ranges, "momentum": unit},
    }
    for kind, numbers in activations.items():
        for field, bad in numbers.items():
            yield wrap_model, kind, {}, field, bad


def build_method(method):
    return method.build(begin=0, steps=10)


def wrap_model(method):
    return method.wrap(models.model(models.ModelConfig("mlp", features=(3,))))


CONFIGS = list(configs())


@pytest.mark.parametrize(
    ("build", "kind", "others", "field", "bad"), CONFIGS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_config_with_a_number_out_of_range_is_refused_where_it_is_built(build, kind, others, field, bad):
    for value in bad:
        for given in (
            (value, np.asarray(value)) if field in hyper.split(kind(**others, **{field: value}))[1] else (value,)
        ):
            with pytest.raises(ConfigError) as error:
                build(kind(**others, **{field: given}))
            assert re.fullmatch(rf"((model|prune|quantize|activations)\.)?{field}", error.value.field)
            assert repr(error.value.value) == repr(value)


@pytest.mark.parametrize(
    ("build", "kind", "bad"),
    [
        (build_method, quantize.Weights, (0.0, 101.0, NAN)),
        # Below the median a range would hold fewer inputs than it clips.
        (wrap_model, quantize.Activations, (50.0, 101.0, NAN)),
    ],
)
def test_a_percentile_out_of_range_is_refused_where_it_is_built(build, kind, bad):
    for value in bad:
        for given in (value, np.asarray(value)):
            with pytest.raises(ConfigError) as error:
                build(kind(calibration=quantize.Percentile(given)))
            assert error.value.field == f"{kind.name}.calibration.percentile"
            assert repr(error.value.value) == repr(value)


def test_tracers_pass_and_the_numbers_beside_them_do_not():
    def build(rate, **numbers):
        optimizer = optim.build(optim.Config("momentum", learning_rate=rate, **numbers))
        return optimizer.update({"w": X}, optimizer.init({"w": X}), {"w": X})[0]["w"]

    np.testing.assert_array_equal(jax.jit(build)(-1.0), X)
    for field, value, numbers in (("momentum", 1.5, {}), ("warmup_steps", 9, {"decay_steps": 5})):
        with pytest.raises(ConfigError) as error:
            jax.jit(lambda rate, numbers=numbers | {field: value}: build(rate, **numbers))(0.1)
        assert (error.value.field, error.value.value) == (field, value)

    # A tracer may stand on either side of a bound that joins two numbers.
    def masks(begin, end):
        pruner = prune.Gradual(begin=begin, end=end).build(begin=0, steps=10)
        return pruner.update(pruner.init({"w": X}), {"w": X}, step=10).masks["w"].sum()

    assert int(jax.jit(lambda begin: masks(begin, 0.9))(0.8)) == int(jax.jit(lambda end: masks(0.8, end))(0.9)) == 1


def test_every_swept_field_of_every_config_may_be_traced():
    for build, kind in {(build, kind) for build, kind, *_ in CONFIGS}:
        structure, numbers = hyper.split(kind())
        jax.eval_shape(lambda numbers, build=build, s=structure: (build(hyper.join(s, numbers)), 0)[1], numbers)


STEPS = {"begin": 0, "end": 5}
CALLS = {
    "max_norm": (optim.clip_by_global_norm, (-1.0, 0.0, NAN)),
    "b1": (lambda v: optim.scale_by_adam(v, 0.9, 1e-8), (1.0, -0.1, NAN)),
    "b2": (lambda v: optim.scale_by_adam(0.9, v, 1e-8), (1.0, -0.1, NAN)),
    "eps": (lambda v: optim.scale_by_adam(0.9, 0.9, v), (-1.0, 0.0)),
    "eps of AdaGrad": (optim.scale_by_paper_adagrad, (-1.0, 0.0)),
    "threshold": (lambda v: optim.soft_threshold(X, v), (-1.0, NAN)),
    "strength of decay": (lambda v: gradients.add_weight_decay(v, {"w": 1.0}), (-1.0, NAN)),
    "strength of L1": (lambda v: gradients.add_l1(v, {"w": 1.0}), (-1.0, NAN)),
    "strength of the proximal step": (lambda v: gradients.proximal_l1(v, lambda c: 1.0, {}, {}), (-1.0,)),
    "learning_rate": (lambda v: optim.learning_rate(optim.Config(learning_rate=v), 0), (-1.0, NAN)),
    "end_fraction": (
        lambda v: optim.multiplier(optim.Config(schedule="cosine", end_fraction=v), 0, 9),
        (-1.0, 7.0),
    ),
    "total_steps": (lambda v: optim.multiplier(optim.Config(schedule="cosine"), 0, v), (0, -1)),
    "fraction": (lambda v: prune.step_at(v, begin=0, steps=10), (-0.5, 1.5, NAN)),
    "sparsity": (lambda v: prune.cubic(1, sparsity=v, **STEPS), (-0.5, 1.0, NAN)),
    "initial_sparsity": (lambda v: prune.cubic(1, sparsity=0.5, initial_sparsity=v, **STEPS), (-0.5, 1.0)),
    "end": (lambda v: prune.cubic(1, sparsity=0.5, begin=3, end=v), (2,)),
    "sparsity of rounds": (lambda v: prune.geometric(1, sparsity=v, rounds=2, **STEPS), (-0.5, 1.0, NAN)),
    "rounds": (lambda v: prune.geometric(1, sparsity=0.5, rounds=v, **STEPS), (0, -1)),
    "drop_fraction": (lambda v: cosine_share(1, drop_fraction=v, **STEPS), (-0.5, 1.0)),
    "iterations": (lambda v: cluster.share(4, iterations=v), (-1,)),
    "begin": (lambda v: cluster.share(4, begin=v), (-1,)),
    "weight": (lambda v: distill.combine(1.0, 1.0, v), (-0.5, 1.5, NAN)),
    "features.weight": (
        lambda v: distill.SoftTargets(features=distill.Features(weight=v)).objective(X, jnp.ones(2), X),
        (-1.0, NAN),
    ),
    "first_step": (lambda v: data.indices(jax.random.key(0), v, 3, 2, 9), (-1,)),
    "rate": (
        lambda v: models.Dropout(v).apply({}, X, train=True, rngs={"dropout": jax.random.key(0)}),
        (-0.5, 1.0),
    ),
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_function_refuses_a_concrete_number_out_of_range_and_passes_a_tracer(name):
    call, bad = CALLS[name]
    for value in bad:
        for given in (value, jnp.asarray(value)):
            with pytest.raises(ConfigError) as error:
                call(given)
            assert error.value.field == name.split(" of ")[0]
            assert float(error.value.value) == pytest.approx(value, nan_ok=True)
        jax.eval_shape(lambda traced: (call(traced), 0)[1], jnp.asarray(value))


def test_a_gradient_of_sharing_that_means_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^gradient .*'sum'$"):
        cluster.share(4, gradient="sum", trained=False)


def test_known_keeps_what_is_known():
    @dataclasses.dataclass
    class Config:
        rate: float = 0.5
        seed: int = hyper.swept(3)
        name: str = "a"
        absent: float | None = None

    def check(rate, seed):
        new = hyper.known(Config(rate, seed, "b"))
        assert new.rate < -1 and new.rate > 1 and 10 <= new.seed <= 0 and isinstance(new.rate, float)
        assert hyper.as_traced(new.rate) > 100 and isinstance(new.seed, int)
        assert (new.name, new.absent) == ("b", None)
        return 0

    jax.eval_shape(check, 0.0, 0)
    assert hyper.known(Config(jnp.float32(0.25), np.uint32(7))) == Config(0.25, 7)
