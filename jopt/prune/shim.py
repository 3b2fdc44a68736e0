"""Temporary."""

import dataclasses
import importlib
from typing import ClassVar

from jopt.hyper import swept
from jopt.method import Method

B = importlib.import_module("jopt.prune.build")
import jax

from jopt.config import join_path, require
from jopt.prune.config import SCHEDULED, Config
from jopt.prune.config import validate as V
from jopt.rules import RuleError, path_name


@dataclasses.dataclass(frozen=True)
class Pruning(Method):
    name: ClassVar[str] = "prune"
    rank: ClassVar[int] = 20
    chosen_between_segments: ClassVar[bool] = True
    how: ClassVar[str] = ""
    sparsity: float = 0.9

    def _config(self):
        return Config(self.how, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def validate(self, path="prune"):
        V(self._config(), path)

    def build(self, *, begin=0, steps=0, last_update=None, layers=None):
        return B.build(self._config(), begin=begin, steps=steps, last_update=last_update, layers=layers)._replace(
            sparse=True
        )

    def plan(self, params, layers=None):
        return B.plan(self._config(), params, layers)

    def check(self, state, seen, layers=None):
        return B.check(self._config(), state, seen, layers)

    def validate_length(self, path, *, begin, steps, last_update):
        c = self._config()
        due = B.reached_at(c, begin=begin, steps=steps, last_update=last_update)
        name = "begin" if c.end is None or c.method not in SCHEDULED else "end"
        require(
            due <= last_update,
            join_path(path, name),
            getattr(c, name),
            f"such that the sparsity is reached at step {last_update} or before, and not at step {due}; or shorter segments",
        )
        if c.score == "movement":
            require(
                due > begin,
                join_path(path, "score"),
                c.score,
                "not 'movement' where the sparsity is due as the stage starts",
            )

    def reached_at(self, **kw):
        return B.reached_at(self._config(), **kw)

    def splits_tied_layers(self):
        c = self._config()
        for name, fine in (
            ("method", ("one_shot", "gradual", "iterative")),
            ("score", ("magnitude", "l2")),
            ("budget", ("layer", "erk")),
            ("rules", ((),)),
        ):
            if getattr(c, name) not in fine:
                return name, getattr(c, name), f"one of {', '.join(map(repr, fine))}"

    def resume(self, fresh, previous, stage):
        def mask(path, new, old):
            if new is None and old is not None:
                raise RuleError(
                    f"stage {stage!r} prunes anew but leaves {path_name(path)} alone, which was pruned before; give it a rule, or release 'prune' in a stage before"
                )
            return new if old is None else old

        masks = jax.tree_util.tree_map_with_path(mask, fresh.masks, previous.masks, is_leaf=lambda x: x is None)
        return fresh._replace(masks=masks)


@dataclasses.dataclass(frozen=True)
class OneShot(Pruning):
    how: ClassVar[str] = "one_shot"
    score: str = "magnitude"
    pattern: str = "unstructured"
    budget: str = "layer"
    begin: float = 0.0
    rules: tuple[tuple[str, float | None], ...] = ()


@dataclasses.dataclass(frozen=True)
class Gradual(Pruning):
    how: ClassVar[str] = "gradual"
    initial_sparsity: float = 0.0
    score: str = "magnitude"
    pattern: str = "unstructured"
    budget: str = "layer"
    begin: float = 0.0
    end: float | None = None
    rules: tuple[tuple[str, float | None], ...] = ()


@dataclasses.dataclass(frozen=True)
class Iterative(Pruning):
    how: ClassVar[str] = "iterative"
    rounds: int = swept(5)
    score: str = "magnitude"
    pattern: str = "unstructured"
    budget: str = "layer"
    begin: float = 0.0
    end: float | None = None
    rules: tuple[tuple[str, float | None], ...] = ()


@dataclasses.dataclass(frozen=True)
class RigL(Pruning):
    how: ClassVar[str] = "rigl"
    drop_fraction: float = 0.3
    budget: str = "layer"
    begin: float = 0.0
    end: float | None = None
    rules: tuple[tuple[str, float | None], ...] = ()


@dataclasses.dataclass(frozen=True)
class SET(RigL):
    how: ClassVar[str] = "set"
