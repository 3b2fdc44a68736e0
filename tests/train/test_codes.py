"""The integers behind quantized parameters stand, to the bit, for what the model sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import cluster, prune, quantize
from jopt.rules import named_leaves
from jopt.train import Experiment, Stage
from jopt.train.packed import integers, storage
from jopt.train.plan import StagePlan
from jopt.train.prepared import resolve
from jopt.train.state import TrainState, Variables

_RANDOM = np.random.default_rng(0)
PARAMS = {
    "Dense_0": {
        "bias": _RANDOM.normal(size=6).astype(np.float32),
        "kernel": _RANDOM.normal(size=(8, 6)).astype("f4"),
    },
    "Dense_1": {"kernel": _RANDOM.normal(size=(6, 4)).astype(np.float32)},
}
PRUNED = prune.OneShot(sparsity=0.5)
CASES = {
    "pruned": Stage(methods=(PRUNED,)),
    "each channel": Stage(methods=(PRUNED, quantize.Weights(bits=4, granularity="channel"))),
    "asymmetric groups": Stage(
        methods=(quantize.Weights(bits=3, symmetric=False, group=2, rules=((".*bias", None),)),)
    ),
    "clipped": Stage(methods=(quantize.Weights(bits=4, calibration="mse"),)),
    "one bit": Stage(methods=(PRUNED, quantize.Weights(bits=1, granularity="channel"))),
    "signs and integers": Stage(methods=(quantize.XNOR(rules=(("Dense_0/kernel", 5),)),)),
    "three values": Stage(methods=(quantize.Ternary(granularity="tensor"),)),
    "shared": Stage(
        methods=(cluster.Share(clusters=4), quantize.Weights(bits=4, granularity="tensor", symmetric=False))
    ),
}


def plan_of(case: str, **changes) -> StagePlan:
    return resolve(Experiment(stages=[CASES[case]], **changes), 640)[0]


def ended(plan: StagePlan, *, averaged: bool = False) -> tuple[TrainState, dict]:
    """A state at the end of the one stage, and what the model sees; the average is another set of parameters."""
    acts = plan.transform
    moved = jax.tree.map(jnp.asarray, PARAMS)
    ema = Variables(jax.tree.map(lambda x: x[::-1] * 0.9, moved), {}) if averaged else ()
    state = acts.update(acts.init(moved), moved, step=1, key=jax.random.key(0))
    seen = jax.device_get(jax.jit(acts.apply)(state, ema.params if averaged else moved))
    return TrainState(jnp.int32(1), moved, {}, (), state, ema), seen


@pytest.mark.parametrize("name", [name for name in CASES if name != "pruned"])
def test_the_integers_stand_for_what_the_model_sees(name):
    averaged = name == "each channel"
    plan = plan_of(name, ema_decay=0.9 if averaged else None)
    state, seen = ended(plan, averaged=averaged)
    formats = storage(plan, state)
    tensors = integers(plan, formats, seen)
    assert sorted(tensors) == sorted(formats) == ["Dense_0/kernel", "Dense_1/kernel"]
    leaves = dict(named_leaves(seen))
    for path, q in tensors.items():
        assert np.array_equal(np.asarray(quantize.dequantize(q)), leaves[path])
        assert int(jnp.abs(q.codes.astype(jnp.int32)).max()) <= 2**q.spec.bits - 1


def test_signs_are_one_bit_and_three_values_two():
    for name, bits in (("signs and integers", [5, 1]), ("three values", [2, 2])):
        plan = plan_of(name)
        formats = storage(plan, ended(plan)[0])
        assert [formats[f"Dense_{i}/kernel"].spec.bits for i in range(2)] == bits


def test_values_beside_their_integers_are_left_out():
    plan = plan_of("each channel")
    state, seen = ended(plan)
    formats = storage(plan, state)
    seen["Dense_0"]["kernel"] = seen["Dense_0"]["kernel"] * np.float32(1 + 1e-6)
    assert list(integers(plan, formats, seen)) == ["Dense_1/kernel"]


def test_without_quantization_there_are_none():
    plan = plan_of("pruned")
    assert storage(plan, ended(plan)[0]) == {}
