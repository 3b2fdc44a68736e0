"""Ranges of activations reach what is evaluated, outlast a rewind, and are not clipped as weights are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import clip, data, models, quantize
from jopt.quantize.activations import KEY
from jopt.train import Stage, prepare
from jopt.train.finished import Source, compute_logits, match_inputs
from jopt.train.prepared import resolve
from jopt.train.state import Variables

pytestmark = pytest.mark.unoptimized


def calibrated(tiny, **changes):
    lsq = quantize.LSQActivations(bits=4)
    p = prepare(tiny(stages=[Stage("train", methods=(lsq,))], **changes))
    program = p.program_of(0, 6)
    state = jax.jit(program.init)(p.key, p.values)
    return p, program, jax.jit(program.update)(state, p.values, p.arrays["train"])


def test_the_averaged_model_has_the_calibrated_ranges(tiny):
    _, _, state = calibrated(tiny, ema_decay=0.99)
    steps = [float(layer["step"]) for layer in state.params[KEY].values()]
    assert min(steps) > 0
    assert [float(layer["step"]) for layer in state.ema.params[KEY].values()] == steps


def test_a_rewind_keeps_the_calibrated_ranges(tiny):
    p, program, state = calibrated(tiny)
    before = jax.device_get((state.params[KEY], state.model_state[KEY]))
    fresh = jax.jit(program.init)(p.key, p.values)
    back = jax.jit(program.rewind)(state, p.values, Variables(fresh.params, fresh.model_state))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, (back.params[KEY], back.model_state[KEY])))
    np.testing.assert_array_equal(back.params["Dense_0"]["kernel"], fresh.params["Dense_0"]["kernel"])


def test_the_range_that_weights_are_kept_in_is_not_that_of_activations(tiny):
    limits = clip.Range(-0.5, 0.5, rules=((".*", 1.0),))
    stage = Stage("train", methods=(limits, quantize.PACTActivations(bits=4)))
    transform = resolve(tiny(stages=[stage]), 96)[0].transform
    params = {"Dense_0": {"kernel": jnp.array([[3.0, -3.0]])}, KEY: {"Dense_0": {"alpha": jnp.float32(6)}}}
    constrained = transform.constrain(transform.init(params), params)
    assert constrained["Dense_0"]["kernel"].tolist() == [[0.5, -0.5]]
    assert float(constrained[KEY]["Dense_0"]["alpha"]) == 6


def test_a_teacher_sees_its_inputs_normalized_as_it_knows_them(tiny):
    """Pixels to [0, 1] for the teacher, mean 0 and variance 1 for the student."""
    raw, normalized = (data.load(dataclasses.replace(tiny().data, normalize=on)) for on in (False, True))
    model = models.model(models.ModelConfig("linear", num_classes=4))
    params, state = model.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
    source = Source(model, params, state, raw.mean, raw.std, "")
    expected = compute_logits(source, data.device_arrays(raw))
    np.testing.assert_array_equal(compute_logits(source, data.device_arrays(normalized)), expected)
    arrays = data.device_arrays(normalized)
    x = data.normalize(arrays.inputs, arrays.mean, arrays.std)
    computed = match_inputs(source, normalized).apply(params, state, x, train=False)[0]
    # Normalized and back again in float32: a few units in the last place of values up to 255.
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-5)
    assert match_inputs(source, raw) is model
