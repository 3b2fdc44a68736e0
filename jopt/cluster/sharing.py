"""Weight sharing: each weight is held at the mean of its cluster."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jaxtyping import PyTree

from jopt import rules as path_rules
from jopt.cluster.kmeans import check_clusters, check_start, check_values, codes_dtype, kmeans
from jopt.cluster.means import cluster_means, cluster_sums, take, wide
from jopt.hyper import check_number
from jopt.layers import Layers, assumed, parameters, to_copies
from jopt.layers.copies import from_copies
from jopt.rules import named_leaves, path_name
from jopt.transform import ParamTransform, check_shape
from jopt.typing import Key, Number, Params

GRADIENTS = ("mean", "sum")
Rules = Sequence[tuple[str, int | None]]


class Shared(NamedTuple):
    """How one leaf is shared.

    Of a layer with stacked copies every field but `assignments` has a leading axis [copies]: each copy has its own
    codebook.

    Attributes:
      assignments: uint8 (uint16 if k > 256) of the leaf's shape, the cluster of each weight.
      centroids: float32 [k], the clusters' means at the last update.
      counts: float32 [k], the clusters' sizes.
      members: int32 [k], the flat index of one member of each cluster.
      has_zero: bool scalar, whether cluster 0 holds the weights that stay exactly zero.
    """

    assignments: jax.Array
    centroids: jax.Array
    counts: jax.Array
    members: jax.Array
    has_zero: jax.Array


class ShareState(NamedTuple):
    """The state of `share`.

    Attributes:
      active: bool scalar, whether the codebooks have been chosen.
      leaves: a tree of the parameters' structure, with a `Shared` for each shared leaf, and None for the others.
    """

    active: jax.Array
    leaves: PyTree


def share(
    clusters: int = 16,
    *,
    start: str = "linear",
    iterations: Number = 100,
    keep_zero: bool = True,
    trained: bool = True,
    gradient: str = "mean",
    begin: Number = 0,
    rules: Rules = (),
    layers: Layers | None = None,
) -> ParamTransform:
    r"""Weights share values, at most k to a leaf: $w_i \mapsto \frac{1}{n_{a_i}} \sum_{j : a_j = a_i} w_j$.

    Han, Mao and Dally, 2016, Deep Compression, section 3. The first `update` at or after step `begin` runs k-means
    on each leaf; from then on assignments are frozen. Before it the transform is the identity.

    Trained sharing is a linear projection, the mean within each cluster, and its gradient the mean of the gradients
    within each cluster: all members move alike, so the optimizer, whichever it is, trains the centroids. The
    paper's centroid gradient (its equation 3) is the sum, $n_a$ times the mean: the same direction for each
    centroid, with the learning rate scaled by the cluster's size. `gradient='sum'` gives that.

    With `keep_zero` exact zeros, which are pruned weights, have cluster 0 to themselves and stay exactly zero.
    Weights that are pruned later join them at the next `update`; if there was no zero before, the codebook is
    chosen again, so that there are never more than k values. Zeros stay zero: grow weights back before sharing, not
    after. Without `keep_zero` a zero is a value like others, and moves to its cluster's mean.

    The mean is exact where all members are equal: projecting twice changes no bit, and shared values on an integer
    grid stay there. In bfloat16 and float16 means are taken in float32 and rounded, so values may coincide.

    Args:
      clusters: k, the number of distinct values of a leaf, zero included, where no rule says otherwise.
      start: the first centroids of k-means: 'linear', 'density' or 'kmeans++' (then `update` needs a key).
      iterations: of k-means, at most; may be traced.
      keep_zero: whether exact zeros are a separate value.
      trained: whether centroids move. If not, the model sees the codebook as it was chosen, and gradients are zero.
      gradient: 'mean' or 'sum', within a cluster.
      begin: the step from which an `update` chooses the codebooks; may be traced.
      rules: pairs of a pattern of a parameter's whole path, and its number of clusters, or None to leave it alone.
        Without one, floating weights share.
      layers: what the model says about its parameters (`jopt.layers.trace`): which are weights, and which axes are
        copies of a stacked layer, each with its own codebook. None: what names and shapes say.

    Returns:
      A `ParamTransform` with the state `ShareState`.

    Raises:
      ValueError: for arguments other than the above; in `update` for weights that are not finite, or a missing key.
      RuleError: in `init`, if a rule matches no parameter.

    Example:
      >>> t = share(2, keep_zero=False)
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [7.0, 9.0]])}
      >>> state = t.update(t.init(params), params, step=0)
      >>> t.apply(state, params)["kernel"].tolist()
      [[1.5, 1.5], [8.0, 8.0]]
      >>> t.project(state, {"kernel": jnp.array([[1.0, 3.0], [0.0, 0.0]])})["kernel"].tolist()  # gradients, say
      [[2.0, 2.0], [0.0, 0.0]]
    """
    check_start(start)
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(map(repr, GRADIENTS))}, got {gradient!r}")

    if gradient == "sum" and not trained:
        raise ValueError("gradient must be 'mean' where trained is False, got 'sum'")
    check_number("iterations", iterations, lambda x: x >= 0, "a number of at least 0")
    check_number("begin", begin, lambda x: x >= 0, "a step, at least 0")

    def stack_of(path, shape):
        """The axes over copies of a parameter's layer."""
        return ((layers or {}).get(path) or assumed(path, shape)).stack

    def init(params):
        counts = clusters_by_leaf(params, clusters, rules, keep_zero, layers)
        parts = [
            None if k is None else _unshared(leaf, k, stack_of(name, leaf.shape))
            for k, (name, leaf) in zip(counts, named_leaves(params), strict=True)
        ]
        return ShareState(jnp.zeros((), jnp.bool_), jax.tree.unflatten(jax.tree.structure(params), parts))

    def update(state, params, *, step, grads=None, key=None):
        del grads
        if start == "kmeans++" and key is None:
            raise ValueError("start 'kmeans++' draws its centroids: update needs a key")
        due = jnp.asarray(step).astype(jnp.int32) >= jnp.asarray(begin).astype(jnp.int32)
        limit = jnp.asarray(iterations).astype(jnp.int32)

        def choose(position, name, shared, w):
            check_values(w, name)
            stack = stack_of(name, w.shape)
            subkey = None if key is None else jax.random.fold_in(key, position)
            one = partial(_update, start=start, keep_zero=keep_zero, trained=trained)
            if not stack:
                return one(shared, w, state.active, due, limit, subkey)
            # Stacked copies are layers of their own: one codebook for all would join weights that never meet.
            copies = to_copies(w, stack)
            keys = None if subkey is None else jax.random.split(subkey, copies.shape[0])
            over = (0, 0, None, None, None, None if keys is None else 0)
            new = jax.vmap(one, in_axes=over)(_split(shared, stack), copies, state.active, due, limit, keys)
            assignments = from_copies(new.assignments, stack, [w.shape[axis] for axis in stack])
            return new._replace(assignments=assignments)

        names = [name for name, _ in named_leaves(params)]
        parts, leaves, structure = _parts(state, params)
        new = [
            None if s is None else choose(i, name, s, w)
            for i, (name, s, w) in enumerate(zip(names, parts, leaves, strict=True))
        ]
        return ShareState(state.active | due, jax.tree.unflatten(structure, new))

    def apply(state, params):
        see = _see_shared if trained else _see_codebook
        return mapped(lambda s, w: see(s, state.active, scaled(s, state.active, w), keep_zero), state, params)

    def project(state, tree):
        return mapped(lambda s, x: jnp.where(state.active, _means(s, x), x), state, tree)

    def forward(state, params):
        return mapped(lambda s, w: scaled(s, state.active, w), state, params) if gradient == "sum" else params

    def mapped(function, state, tree):
        return _map(function, state, tree, stack_of)

    def scaled(shared, active, w):
        return _sum_gradient(shared, active, w) if gradient == "sum" and trained else w

    # With fixed centroids the model sees other values than the projected parameters: apply is the only way.
    return ParamTransform(
        init, update, apply, project=project, forward=forward if trained else None, shapes=_shapes
    )


def clusters_by_leaf(
    params: Params, clusters: int, rules: Rules = (), keep_zero: bool = True, layers: Layers | None = None
) -> list[int | None]:
    """The number of values for each leaf, in leaf order; None leaves it alone.

    Without a matching rule, floating weights share, and others (biases, norms) do not: what is a weight is said by
    its role (`jopt.layers`). Each copy of a stacked layer has as many values.

    Args:
      params: a pytree of arrays (or shapes, as `jax.eval_shape` gives them).
      clusters: the number of values where no rule says otherwise.
      rules: pairs of a pattern of the whole path, and a number or None.
      keep_zero: whether one of the values is kept for zero.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A number or None for each leaf.

    Raises:
      RuleError: for a rule that matches no parameter, or one that is not a floating array.
      ValueError: for a number of clusters that is none.

    Example:
      >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}
      >>> clusters_by_leaf(params, 16), clusters_by_leaf(params, 16, ((".*", 4),))
      ([None, 16], [4, 4])
    """
    default = check_clusters(clusters, keep_zero, "clusters")
    counts = []
    assignments, descriptions = path_rules.plan(rules, params, default), parameters(params, layers)
    for assigned, leaf, parameter in zip(assignments, jax.tree.leaves(params), descriptions, strict=True):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        if assigned.pattern is None:
            counts.append(default if floating and parameter.is_weight else None)
        elif assigned.value is None:
            counts.append(None)
        elif not floating:
            pattern, path = assigned.pattern, assigned.path
            raise path_rules.RuleError(
                f"rule {pattern!r} shares {path!r}, which must be a floating array, got {leaf.dtype}"
            )
        else:
            counts.append(check_clusters(assigned.value, keep_zero, f"clusters of rule {assigned.pattern!r}"))
    return counts


def _unshared(leaf: Any, k: int, stack: tuple[int, ...]) -> Shared:
    """What is kept for a leaf before its codebook is chosen, of the shapes that it will have."""
    copies = (math.prod(leaf.shape[axis] for axis in stack),) if stack else ()
    return Shared(
        assignments=jnp.zeros(leaf.shape, codes_dtype(k)),
        centroids=jnp.zeros((*copies, k), jnp.float32),
        counts=jnp.zeros((*copies, k), jnp.float32),
        members=jnp.zeros((*copies, k), jnp.int32),
        has_zero=jnp.zeros(copies, jnp.bool_),
    )


def _parts(state: ShareState, tree: Params) -> tuple[list[Shared | None], list[jax.Array], Any]:
    leaves, structure = jax.tree.flatten(tree)
    return structure.flatten_up_to(state.leaves), leaves, structure


def _map(
    function: Callable[[Shared, jax.Array], jax.Array],
    state: ShareState,
    tree: Params,
    stack_of: Callable[[str, tuple[int, ...]], tuple[int, ...]],
) -> Params:
    def part(path: KeyPath, shared: Shared | None, part: PyTree) -> PyTree:
        if shared is None:
            return part

        def one(inner: KeyPath, x: jax.Array) -> jax.Array:
            # A moment of another shape would be projected by indices that mean something else.
            check_shape((*path, *inner), jnp.shape(x), shared.assignments.shape)
            stack = stack_of(path_name(path), shared.assignments.shape)
            if not stack:
                return function(shared, x)
            copies = jax.vmap(function)(_split(shared, stack), to_copies(x, stack))
            return from_copies(copies, stack, [x.shape[axis] for axis in stack])

        # A part may be a whole subtree: Optax puts an empty one where an optimizer keeps no moment.
        return jax.tree_util.tree_map_with_path(one, part)

    return jax.tree_util.tree_map_with_path(part, state.leaves, tree, is_leaf=_is_part)


def _split(shared: Shared, stack: tuple[int, ...]) -> Shared:
    """With assignments [copies, ...], as the other fields are."""
    return shared._replace(assignments=to_copies(shared.assignments, stack))


def _is_part(node: object) -> bool:
    return node is None or isinstance(node, Shared)


def _shapes(state: ShareState) -> dict[str, tuple[int, ...]]:
    parts = jax.tree_util.tree_leaves_with_path(state.leaves, is_leaf=_is_part)
    return {path_name(path): part.assignments.shape for path, part in parts if part is not None}


@partial(jax.jit, static_argnames=("start", "keep_zero", "trained"))
def _update(
    shared: Shared,
    w: jax.Array,
    active: jax.Array,
    due: jax.Array,
    limit: jax.Array,
    key: Key | None,
    *,
    start: str,
    keep_zero: bool,
    trained: bool,
) -> Shared:
    is_zero = w == 0
    first_zeros = jnp.any(is_zero) & ~shared.has_zero if keep_zero else jnp.zeros((), jnp.bool_)
    # Chosen once. Later updates keep the assignments, which the trained centroids belong to, and only let weights
    # that were pruned meanwhile join the cluster of zeros; the first zeros need a slot, so the codebook is chosen
    # again.
    chosen = due & (~active | first_zeros)

    def choose():
        clusters = kmeans(w, shared.centroids.size, start=start, iterations=limit, keep_zero=keep_zero, key=key)
        return clusters.assignments, clusters.centroids, clusters.has_zero

    def keep():
        joined = jnp.where(is_zero & shared.has_zero, jnp.zeros_like(shared.assignments), shared.assignments)
        return joined, shared.centroids, shared.has_zero

    assignments, centroids, has_zero = jax.lax.cond(chosen, choose, keep)
    new = _with_counts(assignments, centroids, has_zero)
    # For a new codebook this is Lloyd's last step: its values are the means that `apply` and `project` give.
    means = jnp.where(new.counts > 0, _cluster_values(new, w).astype(jnp.float32), centroids)
    new = new._replace(centroids=means if trained else jnp.where(chosen, means, centroids))
    return jax.tree.map(lambda x, y: jnp.where(active | due, x, y), new, shared)


def _with_counts(assignments: jax.Array, centroids: jax.Array, has_zero: jax.Array) -> Shared:
    codes, k = assignments.reshape(-1), centroids.size
    # Sizes and a member of each cluster are kept, as they change only here and every step's means need them.
    index = jnp.arange(codes.size, dtype=jnp.int32)
    members = jax.ops.segment_min(index, codes.astype(jnp.int32), k)
    return Shared(
        assignments=assignments,
        centroids=centroids,
        counts=cluster_sums(jnp.ones(codes.size, jnp.float32), codes, k),
        members=jnp.minimum(members, codes.size - 1),
        has_zero=has_zero,
    )


def _cluster_values(shared: Shared, x: jax.Array) -> jax.Array:
    """[k], the means of `x` within the clusters; exactly 0 for the cluster of zeros."""
    values = x.reshape(-1).astype(wide(x.dtype))
    means = cluster_means(values, shared.assignments.reshape(-1), shared.members, shared.counts)
    first = jnp.arange(means.size, dtype=jnp.int32) == 0
    return jnp.where(first & shared.has_zero, jnp.zeros((), means.dtype), means)


# Jitted by itself: an eager call, as in a notebook, would else compile each operation as a program of its own.
@jax.jit
def _means(shared: Shared, x: jax.Array) -> jax.Array:
    return take(_cluster_values(shared, x).astype(x.dtype), shared.assignments)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _see_shared(shared: Shared, active: jax.Array, w: jax.Array, keep_zero: bool) -> jax.Array:
    seen = jnp.where(active, _means(shared, w), w)
    # A weight that became zero after the last update, in a loop that does not project its parameters.
    return jnp.where(w == 0, w, seen) if keep_zero else seen


def _see_shared_forward(shared, active, w, keep_zero):
    return _see_shared(shared, active, w, keep_zero), (shared, active)


def _see_shared_backward(keep_zero, residuals, g):
    del keep_zero
    shared, active = residuals
    # The mean is symmetric, so its transpose is itself; autodiff through it would round where this is exact.
    return None, None, jnp.where(active, _means(shared, g), g)


_see_shared.defvjp(_see_shared_forward, _see_shared_backward)


def _see_codebook(shared: Shared, active: jax.Array, w: jax.Array, keep_zero: bool) -> jax.Array:
    codebook = take(shared.centroids.astype(w.dtype), shared.assignments)
    if keep_zero:
        codebook = jnp.where(w == 0, jnp.zeros((), w.dtype), codebook)
    return jnp.where(active, codebook, w)


@jax.custom_vjp
def _sum_gradient(shared: Shared, active: jax.Array, w: jax.Array) -> jax.Array:
    """The identity, whose gradient is the size of the weight's cluster."""
    del shared, active
    return w


def _sum_gradient_forward(shared, active, w):
    return w, (shared, active)


def _sum_gradient_backward(residuals, g):
    shared, active = residuals
    return None, None, jnp.where(active, g * take(shared.counts, shared.assignments).astype(g.dtype), g)


_sum_gradient.defvjp(_sum_gradient_forward, _sum_gradient_backward)
