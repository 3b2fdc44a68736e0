"""Patterns: how a tensor falls into groups, by hand and against NumPy; what does not fit is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jopt.layers import Parameter
from jopt.prune import NM, Block, Channel, Unstructured

pytestmark = pytest.mark.unoptimized

DENSE = np.arange(24.0, dtype=np.float32).reshape(4, 6)


def test_unstructured_groups_are_entries():
    pattern = Unstructured()
    assert pattern.grid((4, 6)) == (4, 6)
    assert pattern.pool(jnp.asarray(DENSE)) is not None
    np.testing.assert_array_equal(pattern.pool(jnp.asarray(DENSE)), DENSE)
    np.testing.assert_array_equal(pattern.expand(jnp.asarray(DENSE > 5), (4, 6)), DENSE > 5)
    assert pattern.group_size((4, 6)) == 1


def test_blocks_of_a_dense_kernel():
    pattern = Block((2, 3))
    # 0+1+2+6+7+8 = 24; three further to the right adds 6 * 3, two rows down 6 * 12.
    assert pattern.pool(jnp.asarray(DENSE)).tolist() == [[24.0, 42.0], [96.0, 114.0]]
    mask = pattern.expand(jnp.array([[True, False], [False, True]]), (4, 6))
    assert mask.astype(int).tolist() == [[1, 1, 1, 0, 0, 0]] * 2 + [[0, 0, 0, 1, 1, 1]] * 2
    assert pattern.group_size((4, 6)) == 6


def test_blocks_of_a_convolution_leave_the_window_apart():
    pattern = Block((2, 4))
    assert pattern.grid((3, 5, 6, 8)) == (3, 5, 3, 2)
    kernel = np.random.RandomState(0).randn(3, 5, 6, 8).astype(np.float32)
    expected = kernel.reshape(3, 5, 3, 2, 2, 4).sum((3, 5))
    np.testing.assert_allclose(pattern.pool(jnp.asarray(kernel)), expected, rtol=1e-5, atol=1e-6)
    assert pattern.group_size(kernel.shape) == 8


def test_blocks_may_span_any_number_of_axes():
    assert Block((2,)).grid((3, 4)) == (3, 2)
    assert Block((3, 3, 1, 1)).grid((3, 3, 6, 8)) == (1, 1, 6, 8)
    assert Block([2, 2]) == Block((2, 2))


def test_channels():
    kernel = jnp.asarray(np.arange(48.0, dtype=np.float32).reshape(2, 2, 3, 4))
    np.testing.assert_array_equal(Channel().pool(kernel), np.arange(48.0).reshape(12, 4).sum(0))
    np.testing.assert_array_equal(Channel(-2).pool(kernel), np.arange(48.0).reshape(4, 3, 4).sum((0, 2)))
    assert Channel(2) != Channel(-2) and Channel(2).grid(kernel.shape) == Channel(-2).grid(kernel.shape) == (3,)
    mask = Channel(-2).expand(jnp.array([True, False, True]), kernel.shape)
    assert mask.shape == kernel.shape
    np.testing.assert_array_equal(mask.all((0, 1, 3)), [True, False, True])
    np.testing.assert_array_equal(mask.any((0, 1, 3)), [True, False, True])
    assert Channel().group_size(kernel.shape) == 12


def test_runs_of_m():
    assert NM(2, 4).grid((8, 16)) == (8, 4)
    assert NM(1, 4, axis=-2).grid((8, 16)) == (2, 16)
    assert NM(1, 4).sparsity == 0.75 and NM(3, 3).sparsity == 0.0


def test_sums_are_float32():
    # 256 + 1 is no bfloat16.
    scores = jnp.asarray([[256.0], [1.0]], jnp.bfloat16)
    for pattern in (Channel(), Block((2, 1))):
        pooled = pattern.pool(scores)
        assert pooled.dtype == jnp.float32
        assert float(pooled.reshape(())) == 257.0


def test_patterns_are_hashable_values():
    patterns = [Unstructured(), NM(2, 4), NM(2, 4, 0), Block((2, 2)), Block((2, 4)), Channel(), Channel(0)]
    assert len(set(patterns)) == len(patterns)
    assert {Block((2, 2)): 1}[Block([2, 2])] == 1


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        (Unstructured(), (2, 6)),
        (Block((3,)), (2, 6)),
        (Block((2, 3)), (2, 6)),
        (Block((1, 2)), (3, 2, 4, 2)),
        (Block((3, 2, 1, 2)), (3, 4, 2, 2)),
        *((Channel(axis), (3, 1, 4, 2)) for axis in (0, 1, -2, -1)),
    ],
    ids=str,
)
def test_what_is_expanded_pools_to_itself_and_covers_all(pattern, shape):
    chosen = np.random.RandomState(0).rand(*pattern.grid(shape)) < 0.5
    mask = pattern.expand(jnp.asarray(chosen), shape)
    assert mask.shape == shape and mask.dtype == bool
    np.testing.assert_array_equal(pattern.pool(mask.astype(jnp.float32)), chosen * pattern.group_size(shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NM(5, 4), "n=5, m=4"),
        (lambda: NM(0, 4), "1 <= n <= m, got n=0"),
        (lambda: NM(2, 0), "m=0"),
        (lambda: NM(2.0, 4), "n=2.0"),  # type: ignore[arg-type]
        (lambda: NM(True, 4), "n=True"),
        (lambda: NM(2, 4).grid((8, 6)), r"NM\(n=2, m=4, axis=-1\) must divide axis 1 of shape \(8, 6\).* is 6"),
        (lambda: NM(2, 4, axis=0).grid((6, 8)), r"must divide axis 0 of shape \(6, 8\), whose size is 6"),
        (lambda: NM(2, 4, axis=2).grid((4, 4)), r"a tensor of shape \(4, 4\) does not have"),
        (lambda: Block(()), r"one or more integers of at least 1, got \(\)"),
        (lambda: Block((2, 0)), r"got \(2, 0\)"),
        (lambda: Block((2, 2.5)), r"got \(2, 2.5\)"),  # type: ignore[arg-type]
        (lambda: Block((2, 4)).grid((4, 6)), r"Block\(shape=\(2, 4\)\) must divide axis 1 of shape \(4, 6\)"),
        (lambda: Block((3, 2)).pool(jnp.ones((4, 6))), r"must divide axis 0 of shape \(4, 6\), whose size is 4"),
        (lambda: Block((2, 2)).grid((4,)), r"at least 2 axes, got shape \(4,\)"),
        (lambda: Channel(2).pool(jnp.ones((4, 6))), r"Channel\(axis=2\).* shape \(4, 6\) does not have"),
        (lambda: Channel(-3).expand(jnp.ones(4, bool), (4, 6)), r"Channel\(axis=-3\)"),
        (lambda: Channel().grid(()), r"shape \(\) does not have"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_block_of_one_side_does_not_run_across_copies():
    last = Parameter("kernel", contract=(0,), outputs=(1,), stack=(2,))
    pattern = Block((2,)).resolve(last, (8, 4, 3))
    assert pattern.grid((8, 4, 3)) == (8, 3, 2) and pattern.in_copy((2,), (8, 4, 3)).grid((8, 4)) == (8, 2)
    first = Parameter("kernel", contract=(1,), outputs=(2,), stack=(0,))
    assert Block((2,)).resolve(first, (3, 8, 4)) == Block((2,))
