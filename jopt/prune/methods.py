"""Pruning as a stage's method: one config class for each way to prune, with exactly the fields that it reads."""

import dataclasses
from typing import ClassVar

from jopt.checks import Open, check_fraction
from jopt.config import ConfigError, check_types, join_path, require
from jopt.hyper import swept
from jopt.layers import Layers
from jopt.prune import dynamic
from jopt.prune.dynamic import rigl, set_evolution
from jopt.prune.patterns import NM, SIDES, PatternLike
from jopt.prune.pruning import Pruning, Rules
from jopt.prune.schedule import curve_of
from jopt.prune.select import Scalar
from jopt.prune.transform import gradual, iterative, one_shot
from jopt.transform import ParamTransform


@dataclasses.dataclass(frozen=True)
class OneShot(Pruning):
    """Prunes once, at `begin`: see `jopt.prune.one_shot`.

    Attributes:
      sparsity: the share of weights, or of the pattern's groups, to prune, in [0, 1); may be traced.
      score: one of `jopt.prune.SCORES`, a function, or 'package.module:name': what is kept longest. See
        `jopt.prune.scores`.
      pattern: what is kept or pruned together: 'unstructured', 'channel' (of outputs), 'block' (4 x 4), a
        `jopt.prune.Pattern`, a function, or 'package.module:name'. See `jopt.prune.patterns`.
      budget: 'layer': each parameter has this sparsity; 'global': all parameters compete for one budget; 'erk':
        Erdos-Renyi-Kernel shares; a function, or 'package.module:name'. See `jopt.prune.budgets`.
      begin: when pruning begins, as a fraction of the stage, in [0, 1); may be traced. Masks are chosen between
        segments: in the first update at or after the step `jopt.prune.step_at(begin, ...)`.
      rules: pairs of a pattern of a parameter's path and its own sparsity, or None to leave it alone. The first
        match wins; without rules every weight is pruned (`jopt.layers` says which these are).

    Example:
      >>> from jopt.prune import Channel
      >>> OneShot(0.95, pattern=Channel(along="inputs"), rules=(("Dense_2/kernel", None),)).validate()
    """

    kind: ClassVar[str] = "one_shot"

    sparsity: float = 0.9
    score: Open = "magnitude"
    pattern: PatternLike = "unstructured"
    budget: Open = "layer"
    begin: float = 0.0
    rules: Rules = ()

    def make(self, begin: Scalar, end: Scalar, layers: Layers | None) -> ParamTransform:
        """See `jopt.prune.one_shot`."""
        del end  # once chosen, the masks hold
        return one_shot(
            self.sparsity,
            begin=begin,
            score=self.score,
            pattern=self.pattern,
            budget=self.budget,
            rules=self.rules,
            layers=layers,
        )


@dataclasses.dataclass(frozen=True)
class Gradual(Pruning):
    """Prunes more in every update from `begin` to `end`: see `jopt.prune.gradual`.

    Attributes:
      sparsity: as in `OneShot`.
      initial_sparsity: that of an update at `begin`, in [0, `sparsity`]; may be traced.
      score: as in `OneShot`.
      pattern: as in `OneShot`.
      budget: as in `OneShot`.
      begin: as in `OneShot`.
      end: from when on the masks hold, as a fraction of the stage, in [`begin`, 1]; may be traced. None: 0.75, or
        `begin` where that is later, but not after the stage's last update, so that a stage of any length reaches
        its sparsity.
      rules: as in `OneShot`.
      schedule: 'cubic', 'linear', a function from the fraction of the time that is done to that of the way from
        `initial_sparsity` to `sparsity`, or 'package.module:name'. See `jopt.prune.schedule.curve_of`.

    Example:
      >>> Gradual(sparsity=0.95, schedule="linear").validate()
    """

    kind: ClassVar[str] = "gradual"
    grows: ClassVar[bool] = True

    sparsity: float = 0.9
    initial_sparsity: float = 0.0
    score: Open = "magnitude"
    pattern: PatternLike = "unstructured"
    budget: Open = "layer"
    begin: float = 0.0
    end: float | None = None
    rules: Rules = ()
    schedule: Open = "cubic"

    @property
    def prunes_at_begin(self) -> bool:
        """Whether `initial_sparsity` is not 0."""
        # A curve that starts at 0 prunes nothing at `begin` itself.
        return self.initial_sparsity > 0

    def validate(self, path: str = "") -> None:
        """As `Pruning.validate`; `initial_sparsity` and `schedule`, too."""
        super().validate(path)
        field = join_path(path or self.name, "initial_sparsity")
        check_fraction(field, self.initial_sparsity)
        require(
            self.initial_sparsity <= self.sparsity,
            field,
            self.initial_sparsity,
            f"at most sparsity ({self.sparsity})",
        )
        curve_of(self.schedule, join_path(path or self.name, "schedule"))

    def make(self, begin: Scalar, end: Scalar, layers: Layers | None) -> ParamTransform:
        """See `jopt.prune.gradual`."""
        return gradual(
            self.sparsity,
            begin=begin,
            end=end,
            initial_sparsity=self.initial_sparsity,
            schedule=self.schedule,
            score=self.score,
            pattern=self.pattern,
            budget=self.budget,
            rules=self.rules,
            layers=layers,
        )


@dataclasses.dataclass(frozen=True)
class Iterative(Pruning):
    """Prunes in rounds from `begin` to `end`, each time the same share of what is left: see `jopt.prune.iterative`.

    Attributes:
      sparsity: as in `OneShot`.
      rounds: how many rounds, at least 1; may be traced.
      score: as in `OneShot`.
      pattern: as in `OneShot`.
      budget: as in `OneShot`.
      begin: when the first round is, as in `OneShot`.
      end: when the last round is done, as in `Gradual`.
      rules: as in `OneShot`.

    Example:
      >>> Iterative(sparsity=0.95, rounds=3).validate()
    """

    kind: ClassVar[str] = "iterative"
    grows: ClassVar[bool] = True

    sparsity: float = 0.9
    # A count, but no shape depends on it: a grid over rounds is one program.
    rounds: int = swept(5)
    score: Open = "magnitude"
    pattern: PatternLike = "unstructured"
    budget: Open = "layer"
    begin: float = 0.0
    end: float | None = None
    rules: Rules = ()

    def validate(self, path: str = "") -> None:
        """As `Pruning.validate`; `rounds`, too."""
        super().validate(path)
        fine = 1 <= self.rounds < 2**31
        require(fine, join_path(path or self.name, "rounds"), self.rounds, "an integer, at least 1")

    def make(self, begin: Scalar, end: Scalar, layers: Layers | None) -> ParamTransform:
        """See `jopt.prune.iterative`."""
        return iterative(
            self.sparsity,
            begin=begin,
            end=end,
            rounds=self.rounds,
            score=self.score,
            pattern=self.pattern,
            budget=self.budget,
            rules=self.rules,
            layers=layers,
        )


class _Evolving(Pruning):
    """What RigL and SET share: each layer's count of weights holds from `begin` on."""

    drop_fraction: float

    @property
    def _budgets(self) -> tuple[str, ...]:
        # Without 'global': a layer's count would change with what the other layers weigh.
        return dynamic.BUDGETS

    def validate(self, path: str = "") -> None:
        """As `Pruning.validate`; `drop_fraction`, too."""
        super().validate(path)
        check_fraction(join_path(path or self.name, "drop_fraction"), self.drop_fraction)


@dataclasses.dataclass(frozen=True)
class RigL(_Evolving):
    """Random masks at `begin`; every update until `end` exchanges weights, by gradient: see `jopt.prune.rigl`.

    Attributes:
      sparsity: as in `OneShot`.
      drop_fraction: the share of kept weights that the first update exchanges, in [0, 1); it falls to 0 at `end`.
        May be traced.
      budget: 'layer', 'erk', a function without pools, or 'package.module:name', as in `OneShot`.
      begin: when the masks are drawn, as in `OneShot`.
      end: from when on the masks hold, as a fraction of the stage, in [`begin`, 1]; may be traced. None: 0.75, or
        `begin` where that is later.
      rules: as in `OneShot`.

    Example:
      >>> RigL(budget="erk").validate()
    """

    kind: ClassVar[str] = "rigl"

    sparsity: float = 0.9
    drop_fraction: float = 0.3
    budget: Open = "layer"
    begin: float = 0.0
    end: float | None = None
    rules: Rules = ()

    def make(self, begin: Scalar, end: Scalar, layers: Layers | None) -> ParamTransform:
        """See `jopt.prune.rigl`."""
        return rigl(
            self.sparsity,
            begin=begin,
            end=end,
            drop_fraction=self.drop_fraction,
            budget=self.budget,
            rules=self.rules,
            layers=layers,
        )


@dataclasses.dataclass(frozen=True)
class SET(_Evolving):
    """Random masks at `begin`; every update until `end` exchanges weights, at random.

    See `jopt.prune.set_evolution`.

    Attributes:
      sparsity: as in `OneShot`.
      drop_fraction: the share of kept weights that an update exchanges, in [0, 1); may be traced.
      budget: as in `RigL`.
      begin: as in `RigL`.
      end: as in `RigL`.
      rules: as in `OneShot`.

    Example:
      >>> SET(drop_fraction=0.0).validate()
    """

    kind: ClassVar[str] = "set"

    sparsity: float = 0.9
    drop_fraction: float = 0.3
    budget: Open = "layer"
    begin: float = 0.0
    end: float | None = None
    rules: Rules = ()

    def make(self, begin: Scalar, end: Scalar, layers: Layers | None) -> ParamTransform:
        """See `jopt.prune.set_evolution`."""
        return set_evolution(
            self.sparsity,
            begin=begin,
            end=end,
            drop_fraction=self.drop_fraction,
            budget=self.budget,
            rules=self.rules,
            layers=layers,
        )


@dataclasses.dataclass(frozen=True)
class NofM(Pruning):
    """Keeps `n` of every `m` consecutive weights from `begin` on: see `jopt.prune.NM`.

    Attributes:
      n: how many are kept, at least 1.
      m: of how many, above `n`.
      axis: along the 'outputs' or the 'inputs' of the layer, whichever axes of its kernel these are; or an axis by
        its number, the same for every parameter.
      score: as in `OneShot`.
      begin: as in `OneShot`.
      rules: pairs of a pattern of a parameter's path and None, which leaves it alone.

    Example:
      >>> import jax
      >>> NofM(2, 4, axis="inputs").plan({"kernel": jax.ShapeDtypeStruct((8, 4), "float32")})[0].what
      'keeps 2 of every 4 weights, one_shot by magnitude'
    """

    kind: ClassVar[str] = "one_shot"

    n: int = 2
    m: int = 4
    axis: int | str = "outputs"
    score: Open = "magnitude"
    begin: float = 0.0
    rules: Rules = ()

    @property
    def grouping(self) -> NM:
        """The pattern."""
        return NM(self.n, self.m, self.axis)

    def validate(self, path: str = "") -> None:
        """As `Pruning.validate`; the pattern, first."""
        at = path or self.name
        check_types(self, at)
        # Before all else: other checks ask the pattern, which cannot be made of bad numbers.
        require(self.n >= 1, join_path(at, "n"), self.n, "an integer, at least 1")
        require(self.m > self.n, join_path(at, "m"), self.m, f"above n ({self.n})")
        if isinstance(self.axis, str) and self.axis not in SIDES:
            raise ConfigError(join_path(at, "axis"), self.axis, "a number, 'outputs' or 'inputs'")
        super().validate(path)

    def make(self, begin: Scalar, end: Scalar, layers: Layers | None) -> ParamTransform:
        """See `jopt.prune.one_shot`."""
        del end  # once chosen, the masks hold
        return one_shot(begin=begin, score=self.score, pattern=self.grouping, rules=self.rules, layers=layers)


METHODS: tuple[type[Pruning], ...] = (OneShot, Gradual, Iterative, RigL, SET, NofM)
