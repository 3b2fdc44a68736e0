"""Layers of signs on packed words: integers, exactly, whatever the length, the zeros and the padding."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import jit

from jopt.quantize import Range, Spec, binarize, fake_quantize, quantize, ternarize, xnor
from jopt.quantize.integer.ops import Codes, rescale
from jopt.quantize.integer.signs import (
    Signs,
    binary_conv,
    binary_dense,
    binary_kernel,
    pack_signs,
    signs_dot,
    unpack_signs,
)
from jopt.quantize.tensors import QTensor

pytestmark = pytest.mark.unoptimized
RNG = np.random.default_rng(0)


def signs(*shape, zeros=False):
    return RNG.integers(-1, 2, shape).astype(np.int8) if zeros else RNG.choice([-1, 1], shape).astype(np.int8)


def held(codes, scale=1.0, spec=None):
    return QTensor(jnp.asarray(codes), jnp.float32(scale), jnp.int32(0), spec or Spec(1))


@functools.partial(jit, static_argnames="zeros")
def product(x, w, zeros):
    return signs_dot(pack_signs(x, zeros=zeros[0]), pack_signs(w, zeros=zeros[1]))


@pytest.mark.parametrize("zeros", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("length", [0, 7, 70])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_product_of_signs_is_that_of_integers(length, zeros, data):
    def values(rows, zeros):
        one = st.integers(-1, 1) if zeros else st.sampled_from((-1, 1))
        drawn = data.draw(st.lists(one, min_size=rows * length, max_size=rows * length))
        return np.array(drawn, np.int8).reshape(rows, length)

    x, w = values(2, zeros[0]), values(3, zeros[1])
    found = np.asarray(product(x, w, zeros))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, x.astype(np.int64) @ w.T.astype(np.int64))


def test_bits_by_hand():
    values = np.ones((2, 33), np.int8)
    values[0, [0, 31, 32]], values[1, 5] = -1, 0
    packed = pack_signs(jnp.asarray(values))
    assert packed.negative.tolist() == [[2**31 + 1, 1], [0, 0]]
    assert packed.nonzero.tolist() == [[2**32 - 1, 1], [2**32 - 1 - 32, 1]]
    np.testing.assert_array_equal(unpack_signs(packed), values)
    assert packed.negative.dtype == jnp.uint32 and packed.length == 33


def test_words_are_32_times_smaller_than_float32():
    w = signs(64, 320)
    assert pack_signs(jnp.asarray(w)).nbytes * 32 == w.size * 4
    w[3, 4] = 0
    assert pack_signs(jnp.asarray(w)).nbytes * 16 == w.size * 4


def reference_conv(x, w, strides, padding, dilation):
    """In int64, a window at a time."""
    x = np.pad(x.astype(np.int64), [(0, 0), *padding, (0, 0)])
    extent = [(size - 1) * hole + 1 for size, hole in zip(w.shape, dilation, strict=False)]
    rows, columns = (range(0, n - e + 1, s) for n, e, s in zip(x.shape[1:3], extent, strides, strict=True))
    out = np.zeros((len(x), len(rows), len(columns), w.shape[-1]), np.int64)
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        part = x[:, row : row + extent[0] : dilation[0], column : column + extent[1] : dilation[1]]
        out[:, i, j] = np.tensordot(part, w.astype(np.int64), 3)
    return out


@pytest.mark.parametrize(
    ("channels", "zeros", "strides", "padding", "dilation"),
    [
        (3, True, (2, 1), [(1, 2), (0, 3)], (1, 2)),
        (32, False, (1, 2), [(1, 1), (2, 0)], (2, 1)),
        (32, False, (1, 1), [(0, 0), (0, 0)], (1, 1)),
    ],
)
def test_convolution(channels, zeros, strides, padding, dilation):
    x, w = signs(2, 7, 6, channels, zeros=zeros), signs(3, 2, channels, 5, zeros=zeros)
    kernel = binary_kernel(held(w))
    assert (kernel.signs.nonzero is None) is not zeros
    run = jit(lambda x: binary_conv(x, kernel, strides, padding, dilation).values)
    found = run(Codes(jnp.asarray(x), jnp.float32(1)))
    np.testing.assert_array_equal(found, reference_conv(x, w, strides, padding, dilation))


def test_padding_by_name_is_that_of_xla():
    kernel = binary_kernel(held(np.ones((3, 3, 1, 1), np.int8)))
    x = Codes(jnp.ones((1, 4, 4, 1), jnp.int8), jnp.float32(1))
    assert binary_conv(x, kernel, (2, 2), "SAME").values[0, :, :, 0].tolist() == [[9, 6], [6, 4]]
    assert binary_conv(x, kernel, (2, 2)).values.ravel().tolist() == [9]


@pytest.mark.parametrize(("weights", "symmetric"), [("binary", True), ("xnor", False), ("ternary", True)])
def test_simulation_and_words_agree(weights, symmetric):
    # Magnitudes of 0.5 and a range of 2: every float sum of the simulation is exact, and so must be the codes.
    latent = signs(50, 6, zeros=True).astype(np.float32) / 2
    w, spec = {
        "binary": (binarize(jnp.asarray(2 * latent)), Spec(1)),
        "xnor": (xnor(jnp.asarray(latent)), Spec(1, axis=-1)),
        "ternary": (ternarize(jnp.asarray(latent)), Spec(2)),
    }[weights]
    range, x_spec = Range(jnp.float32(-2 if symmetric else 0), jnp.float32(2)), Spec(1, symmetric=symmetric)
    x = jnp.asarray(RNG.normal(size=(4, 50)).astype(np.float32)).at[0, :3].set(0.0)
    simulated = fake_quantize(x, x_spec, range) @ w
    sums = binary_dense(quantize(x, x_spec, range), binary_kernel(quantize(w, spec)))
    np.testing.assert_array_equal(rescale(sums), simulated)
    after = Range(jnp.float32(-1), jnp.float32(1))
    np.testing.assert_array_equal(
        quantize(rescale(sums), Spec(1), after).codes, quantize(simulated, Spec(1), after).codes
    )


def test_any_alpha_agrees_to_rounding():
    w = xnor(jnp.asarray(RNG.normal(size=(200, 8)).astype(np.float32)))
    range = Range(jnp.float32(-0.7), jnp.float32(0.7))
    x = jnp.asarray(RNG.normal(size=(3, 200)).astype(np.float32))
    q = quantize(w, Spec(1, axis=-1))
    sums = binary_dense(quantize(x, Spec(1), range), binary_kernel(q))
    simulated = np.asarray(fake_quantize(x, Spec(1), range) @ w, np.float64)
    step = 0.7 * np.abs(np.asarray(w, np.float64)).max(0)
    # 200 terms of one size: each of 200 sums is rounded by no more than half a unit of 200 steps; then products.
    bound = 200 * (200 * step) * 2.0**-24 + 3 * 200 * step * 2.0**-24
    assert (np.abs(np.asarray(rescale(sums)) - simulated) <= bound).all()
    exact = np.sign(np.asarray(x)).astype(np.int64) @ np.sign(np.asarray(w)).astype(np.int64)
    np.testing.assert_array_equal(sums.values, exact)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("layer", ["dense", "conv"])
def test_the_program_counts_bits_and_multiplies_nothing(layer):
    shape = (1024, 40) if layer == "dense" else (3, 3, 64, 40)
    kernel = binary_kernel(held(signs(*shape)))
    x = jax.ShapeDtypeStruct((4, 1024) if layer == "dense" else (4, 8, 8, 64), jnp.int8)
    run = binary_dense if layer == "dense" else functools.partial(binary_conv, padding="SAME")
    program = jax.make_jaxpr(lambda x: run(Codes(x, jnp.float32(1)), kernel))(x)
    found = list(equations(program.jaxpr))
    names = {e.primitive.name for e in found}
    assert {"population_count", "xor"} <= names
    assert not names & {"dot_general", "conv_general_dilated"}
    floating = [v.aval for e in found for v in e.outvars if jnp.issubdtype(v.aval.dtype, jnp.floating)]
    assert all(a.size <= 40 for a in floating)  # scales alone
    # No [batch, channels out, words]: unpacked bits of the input are the largest there is.
    largest = max(v.aval.size for e in found for v in e.outvars)
    assert largest <= (4 * 1024 if layer == "dense" else 9 * 4 * 8 * 8 * 64)


def test_bad_input_is_named():
    one, ones = pack_signs(jnp.ones((2, 3))), np.ones((2, 2), np.int8)
    for act, said in (
        (lambda: pack_signs(jnp.float32(1)), "scalar"),
        (lambda: pack_signs(jnp.ones(2, jnp.uint8)), "uint8"),
        (lambda: pack_signs(jnp.zeros(2), zeros=False), "zeros=False"),
        (lambda: signs_dot(one, pack_signs(jnp.ones((2, 4)))), "3 and 4"),
        (lambda: signs_dot(one, pack_signs(jnp.ones(3))), "kernel"),
        (lambda: binary_kernel(held(ones, spec=Spec(4))), "bits=4"),
        (lambda: binary_kernel(held(ones, [[1.0], [1.0]])), "output channel"),
        (lambda: binary_kernel(held(ones[0])), "shape"),
    ):
        with pytest.raises(ValueError, match=said):
            act()
    kernel = binary_kernel(held(ones))
    with pytest.raises(ValueError, match="codes -1, 0 and 1"):
        binary_dense(held(ones, spec=Spec(8)), kernel)
    with pytest.raises(ValueError, match="one scale"):
        binary_dense(held(ones, [[1.0, 1.0]]), kernel)
    with pytest.raises(ValueError, match="window of none"):
        binary_conv(held(ones[None]), kernel)


def test_signs_pass_through_transformations():
    packed = pack_signs(jnp.asarray(signs(4, 40, zeros=True)))
    flat, tree = jax.tree.flatten(packed)
    assert len(flat) == 2 and jax.tree.unflatten(tree, flat) == packed
    assert isinstance(jax.eval_shape(lambda s: s, packed), Signs)
