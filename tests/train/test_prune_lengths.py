"""Default pruning reaches its sparsity, exactly, in a stage of any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import prune
from jopt.config import ConfigError
from jopt.train import Experiment, Stage, prepare
from jopt.train.plan import validate_lengths
from jopt.train.prepared import resolve
from jopt.train.schedule import segments

EXAMPLES, BATCH = 190, 10  # an epoch has 19 steps
PARAMS = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(20, 10)), jnp.float32)}
LENGTHS = [{"epochs": n} for n in range(1, 21)] + [{"steps": n} for n in (*range(21), 37, 39)]


METHODS = {"one_shot": prune.OneShot, "gradual": prune.Gradual, "iterative": prune.Iterative, "rigl": prune.RigL}


@pytest.mark.parametrize("method", [*METHODS, "set"])
def test_defaults_reach_their_sparsity_in_a_stage_of_any_length(method):
    method_used = METHODS.get(method, prune.SET)()

    @jax.jit
    def update(state, step, begin, steps, last_update):
        pruner = method_used.build(begin=begin, steps=steps, last_update=last_update)
        return pruner.update(state, PARAMS, step=step, grads=PARAMS, key=jax.random.key(0))

    fresh = method_used.build(begin=0, steps=1).init(PARAMS)
    for length in LENGTHS:
        for segment_steps in (None, 7):
            stages = [
                Stage("before", steps=5),
                Stage("pruned", methods=(method_used,), segment_steps=segment_steps, **length),
            ]
            config = Experiment(batch_size=BATCH, stages=stages)
            plans = resolve(config, EXAMPLES)
            validate_lengths(plans)
            planned = plans[1].length
            state = fresh
            for segment in segments(config, EXAMPLES):
                if segment.stage == 1:
                    state = update(state, segment.start, planned.start, planned.steps, planned.last_update)
            assert (float(state.sparsity), int(state.masks["kernel"].sum())) == (np.float32(0.9), 20), length
    assert update._cache_size() == 1


def test_a_long_stage_ends_where_it_always_did():
    for method in (prune.Gradual, prune.Iterative):
        for steps, last_update in ((400, 393), (40, 33), (41, 36), (7, 9)):
            default, explicit = method(), method(end=0.75)
            due = [
                method_used.reached_at(begin=3, steps=steps, last_update=last_update)
                for method_used in (default, explicit)
            ]
            assert due[0] == due[1] == 3 + round(0.75 * steps)
    # Begun after three quarters, it is reached at once; and an end that is asked for is never moved.
    assert prune.Gradual(begin=0.8).reached_at(begin=0, steps=10, last_update=9) == 8
    assert prune.Gradual(end=0.75).reached_at(begin=0, steps=10, last_update=5) == 8


@pytest.mark.usefixtures("unoptimized")
def test_the_program_of_a_short_stage_is_pruned_by_the_defaults(tiny):
    p = prepare(tiny(stages=[Stage("three epochs", epochs=3, methods=(prune.Gradual(sparsity=0.5),))]))
    program = p.program_of(0, p.segments[0].steps)
    state, update = program.init(p.key, p.values), jax.jit(program.update)
    for segment in p.segments:
        # What training would change besides the step does not matter here.
        state = update(state._replace(step=jnp.int32(segment.start)), p.values, p.arrays["train"])
    for layer in state.params.values():
        assert int(jnp.sum(layer["kernel"] != 0)) == layer["kernel"].size // 2


def test_movement_that_would_have_seen_no_step_is_refused():
    stage = Stage("pruned", epochs=1, methods=(prune.Gradual(score="movement"),))
    config = Experiment(batch_size=BATCH, stages=[stage])
    with pytest.raises(ConfigError) as error:
        validate_lengths(resolve(config, EXAMPLES))
    assert error.value.field == "stages[0].prune.score"
    stage.segment_steps = 5
    validate_lengths(resolve(config, EXAMPLES))
