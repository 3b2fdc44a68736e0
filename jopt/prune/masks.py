"""What a pruning transform remembers and reads: which parameters are pruned, their masks, an update's inputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jopt import rules as path_rules
from jopt.layers import Layers, Parameter, one_copy, parameters
from jopt.prune.patterns import Pattern, Unstructured
from jopt.prune.select import Scalar, check_sparsity
from jopt.rules import named_leaves
from jopt.transform import LayerStatistics, Params, ParamTransform, check_shape

Rules = Sequence[tuple[str, Any]]
Masks = Any
"""A tree of the parameters' structure: bool arrays, and None for a parameter that is left alone."""
_COMMON = object()


class PruneState(NamedTuple):
    """The state of every pruning transform.

    Attributes:
      masks: a tree of the parameters' structure: bool arrays of their shapes, True where a weight is kept, and None
        for a parameter that is left alone.
      sparsity: float32 [], the common target that has been reached so far; 0 before the first pruning.
      movement: for scores that read it a tree like `masks` of float32 arrays, the sums of -w g; else `()`.
    """

    masks: Masks
    sparsity: jax.Array
    movement: Any = ()


class Pruned(NamedTuple):
    """One parameter that is pruned: its position among the tree's leaves, what is known of it, and its target.

    Attributes:
      index: position among the leaves.
      path: such as `Dense_0/kernel`.
      shape: of the parameter.
      target: the last sparsity that a rule gives it, or None: it shares the common budget.
      parameter: its layer, role and axes.
      pattern: what is kept or pruned together, with the axes of this parameter.
    """

    index: int
    path: str
    shape: tuple[int, ...]
    target: Scalar | None
    parameter: Parameter
    pattern: Pattern = Unstructured()

    @property
    def stack(self) -> tuple[int, ...]:
        """The axes over copies of its layer."""
        return self.parameter.stack

    @property
    def copy_shape(self) -> tuple[int, ...]:
        """The shape of one copy."""
        return one_copy(self.shape, self.stack)

    @property
    def copy_pattern(self) -> Pattern:
        """The pattern of one copy."""
        return self.pattern.in_copy(self.stack, self.shape) if self.stack else self.pattern

    @property
    def copies(self) -> int:
        """How many copies there are."""
        return math.prod(self.shape[axis] for axis in self.stack)

    @property
    def groups(self) -> int:
        """How many groups one copy has."""
        return math.prod(self.copy_pattern.grid(self.copy_shape))


class Moment(NamedTuple):
    """What an update looks at. The lists have an entry for each pruned parameter, in leaf order.

    Attributes:
      step: the optimizer step, int32 [].
      pruned: the parameters.
      weights: their values.
      masks: bool, what is kept of them.
      movement: float32, the accumulated -w g; None where the state has none.
      grads: a mean gradient; None where `update` was given none.
      key: a PRNG key, or None.
      layers: statistics of the layers by path, or None.
    """

    step: Scalar
    pruned: Sequence[Pruned]
    weights: Sequence[jax.Array]
    masks: Sequence[jax.Array]
    movement: Sequence[jax.Array] | None = None
    grads: Sequence[jax.Array] | None = None
    key: jax.Array | None = None
    layers: Mapping[str, LayerStatistics] | None = None

    def ends(self, last: jax.Array) -> list[jax.Array]:
        """The last sparsity of each parameter, float32 []: its rule's, or the common one."""
        return [last if p.target is None else jnp.asarray(p.target, jnp.float32) for p in self.pruned]


Decide = Callable[[Moment, jax.Array], tuple[Sequence[jax.Array], jax.Array]]
"""`(moment, sparsity reached) -> (masks, sparsity reached)`."""


def assign(
    params: Params,
    rules: Rules = (),
    pattern: Pattern = Unstructured(),  # noqa: B008
    layers: Layers | None = None,
) -> list[Pruned]:
    """The parameters that are pruned.

    Without a rule, every floating weight is: what is a weight is said by its role (`jopt.layers`).

    Args:
      params: a tree of arrays, or of their shapes.
      rules: pairs of a path pattern and the parameter's own sparsity, or None to leave it alone.
      pattern: what is kept or pruned together.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A `Pruned` for each of them, in leaf order.

    Raises:
      RuleError: if a rule matches nothing.
      LayoutError: if the pattern needs axes of a layer that are not known.
      ValueError: if a sparsity is not in [0, 1), a parameter with a rule is not floating, the pattern does not fit
        a parameter's shape, or no parameter is pruned.

    Example:
      >>> params = {"a": jnp.zeros((2, 2)), "bias": jnp.zeros((2, 2)), "c": jnp.zeros((2, 4))}
      >>> [(p.path, p.target) for p in assign(params, [("a", 0.5)])]
      [('a', 0.5), ('c', None)]
    """
    pruned = []
    leaves, layout = jax.tree.leaves(params), parameters(params, layers)
    assignments = path_rules.plan(rules, params, _COMMON)
    for index, (leaf, rule, parameter) in enumerate(zip(leaves, assignments, layout, strict=True)):
        shape, floating = tuple(jnp.shape(leaf)), jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        # A rule can name a bias or a scale; without one, only weights are pruned.
        if rule.value is None or (rule.pattern is None and not (floating and parameter.is_weight)):
            continue
        if not floating:
            got = f"{jnp.result_type(leaf)} for rule {rule.pattern!r}"
            raise ValueError(f"{rule.path}: a pruned parameter must be floating, got {got}")
        target = None if rule.pattern is None else rule.value
        if target is not None:
            check_target(target, f" for rule {rule.pattern!r}", pattern)
        resolved = pattern.resolve(parameter, shape)
        one = Pruned(index, rule.path, shape, target, parameter, resolved)
        # The grid is asked for here, where the error can name the parameter and before anything compiles.
        try:
            resolved.grid(shape)
            if one.stack:
                one.copy_pattern.grid(one.copy_shape)
        except ValueError as error:
            raise ValueError(f"{rule.path}: {error}; a rule ({rule.path!r}, None) would leave it alone") from error
        pruned.append(one)
    if not pruned:
        names = ", ".join(f"{p.path} ({p.reason})" for p in layout) or "none"
        raise ValueError(f"no parameter is pruned: none is a floating weight, or has a rule; there are: {names}")
    return pruned


def check_target(sparsity: Scalar | None, where: str, pattern: Pattern) -> None:
    """Raises ValueError for a concrete sparsity outside [0, 1), or one that the pattern does not have.

    Example:
      >>> check_target(1.2, " for rule 'Dense_0/kernel'", Unstructured())
      Traceback (most recent call last):
      ...
      ValueError: sparsity must lie in [0, 1), got 1.2 for rule 'Dense_0/kernel'
    """
    fixed = pattern.fixed_sparsity
    if fixed is not None:
        concrete = not isinstance(sparsity, Tracer)
        if sparsity is not None and not (concrete and abs(float(sparsity) - fixed) < 1e-6):
            got = sparsity if concrete else "a traced number"
            raise ValueError(f"{pattern} fixes sparsity at {fixed:g}: give None, got {got}{where}")
        return
    try:
        check_sparsity(sparsity)
    except ValueError as error:
        raise ValueError(f"{error}{where}") from None


def pick(params: Params, pruned: Sequence[Pruned], tree: Params) -> list[Any]:
    """What `tree` holds for each pruned parameter, be it None elsewhere.

    Raises:
      ValueError: if it is of another structure than `params`.

    Example:
      >>> params = {"b": jnp.zeros(2), "w": jnp.zeros((2, 2))}
      >>> pick(params, assign(params), {"b": None, "w": "mask"})
      ['mask']
    """
    parts = jax.tree.structure(params).flatten_up_to(tree)
    return [parts[p.index] for p in pruned]


def rebuild(params: Params, pruned: Sequence[Pruned], values: Sequence[object]) -> Any:
    """A tree of the structure of `params` with `values` for the pruned parameters and None elsewhere.

    Example:
      >>> params = {"b": jnp.zeros(2), "w": jnp.zeros((2, 2))}
      >>> rebuild(params, assign(params), ["mask"])
      {'b': None, 'w': 'mask'}
    """
    structure = jax.tree.structure(params)
    # None is a tree without leaves: what is left alone costs no memory and no moment.
    parts: list[Any] = [None] * structure.num_leaves
    for p, value in zip(pruned, values, strict=True):
        parts[p.index] = value
    return jax.tree.unflatten(structure, parts)


def project(state: PruneState, tree: Params) -> Params:
    """`tree` with exact zeros where its parameter is pruned, whatever was there (a NaN, too).

    Args:
      state: the state.
      tree: a tree of the parameters' structure and shapes, of any dtypes. In the place of a parameter there may be
        a node without leaves, or with several arrays of its shape.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      ValueError: for an array of another shape than its parameter, by its path.

    Example:
      >>> state = PruneState({"b": None, "w": jnp.array([True, False])}, jnp.float32(0.5))
      >>> project(state, {"b": jnp.ones(1), "w": jnp.array([-2.0, -1.0])})["w"].tolist()
      [-2.0, 0.0]
    """

    def zero(path: Any, mask: jax.Array | None, part: object) -> Any:
        if mask is None:
            return part

        def one(inner: Any, x: Any) -> jax.Array:
            # A mask of a row would broadcast, and so prune what it was not made for, without a word.
            check_shape((*path, *inner), jnp.shape(x), mask.shape)
            return jnp.where(mask, x, jnp.zeros((), jnp.result_type(x)))

        # A part may be a whole subtree: Optax puts an empty one where an optimizer keeps no moment.
        return jax.tree_util.tree_map_with_path(one, part)

    return jax.tree_util.tree_map_with_path(zero, state.masks, tree, is_leaf=lambda x: x is None)


def pruning_transform(
    decide: Decide,
    *,
    pattern: Pattern = Unstructured(),  # noqa: B008
    rules: Rules = (),
    layers: Layers | None = None,
    needs: frozenset[str] = frozenset(),
    movement: bool = False,
) -> ParamTransform:
    """The transform of a pruning method, from the one function that is its own.

    What the model sees, and where the optimizer's parameters, gradients and moments are held, is `project`.

    Args:
      decide: `(moment, sparsity reached) -> (masks, sparsity reached)`: the new masks of the pruned parameters.
      pattern: what is kept or pruned together.
      rules: pairs of a path pattern and the parameter's own sparsity, or None to leave it alone.
      layers: what the model says about its parameters; None: what their names and shapes say.
      needs: as in `ParamTransform`.
      movement: whether -w g is added up at every step, for `Moment.movement`.

    Returns:
      A `ParamTransform` whose state is a `PruneState`.

    Raises:
      As `assign`, in `init` and `update`.

    Example:
      A method that prunes what is negative:

      >>> positive = pruning_transform(lambda now, reached: ([w >= 0 for w in now.weights], reached))
      >>> params = {"w": jnp.array([[-1.0, 2.0]])}
      >>> state = positive.update(positive.init(params), params, step=0)
      >>> positive.apply(state, params)["w"].tolist()
      [[0.0, 2.0]]
    """
    # `update` has a keyword of that name, for statistics.
    layout = layers

    def init(params: Params) -> PruneState:
        pruned = assign(params, rules, pattern, layout)
        masks = rebuild(params, pruned, [jnp.ones(p.shape, bool) for p in pruned])
        sums = rebuild(params, pruned, [jnp.zeros(p.shape, jnp.float32) for p in pruned]) if movement else ()
        return PruneState(masks, jnp.float32(0), sums)

    def update(
        state: PruneState,
        params: Params,
        *,
        step: Scalar,
        grads: Params = None,
        key: jax.Array | None = None,
        layers: Mapping[str, LayerStatistics] | None = None,
    ) -> PruneState:
        # Which parameters are pruned follows from the tree; to keep it in the state would make it traced.
        pruned = assign(params, rules, pattern, layout)
        moment = Moment(
            step,
            pruned,
            weights=pick(params, pruned, params),
            masks=pick(params, pruned, state.masks),
            movement=pick(params, pruned, state.movement) if movement else None,
            grads=None if grads is None else pick(params, pruned, grads),
            key=key,
            layers=layers,
        )
        masks, sparsity = decide(moment, state.sparsity)
        return state._replace(masks=rebuild(params, pruned, masks), sparsity=sparsity)

    return ParamTransform(
        init,
        update,
        apply=project,
        project=project,
        # Parameters are projected already, so the forward pass needs no mask.
        forward=lambda state, params: params,
        observe=_add_movement if movement else None,
        needs=needs,
        shapes=lambda state: {name: mask.shape for name, mask in named_leaves(state.masks)},
        sparse=True,
        idle_at_first=True,
    )


def _add_movement(state: PruneState, params: Params, grads: Params) -> PruneState:
    def add(total: jax.Array | None, w: Any, g: Any) -> jax.Array | None:
        if total is None:
            return None
        # The zero, which XLA cannot know, keeps it from fusing product and difference, which would round once
        # in a compiled program and twice outside of one.
        zero = jax.lax.optimization_barrier(jnp.zeros_like(total))
        return total - (w.astype(jnp.float32) * g.astype(jnp.float32) + zero)

    return state._replace(movement=jax.tree.map(add, state.movement, params, grads, is_leaf=lambda x: x is None))


def refuse_nan(due: Scalar, pruned: Sequence[Pruned], *columns: Sequence[jax.Array]) -> None:
    """Raises ValueError if a choice is made among concrete numbers of which one is NaN."""
    if not concrete(due) or not bool(due):
        return
    for column in columns:
        for p, x in zip(pruned, column, strict=True):
            # In a trace nothing can be raised; there NaN ranks lowest, and is pruned first.
            if concrete(x) and bool(jnp.isnan(x).any()):
                count = int(jnp.isnan(x).sum())
                got = f"NaN in {count} of {x.size} entries"
                raise ValueError(f"{p.path}: weights, gradients and scores must be numbers, got {got}")


def concrete(*values: object) -> bool:
    """Whether no value is a tracer: only then may Python look at it."""
    return not any(isinstance(x, Tracer) for x in values)


def check_steps(begin: Scalar, end: Scalar | None = None) -> None:
    """Raises ValueError unless 0 <= begin <= end, where they are concrete."""
    if concrete(begin) and int(begin) < 0:
        raise ValueError(f"begin must be a step, at least 0, got {begin}")
    if end is not None and concrete(begin, end) and int(end) < int(begin):
        raise ValueError(f"end must be a step, at least begin ({begin}), got {end}")


def switch(case: jax.Array, *branches: Callable[[], Any]) -> Any:
    """`jax.lax.switch`; where `case` is concrete, the branch itself: outside of `jit` each call would compile.

    Example:
      >>> switch(jnp.int32(1), lambda: "left", lambda: "right")
      'right'
    """
    return branches[int(case)]() if concrete(case) else jax.lax.switch(case, branches)
