"""Stages that share a segment program: they differ in numbers alone, or in methods that have chosen nothing yet."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
from jaxtyping import PyTree

from jopt import hyper
from jopt.levels import quick_jit
from jopt.method import Method
from jopt.train.plan import StagePlan
from jopt.train.state import TrainState
from jopt.transform import ParamTransform, State
from jopt.typing import Params

# Parameters times steps: a mask costs a selection on the gradients, 0.3 ns a parameter and step.
_MOST_MASKED = 1e9


def wider(plans: Sequence[StagePlan], index: int, parameters: int) -> StagePlan | None:
    """The stage as it trains with the methods that the next one adds, if these change nothing before they choose.

    Its segment then is the program of the next stage's segment: a mask of ones is the identity.

    Args:
      plans: the run's stages.
      index: of the stage.
      parameters: of its network. Where so many parameters are trained for so long that a mask costs more than a
        compilation, the stage has a program of its own.

    Returns:
      The stage with these methods, frozen; None if it does not train as the next one does.
    """
    plan = plans[index]
    if index + 1 == len(plans) or parameters * plan.length.steps > _MOST_MASKED:
        return None
    following = plans[index + 1]
    added = [applied for applied in following.applied if following.names(applied)]
    # Its methods that learn, measure or wrap do so in their own stage alone; later they are frozen.
    alike = (
        not following.starts_network
        and [a for a in following.applied if not following.names(a)] == list(plan.applied)
        and following.wrapping == plan.wrapping
        and not any(plan.names(applied) for applied in plan.wrapping)
        and all(t.observe is None and t.learn is None for a, t in plan.transforms if plan.names(a))
        and all(_only_masks(a.method, t) for a, t in following.transforms if following.names(a))
        and len(following.transforms) == len(plan.transforms) + len(added)
        and plan.ema_decay is None
        and plan.distillation is None
        and following.distillation is None
        and _optimizer(plan) == _optimizer(following)
        and plan.length.segment_steps == following.length.segment_steps
    )
    return dataclasses.replace(plan, applied=following.applied) if added and alike else None


def _only_masks(method: Method, transform: ParamTransform) -> bool:
    """Whether it does nothing in a segment but set to zero what its state says, and nothing in its first state."""
    others = (transform.observe, transform.learn, transform.constrain)
    masks = transform.sparse and transform.idle_at_first and all(function is None for function in others)
    # A method that freezes in its own way is another one in its own stage.
    return masks and type(method).freeze is Method.freeze


def masking(plan: StagePlan) -> frozenset[str]:
    """The stage's own methods that are masks and nothing else in its segments."""
    return frozenset(a.method.name for a, t in plan.transforms if plan.names(a) and _only_masks(a.method, t))


def as_trained(plan: StagePlan, masks: frozenset[str]) -> StagePlan:
    """The stage as its segments have it: the methods in `masks` are frozen.

    What they choose is chosen between segments; their schedules would be different constants in equal programs.
    """
    applied = [a._replace(stage=-1) if a.method.name in masks else a for a in plan.applied]
    return dataclasses.replace(plan, applied=tuple(applied))


def _optimizer(plan: StagePlan) -> tuple[object, int | None]:
    """What makes an optimizer's program: its structure, and the number of steps where its schedule reads that."""
    config = plan.optimizer
    reads_length = config.schedule != "constant" and config.decay_steps is None
    return hyper.split(config)[0], plan.length.steps if reads_length else None


class Widening(NamedTuple):
    """Between the state of a stage and that of its wider form, in which added methods have chosen nothing.

    Attributes:
      names: of the stage's methods, in the order of their states.
      wide_names: of the wider form's.
      fresh: `params ->` the states of the added methods, by name.
    """

    names: tuple[str, ...]
    wide_names: tuple[str, ...]
    fresh: Callable[[Params], dict[str, State]]

    @classmethod
    def of(cls, plan: StagePlan, wide: StagePlan) -> "Widening":
        """The widening of a stage."""
        names, wide_names = (tuple(a.method.name for a, _ in p.transforms) for p in (plan, wide))
        added = {a.method.name: transform for a, transform in wide.transforms if a.method.name not in names}

        def fresh(params: Params) -> dict[str, State]:
            return {name: transform.init(plan.trainables.model_only(params)) for name, transform in added.items()}

        return cls(names, wide_names, quick_jit(fresh))

    def over_trials(self) -> "Widening":
        """The same for states of several trials, stacked."""
        return self._replace(fresh=quick_jit(jax.vmap(self.fresh)))

    def widen(self, state: TrainState, place: Callable[[PyTree], PyTree] = lambda tree: tree) -> TrainState:
        """The stage's state, as the wider form has it; `place` puts what is added where the state is."""
        states = dict(zip(self.names, state.transform_state, strict=True)) | place(self.fresh(state.params))
        return state._replace(transform_state=tuple(states[name] for name in self.wide_names))

    def narrow(self, state: TrainState) -> TrainState:
        """Undoes `widen`."""
        states = dict(zip(self.wide_names, state.transform_state, strict=True))
        return state._replace(transform_state=tuple(states[name] for name in self.names))


def common_names(values: Mapping[str, jax.Array], stage: int) -> dict[str, jax.Array]:
    """The numbers that a stage's segment reads, its optimizer's under the same names in all stages.

    Example:
      >>> common_names({"optimizer.rate": 1, "seed": 2, "stages[1].optimizer.rate": 3}, 1)
      {'seed': 2, 'optimizer.rate': 3}
      >>> common_names({"optimizer.rate": 1, "seed": 2, "stages[1].optimizer.rate": 3}, 0)
      {'optimizer.rate': 1, 'seed': 2}
    """
    prefix = f"stages[{stage}]."
    mine = {path.removeprefix(prefix): x for path, x in values.items() if path.startswith(prefix + "optimizer.")}
    # No stage reads the numbers of another one's optimizer, nor the experiment's where it has its own.
    unread = re.compile(r"(stages\[\d+\]\.)?optimizer\." if mine else r"stages\[\d+\]\.optimizer\.")
    return {path: x for path, x in values.items() if not unread.match(path)} | mine


def stage_names(common: Mapping[str, jax.Array], stage: int, paths: Iterable[str]) -> dict[str, jax.Array]:
    """Undoes `common_names`: a number for each of the paths; where the stage does not read it, the seed.

    Example:
      >>> stage_names({"seed": 2, "optimizer.rate": 3}, 1, ["optimizer.rate", "seed", "stages[0].optimizer.rate"])
      {'optimizer.rate': 3, 'seed': 2, 'stages[0].optimizer.rate': 2}
    """
    prefix = f"stages[{stage}].optimizer."
    named = {path: f"optimizer.{path.removeprefix(prefix)}" if path.startswith(prefix) else path for path in paths}
    # Some number must stand there, with an axis of trials where the others have one.
    return {path: common.get(name, common["seed"]) for path, name in named.items()}
