"""Spec, its pytree, the entries that share a scale, and division to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.quantize import Range, Spec, fake_quantize, mse, percentile, quantize
from jopt.quantize.arithmetic import divide, ordered_sum
from jopt.quantize.grid import largest_code
from jopt.quantize.spec import from_groups, scale_shape, to_groups

X = jnp.ones((6, 4))


def test_bits_are_the_only_leaf():
    spec = Spec(4, symmetric=False, axis=(0, -1), group=2)
    leaves, structure = jax.tree.flatten(spec)
    assert leaves == [4]
    assert structure.unflatten([5]) == Spec(5, symmetric=False, axis=(0, -1), group=2)
    assert jax.tree.leaves(Spec.identity()) == [] and Spec.identity().is_identity


def test_numpy_integers_and_lists_become_plain():
    spec = Spec(np.int64(3), axis=[0, 1])  # type: ignore[arg-type]
    assert type(spec.bits) is int and spec.axis == (0, 1) and hash(spec) == hash(Spec(3, axis=(0, 1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Spec(0), r"bits must be 1 to 8, 16, 32 \(.*\) or None, got 0"),
        (lambda: Spec(9), r"bits must be 1 to 8, 16, 32 \(.*\) or None, got 9"),
        (lambda: Spec(-1), r"got -1"),
        (lambda: Spec(8.5), r"got 8.5"),
        (lambda: Spec(True), r"got True"),
        (lambda: Spec("8"), r"got '8'"),
        (lambda: Spec(np.int32(12)), r"got 12"),
        (lambda: Spec(axis=0.5), r"axis must be None, an integer, a tuple of integers or 'outputs', got 0.5"),  # type: ignore
        (lambda: Spec(group=0), r"group must be None or an integer, at least 1, got 0"),
        (lambda: Spec(group=2.0), r"got 2.0"),  # type: ignore
        (lambda: fake_quantize(X, Spec(axis=2)), r"axis must name different axes of an array of rank 2, got 2"),
        (lambda: fake_quantize(X, Spec(axis=(0, -2))), r"different axes .* got \(0, -2\)"),
        (lambda: fake_quantize(X, Spec(axis=(0, 1))), r"must leave an axis .* shape \(6, 4\)"),
        (lambda: fake_quantize(X, Spec(axis=-1, group=4)), r"must divide the 6 entries of shape \(6, 4\).*got 4"),
        (lambda: fake_quantize(X, Spec(group=5)), r"must divide the 24 entries"),
        (lambda: fake_quantize(X, Spec(jnp.int32(9))), r"bits must be 1 to 8, 16, 32 \(.*\) or None, got 9"),
        (lambda: fake_quantize(X.astype(int), Spec()), r"x must be a floating array, got int32"),
        (
            lambda: fake_quantize(X.at[0, 0].set(jnp.nan), Spec()),
            r"x must be finite, got 1 NaN and 0 infinite of 24",
        ),
        (lambda: quantize(X.at[0].set(jnp.inf), Spec()), r"0 NaN and 4 infinite"),
        (lambda: quantize(X, Spec.identity()), r"got None \(the identity Spec"),
        (
            lambda: fake_quantize(X, Spec(axis=-1), Range(jnp.zeros(3), jnp.ones(3))),
            r"shape \(1, 4\), got shape \(3,\)",
        ),
        (lambda: percentile(X, Spec(), 101.0), r"q must lie in \[0, 100\], got 101.0"),
        (lambda: mse(X, Spec(), fractions=0), r"fractions must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("bits", [*range(1, 9), 16])
def test_largest_code_is_exact_and_the_same_where_bits_are_traced(bits):
    for symmetric, expected in ((True, max(2 ** (bits - 1) - 1, 1)), (False, 2**bits - 1)):
        assert float(largest_code(Spec(bits, symmetric))) == expected
        assert float(largest_code(Spec(jnp.int32(bits), symmetric))) == expected


def test_groups_are_runs_of_the_flattened_fan_in():
    x = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    spec = Spec(axis=-1, group=8)
    view = to_groups(x, spec)
    assert view.shape == (3, 8, 5) and scale_shape(x.shape, spec) == (3, 5)
    assert view[1, :, 2].tolist() == x[..., 2].ravel()[8:16].tolist()
    for spec in (Spec(axis=-1, group=8), Spec(group=6), Spec(axis=(0, 2), group=5), Spec(axis=1), Spec()):
        np.testing.assert_array_equal(from_groups(to_groups(x, spec), x.shape, spec), x)


def test_division_is_correctly_rounded_whatever_is_constant():
    x = np.random.default_rng(0).standard_normal((50, 30)).astype(np.float32)
    s = np.float32(0.0271)
    programs = {
        "both given": lambda x, s: divide(x, s),
        "constant divisor": lambda x, s: divide(x, 0.0271),
        "constant dividend": lambda x_, s: divide(jnp.asarray(x), s),
        "by column": lambda x, s: divide(x, jnp.broadcast_to(s, (1, 30))),
    }
    for name, program in programs.items():
        np.testing.assert_array_equal(jax.jit(program)(x, s), x / s, err_msg=name)


@pytest.mark.parametrize("shape", [(1, 3), (16, 1), (17, 2), (100, 10), (257, 3)])
def test_ordered_sum_has_the_same_bits_in_a_batch(shape):
    x = np.random.default_rng(1).standard_normal((3, *shape)).astype(np.float32)
    for axes in ((0,), (0, 1)):
        batch = jax.jit(jax.vmap(lambda v, axes=axes: ordered_sum(v, axes)))(x)
        loop = np.stack([jax.jit(ordered_sum, static_argnums=1)(v, axes) for v in x])
        np.testing.assert_array_equal(batch, loop)
        np.testing.assert_allclose(loop[0], x[0].astype(float).sum(axes, keepdims=True), rtol=1e-5, atol=1e-5)


def test_a_sum_over_nothing_is_zero():
    assert ordered_sum(jnp.zeros((0, 2)), (0,)).tolist() == [[0.0, 0.0]]
    assert fake_quantize(jnp.zeros((0, 2)), Spec(1, axis=-1)).shape == (0, 2)
