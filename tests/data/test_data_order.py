import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt import data, keys

pytestmark = pytest.mark.unoptimized

KEY = keys.root(0)
SIZES = [(2, 5), (4, 4), (3, 10)]  # (batch_size, n): a remainder, full batch, three an epoch

take = jax.jit(data.indices, static_argnums=(2, 3, 4), static_argnames="aligned")


def rows(first, count, batch_size, n, key=KEY):
    return np.asarray(take(key, jnp.int32(first), count, batch_size, n))


shuffle = jax.jit(lambda epoch, n: jax.random.permutation(keys.at(KEY, "order", epoch), n), static_argnums=1)


@functools.cache
def permutation(epoch, n):
    return np.asarray(shuffle(epoch, n))


def by_definition(step, batch_size, n):
    epoch, position = divmod(step, n // batch_size)
    return permutation(epoch, n)[position * batch_size :][:batch_size]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SIZES), st.lists(st.sampled_from([1, 4]), min_size=1, max_size=5))
def test_any_cut_into_segments_gives_the_rows_of_the_definition(size, lengths):
    step = 0
    for length in lengths:
        got = rows(step, length, *size)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, [by_definition(t, *size) for t in range(step, step + length)])
        step += length


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 7])
def test_an_aligned_window_is_the_same_for_less(size, count):
    batch_size, n = size
    first = 5 * (n // batch_size)
    aligned = take(KEY, jnp.int32(first), count, batch_size, n, aligned=True)
    np.testing.assert_array_equal(aligned, rows(first, count, *size))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 1000))
def test_an_epoch_holds_no_example_twice(size, epoch):
    batch_size, n = size
    per_epoch = n // batch_size
    seen = rows(epoch * per_epoch, per_epoch, batch_size, n).ravel()
    assert len(set(seen.tolist())) == per_epoch * batch_size
    assert seen.min() >= 0 and seen.max() < n


def test_the_order_of_seed_0_is_this_one():
    # A change here changes every run that was ever made.
    assert rows(0, 2, 4, 10).tolist() == [[0, 3, 6, 4], [7, 8, 1, 5]]


def test_what_an_epoch_drops_differs_between_epochs():
    visited = {tuple(sorted(rows(2 * e, 2, 2, 5).ravel().tolist())) for e in range(12)}
    assert len(visited) > 3


def test_one_trace_serves_every_first_step():
    traces = 0

    @jax.jit
    def window(first):
        nonlocal traces
        traces += 1
        return data.indices(KEY, first, 4, 3, 10)

    for first in (0, 2, 3, 100):
        np.testing.assert_array_equal(window(jnp.int32(first)), rows(first, 4, 3, 10))
    assert traces == 1
    assert "cond" not in str(jax.make_jaxpr(window)(jnp.int32(0)))


def test_it_maps_over_keys():
    many = jax.vmap(keys.root)(jnp.arange(3, dtype=jnp.uint32))
    out = jax.vmap(lambda key: data.indices(key, 3, 4, 2, 5))(many)
    assert out.shape == (3, 4, 2) and out.dtype == jnp.int32
    for seed in range(3):
        np.testing.assert_array_equal(out[seed], rows(3, 4, 2, 5, keys.root(seed)))
    assert not (out[0] == out[1]).all()


@pytest.mark.parametrize(("batch_size", "n", "count"), [(0, 4, 1), (-1, 4, 1), (5, 4, 1), (2, 4, 0)])
def test_impossible_sizes_are_refused(batch_size, n, count):
    with pytest.raises(ValueError, match=r"batch_size.*\[1, 4\]|num_steps.*1"):
        data.indices(KEY, 0, count, batch_size, n)
