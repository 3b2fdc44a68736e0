"""The checker of contractions: what it finds, wherever it stands, and what it refuses."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jopt.quantize import Spec, integer, quantize
from jopt.quantize.integer import assert_integer, contractions

CODES = jax.ShapeDtypeStruct((4, 4), jnp.int8)
FLOATS = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def dot(x, y):
    return lax.dot(x, y, preferred_element_type=jnp.int32)


def test_contractions_are_found_in_scans_branches_calls_and_gradients():
    def program(x, codes):
        def step(carry, _):
            return jnp.tanh(carry @ x), None

        y, _ = lax.scan(step, x, None, length=3)
        z = lax.cond(x[0, 0] > 0, lambda: dot(codes, codes), lambda: jnp.zeros((4, 4), jnp.int32))
        with jax.named_scope("outer"):
            w = jax.jit(lambda v: v.astype(jnp.bfloat16) @ v.astype(jnp.bfloat16))(y)
        image = codes.reshape(1, 4, 4, 1)
        c = lax.conv(image, codes.reshape(4, 4, 1, 1), (1, 1), "SAME", preferred_element_type=jnp.int32)
        return y, z, w, c

    found = contractions(program, FLOATS, CODES)
    assert [(c.primitive, c.lhs, c.rhs, c.sums) for c in found] == [
        ("dot_general", "float32", "float32", "float32"),
        ("dot_general", "int8", "int8", "int32"),
        ("dot_general", "bfloat16", "bfloat16", "bfloat16"),
        ("conv_general_dilated", "int8", "int8", "int32"),
    ]
    assert [c.is_integer for c in found] == [False, True, False, True] and "outer" in found[2].where
    assert contractions(jax.make_jaxpr(program)(jnp.ones((4, 4)), jnp.ones((4, 4), jnp.int8))) == found
    gradient = contractions(jax.grad(lambda x: (x @ x).sum()), FLOATS)
    assert len(gradient) >= 2 and not any(c.is_integer for c in gradient)


def test_every_platforms_branch_counts():
    def program(x):
        return lax.platform_dependent(
            x, tpu=lambda x: x @ x, default=lambda x: dot(*[x.astype(jnp.int8)] * 2).astype(x.dtype)
        )

    assert [c.is_integer for c in contractions(program, FLOATS)].count(False) == 1
    with pytest.raises(AssertionError, match=r"dot_general.*float32"):
        assert_integer(program, FLOATS)


def test_integers_in_disguise_are_refused():
    def floats(x):
        return x.astype(jnp.float32) @ x.astype(jnp.float32)

    with pytest.raises(AssertionError, match=r"dot_general.*float32.*float32.*float32"):
        assert_integer(floats, CODES)
    with pytest.raises(AssertionError, match=r"dot_general.*int8.*int8.*float32"):
        assert_integer(lambda x: lax.dot(x, x, preferred_element_type=jnp.float32), CODES)
    with pytest.raises(AssertionError, match=r"dot_general.*int8.*int8.*int8"):
        assert_integer(lambda x: x @ x, CODES)
    with pytest.raises(AssertionError, match=r"no .*integers"):
        assert_integer(lambda x: x + x, CODES)


def test_floats_are_allowed_where_they_are_declared_and_the_declaration_must_hold():
    def program(codes, x):
        with jax.named_scope("head"):
            y = x @ x
        return dot(codes, codes), y

    found = assert_integer(program, CODES, FLOATS, floats=["^head$"])
    assert [(c.where, c.is_integer) for c in found] == [("head", False), ("", True)]
    with pytest.raises(AssertionError, match="in 'head'"):
        assert_integer(program, CODES, FLOATS)
    with pytest.raises(AssertionError, match=r"floats.*'tail'"):
        assert_integer(program, CODES, FLOATS, floats=["head", "tail"])


def test_signs_that_are_counted_are_integers_too():
    kernel = integer.binary_kernel(quantize(jnp.ones((40, 3)), Spec(1)))
    x = quantize(jnp.ones((2, 40)), Spec(1))
    assert assert_integer(lambda codes: integer.binary_dense(x._replace(codes=codes), kernel).values, x.codes) == []
