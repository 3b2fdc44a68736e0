"""Selection: exact counts, ties and order against a stable NumPy sort; traced, batched and sharded."""

import math
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jopt.prune import NM, Block, Channel, Unstructured, global_masks, keep_count, keep_top, top_k_mask
from jopt.prune import select as selection

pytestmark = pytest.mark.unoptimized

MILLIONTHS = st.integers(0, 999_999)


def best(scores, keep):
    """The mask of the `keep` largest by a stable sort of float64, which holds every float32."""
    flat = np.asarray(scores, np.float32).astype(np.float64).ravel()
    order = np.lexsort((np.arange(flat.size), -flat))
    mask = np.zeros(flat.size, bool)
    mask[order[:keep]] = True
    return mask.reshape(np.shape(scores))


def draw(kind, rng, shape):
    """Scores of one of the kinds that give a threshold search trouble."""
    normal = rng.standard_normal(shape)
    match kind:
        case "constant":
            x = np.full(shape, rng.choice([0.0, -1.5, 3.0, np.inf, -np.inf]))
        case "few":
            x = rng.integers(-2, 3, shape) * 0.5
        case "binary":
            x = rng.integers(0, 2, shape)
        case "magnitudes":
            x = np.abs(normal) * 0.05
        case "scales":
            x = normal * 10.0 ** rng.integers(-38, 38, shape)
        case "denormals":
            return (
                rng.integers(0, 50, shape).astype(np.uint32) | (rng.integers(0, 2, shape) << 31).astype(np.uint32)
            ).view(np.float32)
        case "zeros":
            x = np.where(rng.random(shape) < 0.5, -0.0, 0.0)
        case "infinities":
            x = rng.choice([-np.inf, np.inf, 0.0, 1.0], shape)
        case _:
            x = normal
    return x.astype(np.float32)


KINDS = (
    "normal", "constant", "few", "binary", "magnitudes", "scales", "denormals", "zeros", "infinities",
)  # fmt: skip


def exact_count(n, millionths):
    """In exact fractions: Python rounds them half to even."""
    keep = n - round(Fraction(n * millionths, 10**6))
    return max(keep, min(n, 1))


# How many are kept.


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31 - 1), MILLIONTHS)
@example(2**31 - 1, 999_999)
@example(2**31 - 1, 500_000)
@example(10**6 + 1, 500_000)
@example(5, 900_000)
@example(3, 500_000)
def test_a_jax_sparsity_counts_in_exact_millionths(n, m):
    s = np.float32(m / 1e6)
    expected = exact_count(n, m)
    assert keep_count(n, s) == expected
    got = keep_count(n, jnp.asarray(s))
    assert got.dtype == jnp.int32
    assert int(got) == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2**31 - 1), st.floats(0, 1, exclude_max=True))
def test_a_python_sparsity_counts_as_torch_does(n, s):
    assert keep_count(n, s) == keep_count(n, np.float64(s)) == max(1, n - round(s * n))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([0, 0.1, 0.2, 0.25, 0.5, 0.75, 0.8, 0.9, 0.95, 0.99]))
def test_usual_sparsities_count_the_same_as_float32_and_as_python_numbers(n, s):
    # Where n s is a half, float64 may miss it by a rounding, but not for these numbers and all n.
    exact = exact_count(n, round(s * 1e6))
    assert keep_count(n, np.float32(s)) == exact
    if (n * round(s * 100)) % 100 != 50:
        assert keep_count(n, s) == exact


def test_the_documented_difference_between_float64_and_millionths():
    assert (keep_count(100, 0.575), int(keep_count(100, jnp.float32(0.575)))) == (43, 42)


def test_halves_go_to_the_even_number_of_pruned():
    assert [keep_count(n, 0.5) for n in (1, 2, 3, 4, 5, 6, 7)] == [1, 1, 1, 2, 3, 3, 3]
    assert [int(keep_count(n, jnp.float32(0.5))) for n in (1, 2, 3, 4, 5, 6, 7)] == [1, 1, 1, 2, 3, 3, 3]
    assert keep_count(5, 0.9) == keep_count(5, np.float32(0.9)) == 1  # 4.5 to 4


def test_at_least_one_is_kept_of_anything():
    assert keep_count(10, 0.99) == int(keep_count(10, jnp.float32(0.99))) == 1
    assert keep_count(0, 0.5) == int(keep_count(0, jnp.float32(0.5))) == 0
    # A traced sparsity cannot be refused.
    count = jax.jit(lambda s: keep_count(10, s))
    assert [int(count(np.float32(s))) for s in (1.0, 7.0, np.nan, -1.0)] == [1, 1, 1, 10]


def test_a_bfloat16_sparsity_is_what_it_is():
    assert int(keep_count(1000, jnp.bfloat16(0.9))) == 1000 - round(float(jnp.bfloat16(0.9)) * 1000) == 102


@pytest.mark.parametrize(
    "sparsity", [1.0, 1.2, -1e-9, float("nan"), float("inf"), 1, np.float32(1), jnp.float32(-0.5)]
)
def test_a_sparsity_outside_its_range_is_refused(sparsity):
    for call in (lambda: keep_count(10, sparsity), lambda: top_k_mask(jnp.ones(10), sparsity)):
        with pytest.raises(ValueError, match=r"sparsity.*\[0, 1\)"):
            call()


@pytest.mark.parametrize("sparsity", [None, "0.5", True, np.array([0.5])])
def test_what_is_no_sparsity_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity must"):
        top_k_mask(jnp.ones(4), sparsity)


def test_too_many_groups_are_refused():
    with pytest.raises(ValueError, match=r"2\*\*31.*2147483648"):
        keep_count(2**31, 0.5)


# Which are kept.

SHAPES = ((1,), (7,), (3, 3, 4, 8), (10, 100))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SHAPES), st.sampled_from(KINDS), MILLIONTHS, st.integers(0, 2**31 - 1))
@example((10, 100), "constant", 900_000, 0)
@example((10, 100), "denormals", 500_000, 0)
@example((10, 100), "zeros", 500_000, 0)
@example((10, 100), "few", 310_000, 0)
def test_unstructured_is_a_stable_sort(shape, kind, m, seed):
    scores = draw(kind, np.random.default_rng(seed), shape)
    expected = best(scores, exact_count(scores.size, m))
    got = top_k_mask(jnp.asarray(scores), np.float32(m / 1e6))
    assert got.dtype == bool and got.shape == shape
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([Channel(), Channel(-2), Block((2, 4))]),
    st.sampled_from(["few", "constant", "binary"]),
    MILLIONTHS,
    st.integers(0, 2**31 - 1),
)
def test_groups_are_a_stable_sort_of_their_sums(pattern, kind, m, seed):
    shape = (3, 3, 4, 8)
    scores = draw(kind, np.random.default_rng(seed), shape)  # whose sums are exact
    scores = np.where(np.isinf(scores), 1, scores).astype(np.float32)
    pooled = np.asarray(pattern.pool(jnp.asarray(scores)))
    expected = pattern.expand(jnp.asarray(best(pooled, exact_count(pooled.size, m))), shape)
    np.testing.assert_array_equal(top_k_mask(jnp.asarray(scores), np.float32(m / 1e6), pattern), expected)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([NM(1, 4), NM(2, 4, 0), NM(4, 4), NM(3, 8)]),
    st.sampled_from(KINDS),
    st.integers(0, 2**31 - 1),
)
def test_n_of_m_is_a_stable_sort_of_each_run(pattern, kind, seed):
    scores = draw(kind, np.random.default_rng(seed), (8, 16))
    runs = np.moveaxis(scores, pattern.axis, -1)
    expected = np.array([best(run, pattern.n) for run in runs.reshape(-1, pattern.m)]).reshape(runs.shape)
    got = np.moveaxis(np.asarray(top_k_mask(jnp.asarray(scores), None, pattern)), pattern.axis, -1)
    np.testing.assert_array_equal(got, expected)


def rows(mask):
    return mask.astype(int).tolist()


def test_by_hand():
    w = jnp.array([[3.0, -1.0, 2.0, 0.5], [0.0, 4.0, 2.0, -6.0]])
    assert rows(top_k_mask(w, 0.5)) == [[1, 0, 1, 0], [0, 1, 1, 0]]
    assert rows(top_k_mask(w, 0.5, Channel())) == [[1, 0, 1, 0]] * 2  # sums 3, 3, 4, -5.5
    assert rows(top_k_mask(w, 0.5, Channel(0))) == [[1] * 4, [0] * 4]  # 4.5 and 0
    assert rows(top_k_mask(w, 0.5, Block((2, 2)))) == [[1, 1, 0, 0]] * 2  # 6 and -1.5
    assert rows(top_k_mask(w, None, NM(1, 2))) == [[1, 0, 1, 0], [0, 1, 1, 0]]
    assert rows(top_k_mask(w, 0.5, NM(1, 2, axis=0))) == [[1, 0, 1, 1], [0, 1, 0, 0]]  # 2 and 2 tie


def test_ties_keep_the_lower_flat_index_in_every_pattern():
    ones = jnp.ones((4, 4))
    assert rows(top_k_mask(ones, 0.65)) == [[1] * 4, [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert rows(top_k_mask(ones, 0.75, Channel())) == [[1, 0, 0, 0]] * 4
    assert rows(top_k_mask(ones, 0.75, Block((2, 2)))) == [[1, 1, 0, 0]] * 2 + [[0] * 4] * 2
    assert rows(top_k_mask(ones, 0.5, NM(2, 4))) == [[1, 1, 0, 0]] * 4
    assert rows(top_k_mask(ones, 0.75, NM(1, 4, axis=0))) == [[1] * 4] + [[0] * 4] * 3


def test_zeros_of_either_sign_tie_and_denormals_do_not():
    assert top_k_mask(jnp.array([-0.0, 0.0, -0.0]), 0.34).tolist() == [True, True, False]
    assert top_k_mask(jnp.array([0.0, 1e-45, -1e-45, 3e-45]), 0.5).tolist() == [False, True, False, True]


def test_minus_infinity_is_kept_only_where_nothing_else_is_left():
    scores = jnp.array([-jnp.inf, 1.0, -jnp.inf, -5.0])
    assert top_k_mask(scores, 0.5).tolist() == [False, True, False, True]
    assert top_k_mask(scores, 0.25).tolist() == [True, True, False, True]


def test_nan_is_refused_and_in_a_trace_lowest():
    scores = jnp.array([jnp.nan, -jnp.inf, 1.0, -jnp.nan])
    for call in (
        lambda: top_k_mask(scores, 0.5),
        lambda: keep_top(scores, 2),
        lambda: top_k_mask(scores, None, NM(2, 4)),
    ):
        with pytest.raises(ValueError, match=r"scores.*NaN.*2.*4"):
            call()
    with pytest.raises(ValueError, match=r"a/b: scores.*NaN.*2.*4"):
        global_masks({"a": {"b": scores}}, 0.5)
    assert jax.jit(lambda x: top_k_mask(x, 0.5))(scores).tolist() == [False, True, True, False]
    assert jax.jit(lambda x: top_k_mask(x, 0.25))(scores).tolist() == [True, True, True, False]
    assert jax.jit(lambda x: top_k_mask(x, None, NM(2, 4)))(scores).tolist() == [False, True, True, False]


def test_bfloat16_scores_are_compared_as_they_are():
    scores = jnp.asarray(draw("normal", np.random.default_rng(0), (40, 50)), jnp.bfloat16)  # with many ties
    np.testing.assert_array_equal(top_k_mask(scores, 0.9), best(np.asarray(scores, np.float32), 200))


def test_no_scores_no_mask():
    assert top_k_mask(jnp.ones((0, 3)), 0.5).shape == (0, 3)
    assert global_masks({}, 0.5) == {} and global_masks({"a": None}, 0.5) == {"a": None}
    assert top_k_mask(jnp.float32(2), 0.9).tolist() is True


def test_scores_that_are_not_floating_are_refused():
    with pytest.raises(ValueError, match=r"scores.*floating.*int32"):
        top_k_mask(jnp.arange(4), 0.5)


@pytest.mark.parametrize("sparsity", [0.49, 0.0, jnp.float32(0.75)])
def test_n_of_m_has_its_own_sparsity(sparsity):
    with pytest.raises(ValueError, match=r"NM\(n=2, m=4, axis=-1\).*sparsity.*0\.5"):
        top_k_mask(jnp.ones(8), sparsity, NM(2, 4))
    with pytest.raises(ValueError, match=r"NM\(n=2.*None.*traced"):
        jax.jit(lambda s: top_k_mask(jnp.ones(8), s, NM(2, 4)))(sparsity)


def test_n_of_m_takes_the_sparsity_it_has_in_float32_too():
    scores = jnp.arange(6.0)
    assert top_k_mask(scores, np.float32(2 / 3), NM(1, 3)).tolist() == [False, False, True] * 2


def test_a_count():
    scores = jnp.array([0.5, 2.0, 1.0, 2.0])
    masks = [keep_top(scores, k).astype(int).tolist() for k in range(5)]
    assert masks == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]]
    traced = jax.jit(keep_top)
    for k, mask in zip((-3, 0, 2, 9), (masks[0], masks[0], masks[2], masks[4]), strict=True):
        assert traced(scores, np.int32(k)).astype(int).tolist() == mask
    assert keep_top(jnp.full(3, jnp.inf), 0).tolist() == [False] * 3
    assert keep_top(jnp.ones((2, 3)), 1, Channel()).tolist() == [[True, False, False]] * 2
    for k in (-1, 5):
        with pytest.raises(ValueError, match=rf"count.*\[0, 4\].* {k}$"):
            keep_top(scores, k)
    with pytest.raises(ValueError, match=r"NM\(n=2.*count.*top_k_mask"):
        keep_top(scores, 2, NM(2, 4))  # type: ignore[arg-type]


# Over a tree.


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), MILLIONTHS, st.integers(0, 2**31 - 1))
@example("constant", 500_000, 0)
@example("denormals", 900_000, 1)
def test_a_global_budget_is_a_stable_sort_of_all_leaves(kind, m, seed):
    rng = np.random.default_rng(seed)
    tree = {
        "b": draw(kind, rng, (5, 4)),
        "a": draw(kind, rng, (3, 3, 2, 2)),
        "c": None,
        "d": draw(kind, rng, (31,)),
    }
    flat = np.concatenate([tree[name].ravel() for name in ("a", "b", "d")])
    expected = best(flat, exact_count(flat.size, m))
    masks = global_masks(jax.tree.map(jnp.asarray, tree), np.float32(m / 1e6))
    assert masks["c"] is None and {n: x.shape for n, x in masks.items() if x is not None} == {
        n: x.shape for n, x in tree.items() if x is not None
    }
    np.testing.assert_array_equal(np.concatenate([np.ravel(masks[name]) for name in ("a", "b", "d")]), expected)


def test_groups_of_unequal_size_compete_by_their_mean():
    # Every neuron of `wide` has sum 4, but mean 1; those of `small` have sums 3 and 1.5, means 1.5 and 0.75.
    tree = {"small": jnp.array([[1.0, 1.0], [2.0, 0.5]]), "wide": jnp.ones((4, 2))}
    masks = global_masks(tree, 0.5, Channel())
    assert masks["small"].tolist() == [[True, False]] * 2
    assert masks["wide"].tolist() == [[True, False]] * 4


def test_n_of_m_over_a_tree_is_each_leafs():
    masks = global_masks({"a": jnp.arange(4.0), "b": jnp.array([9.0, 8.0])}, None, NM(1, 2))
    assert {k: v.tolist() for k, v in masks.items()} == {"a": [False, True] * 2, "b": [True, False]}


def test_a_leaf_that_the_pattern_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"d/kernel: Block\(shape=\(2, 2\)\).*axis 1 .*\(4, 5\)"):
        global_masks({"d": {"kernel": jnp.ones((4, 5))}}, 0.5, Block((2, 2)))


# Under transformations.

PATTERNS = (Unstructured(), Channel(), Block((2, 4)), NM(2, 4))


@pytest.mark.parametrize(
    ("pattern", "dtype"),
    [*((p, "float32") for p in PATTERNS), (Channel(), "bfloat16"), (Unstructured(), "bfloat16")],
)
def test_jit_is_eager_vmap_is_a_loop_and_nothing_recompiles(pattern, dtype):
    # Halves, whose sums are exact in any order and program.
    scores = jnp.asarray(draw("few", np.random.default_rng(1), (5, 8, 16)), dtype)
    sweep = [0.5] if isinstance(pattern, NM) else [0.0, 0.3, 0.5, 0.9, 0.999]
    traced = jax.jit(lambda x, s: top_k_mask(x, None if isinstance(pattern, NM) else s, pattern))
    eager = [[top_k_mask(x, np.float32(s), pattern) for s in sweep] for x in scores]
    compiled = selection._keep_top._cache_size()
    for x, masks in zip(scores, eager, strict=True):
        for s, mask in zip(sweep, masks, strict=True):
            np.testing.assert_array_equal(traced(x, np.float32(s)), mask)
            np.testing.assert_array_equal(top_k_mask(x, s, pattern), mask)
    assert traced._cache_size() == 1
    assert selection._keep_top._cache_size() == compiled
    both = jax.vmap(jax.vmap(traced, (None, 0)), (0, None))(scores, jnp.asarray(sweep, jnp.float32))
    np.testing.assert_array_equal(both, jnp.stack([jnp.stack(masks) for masks in eager]))


@pytest.mark.optimized
@pytest.mark.parametrize(("pattern", "spec"), [*((p, ("x", None)) for p in PATTERNS), (Unstructured(), ("x", "y"))])
def test_sharded_is_unsharded_and_no_device_sees_all_scores(pattern, spec):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("x", "y"))
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    select = jax.jit(lambda x: top_k_mask(x, None if isinstance(pattern, NM) else 0.5, pattern))
    for kind in (
        "few",
        "normal",
    ):  # sums of small integers are exact in any order; those of normal numbers far apart
        scores = draw(kind, np.random.default_rng(2), (32, 64))
        split = jax.device_put(scores, sharding)
        np.testing.assert_array_equal(select(split), select(jnp.asarray(scores)))
    # What the devices exchange are counts: one int32 of each.
    for size in re.findall(
        r"= \w+\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)", compiled_text(select, split)
    ):
        assert pattern != Unstructured() or math.prod(int(n) for n in size.split(",") if n) <= 8


def compiled_text(function, *args):
    return function.lower(*args).compile().as_text()


def primitives(jaxpr):
    for eqn in jaxpr.eqns:
        inner = [x for v in eqn.params.values() for x in (v if isinstance(v, tuple | list) else [v])]
        nested = [getattr(x, "jaxpr", x) for x in inner if hasattr(getattr(x, "jaxpr", x), "eqns")]
        yield eqn.primitive.name, max((v.aval.size for v in eqn.outvars), default=0)
        for n in nested:
            yield from primitives(n)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_nothing_is_sorted_or_moved(pattern):
    sparsity = None if isinstance(pattern, NM) else 0.5
    jaxpr = jax.make_jaxpr(lambda x: top_k_mask(x, sparsity, pattern))(jnp.ones((8, 16))).jaxpr
    operations = dict(primitives(jaxpr))
    assert operations.keys() & ({"lt"} if isinstance(pattern, NM) else {"reduce"})
    assert not operations.keys() & {"sort", "top_k", "cumsum", "gather", "scatter"}
    assert operations.get("concatenate", 0) <= 7 and operations.get("stack", 0) <= 7  # the counts of a pass


def test_masks_are_constants_to_a_gradient():
    def loss(w):
        return jnp.sum(jnp.where(top_k_mask(jnp.abs(w), 0.5), w, jnp.float32(0)) ** 2)

    assert jax.grad(loss)(jnp.array([1.0, -3.0, 2.0, 0.5])).tolist() == [0.0, -6.0, 4.0, 0.0]
