"""Sparsity as a function of the step: exact at both ends, right in between, the same for traced numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.prune.schedule import cosine_share, cubic, geometric, step_at


def test_cubic_by_hand():
    at = lambda t: float(cubic(t, sparsity=0.75, initial_sparsity=0.25, begin=10, end=18))  # noqa: E731
    # 0.75 - 0.5 (1 - (t - 10) / 8)^3, whose every term is a binary fraction.
    assert [at(t) for t in (9, 10, 12, 14, 16, 18, 1000)] == [
        0.0,
        0.25,
        0.75 - 0.5 * 0.75**3,
        0.75 - 0.5 * 0.5**3,
        0.75 - 0.5 * 0.25**3,
        0.75,
        0.75,
    ]


@pytest.mark.parametrize("t1", [0, 1, 7, 1000, 2**30])
@pytest.mark.parametrize("s", [0.0, 0.1, 0.9, 0.95, 0.999])
def test_ends_are_equalities(s, t1):
    given_ = jnp.float32(s)
    for step in (t1, t1 + 1, 2**31 - 1):
        assert cubic(step, sparsity=s, initial_sparsity=s / 3, begin=0, end=t1) == given_
        assert geometric(step, sparsity=s, begin=0, end=t1, rounds=7) == given_
    if t1:
        assert cubic(0, sparsity=s, initial_sparsity=s / 3, begin=0, end=t1) == jnp.float32(s / 3)
        assert cubic(t1 - 1, sparsity=s, begin=0, end=t1) <= given_
    assert cubic(4, sparsity=s, initial_sparsity=s / 3, begin=5, end=5 + t1) == 0
    assert geometric(4, sparsity=s, begin=5, end=5 + t1, rounds=3) == 0


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 10**6), st.floats(0, 0.99), st.floats(0, 1), st.integers(-5, 10**6)
)  # fmt: skip
def test_cubic_is_zhu_and_guptas(begin, length, last, part, after):
    first = last * part
    step = max(begin + after, 0)
    tau = np.clip((step - begin) / length, 0, 1)
    want = 0 if step < begin else last + (first - last) * (1 - tau) ** 3
    got = cubic(step, sparsity=last, initial_sparsity=first, begin=begin, end=begin + length)
    assert abs(float(got) - want) < 1e-6
    assert got.dtype == jnp.float32 and got.shape == ()


def test_cubic_never_falls():
    s = jax.vmap(lambda t: cubic(t, sparsity=0.9, initial_sparsity=0.3, begin=3, end=7003))(jnp.arange(8000))
    assert bool((jnp.diff(s) >= 0).all())


def test_rounds_prune_the_same_share_of_what_is_left():
    s = [float(geometric(t, sparsity=1 - 0.8**5, begin=100, end=500, rounds=5)) for t in range(100, 600)]
    steps = [i for i in range(1, len(s)) if s[i] != s[i - 1]]
    assert steps == [100, 200, 300, 400]  # the first is at 100 itself
    np.testing.assert_allclose([s[0], *(s[i] for i in steps)], [1 - 0.8**r for r in range(1, 6)], atol=1e-6)


@pytest.mark.parametrize("rounds", [1, 2, 3, 7, 50])
def test_the_last_round_is_done_by_the_end_even_if_rounds_do_not_fit(rounds):
    s = [float(geometric(t, sparsity=0.9, begin=4, end=14, rounds=rounds)) for t in range(20)]
    assert s[3] == 0 and s[4] > 0
    assert all(x == np.float32(0.9) for x in s[14:])
    assert s == sorted(s)
    assert len(set(s[4:])) == min(rounds, 11)


def test_one_round_is_one_shot():
    assert float(geometric(0, sparsity=0.9, begin=0, end=100, rounds=1)) == np.float32(0.9)


def test_cosine_share_by_hand():
    at = lambda t: float(cosine_share(t, drop_fraction=0.4, begin=100, end=200))  # noqa: E731
    np.testing.assert_allclose(
        [at(100), at(125), at(150), at(175)], [0.4, 0.2 + 0.2 / 2**0.5, 0.2, 0.2 - 0.2 / 2**0.5]
    )
    assert at(99) == at(200) == at(10**6) == 0


def test_step_at_rounds_half_to_even():
    assert [int(step_at(f, begin=10, steps=10)) for f in (0.0, 0.25, 0.35, 0.75, 1.0)] == [10, 12, 14, 18, 20]


def test_traced_numbers_do_not_recompile_and_change_nothing():
    traces = []

    @jax.jit
    def both(step, s, s0, begin, end, rounds, fraction):
        traces.append(1)
        return (
            cubic(step, sparsity=s, initial_sparsity=s0, begin=begin, end=end),
            geometric(step, sparsity=s, begin=begin, end=end, rounds=rounds),
            cosine_share(step, drop_fraction=s, begin=begin, end=end),
            step_at(fraction, begin=begin, steps=end),
        )

    for step, s, end, rounds in ((3, 0.5, 10, 2), (40, 0.9, 60, 5), (80, 0.95, 60, 3)):
        got = both(step, s, s / 2, 2, end, rounds, 0.3)
        want = (
            cubic(step, sparsity=s, initial_sparsity=s / 2, begin=2, end=end),
            geometric(step, sparsity=s, begin=2, end=end, rounds=rounds),
            cosine_share(step, drop_fraction=s, begin=2, end=end),
            step_at(0.3, begin=2, steps=end),
        )
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert len(traces) == 1
