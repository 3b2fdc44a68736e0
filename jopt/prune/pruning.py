"""What every pruning method of a stage is: its checks, its plan, when it is due, and its invariant."""

import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jopt.checks import Open, OpenFunction, check_fraction, check_rules, is_fraction
from jopt.config import check_types, join_path, require
from jopt.hyper import array_module, known
from jopt.layers import Layers, PlanRow, parameters
from jopt.levels import quick_jit
from jopt.method import Method
from jopt.prune.budgets import BUDGETS, Pool, alive, budget_of, erdos_renyi_kernel, erk, pools, uniform
from jopt.prune.masks import Masks, Pruned, PruneState, assign, pick
from jopt.prune.patterns import Channel, Pattern, Unstructured, pattern_of
from jopt.prune.schedule import step_at
from jopt.prune.scores import score_of
from jopt.prune.select import Scalar
from jopt.rules import RuleError, named_leaves, path_name
from jopt.transform import Params, ParamTransform

DEFAULT_END = 0.75
Rules = tuple[tuple[str, float | None], ...]
OF_WEIGHT = frozenset({"weight", "mask", "step"})
"""What a score reads that gives equal layers equal scores."""


class Pruning(Method):
    """What the pruning methods share. A subclass is a frozen dataclass with `make` and the fields that it reads.

    A field named `sparsity`, `score`, `pattern`, `budget`, `begin`, `end` or `rules` means what it means in
    `OneShot` and `Gradual`, and is checked here. Without `pattern` single weights are pruned; without `budget` each
    parameter has the sparsity.

    Class attributes:
      kind: what plans call it.
      grows: whether the sparsity grows until `end`, rather than being there from `begin` on.

    Example:
      A method of somebody else's, which prunes at random in the middle of its stage:

      >>> import dataclasses
      >>> from jopt.prune import one_shot
      >>> @dataclasses.dataclass(frozen=True)
      ... class Blind(Pruning):
      ...     kind: ClassVar[str] = "blind"
      ...     sparsity: float = 0.5
      ...     begin: float = 0.5
      ...     rules: Rules = ()
      ...
      ...     def make(self, begin, end, layers):
      ...         return one_shot(self.sparsity, begin=begin, score="random", rules=self.rules, layers=layers)
      >>> print(Blind(sparsity=0.75).plan({"kernel": jnp.zeros((2, 4))})[0].what)
      keeps 2 of 8 weights, blind
      >>> Blind().reached_at(begin=100, steps=40)
      120
    """

    name: ClassVar[str] = "prune"
    rank: ClassVar[int] = 20
    kind: ClassVar[str] = ""
    grows: ClassVar[bool] = False

    # Of a subclass without these fields. This class is no dataclass, so that it gives nobody a field.
    begin: float = 0.0
    rules: Rules = ()

    def make(self, begin: Scalar, end: Scalar, layers: Layers | None) -> ParamTransform:
        """The transform.

        Args:
          begin: the step at which pruning begins, int32 [].
          end: the step of `end`, int32 [].
          layers: as for `build`.
        """
        raise NotImplementedError(f"{type(self).__name__} needs make(begin, end, layers)")

    @property
    def grouping(self) -> Pattern:
        """What is kept or pruned together."""
        return pattern_of(getattr(self, "pattern", Unstructured()))

    @property
    def last_sparsity(self) -> Any:
        """The sparsity that is reached, of parameters without a rule."""
        fixed = self.grouping.fixed_sparsity
        return getattr(self, "sparsity", 0.0) if fixed is None else fixed

    @property
    def ranked_by(self) -> OpenFunction | None:
        """The score; None: the method has no such field."""
        score = getattr(self, "score", None)
        return None if score is None else score_of(score)

    @property
    def prunes_at_begin(self) -> bool:
        """Whether an update at `begin` prunes something already."""
        return True

    def describe(self) -> str:
        """The method in words, for a plan."""
        score = self.ranked_by
        return self.kind if score is None else f"{self.kind} by {score.name}"

    def validate(self, path: str = "") -> None:
        """Checks a method of plain Python values, before anything compiles.

        Raises:
          ConfigError: naming the field, the value and what is accepted.

        Example:
          >>> from jopt.prune import OneShot
          >>> OneShot(sparsity=1.0).validate()
          Traceback (most recent call last):
          ...
          jopt.config.ConfigError: prune.sparsity must be a number in [0, 1), got 1.0
        """
        path = path or self.name
        # Types first: all that follows compares numbers and calls what it is given.
        check_types(self, path)
        for name in ("sparsity", "begin"):
            if hasattr(self, name):
                check_fraction(join_path(path, name), getattr(self, name))
        if hasattr(self, "end"):
            end, accepted = self._end, f"None or a number in [begin, 1], begin being {self.begin}"
            fine = end is None or (math.isfinite(end) and self.begin <= end <= 1)
            require(fine, join_path(path, "end"), end, accepted)
        self._validate_parts(path)
        check_rules(self.rules, join_path(path, "rules"), self._validate_target)

    def _validate_parts(self, path: str) -> None:
        """Checks score, pattern and budget, and that they go together."""
        pattern = pattern_of(getattr(self, "pattern", Unstructured()), join_path(path, "pattern"))
        if hasattr(self, "pattern"):
            # The field `sparsity` would not be read.
            accepted = "a pattern whose sparsity can be chosen; prune.NofM has its own"
            require(pattern.fixed_sparsity is None, join_path(path, "pattern"), self.grouping, accepted)
        if hasattr(self, "budget"):
            budget_of(self._budget, join_path(path, "budget"), self._budgets)
        if not hasattr(self, "score"):
            return
        field, value = join_path(path, "score"), getattr(self, "score")  # noqa: B009
        score = score_of(value, field)
        if getattr(score.function, "per_output_unit", False):
            channels = isinstance(self.grouping, Channel) and self.grouping.axis in ("outputs", -1)
            accepted = f"'channel', of outputs, for score {score.name!r}, which is one number an output unit"
            if hasattr(self, "pattern"):
                require(channels, join_path(path, "pattern"), self.grouping, accepted)
            # A method without that field, such as NofM, always decides for single weights.
            require(channels, field, value, "a score of single weights")
        # At the first step the sum of -w g is empty: every score would be 0, and the lowest indices would be kept.
        if "movement" in score.required and self.prunes_at_begin:
            accepted = f"above 0 for score {score.name!r}, which must have seen steps before the first choice"
            require(self.begin > 0, join_path(path, "begin"), self.begin, accepted)

    def _validate_target(self, field: str, value: float | None) -> None:
        fixed = self.grouping.fixed_sparsity
        if fixed is not None:
            accepted = f"(path, None): {self.grouping} has a sparsity of its own, {fixed:g}"
            require(value is None, field, value, accepted)
        fine = value is None or is_fraction(value)
        require(fine, field, value, "a sparsity in [0, 1), or None to leave it alone")

    @property
    def _end(self) -> float | None:
        return getattr(self, "end", None)

    @property
    def _budget(self) -> Open:
        return getattr(self, "budget", "layer")

    @property
    def _budgets(self) -> tuple[str, ...]:
        return BUDGETS

    def validate_length(self, path: str, *, begin: int, steps: int, last_update: int) -> None:
        """Checks that the sparsity is reached in the stage, and that a score has seen steps by then.

        Raises:
          ConfigError: naming the field, the value and what is accepted.
        """
        due = self.reached_at(begin=begin, steps=steps, last_update=last_update)
        name = "end" if self.grows and self._end is not None else "begin"
        accepted = (
            f"such that the sparsity is reached at step {last_update} or before, where the stage's last segment "
            f"starts, and not at step {due}; or shorter segments"
        )
        require(due <= last_update, join_path(path, name), getattr(self, name), accepted)
        score = self.ranked_by
        if score is not None and "movement" in score.required:
            accepted = f"not {score.name!r} where the sparsity is due as the stage starts, before any step"
            require(due > begin, join_path(path, "score"), score.name, f"{accepted}; or shorter segments")

    def settled_at(self, *, begin: int, steps: int, last_update: int) -> int:
        """The step of the last sparsity."""
        return self.reached_at(begin=begin, steps=steps, last_update=last_update)

    def reached_at(self, *, begin: int, steps: int, last_update: int | None = None) -> int:
        """The step from which on an update leaves the last sparsity.

        Args:
          begin: the step at which the stage starts.
          steps: its length.
          last_update: as for `build`.

        Example:
          >>> from jopt.prune import Gradual, OneShot
          >>> Gradual().reached_at(begin=100, steps=40), OneShot().reached_at(begin=100, steps=40)
          (130, 100)
          >>> Gradual().reached_at(begin=100, steps=40, last_update=120)
          120
        """
        first, last = self._span(begin, steps, last_update)
        return int(last if self.grows else first)

    def _span(self, begin: int, steps: int, last_update: int | None) -> tuple[Scalar, Scalar]:
        """The steps of `begin` and `end`."""
        first = step_at(self.begin, begin=begin, steps=steps)
        if self._end is not None:
            return first, step_at(self._end, begin=begin, steps=steps)
        xp = array_module(first)
        last = xp.maximum(step_at(DEFAULT_END, begin=begin, steps=steps), first)
        if last_update is not None and self.grows:
            # Nothing is pruned after the last update, so a default end moves there, and no later than that.
            last = xp.maximum(xp.minimum(last, xp.int32(last_update)), first)
        return first, last

    def build(
        self, *, begin: int = 0, steps: int = 0, last_update: int | None = None, layers: Layers | None = None
    ) -> ParamTransform:
        """The transform for one stage, whose state is a `PruneState`.

        Args:
          begin: the step at which the stage starts.
          steps: its length.
          last_update: the step of the stage's last update, which an `end` of None is not after; None: not known.
          layers: what the model says about its parameters; None: what their names and shapes say.

        Raises:
          ConfigError: as `validate`, for concrete numbers.

        Example:
          >>> from jopt.prune import OneShot
          >>> params = {"w": jnp.arange(4.0).reshape(2, 2)}
          >>> pruner = OneShot(sparsity=0.5, begin=0.25).build(begin=100, steps=40)
          >>> state = pruner.init(params)
          >>> [int(pruner.update(state, params, step=t).masks["w"].sum()) for t in (109, 110)]
          [4, 2]
        """
        # Concrete numbers are checked here too, for callers that build a method without an experiment around it.
        known(self).validate()
        first, last = self._span(begin, steps, last_update)
        return self.make(first, last, layers)

    def resume(self, fresh: PruneState, previous: PruneState, stage: str) -> PruneState:
        """Starts from the masks of the stage before: what was pruned stays pruned.

        Raises:
          RuleError: if the method leaves a parameter alone that was pruned before.
        """

        def mask(path: Any, new: Masks, old: Masks) -> Masks:
            # Its zeros would have no mask any more, and the optimizer would move them.
            if new is None and old is not None:
                raise RuleError(
                    f"stage {stage!r} prunes again but leaves {path_name(path)} alone, which was pruned before; "
                    "give it a rule, or release 'prune' in a stage before"
                )
            return new if old is None else old

        masks = jax.tree_util.tree_map_with_path(mask, fresh.masks, previous.masks, is_leaf=lambda x: x is None)
        return fresh._replace(masks=masks)

    def plan(self, params: Params, layers: Layers | None = None) -> list[PlanRow]:
        """What each parameter gets.

        Raises:
          RuleError: if a rule matches nothing.
          ValueError: if the pattern does not fit a parameter, naming it, or no parameter is pruned.

        Example:
          >>> from jopt.prune import Gradual
          >>> params = {"Dense_0": {"bias": jnp.zeros(4), "kernel": jnp.zeros((3, 4))}}
          >>> for row in Gradual(sparsity=0.75).plan(params):
          ...     print(row.path, row.what, sep=": ")
          Dense_0/bias: left alone
          Dense_0/kernel: keeps 3 of 12 weights, gradual by magnitude
        """
        pruned = assign(params, self.rules, self.grouping, layers)
        words = {pruned[i].index: self._words(pool, pruned[i]) for pool in self._last(pruned) for i in pool.members}
        rows = enumerate(zip(named_leaves(params), parameters(params, layers), strict=True))
        return [
            PlanRow(path, tuple(jnp.shape(leaf)), words.get(i, "left alone"), parameter.reason)
            for i, ((path, leaf), parameter) in rows
        ]

    def check(self, state: PruneState, seen: Params, layers: Layers | None = None) -> list[str]:
        """A sentence for each parameter of which pruned weights are not zero, or too many weights are kept.

        Example:
          >>> from jopt.prune import Gradual
          >>> state = PruneState({"w": np.array([[True, False]])}, np.float32(0.5))
          >>> Gradual(sparsity=0.5).check(state, {"w": np.array([[1.0, 2.0]])})
          ['w: 1 of 1 pruned weights are not zero']
        """
        # Rules are resolved again: what the state left out, it should have left out.
        pruned = assign(seen, self.rules, self.grouping, layers)
        masks = [np.asarray(m) for m in pick(seen, pruned, state.masks)]
        violations = []
        for p, mask, x in zip(pruned, masks, pick(seen, pruned, seen), strict=True):
            # In float32, as NumPy has no comparison of its own for every narrow dtype.
            wrong = int(np.sum(np.asarray(x, np.float32)[~mask] != 0))
            if wrong:
                violations.append(f"{p.path}: {wrong} of {int(np.sum(~mask))} pruned weights are not zero")
        numbers: list[np.ndarray] = jax.device_get(_alive(masks, pruned=tuple(pruned)))
        for pool in self._last(pruned):
            violations += self._too_many(pool, pruned, [numbers[i] for i in pool.members])
        return violations

    def _too_many(self, pool: Pool, pruned: list[Pruned], each: list[np.ndarray]) -> list[str]:
        names = ", ".join(pruned[i].path for i in pool.members)
        total = int(sum(int(n.sum()) for n in each))
        if pool.count is None:
            return [f"{names}: {pruned[pool.members[0]].pattern} has {total} weights too many"] if total else []
        # Fewer may be left than are asked for, where an earlier stage pruned more; only too many is a fault.
        if each[0].ndim and not pool.shared:
            copies, most = each[0], np.broadcast_to(np.asarray(pool.count), each[0].shape)
            worst = int(np.argmax(copies - most))
            if copies[worst] <= most[worst]:
                return []
            return [f"{names}: {copies[worst]} {self._unit} of copy {worst} are kept, not {most[worst]}"]
        if total <= int(pool.count):
            return []
        return [f"{names}: {total} {self._unit} are kept where {int(pool.count)} are asked for"]

    def _last(self, pruned: list[Pruned]) -> list[Pool]:
        """The pools once the last sparsity is reached, as the transform computes them."""
        targets = [np.float32(self.last_sparsity if p.target is None else p.target) for p in pruned]
        return pools(pruned, targets, budget_of(self._budget))

    @property
    def _unit(self) -> str:
        return self.grouping.unit

    def _words(self, pool: Pool, p: Pruned) -> str:
        if pool.count is None:
            return f"{p.pattern.describe()}, {self.describe()}"
        if pool.shared:
            total = p.groups * p.copies
            return (
                f"{total} {self._unit}, of which its share of the {int(pool.count)} kept in all, {self.describe()}"
            )
        each = f" in each of {p.copies} copies" if p.stack else ""
        # Budget 'erk' may give the copies of a layer counts that differ by one.
        counts = sorted({int(n) for n in np.ravel(np.asarray(pool.count))})
        number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"keeps {number} of {p.groups} {self._unit}{each}, {self.describe()}"

    @property
    def chosen_between_segments(self) -> bool:
        """Masks are."""
        return True

    def treats_equal_layers_alike(self) -> tuple[str, Any, str] | None:
        """Whether layers of equal weights get equal masks, which layers that are tied must.

        Returns:
          None if they do; else the first field that prevents it, '' for the method itself, with its value and what
          would be accepted.

        Example:
          >>> from jopt.prune import Gradual, OneShot
          >>> Gradual().treats_equal_layers_alike() is None, OneShot(score="random").treats_equal_layers_alike()[:2]
          (True, ('score', 'random'))
        """
        score = self.ranked_by
        # RigL and SET draw their first masks, for each layer its own.
        if score is None:
            return "", self.kind, "a method that chooses by a score of the weights"
        if not score.required <= OF_WEIGHT:
            return "score", score.name, "one that reads the weights alone, such as 'magnitude'"
        # Of another budget nothing is known, and pools choose among the weights of all layers.
        alike = (uniform, erk, erdos_renyi_kernel)
        if budget_of(self._budget).function not in alike:
            return "budget", self._budget, "'layer' or 'erk'"
        return ("rules", self.rules, "()") if self.rules else None


@functools.partial(quick_jit, static=("pruned",))
def _alive(masks: list[Any], *, pruned: tuple[Pruned, ...]) -> list[jax.Array]:
    return [alive(mask, p) for mask, p in zip(masks, pruned, strict=True)]
