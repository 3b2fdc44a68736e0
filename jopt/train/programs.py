"""The programs of a run's stages, built from the resolved config; nothing is compiled."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jopt import data, hyper, keys, levels, mesh, models
from jopt.train import plan, program
from jopt.train.config import STAGE, Experiment
from jopt.train.effort import Effort, forward_elements
from jopt.train.finished import Source, match_inputs
from jopt.train.plan import StagePlan, resolve
from jopt.train.program import Program
from jopt.train.schedule import Segment
from jopt.train.sharing import Widening, as_trained, masking, wider
from jopt.train.state import TrainState


class StagePrograms(NamedTuple):
    """What a run's stages compute with; fields as in `jopt.train.prepared.Prepared`."""

    program_of: Callable[[int, int], Program]
    segment_of: Callable[[int, int], Callable[..., Any]]
    like: Callable[[int], TrainState]
    level: Callable[[int, str], int | None]
    widening: Callable[[int], Widening | None]
    spread_of: Callable[[int], mesh.Spread]


def stage_programs(
    config: Experiment,
    plans: Sequence[StagePlan],
    dataset: data.Dataset,
    *,
    segments: Sequence[Segment],
    sources: Mapping[str, Source],
    model: models.Model | None,
    spread: mesh.Spread,
) -> StagePrograms:
    """The programs of the stages.

    Args:
      config: the experiment.
      plans: its stages, resolved, with what their models say about their parameters.
      dataset: on the host.
      segments: what runs when.
      sources: the finished runs that stages learn from, by directory.
      model: a custom model, instead of `config.model`.
      spread: the devices.
    """
    examples, example = dataset.sizes[0], dataset.example
    structure, numbers = hyper.split(config)
    rows = evaluated_rows(dataset)

    # Inside a trace the values are tracers, so the plans are resolved again with them. What the models say about
    # their parameters is structure and is taken from the plans above: no second trace of the network.
    def with_numbers(values: hyper.Hyper) -> list[StagePlan]:
        return plan.with_layers(
            resolve(hyper.join(structure, values), examples, model), [stage.layers for stage in plans]
        )

    def build(stage: StagePlan, with_values: Callable[[hyper.Hyper], StagePlan], steps: int) -> Program:
        per_epoch = data.steps_per_epoch(examples, stage.batch_size)
        return program.build(
            stage,
            with_values,
            example=example,
            steps=steps,
            aligned=stage.length.start % per_epoch == stage.length.segment_steps % per_epoch == 0,
            teacher=teacher_of(stage),
            spread=spread_of(stage.index),
        )

    @functools.cache
    def spread_of(index: int) -> mesh.Spread:
        return spread.over(plan.shapes(plans[index].model, example)[0], plans[index].layers)

    # Cached, as the loop, reports and `like` below ask for the same programs again and again.
    @functools.cache
    def program_of(index: int, steps: int) -> Program:
        return build(plans[index], lambda values: with_numbers(values)[index], steps)

    @functools.cache
    def segment_of(index: int, steps: int) -> Callable[..., Any]:
        wide = wide_of(index)
        stage, owner = (plans[index], index) if wide is None else (wide, index + 1)
        masks = masking(plans[owner])

        def trained(values: hyper.Hyper) -> StagePlan:
            every = with_numbers(values)
            return as_trained(dataclasses.replace(every[index], applied=every[owner].applied), masks)

        return build(as_trained(stage, masks), trained, steps).segment

    @functools.cache
    def wide_of(index: int) -> StagePlan | None:
        params = plan.shapes(plans[index].model, example)[0]
        return wider(plans, index, sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)))

    @functools.cache
    def widening(index: int) -> Widening | None:
        wide = wide_of(index)
        return None if wide is None else Widening.of(plans[index], wide)

    def teacher_of(stage: StagePlan) -> Callable[[hyper.Hyper], models.Model] | None:
        if stage.distillation is None or not stage.teacher_computes_along:
            return None
        name = stage.distillation.teacher
        if name.startswith(STAGE):
            index = next(s.index for s in plans if s.name == name.removeprefix(STAGE))
            return lambda values: with_numbers(values)[index].wrapped
        return lambda values, source=sources[name]: match_inputs(source, dataset)

    # Shapes alone, to read checkpoints into: nothing is initialized. A stage's state depends on that of the stage
    # before (frozen methods keep theirs), hence the recursion.
    @functools.cache
    def like(index: int) -> TrainState:
        program = program_of(index, plans[index].length.segment_steps)
        before = (like(index - 1),) if index else ()
        return jax.eval_shape(
            lambda seed, *previous: program.init(keys.root(seed), numbers, *previous), numbers["seed"], *before
        )

    # Once for each stage, and of one trial alone: a trial of a grid must be compiled as a run of it would be.
    @functools.cache
    def effort(index: int) -> Effort:
        stage, state = plans[index], like(index)
        mine = [segment for segment in segments if segment.stage == index]
        x = data.batch_of(example)
        return Effort(
            parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            forward=forward_elements(stage.wrapped, state.params, state.model_state, x),
            evaluations=1 + sum(segment.evaluate for segment in mine),
            evaluated=rows,
            updates=len(mine) if stage.updates else 0,
            calibrated=sum(a.method.calibration_examples() for a in stage.applied if stage.names(a)),
            trained=examples,
            teaches=any(source == STAGE + stage.name for _, source in plan.source_fields(config)),
        )

    def level(index: int, name: str) -> int | None:
        return levels.FULL if name == "segment" else effort(index).level(name)

    return StagePrograms(program_of, segment_of, like, level, widening, spread_of)


def evaluated_rows(dataset: data.Dataset) -> int:
    """Rows of the evaluated parts, padding included: the larger one's, in whole batches where that is several."""
    largest = max(dataset.sizes[1:])
    size = program.EVALUATION_BATCH
    return largest if largest <= size else -(-largest // size) * size
