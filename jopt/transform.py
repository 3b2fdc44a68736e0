"""ParamTransform: how the model *sees* its parameters, as a tuple of pure functions.

An Optax `GradientTransformation` says how parameters move. A `ParamTransform` says what the forward pass
computes with: masked, fake-quantized, shared or clipped values. It knows nothing of the model or the loop.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax

from jopt.rules import path_name
from jopt.typing import Key, OptState, Params, Shape, Updates

if TYPE_CHECKING:
    import optax

State: TypeAlias = Any
"""What a transform keeps: a pytree of arrays whose containers are the transform's own."""
Learned: TypeAlias = Any
"""The trainable parameters of a transform, a pytree of floating arrays; None or () for one without."""


class LayerStatistics(NamedTuple):
    """What a layer with a kernel did on some examples.

    Attributes:
      input_norm: float32, of the shape of the kernel's input axes ([features in], or [heads, dim] of an attention's
        output projection): the L2 norm of each input feature over examples and positions.
      zero_share: float32, of the shape of the kernel's output axes: the share of (nearly) zero outputs behind the
        layer's activation.
    """

    input_norm: jax.Array
    zero_share: jax.Array


class Storage(NamedTuple):
    """How the values that a transform gave a parameter are stored as integers, in a file and in integer execution.

    Attributes:
      spec: the `jopt.quantize.Spec`, with concrete bits.
      range: the `jopt.quantize.Range` that the values were quantized in, of the scales' shape.
    """

    spec: Any
    range: Any


class ParamTransform(NamedTuple):
    """A transform of parameters, made of pure functions on any pytree.

    A loop must call only the first three. A loop that holds the parameters *in the transform's subspace*
    (pruned entries at zero, shared entries equal) is faster, and its optimizer's moments are right: see `project`.

    Attributes:
      init: `params -> state`.
      update: `(state, params, *, step, grads=None, key=None) -> state`. Runs rarely, at segment boundaries:
        chooses masks, ranges, codebooks. The state keeps its structure, shapes and dtypes.
      apply: `(state, params) -> params`. Runs every step, so costs next to nothing. Differentiable, and keeps
        the tree's structure, shapes and dtypes. Zero stays zero.
      project: `(state, tree) -> tree`, the linear, idempotent projection of a tree of the parameters' structure
        (parameters, gradients, updates, moments) onto the subspace that the transform holds them in. None: the
        whole space. In the place of a parameter without a moment there may be a node without leaves.
      forward: `(state, params) -> params`, what `apply` gives for parameters that are projected already, where
        that is cheaper. None: `apply`.
      observe: `(state, params, grads) -> state`, at every step, with the gradients before projection. None:
        nothing is kept.
      needs: what `update` reads too: 'grads' (a mean gradient over training examples at `params`), 'layers' (the
        keyword of that name: a mapping from a layer's path to its `LayerStatistics`), 'zeros' (entries that sparse
        transforms later in a chain set to zero).
      shapes: `state -> {path: shape}` of each parameter that `project` changes, which tells `project_moments` the
        moments from an optimizer's other state. None: `project` takes leaves of any shape.
      storage: `(state, params) -> {path: Storage}`, the integers behind what `apply` makes of these parameters, of
        concrete arrays: what the packed file and integer execution take, so that nothing is said twice. None: the
        transform quantizes nothing.
      learn: `(state, params) -> learned`, the first values of the transform's own trainable parameters (step sizes,
        codebooks, clipping levels), a pytree of floating arrays that the optimizer moves beside the model's. With
        it, `apply` and `forward` are `(state, params, learned) -> params`, `storage` takes `learned` last too, and
        `update` the keyword `learned`.
        None: the transform has none.
      constrain: `(state, params) -> params`, what becomes of the parameters after each optimizer step: the nearest
        that the method allows. `project` is linear and holds gradients and moments too; this may be any function of
        the parameters, and training projects what it returns. None: nothing.
      sparse: promises that `apply` sets entries to zero and changes nothing else, as a mask does. In a chain,
        transforms before it that need 'zeros' are updated once more, on what it leaves.
      idle_at_first: promises that `apply`, `forward` and `project` change nothing in the state of `init`, as a mask
        of ones does. A stage may then train with the transforms of the next one, see `jopt.train.sharing`.
    """

    init: Callable[[Params], State]
    update: Callable[..., State]
    apply: Callable[..., Params]
    project: Callable[[State, Updates], Updates] | None = None
    forward: Callable[..., Params] | None = None
    observe: Callable[[State, Params, Updates], State] | None = None
    needs: frozenset[str] = frozenset()
    shapes: Callable[[State], Mapping[str, Shape]] | None = None
    storage: Callable[..., dict[str, Storage]] | None = None
    learn: Callable[[State, Params], Learned] | None = None
    constrain: Callable[[State, Params], Params] | None = None
    sparse: bool = False
    idle_at_first: bool = False


def see(transform: ParamTransform, state: State, params: Params, learned: Learned = None) -> Params:
    """What the model sees: `transform.apply`, with the transform's trainable parameters where it has some.

    Example:
      >>> see(identity(), (), {"w": 1.0})
      {'w': 1.0}
    """
    return transform.apply(state, params) if transform.learn is None else transform.apply(state, params, learned)


def identity() -> ParamTransform:
    """The transform that changes nothing: the control of every comparison.

    Example:
      >>> t = identity()
      >>> t.apply(t.init({"w": 1.0}), {"w": 1.0})
      {'w': 1.0}
    """
    return ParamTransform(
        init=lambda params: (),
        update=lambda state, params, **_: state,
        apply=lambda state, params: params,
    )


def hold(transform: ParamTransform) -> ParamTransform:
    """The transform with its masks, ranges and codebooks frozen: `update` and `observe` do nothing.

    Example:
      >>> t = hold(identity())
      >>> t.update((), {"w": 1.0}, step=3)
      ()
    """

    def update(state: State, params: Params, *, step, grads=None, key=None, learned: Learned = None) -> State:
        del params, step, grads, key, learned
        return state

    return transform._replace(update=update, observe=None, needs=frozenset())


def chain(*transforms: ParamTransform) -> ParamTransform:
    """Composes transforms, first to last, as `optax.chain` does.

    Each transform's `init` and `update` get what the transforms before it (already updated) make of the
    parameters, so a quantizer that follows a pruner calibrates on the weights that survived. Its random key
    is `fold_in(key, position)`. Projections follow one another in the same order.

    Args:
      *transforms: the transforms, in the order of application. None gives the identity.

    Returns:
      A `ParamTransform` whose state is the tuple of the transforms' states. Where one of them has trainable
      parameters, `learned` is the tuple of theirs, `()` for those that have none.

    Example:
      >>> double = ParamTransform(
      ...     init=lambda p: (), update=lambda s, p, **_: s, apply=lambda s, p: jax.tree.map(lambda x: 2 * x, p)
      ... )
      >>> t = chain(double, double)
      >>> t.apply(t.init({"w": 1.0}), {"w": 1.0})
      {'w': 4.0}
    """
    learns = any(t.learn for t in transforms)

    def init(params: Params) -> State:
        states = []
        for t in transforms:
            states.append(t.init(params))
            params = see(t, states[-1], params, None if t.learn is None else t.learn(states[-1], params))
        return tuple(states)

    def learn(state: State, params: Params) -> Learned:
        values = []
        for t, s in _pairs(state):
            values.append(() if t.learn is None else t.learn(s, params))
            params = see(t, s, params, values[-1])
        return tuple(values)

    def update(
        state: State,
        params: Params,
        *,
        step,
        grads=None,
        key=None,
        layers: Mapping[str, LayerStatistics] | None = None,
        learned: Learned = None,
    ) -> State:
        states, inputs = [], []
        for i, (t, s, values) in enumerate(_triples(state, learned)):
            context: dict[str, Any] = {"layers": layers} if "layers" in t.needs else {}
            context |= {} if t.learn is None else {"learned": values}
            inputs.append(params)
            states.append(t.update(s, params, step=step, grads=grads, key=_key(key, i), **context))
            params = see(t, states[-1], params, values)
        for i, t in enumerate(transforms):
            later = [j for j in range(i + 1, len(transforms)) if transforms[j].sparse]
            if "zeros" in t.needs and later:
                # Codebooks that were chosen before the masks learn in the same update which weights are pruned.
                masked = inputs[i]
                for j in later:
                    masked = transforms[j].apply(states[j], masked)
                states[i] = t.update(states[i], masked, step=step, key=_key(key, i))
        return tuple(states)

    def apply(state: State, params: Params, learned: Learned = None) -> Params:
        for t, s, values in _triples(state, learned):
            params = see(t, s, params, values)
        return params

    def forward(state: State, params: Params, learned: Learned = None) -> Params:
        for t, s, values in _triples(state, learned):
            params = see(t if t.forward is None else t._replace(apply=t.forward), s, params, values)
        return params

    def project(state: State, tree: Updates) -> Updates:
        for t, s in _pairs(state):
            tree = tree if t.project is None else t.project(s, tree)
        return tree

    def constrain(state: State, params: Params) -> Params:
        for t, s in _pairs(state):
            params = params if t.constrain is None else t.constrain(s, params)
        return params

    def observe(state: State, params: Params, grads: Updates) -> State:
        return tuple(s if t.observe is None else t.observe(s, params, grads) for t, s in _pairs(state))

    def shapes(state: State) -> dict[str, Shape]:
        return {name: s for t, inner in _pairs(state) if t.shapes for name, s in t.shapes(inner).items()}

    def storage(state: State, params: Params, learned: Learned = None) -> dict[str, Storage]:
        formats: dict[str, Storage] = {}
        triples = _triples(state, learned)
        while triples[-1][0].storage is None:
            triples.pop()
        for i, (t, s, values) in enumerate(triples):
            # By the one before: what the last one makes of its parameters nobody reads.
            if i:
                before, state_before, values_before = triples[i - 1]
                params = see(before, state_before, params, values_before)
            # Where a later transform moves a value off its grid, making integers of it fails by itself.
            if t.storage is not None:
                formats |= t.storage(s, params) if t.learn is None else t.storage(s, params, values)
        return formats

    def _pairs(state: State) -> list[tuple[ParamTransform, State]]:
        if len(state) != len(transforms):
            raise ValueError(f"chain of {len(transforms)} transforms was given a state of {len(state)} parts")
        return list(zip(transforms, state, strict=True))

    def _triples(state: State, learned: Learned) -> list[tuple[ParamTransform, State, Learned]]:
        values = [()] * len(transforms) if learned is None else learned
        return [(t, s, v) for (t, s), v in zip(_pairs(state), values, strict=True)]

    return ParamTransform(
        init,
        update,
        apply,
        project=project if any(t.project for t in transforms) else None,
        forward=forward if any(t.forward for t in transforms) else None,
        observe=observe if any(t.observe for t in transforms) else None,
        # What a chain leaves to be seen to by a chain around it is not known to it.
        needs=frozenset().union(*(t.needs for t in transforms)) - {"zeros"},
        shapes=shapes if any(t.shapes for t in transforms) else None,
        storage=storage if any(t.storage for t in transforms) else None,
        learn=learn if learns else None,
        constrain=constrain if any(t.constrain for t in transforms) else None,
        sparse=bool(transforms) and all(t.sparse for t in transforms),
        idle_at_first=all(t.idle_at_first for t in transforms),
    )


def _key(key: Key | None, position: int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, position)


def check_shape(path: Sequence[object], shape: Shape, parameter: Shape) -> None:
    """Raises ValueError unless an array that a projection is given has its parameter's shape.

    Args:
      path: the JAX key path of the array.
      shape: its shape.
      parameter: the shape that the transform's state has for it.

    Example:
      >>> check_shape((jax.tree_util.DictKey("w"),), (4,), (8, 4))
      Traceback (most recent call last):
      ...
      ValueError: w has shape (4,), but its parameter has (8, 4): projections keep shapes
    """
    if shape != parameter:
        raise ValueError(
            f"{path_name(path)} has shape {shape}, but its parameter has {parameter}: projections keep shapes"
        )


def project_moments(
    transform: ParamTransform, state: State, optimizer: "optax.GradientTransformation", opt_state: OptState
) -> OptState:
    """Projects every moment of an Optax state: to be called when `transform.update` has given a new `state`.

    Momenta, accumulators and accumulated gradients of pruned entries become exactly zero, and stay so while the
    gradients that come in are projected. Entries that grow back therefore start with zero moments.

    A moment is an array of its parameter's shape (or a stack of them, as in L-BFGS). Counters, one number for a
    whole parameter (NovoGrad) and statistics over rows and columns (Adafactor, SM3) are left alone: they belong to
    the kept entries too, count the projected gradients as the zeros that they are, and only scale.

    Args:
      transform: the transform.
      state: its state.
      optimizer: the Optax transform that made `opt_state`.
      opt_state: its state.

    Returns:
      `opt_state` with every moment in it projected, of the same structure, shapes and dtypes.

    Raises:
      ValueError: for state that may hold moments in another form, such as a low-rank basis (`optax.contrib.galore`)
        or one flat vector (`optax.flatten`), by its path and shape.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> keep_first = identity()._replace(project=lambda s, tree: {"w": tree["w"] * jnp.array([1.0, 0.0])})
      >>> optimizer = optax.adagrad(0.1)                           # whose accumulator starts at 0.1
      >>> opt_state = optimizer.init({"w": jnp.ones(2)})
      >>> project_moments(keep_first, (), optimizer, opt_state)[0].sum_of_squares["w"].tolist()
      [0.10000000149011612, 0.0]
    """
    if transform.project is None:
        return opt_state
    from jopt.moments import project_state  # which imports Optax: half a second that `import jopt` need not take

    project = transform.project
    shapes = {} if transform.shapes is None else transform.shapes(state)
    return project_state(lambda tree: project(state, tree), shapes, optimizer, opt_state)
