"""Networks in integers: every kind of range and layer, what is left in floats, what is stored, what is refused."""

import functools

import agreement
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jopt.config import ConfigError
from jopt.models import from_linen
from jopt.models.cnn import ConvNet
from jopt.models.mlp import MLP, TiedMLP
from jopt.models.rnn import RNN
from jopt.quantize import Activations, Spec, activations, calibrate, integer, quantize, weights
from jopt.rules import RuleError, named_leaves

X = np.random.default_rng(1).normal(size=(12, 4, 4, 1)).astype(np.float32)


@functools.cache
def made(module):
    x = X[..., 0] if isinstance(module, RNN) else X
    return x, jax.jit(module.init)(jax.random.key(3), x)["params"]


def codes_of(params, spec=None):
    spec = Spec(8, axis=-1) if spec is None else spec
    return {path: quantize(leaf, spec) for path, leaf in named_leaves(params) if leaf.ndim > 1}


@pytest.mark.parametrize(
    ("module", "method", "symmetric"),
    [(TiedMLP(6, 3), "lsq", True), (ConvNet((3,), (5,)), "pact", False)],
    ids=["tied, learned step", "asymmetric kernels, learned level"],
)
def test_learned_ranges_tied_layers_and_asymmetric_kernels(module, method, symmetric):
    x, params = made(module)
    net = agreement.quantized(module, params, x, 4, -1, method=method, symmetric=symmetric)
    signed = [bool(own["signed"]) for own in net.state["activation_ranges"].values()]
    assert signed == [True] + [False] * (len(signed) - 1)  # the input of the first layer only
    ours, theirs = agreement.run_integer(net), agreement.run_float32(net)
    agreement.check_layers(net, ours, "integer")
    counted = agreement.compare(net, ours, theirs, "float32")
    assert counted.equal == counted.same == len(x) and counted.differ == 0


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_recurrent_networks(cell):
    module = RNN(cell, (5,), num_classes=3)
    x, params = made(module)
    model, spec = from_linen(module), Spec(4, axis=-1)
    config = Activations(calibration="absmax", bits=4, state=True)
    seen = weights(spec, calibration="absmax").apply({}, params)
    held = calibrate(model, config, params, {}, x, seen=seen)
    run = integer.network(model, *held, codes_of(params, spec), config)
    simulated, _ = jax.jit(functools.partial(activations(model, config).apply, train=False))(seen, held[1], x)
    np.testing.assert_allclose(jax.jit(run)(x), simulated, atol=2e-6)
    assert len(integer.assert_integer(run, x)) == 3
    # Without the state's codes its product is of floats.
    plain = Activations(calibration="absmax", bits=4)
    found = integer.contractions(integer.network(model, *held, codes_of(params, spec), plain), x)
    assert [c.is_integer for c in found] == [True, False, True] and "Recurrent_0" in found[1].where


def test_what_is_left_alone_runs_on_what_its_codes_stand_for():
    module = MLP((7, 6))
    x, params = made(module)
    model, config = from_linen(module), Activations(calibration="absmax", rules=(("Dense_0", None),))
    held = calibrate(model, config, params, {}, x)
    codes = codes_of(params)
    del codes["Dense_2/kernel"]
    run = integer.network(model, *held, codes, config)
    found = integer.assert_integer(run, x, floats=["Dense_0", "Dense_2"])
    assert [c.is_integer for c in found] == [False, True, False]
    seen = weights(Spec(8, axis=-1), [("Dense_2/kernel", None)]).apply({}, params)
    simulated, _ = activations(model, config).apply(seen, held[1], x, train=False)
    np.testing.assert_allclose(jax.jit(run)(x), simulated, atol=1e-5)
    # Not calibrated is not quantized, as in the simulation; and 32 bits are none.
    unrounded = Activations(calibration="absmax", bits=32)
    fresh = {"activation_ranges": {path: {"low": jnp.float32(0), "high": jnp.float32(0)} for path in params}}
    for state, own in ((fresh, Activations()), (calibrate(model, unrounded, params, {}, x)[1], unrounded)):
        found = integer.contractions(integer.network(model, params, state, codes, own), x)
        assert not any(c.is_integer for c in found)


def test_kernels_are_stored_in_few_bits_and_no_float_kernel_is_in_the_program():
    module = MLP((7, 6))
    x, params = made(module)
    model, config = from_linen(module), Activations(calibration="absmax", bits=4)
    held = calibrate(model, config, params, {}, x)
    for bits, dtype in ((8, "int8"), (4, "int4"), (2, "int2")):
        program = jax.make_jaxpr(integer.network(model, *held, codes_of(params, Spec(bits)), config))(x)
        assert [str(c.dtype) for c in program.consts if c.ndim == 2] == [dtype] * 3


def test_a_network_may_be_made_while_its_caller_is_traced():
    module = MLP((7,))
    x, params = made(module)
    model, config = from_linen(module), Activations(calibration="absmax")
    held, codes = calibrate(model, config, params, {}, x), codes_of(params)
    inside = jax.jit(lambda x: integer.network(model, *held, codes, config)(x))(x)
    np.testing.assert_array_equal(inside, jax.jit(integer.network(model, *held, codes, config))(x))
    with pytest.raises(ValueError, match=r"range.*'Dense_0'.*traced"):
        jax.eval_shape(lambda state, x: integer.network(model, params, state, codes, config)(x), held[1], x)


class Odd(nn.Module):
    """A layer whose product cannot be replaced."""

    @nn.compact
    def __call__(self, x):
        return x.reshape(len(x), -1) @ self.param("kernel", nn.initializers.ones, (16, 2))


def test_what_cannot_be_done_is_an_error_that_says_what_could():
    x, params = made(MLP((7,)))
    model, config = from_linen(MLP((7,))), Activations(calibration="absmax")
    held, codes = calibrate(model, config, params, {}, x), codes_of(params)
    with pytest.raises(ValueError, match=r"'Dense_9/kernel'.*\(16, 7\).* Dense_0/kernel"):
        integer.network(model, *held, {"Dense_9/kernel": codes["Dense_0/kernel"]}, config)
    with pytest.raises(ValueError, match=r"Dense_0/kernel: bits of the codes.*16.*rule"):
        integer.network(model, *held, codes_of(params, Spec(16)), config)
    with pytest.raises(ValueError, match=r"Dense_0/kernel: bits.*input.*16"):
        integer.network(model, *held, codes, Activations(calibration="absmax", bits=16))
    with pytest.raises(ValueError, match=r"no range.*'Dense_0'"):
        integer.network(model, params, {}, codes, config)
    with pytest.raises(RuleError, match="rules of activations"):
        integer.network(model, *held, codes, Activations(calibration="absmax", rules=(("Conv_.*", None),)))(x)
    with pytest.raises(ConfigError) as caught:
        integer.network(model, *held, codes, Activations(calibration="absmax", state=True))(x)
    assert (caught.value.field, caught.value.value) == ("activations.state", True)
    odd, params = from_linen(Odd()), {"kernel": jnp.ones((16, 2))}
    _, held = calibrate(odd, config, params, {}, x)
    with pytest.raises(ValueError, match=r"'' \(Odd\).*integers.*rule"):
        integer.network(odd, params, held, codes_of(params), config)(x)


@pytest.mark.parametrize(
    "module", [MLP((6, 5), num_classes=3), ConvNet((3, 4), (5,), num_classes=3)], ids=["dense", "conv"]
)
@pytest.mark.parametrize("ternary", [False, True], ids=["signs", "three values"])
def test_layers_of_one_bit_are_exclusive_or_and_population_count(module, ternary):
    x, params = made(module)
    model, spec = from_linen(module), Spec(2 if ternary else 1, axis=-1)
    first = "Conv_0" if isinstance(module, ConvNet) else "Dense_0"
    config = Activations(calibration="absmax", bits=1, rules=((first, 8),))
    params = jax.tree.map(lambda leaf: leaf.at[0].set(0.0) if leaf.ndim > 1 else leaf + 0.01, params)  # pruned
    seen = weights(spec, calibration="absmax").apply({}, params)
    held = calibrate(model, config, params, {}, x, seen=seen)
    codes = {path: quantize(leaf, spec) for path, leaf in named_leaves(params) if leaf.ndim > 1}
    run = integer.network(model, *held, codes, config)
    simulated, _ = jax.jit(functools.partial(activations(model, config).apply, train=False))(seen, held[1], x)
    np.testing.assert_allclose(jax.jit(run)(x), simulated, atol=2e-6)
    # The first layer, of 8 bits, is left to integer products; the others have none at all.
    assert {c.where.rpartition("/")[2] for c in integer.assert_integer(run, x)} == {first}
    assert str(jax.make_jaxpr(run)(x)).count("population_count") > 0


class Outer(nn.Module):
    """One layer, built in some way."""

    make: object

    @nn.compact
    def __call__(self, x):
        return self.make()(x.reshape(x.shape[0], -1) if self.make in FLAT else x)


FLAT = (
    own_product := lambda: nn.Dense(3, dot_general_cls=lambda: jax.lax.dot_general),
    normed := lambda: nn.WeightNorm(nn.Dense(3)),
)
MASKED = lambda: nn.Conv(3, (2, 2), mask=jnp.ones((2, 2, 1, 3)).at[0].set(0.0))  # noqa: E731
OWN_CONV = lambda: nn.Conv(3, (2, 2), conv_general_dilated_cls=lambda: jax.lax.conv_general_dilated)  # noqa: E731


@pytest.mark.parametrize("make", [own_product, OWN_CONV], ids=["dense", "conv"])
def test_a_contraction_of_a_class_of_its_own_is_replaced_too(make):
    check_runs(make)


def check_runs(make):
    net = from_linen(Outer(make))
    x, (params, _) = X, net.init(jax.random.key(0), X)
    config, spec = Activations(calibration="absmax", bits=8), Spec(8)
    seen = weights(spec, calibration="absmax").apply({}, params)
    held = calibrate(net, config, params, {}, x, seen=seen)
    run = integer.network(net, *held, codes_of(params, spec), config)
    simulated, _ = functools.partial(activations(net, config).apply, train=False)(seen, held[1], x)
    np.testing.assert_allclose(run(x), simulated, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "why"), [(MASKED, "its kernel has a mask"), (normed, "is made of its kernel")], ids=["mask", "norm"]
)
def test_a_layer_whose_kernel_is_changed_on_the_way_is_refused(make, why):
    with pytest.raises(ValueError, match=why):
        check_runs(make)
