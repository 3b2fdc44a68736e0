"""What programs cost: XLA's own numbers, and the estimate before anything is compiled beside them."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from tiny import tiny_experiment

from jopt import data, levels, models, optim, quantize
from jopt.ablate.plan import memory_of
from jopt.measure import forward_bytes, program_cost
from jopt.models.convolution import conv_general_dilated
from jopt.train import Stage, prepare
from jopt.train.calls import Calls


def test_a_compiled_program_tells_its_buffers_and_a_lowered_one_its_arguments():
    def step(params, x):
        return params - x.T @ jnp.tanh(x @ params)

    lowered = jax.jit(step, donate_argnums=0).lower(jnp.ones((64, 64)), jnp.ones((128, 64)))
    before, after = program_cost(lowered), program_cost(lowered.compile())
    assert (
        (before.arguments, before.outputs) == (after.arguments, after.outputs) == (4 * 64 * (64 + 128), 4 * 64 * 64)
    )
    assert not before.compiled and after.compiled and before.peak <= after.peak + after.shared
    # The hidden layer is kept; the result goes into the donated parameters.
    assert after.temporaries >= 4 * 128 * 64 and after.shared == 4 * 64 * 64
    # Two products and the elementwise rest.
    assert before.flops == pytest.approx(2 * 2 * 128 * 64 * 64, rel=0.02)
    assert before.bytes_accessed > before.arguments


def test_values_that_xla_fuses_away_take_no_memory_and_loops_as_much_as_their_rounds():
    x, w = jnp.ones((8, 8), jnp.float32), jnp.ones((8, 8), jnp.float32)
    assert forward_bytes(lambda x: jnp.tanh(x) * 2 + 1, x).total == 0
    assert forward_bytes(lambda x, w: jnp.tanh(x @ w) @ w, x, w).total == 2 * 4 * 64
    loop = forward_bytes(lambda x, w: lax.scan(lambda x, _: (x @ w, None), x, None, length=5)[0], x, w)
    assert loop.total == 5 * 4 * 64


def test_a_convolution_has_columns_on_cpus_only():
    x, kernel = jnp.ones((4, 8, 8, 1)), jnp.ones((3, 3, 1, 2))
    layout = ("NHWC", "HWIO", "NHWC")

    def layer(x, kernel):
        return conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    columns = 4 * (4 * 8 * 8) * 9
    assert forward_bytes(layer, x, kernel, platform="cpu").total >= columns
    for platform in ("gpu", "tpu"):
        # The result, and the number of the branch.
        assert forward_bytes(layer, x, kernel, platform=platform).total == 4 * (4 * 8 * 8) * 2 + 4


STAGES = {
    "mlp": [Stage()],
    "lenet5": [Stage()],
    "calibrated": [Stage(methods=(quantize.Weights(), quantize.Activations(calibration="absmax")))],
}


@pytest.mark.unoptimized
@pytest.mark.parametrize("case", STAGES)
def test_the_estimate_is_near_what_xla_takes(case):
    network = models.ModelConfig(name="lenet5" if case == "lenet5" else "mlp", num_classes=4)
    images = data.Synthetic(shape=(8, 8, 1), num_classes=4, train=96, validation=40, test=24)
    p = prepare(tiny_experiment(model=network, data=images, optimizer=optim.Config("sgd"), stages=STAGES[case]))
    requests = [r for r in Calls(p, p.values).ahead(None) if r.name in ("segment", "update", "evaluate")]
    temporaries = []
    for request in requests:
        lowered = jax.jit(request.fn, donate_argnums=request.donate, keep_unused=True).lower(*request.args)
        cost = program_cost(lowered.compile(compiler_options=levels.options(levels.QUICK)))
        temporaries.append(cost.temporaries)
    assert 0.4 <= memory_of(p, 0).working / max(temporaries) <= 2.5
