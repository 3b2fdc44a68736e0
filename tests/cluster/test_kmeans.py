"""k-means on the line: by hand, against scikit-learn and float64, and what holds for any array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from jopt import cluster
from jopt.cluster import kmeans as fit
from jopt.cluster import means, starts

pytestmark = pytest.mark.unoptimized

FEW = settings(max_examples=30, deadline=None)
STARTS = ("linear", "density", "kmeans++")


def kmeans(w, k, start="linear", seed=0, **more):
    return fit(jnp.asarray(w), k, start=start, key=jax.random.key(seed), **more)


def normal(n, seed=0):
    return np.random.default_rng(seed).normal(size=n).astype(np.float32)


def found(clusters):
    return (
        clusters.centroids.tolist(),
        clusters.assignments.tolist(),
        float(clusters.inertia),
        int(clusters.iterations),
    )


def test_linear_by_hand():
    # From 0 and 10, boundary 5: means 1 and 9.5, boundary 5.25: the same clusters.
    assert found(kmeans([0.0, 1.0, 2.0, 9.0, 10.0], 2)) == ([1.0, 9.5], [0, 0, 0, 1, 1], 2.5, 2)


def test_linear_can_leave_a_cluster_empty_whose_centroid_stays():
    # From 0, 50, 100 no value is nearest to 50.
    clusters = kmeans([0.0, 1.0, 2.0, 3.0, 100.0], 3)
    assert found(clusters) == ([1.5, 50.0, 100.0], [0, 0, 0, 0, 2], 5.0, 2)
    assert clusters.counts.tolist() == [4.0, 0.0, 1.0]


def test_density_by_hand():
    # Medians of thirds: sorted entries floor(5/6), floor(15/6), floor(25/6) = 0, 2, 4. 1 lies half-way: lower.
    assert found(kmeans([100.0, 3.0, 2.0, 1.0, 0.0], 3, "density")) == ([0.5, 2.5, 100.0], [2, 1, 1, 0, 0], 1.0, 2)


def test_kmeans_plus_plus_by_hand():
    # Two groups far apart: whatever the first draw, the second is from the other group (but for a chance of 1e-7).
    for seed in range(5):
        centroids, assignments, inertia, _ = found(kmeans([0.0, 1.0, 5000.0, 5001.0], 2, "kmeans++", seed))
        assert (centroids, assignments, inertia) == ([0.5, 5000.5], [0, 0, 1, 1], 1.0)


def test_kmeans_plus_plus_draws_by_squared_distance():
    x, n = jnp.array([0.0, 1.0, 3.0]), 4000
    draw = jax.vmap(lambda key: starts.kmeans_plus_plus(x, jnp.ones(3, bool), 2, key))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), n)))
    chance = {0: [0, 1 / 10, 9 / 10], 1: [1 / 5, 0, 4 / 5], 3: [9 / 13, 4 / 13, 0]}
    for first, expected in chance.items():
        mine = drawn[drawn[:, 0] == first, 1]
        assert abs(len(mine) / n - 1 / 3) < 4 * np.sqrt(2 / 9 / n)
        for value, p in zip((0, 1, 3), expected, strict=True):
            assert abs((mine == value).mean() - p) <= 4 * np.sqrt(p * (1 - p) / len(mine))


def test_a_value_half_way_goes_to_the_lower_cluster():
    assert kmeans([0.0, 2.0, 1.0], 2, iterations=0).assignments.tolist() == [0, 1, 0]


def test_zero_has_a_code_of_its_own():
    w = [[0.0, -3.0, 0.5], [0.0, -1.0, 1.5]]
    clusters = kmeans(w, 3, keep_zero=True)
    # The others from -3 and 1.5, boundary -0.75.
    assert clusters.centroids.tolist() == [0.0, -2.0, 1.0]
    assert clusters.assignments.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert clusters.counts.tolist() == [2.0, 2.0, 2.0] and bool(clusters.has_zero)


def test_without_zeros_keep_zero_takes_no_value():
    w = normal(24)
    kept, plain = kmeans(w, 4, keep_zero=True), kmeans(w, 4)
    jax.tree.map(np.testing.assert_array_equal, kept, plain)
    assert not bool(kept.has_zero)


@pytest.mark.parametrize("start", STARTS)
def test_an_array_of_zeros(start):
    clusters = kmeans(np.zeros((4, 6), np.float32), 4, start, keep_zero=True)
    assert clusters.centroids.tolist() == [0.0] * 4
    assert not clusters.assignments.any() and float(clusters.inertia) == 0


@pytest.mark.optimized
def test_neighbouring_floats_are_two_values():
    one, over = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    above = np.nextafter(over, np.float32(2))
    w = np.array([above, one, over, one], np.float32)
    np.testing.assert_array_equal(cluster.lookup(kmeans(w, 3)), w)


@pytest.mark.parametrize(("start", "k"), [("linear", 16), ("density", 16)])
def test_agrees_with_scikit_learn_from_the_same_start(start, k):
    w = normal(2000, seed=k)
    counted, slots = jnp.ones(w.size, bool), jnp.int32(k)
    first = np.asarray(getattr(starts, start)(jnp.asarray(w), counted, k, slots))
    if start == "linear":
        np.testing.assert_allclose(first, np.linspace(w.min(), w.max(), k), rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(first, np.sort(w)[(2 * np.arange(k) + 1) * w.size // (2 * k)])
    mine = kmeans(w, k, start, iterations=30)
    theirs = KMeans(k, init=first[:, None].astype(np.float64), n_init=1, max_iter=30, tol=0, algorithm="lloyd")
    theirs.fit(w[:, None].astype(np.float64))
    assert (mine.counts > 0).all(), "scikit-learn moves empty clusters elsewhere"
    np.testing.assert_allclose(mine.centroids, np.sort(theirs.cluster_centers_[:, 0]), atol=2e-3)
    np.testing.assert_allclose(float(mine.inertia), theirs.inertia_, rtol=1e-3)


def lloyd(w, centroids, iterations):
    """NumPy, float64, without any knowledge of order."""
    w, centroids = w.astype(np.float64), centroids.astype(np.float64)
    for _ in range(iterations):
        codes = np.abs(w[:, None] - centroids).argmin(1)
        centroids = np.array([w[codes == j].mean() if (codes == j).any() else c for j, c in enumerate(centroids)])
    codes = np.abs(w[:, None] - centroids).argmin(1)
    return centroids, codes


@pytest.mark.parametrize(("k", "iterations"), [(16, 1), (16, 7), (300, 2)])
def test_agrees_with_float64_after_each_iteration(k, iterations):
    w = normal(2000, seed=7)
    expected, codes = lloyd(w, np.linspace(w.min(), w.max(), k), iterations)
    clusters = kmeans(w, k, iterations=iterations)
    np.testing.assert_allclose(clusters.centroids, expected, atol=2e-6)
    assert (np.asarray(clusters.assignments) != codes).mean() < 1e-3
    assert int(clusters.iterations) == iterations
    assert clusters.assignments.dtype == (jnp.uint8 if k <= 256 else jnp.uint16)


@pytest.mark.optimized
def test_sums_of_many_values_keep_their_digits():
    n = 11 * means.LENGTH + 17
    values, codes = normal(n, 3) + 100, np.random.default_rng(4).integers(0, 3, n)
    sums = means.cluster_sums(jnp.asarray(values), jnp.asarray(codes, jnp.uint8), 4)
    expected = np.bincount(codes, values.astype(np.float64), minlength=4)
    np.testing.assert_allclose(sums, expected, rtol=1e-4)
    members = jnp.asarray([int(np.argmax(codes == j)) for j in range(3)], jnp.int32)
    counts = jnp.asarray(np.bincount(codes), jnp.float32)
    mean = means.cluster_means(jnp.asarray(values), jnp.asarray(codes, jnp.uint8), members, counts)
    np.testing.assert_allclose(mean, expected[:3] / np.bincount(codes), rtol=3e-7)


def test_the_sums_of_other_platforms_are_the_same():
    values, codes = jnp.asarray(normal(500)), jnp.asarray(np.arange(500) % 7, jnp.uint8)
    np.testing.assert_allclose(
        means._masked_sums(values, codes, 8), means.cluster_sums(values, codes, 8), atol=1e-5
    )


values = st.lists(st.floats(-10, 10, width=16), min_size=1, max_size=24)


@FEW
@given(w=values, start=st.sampled_from(STARTS))
def test_of_any_array(w, start):
    k = 4
    w = np.pad(np.array(w, np.float32), (0, 24 - len(w)), "edge")
    clusters = kmeans(w, k, start, keep_zero=True)
    seen, centroids = np.asarray(cluster.lookup(clusters)), np.asarray(clusters.centroids)
    assert np.unique(seen).size <= k
    if np.unique(w).size <= k:
        np.testing.assert_array_equal(seen, w)
        assert float(clusters.inertia) == 0
    assert np.isfinite(centroids).all()
    zero = int(clusters.has_zero)
    assert (np.diff(centroids[zero:]) >= 0).all()
    fitted = (w != 0) if zero else np.ones(w.size, bool)
    if zero:
        assert (seen[w == 0] == 0).all() and (np.asarray(clusters.assignments)[w != 0] > 0).all()
    if fitted.any():
        distances = np.abs(w[fitted][:, None] - centroids[zero:])
        np.testing.assert_allclose(np.abs(w - seen)[fitted], distances.min(1), atol=1e-5)
    np.testing.assert_allclose(
        float(clusters.inertia), ((w - seen.astype(np.float64)) ** 2).sum(), rtol=1e-4, atol=1e-6
    )
    assert clusters.counts.tolist() == np.bincount(np.asarray(clusters.assignments), minlength=k).tolist()


def test_masked_entries_do_not_count():
    start = "density"
    w, mask = normal(40), np.random.default_rng(1).random(40) < 0.6
    masked = kmeans(w, 3, start, mask=mask)
    alone = kmeans(w[mask], 3, start)
    np.testing.assert_allclose(masked.centroids, alone.centroids, rtol=1e-6)
    np.testing.assert_array_equal(masked.assignments[mask], alone.assignments)
    assert masked.counts.tolist() == alone.counts.tolist()
    elsewhere = kmeans(np.where(mask, w, 99).astype(np.float32), 3, start, mask=mask)
    np.testing.assert_array_equal(masked.centroids, elsewhere.centroids)
    assert (elsewhere.assignments[~mask] == 2).all(), "99 is nearest to the largest"


@pytest.mark.optimized
def test_eager_jit_and_vmap_give_the_same_bits():
    w = jnp.asarray(np.stack([normal(200, seed) for seed in range(3)]).reshape(3, 20, 10))
    w = w.at[1].set(jnp.maximum(w[1], 0))
    keys = jax.random.split(jax.random.key(2), 3)

    def one(w, key):
        return fit(w, 8, start="density", keep_zero=True, key=key)

    eager = [one(*pair) for pair in zip(w, keys, strict=True)]
    jitted = [jax.jit(one)(*pair) for pair in zip(w, keys, strict=True)]
    lifted = jax.vmap(one)(w, keys)
    assert [bool(c.has_zero) for c in eager] == [False, True, False]
    for i in range(3):
        jax.tree.map(np.testing.assert_array_equal, eager[i], jitted[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a, b[i]), eager[i], lifted)


def test_another_number_of_iterations_does_not_recompile():
    traces = []

    @jax.jit
    def one(w, iterations):
        traces.append(1)
        return fit(w, 4, iterations=iterations)

    done = [int(one(jnp.asarray(normal(50)), n).iterations) for n in (0, 1, 3)]
    assert done == [0, 1, 3] and len(traces) == 1


def test_narrow_floats_are_clustered_in_float32():
    dtype = jnp.bfloat16
    w = jnp.asarray(normal(2000)).astype(dtype)
    clusters = kmeans(w, 16)
    jax.tree.map(np.testing.assert_array_equal, clusters, kmeans(w.astype(jnp.float32), 16))
    seen = cluster.lookup(clusters, dtype)
    assert seen.dtype == dtype and np.unique(np.asarray(seen, np.float32)).size <= 16


@pytest.mark.parametrize(
    ("args", "more", "message"),
    [
        (([1.0], 0), {}, r"k must be an integer in \[1, 4096\], got 0"),
        (([1.0], 2.0), {}, r"k must be an integer in \[1, 4096\], got 2.0"),
        (([1.0], True), {}, "k must be an integer"),
        (([1.0], 5000), {}, "got 5000"),
        (
            ([1.0], 1),
            {"keep_zero": True},
            r"k must be an integer in \[2, 4096\] \(one value is zero: keep_zero\), got 1",
        ),
        (([1.0], 2), {"start": "random"}, "start must be one of 'linear', 'density', 'kmeans\\+\\+', got 'random'"),
        (([1.0], 2), {"start": "kmeans++"}, "needs a key"),
        (([1, 2], 2), {}, "w must be a floating array, got int32"),
        (([], 2), {}, r"w must have at least one entry, got shape \(0,\)"),
        (([1.0, np.nan, np.inf], 2), {}, "w must be finite, got 2 entries that are not"),
        (
            ([1.0, 2.0], 2),
            {"mask": np.ones(3, bool)},
            r"mask must be bool of shape \(2,\), got bool of shape \(3,\)",
        ),
        (([1.0, 2.0], 2), {"mask": np.ones(2, np.float32)}, "got float32 of shape"),
    ],
)
def test_bad_input_is_refused(args, more, message):
    w, k = args
    with pytest.raises(ValueError, match=message):
        fit(jnp.asarray(w), k, **more)
