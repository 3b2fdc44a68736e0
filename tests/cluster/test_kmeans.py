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


def kmeans(w, k, start="linear", seed=0, **options):
    return fit(jnp.asarray(w), k, start=start, key=jax.random.key(seed), **options)


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


def test_a_cluster_that_would_be_empty_is_used():
    # From 0, 50, 100 no value is nearest to 50. Of all partitions, {0, 1}, {2, 3}, {100} has the least error.
    clusters = kmeans([0.0, 1.0, 2.0, 3.0, 100.0], 3)
    assert found(clusters)[:3] == ([0.5, 2.5, 100.0], [0, 0, 1, 1, 2], 1.0)
    assert clusters.counts.tolist() == [2.0, 2.0, 1.0]
    assert float(kmeans([0.0, 1.0, 2.0, 3.0, 100.0], 4).inertia) == 0.5


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
    with_zero, plain = kmeans(w, 4, keep_zero=True), kmeans(w, 4)
    jax.tree.map(np.testing.assert_array_equal, with_zero, plain)
    assert not bool(with_zero.has_zero)


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


@pytest.mark.parametrize("start", ["linear", "density"])
def test_starts_by_their_formula(start):
    w, k = normal(2000, seed=16), 16
    first = kmeans(w, k, start, iterations=0)
    if start == "linear":
        np.testing.assert_allclose(first.centroids, np.linspace(w.min(), w.max(), k), rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(first.centroids, np.sort(w)[(2 * np.arange(k) + 1) * w.size // (2 * k)])
    assert int(first.iterations) == 0


def least(w, k):
    """The least squared error of k clusters: all partitions of the sorted values, in float64."""
    x = np.sort(w.astype(np.float64))
    n, sums, squares = x.size, np.append(0, x.cumsum()), np.append(0, (x * x).cumsum())
    best = np.append(0, np.full(n, np.inf))
    i, j = np.triu_indices(n + 1, 1)
    error = np.full((n + 1, n + 1), np.inf)
    error[i, j] = squares[j] - squares[i] - (sums[j] - sums[i]) ** 2 / (j - i)
    for _ in range(k):
        best = (best[:, None] + error).min(0)
    return best[-1]


def squared_error(w, clusters):
    return ((w.astype(np.float64) - np.asarray(cluster.lookup(clusters), np.float64)) ** 2).sum()


DRAWS = {
    "normal": lambda nr, n: nr.standard_normal(n),
    "laplace": lambda nr, n: nr.laplace(size=n),
    "bimodal": lambda nr, n: np.concatenate([nr.normal(-3, 0.1, n // 2), nr.normal(3, 1, n // 2)]),
    "sparse": lambda nr, n: nr.standard_normal(n) * (nr.random(n) < 0.2),
    "outlier": lambda nr, n: np.append(nr.standard_normal(n - 1), 1000.0),
    "cauchy": lambda nr, n: nr.standard_cauchy(n),
}


@pytest.mark.parametrize("start", STARTS)
def test_the_error_is_the_least_of_all_partitions(start):
    for name, draw in DRAWS.items():
        w = draw(np.random.default_rng(3), 300).astype(np.float32)
        for k in (4, 16) if start == "linear" else (16,):
            clusters = kmeans(w, k, start)
            assert squared_error(w, clusters) <= 1.01 * least(w, k), (name, k)
            assert (clusters.counts > 0).all()


def scikit_learn(w, k, **options):
    return KMeans(k, random_state=0, **options).fit(w.astype(np.float64)[:, None]).inertia_


def pruned(n, share_kept, seed=0):
    w = np.random.default_rng(seed).laplace(size=n).astype(np.float32)
    return w * (np.abs(w) > np.quantile(np.abs(w), 1 - share_kept))


# scikit-learn 1.9.1, KMeans(n_init=10, random_state=0): too slow for each run; the slow test makes them again.
BEST_OF_TEN = {
    "outlier 10": 50.68395,
    "outlier 30": 50.42154,
    "outlier 100": 50.86463,
    "outlier 1000": 52.2301,
    "pruned": 38.84279,
    "many clusters": 1.619685e-5,
}


def compared(name):
    if name == "pruned":  # as large as the first kernel of LeNet-300-100, 92 % of it pruned
        return pruned(784 * 300, 0.08), 64
    if name == "many clusters":
        return normal(1250), 1024
    return np.append(normal(5000), np.float32(name.split()[1])), 16


@pytest.mark.parametrize("name", BEST_OF_TEN)
def test_no_worse_than_the_best_of_ten_starts_of_scikit_learn(name):
    w, k = compared(name)
    clusters = kmeans(w, k, keep_zero=True)
    assert squared_error(w, clusters) <= 1.05 * BEST_OF_TEN[name]
    assert (clusters.counts > 0).all()
    assert clusters.assignments.dtype == (jnp.uint8 if k <= 256 else jnp.uint16)


@pytest.mark.slow
@pytest.mark.parametrize("name", BEST_OF_TEN)
def test_scikit_learn_finds_what_is_recorded(name):
    w, k = compared(name)
    inertia = scikit_learn(w[w != 0], k - int((w == 0).any()), n_init=10)
    assert inertia == pytest.approx(BEST_OF_TEN[name], rel=0.02)


def test_of_values_of_any_size():
    w = np.tanh(normal(300))
    plain = squared_error(w, kmeans(w, 16))
    for scale in np.float32([1e-25, 1e-30, 1e30, 3e38]):
        clusters = kmeans(w * scale, 16)
        clusters = clusters._replace(centroids=jnp.asarray(np.asarray(clusters.centroids) / scale))
        assert squared_error(w, clusters) <= 1.001 * plain, scale


def test_the_largest_floats():
    clusters = kmeans(np.float32([3e38, -3e38, 1e38, 0, 2e38]), 3)
    assert clusters.assignments.tolist() == [2, 0, 1, 1, 2]
    np.testing.assert_allclose(clusters.centroids, [-3e38, 0.5e38, 2.5e38], rtol=1e-6)


def test_lloyd_moves_the_boundaries_within_cells():
    # Many more values than cells: what Lloyd's iteration ends with is a fixed point of it, by NumPy in float64.
    w = normal(5001)
    clusters = kmeans(w, 16, keep_zero=True)
    assert 1 < int(clusters.iterations) < 100
    x, centroids = w.astype(np.float64), np.asarray(clusters.centroids, np.float64)
    codes = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, x)
    np.testing.assert_array_equal(clusters.assignments, codes)
    np.testing.assert_allclose(centroids, np.bincount(codes, x) / np.bincount(codes), atol=1e-5)
    # Fewer iterations: a larger error.
    errors = [squared_error(w, kmeans(w, 16, iterations=i, keep_zero=True)) for i in (0, 1, 100)]
    assert errors[0] > errors[1] > errors[2]


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
    assert np.unique(seen).size == min(k, np.unique(w).size), "no value of the codebook is left unused"
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
    w = jnp.asarray(np.stack([normal(400, seed) for seed in range(3)]).reshape(3, 20, 20))
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

    done = [int(one(jnp.asarray(normal(5000)), n).iterations) for n in (0, 1, 2)]
    assert done == [0, 1, 2] and len(traces) == 1


def test_narrow_floats_are_clustered_in_float32():
    dtype = jnp.bfloat16
    w = jnp.asarray(normal(2000)).astype(dtype)
    clusters = kmeans(w, 16)
    jax.tree.map(np.testing.assert_array_equal, clusters, kmeans(w.astype(jnp.float32), 16))
    seen = cluster.lookup(clusters, dtype)
    assert seen.dtype == dtype and np.unique(np.asarray(seen, np.float32)).size <= 16


@pytest.mark.parametrize(
    ("args", "options", "message"),
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
def test_bad_input_is_refused(args, options, message):
    w, k = args
    with pytest.raises(ValueError, match=message):
        fit(jnp.asarray(w), k, **options)
