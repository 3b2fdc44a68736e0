"""Trainables: the methods' own trainable parameters, and where they stand in the tree that the optimizer moves.

The optimizer moves one tree: the model's parameters and, under a key for each method that has some, its trainables
(step sizes, clipping levels). Transforms see the model's parameters alone, and their own trainables as `learned`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax

from jopt.transform import Learned, Params, ParamTransform, State, Storage, see
from jopt.typing import Updates


@dataclasses.dataclass(frozen=True)
class Trainables:
    """The keys of trainable parameters in a stage.

    Attributes:
      learned: for each transform of the chain the key of its trainables; '' for one without.
      seen: keys that the wrapped network itself reads, from its parameters or its state.
      frozen: keys among both that methods of earlier stages own: they get no gradient and do not move.
    """

    learned: tuple[str, ...]
    seen: tuple[str, ...]
    frozen: tuple[str, ...]

    @classmethod
    def of(cls, transforms: Sequence[tuple[str, bool, bool]], wrapping: Sequence[tuple[str, bool]]) -> "Trainables":
        """The keys, of `(key, whether it learns, whether the stage names it)` and `(key, whether it names it)`."""
        learned = tuple(key if learns else "" for key, learns, _ in transforms)
        frozen = [key for key, learns, named in transforms if learns and not named]
        return cls(
            learned, tuple(key for key, _ in wrapping), (*frozen, *(key for key, named in wrapping if not named))
        )

    # Trainables stand under keys of one tree, so that optimizers, moving averages, checkpoints and digests handle
    # them like any parameter, and rules (for a smaller learning rate, say) address them by path.
    @property
    def keys(self) -> frozenset[str]:
        """All keys that methods own."""
        return frozenset((*self.learned, *self.seen)) - {""}

    def model_only(self, tree: Params) -> Params:
        """The tree without what methods own."""
        return {k: v for k, v in tree.items() if k not in self.keys} if self._owns(tree) else tree

    def methods_only(self, tree: Params) -> dict[str, Learned]:
        """What methods own of the tree."""
        return {k: v for k, v in tree.items() if k in self.keys} if self._owns(tree) else {}

    def network_only(self, tree: Params) -> Params:
        """The tree without what transforms alone read: of the structure that the wrapped network takes."""
        unseen = self.keys - set(self.seen)
        return {k: v for k, v in tree.items() if k not in unseen} if self._owns(tree) else tree

    def keep(self, tree: Params, of: Params) -> Params:
        """`tree`, with what methods own as `of` has it."""
        owned = self.methods_only(of)
        return {**tree, **owned} if owned else tree

    def keep_frozen(self, tree: Params, of: Params) -> Params:
        """`tree`, with what frozen methods own as `of` has it."""
        owned = {k: v for k, v in self.methods_only(of).items() if k in self.frozen}
        return {**tree, **owned} if owned else tree

    def _owns(self, tree: Params) -> bool:
        # A tree of another structure (a list, a single array) or without these keys is returned unchanged, not
        # copied: `wrap` is also used on trees such as moments, in which an optimizer may keep nothing for a key.
        return isinstance(tree, Mapping) and not self.keys.isdisjoint(tree)

    def learned_values(self, tree: Params) -> tuple[Learned, ...]:
        """The trainables of each transform of the chain, `()` for one without."""
        return tuple(self._value(tree, key) if key else () for key in self.learned)

    def _value(self, tree: Params, key: str) -> Learned:
        # Without gradient, so that a frozen step size adds nothing to the norm that global clipping uses.
        return jax.lax.stop_gradient(tree[key]) if key in self.frozen else tree[key]

    def start(self, transform: ParamTransform, state: State, tree: Params, keys: Sequence[str]) -> Params:
        """The tree with first values of the trainables of `keys`, as the chain `transform` learns them.

        Args:
          transform: what `StagePlan.transforms` chains, before `wrap`.
          state: its state.
          tree: what the optimizer moves.
          keys: whose values are set.
        """
        if transform.learn is None:
            return tree
        # The whole chain computes them, as each transform's first values depend on what those before it show.
        values = transform.learn(state, self.model_only(tree))
        fresh = {key: value for key, value in zip(self.learned, values, strict=True) if key and key in keys}
        return {**tree, **fresh} if fresh else tree

    def wrap(self, transform: ParamTransform) -> ParamTransform:
        """The chain of the stage's transforms, for trees that hold trainables beside the model's parameters."""
        # Most stages have no trainables: their programs are then exactly those of the plain chain.
        if not self.keys:
            return transform

        def pair(tree: Params) -> tuple[Params, tuple[Learned, ...] | None]:
            return self.model_only(tree), self.learned_values(tree) if transform.learn is not None else None

        def applied(inner: ParamTransform) -> Callable[[State, Params], Params]:
            def apply(state: State, tree: Params) -> Params:
                params, learned = pair(tree)
                # A wrapped network reads its own trainables (clipping levels of activations) from the parameters it
                # is given.
                network_values = {k: self._value(tree, k) for k in self.methods_only(tree) if k in self.seen}
                seen = see(inner, state, params, learned)
                return {**seen, **network_values} if network_values else seen

            return apply

        def update(state: State, tree: Params, *, grads: Updates = None, **context: object) -> State:
            params, learned = pair(tree)
            context |= {} if learned is None else {"learned": learned}
            return transform.update(state, params, grads=self.model_only(grads), **context)

        def model_part(change: Callable[[State, Params], Params]) -> Callable[[State, Params], Params]:
            def changed(state: State, tree: Params) -> Params:
                # Masks and codebooks are of the model's parameters; projecting a step size would destroy it.
                owned = self.methods_only(tree)
                params = change(state, self.model_only(tree))
                return {**params, **owned} if owned else params

            return changed

        def storage(state: State, tree: Params) -> dict[str, Storage]:
            params, learned = pair(tree)
            assert transform.storage is not None
            return (
                transform.storage(state, params) if learned is None else transform.storage(state, params, learned)
            )

        forward, observe = transform.forward, transform.observe
        return transform._replace(
            init=lambda tree: transform.init(self.model_only(tree)),
            update=update,
            apply=applied(transform),
            project=None if transform.project is None else model_part(transform.project),
            constrain=None if transform.constrain is None else model_part(transform.constrain),
            forward=None if forward is None else applied(transform._replace(apply=forward)),
            observe=None
            if observe is None
            else lambda state, tree, grads: observe(state, self.model_only(tree), self.model_only(grads)),
            storage=None if transform.storage is None else storage,
            learn=None,
        )
