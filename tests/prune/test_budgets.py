"""ERK against RigL's own loop in float64, by hand, and with a traced sparsity."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.prune import keep_count
from jopt.prune.budgets import erk, erk_counts, uniform

pytestmark = pytest.mark.unoptimized

LENET = [(64, 300), (300, 100), (100, 10)]
RESNET = [(3, 3, 3, 16), (3, 3, 16, 16), (1, 1, 16, 32), (3, 3, 32, 64), (3, 3, 64, 64), (64, 10)]


def rigl(shapes, sparsity):
    """The loop of google-research/rigl's `get_sparsities`: the layer of largest probability is left dense first."""
    dense = set()
    while True:
        divisor, budget = 0.0, 0.0
        for i, shape in enumerate(shapes):
            n = math.prod(shape)
            if i in dense:
                budget -= n * sparsity
            else:
                budget += n * (1 - sparsity)
                divisor += sum(shape) / n * n
        if len(dense) == len(shapes):
            break
        epsilon = budget / divisor
        raw = {i: sum(s) / math.prod(s) for i, s in enumerate(shapes) if i not in dense}
        most = max(raw.values())
        if epsilon * most <= 1:
            break
        dense |= {i for i, r in raw.items() if r == most}
    return [0.0 if i in dense else 1 - epsilon * raw[i] for i in range(len(shapes))]


def test_by_hand():
    # n = 100 and 1600, of which 340 are kept; raw densities 20/100 and 100/1600 make 20 + 100 = 120 weights at
    # epsilon 1, so epsilon is 340 / 120, and 20 * 340 / 120 = 56.67 of the first 100 are kept.
    assert erk([(10, 10), (20, 80)], 0.8) == pytest.approx([1 - 170 / 300, 1 - 850 / 4800], abs=1e-12)
    assert erk_counts([(10, 10), (20, 80)], 0.8) == [57, 283]


def test_a_layer_that_would_need_more_than_all_its_weights_is_dense():
    # 10 + 1000 weights, 404 kept. At first epsilon = 404 / 117, and 7/10 of it is more than 1. Left dense, the
    # small layer leaves 394 of the large one's 1000.
    assert erk([(2, 5), (100, 10)], 0.6) == pytest.approx([0.0, 0.606], abs=1e-12)
    assert erk_counts([(2, 5), (100, 10)], 0.6) == [10, 394]


def test_without_the_window_it_is_erdos_renyi():
    # Densities in proportion to (16 + 32) / (16 * 32) and (64 + 8) / (64 * 8), whatever the window.
    a, b = erk([(3, 3, 16, 32), (64, 8)], 0.9, kernel=False)
    assert (1 - a) / (1 - b) == pytest.approx((48 / 512) / (72 / 512))
    c, d = erk([(3, 3, 16, 32), (64, 8)], 0.9)
    assert (1 - c) / (1 - d) == pytest.approx((54 / 4608) / (72 / 512))


@pytest.mark.parametrize("shapes", [LENET, RESNET])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.8, 0.9, 0.95, 0.99])
def test_is_rigls_and_totals_the_global_sparsity(shapes, sparsity):
    got = erk(shapes, sparsity)
    assert got == pytest.approx(rigl(shapes, sparsity), abs=1e-12)
    sizes = [math.prod(s) for s in shapes]
    assert np.dot(got, sizes) == pytest.approx(sparsity * sum(sizes), abs=1e-8)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6),
    st.integers(0, 999_999).map(lambda m: m / 1e6),
)
def test_any_network_any_sparsity(shapes, sparsity):
    sizes = [math.prod(s) for s in shapes]
    got = erk(shapes, sparsity)
    assert all(0 <= s <= 1 for s in got)
    assert np.dot(got, sizes) == pytest.approx(sparsity * sum(sizes), rel=1e-9, abs=1e-9)
    assert got == pytest.approx(rigl(shapes, sparsity), abs=1e-9)
    counts = erk_counts(shapes, sparsity)
    assert sum(counts) == max(keep_count(sum(sizes), sparsity), len(sizes))
    assert all(1 <= c <= n for c, n in zip(counts, sizes, strict=True))
    if keep_count(sum(sizes), sparsity) > 2 * len(sizes):
        off = [abs(c - n * (1 - s)) for c, n, s in zip(counts, sizes, got, strict=True)]
        assert max(off) < len(sizes) + 1


def test_traced_sparsity_one_compilation_and_vmap():
    densities = jax.jit(lambda s: jnp.stack(erk(RESNET, s)))
    counts = jax.jit(lambda s: jnp.stack(erk_counts(RESNET, s)))
    sweep = np.array([0.0, 0.3, 0.5, 0.9, 0.99], np.float32)
    total = sum(math.prod(s) for s in RESNET)
    for s in sweep:
        np.testing.assert_allclose(densities(s), erk(RESNET, round(float(s), 6)), atol=2e-6)
        assert int(counts(s).sum()) == keep_count(total, jnp.float32(s)) == keep_count(total, round(float(s), 6))
        np.testing.assert_allclose(counts(s), erk_counts(RESNET, round(float(s), 6)), atol=1)
        np.testing.assert_array_equal(jnp.stack(erk_counts(RESNET, jnp.float32(s))), counts(s))
    assert densities._cache_size() == counts._cache_size() == 1
    np.testing.assert_array_equal(jax.vmap(counts)(sweep), np.stack([counts(s) for s in sweep]))


def test_uniform():
    assert uniform(LENET, 0.9) == [0.9, 0.9, 0.9]


@pytest.mark.parametrize("budget", [uniform, erk, erk_counts])
@pytest.mark.parametrize("sparsity", [1.0, -0.1, 1.2, float("nan")])
def test_sparsity_outside_its_range_is_refused(budget, sparsity):
    with pytest.raises(ValueError, match=r"sparsity.*\[0, 1\)"):
        budget(LENET, sparsity)


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_a_layer_without_weights_is_refused(shape):
    with pytest.raises(ValueError, match=rf"shape.* {re.escape(str(shape))}$"):
        erk([(2, 3), shape], 0.5)
