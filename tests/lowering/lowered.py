"""Programs of a run lowered for accelerators that are not here, and what must not stand in them."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jopt import data
from jopt.ablate import Ablation
from jopt.levels import CPU_ONLY
from jopt.train import Experiment
from jopt.train.calls import Calls
from jopt.train.compiler import Request
from jopt.train.prepared import Prepared

ACCELERATORS = ("cuda", "tpu")

# What an absent data set looks like: its images, its classes. Enough examples for the warm-up of a schedule.
SHAPES = {"mnist": ((28, 28, 1), 10), "cifar10": ((32, 32, 3), 10)}

# Targets of LAPACK, of XLA's CPU libraries and of functions of Python on the host.
FOREIGN = re.compile(r"@(\w*(?:lapack|cpu|callback|eigen|onednn|ducc)\w*)", re.IGNORECASE)


def experiment_of(config: Experiment | Ablation) -> Experiment:
    """The experiment of a config file, on made-up images where its data set is not here."""
    experiment = config.experiment if isinstance(config, Ablation) else config
    name = getattr(experiment.data, "name", "")
    if name not in SHAPES:
        return experiment
    shape, classes = SHAPES[name]
    images = data.Synthetic(shape=shape, num_classes=classes, train=2560, validation=128, test=128)
    return dataclasses.replace(experiment, data=images)


def requests(prepared: Prepared) -> Iterator[Request]:
    """Every program that a run calls: init, update, rewind, segment, seen and judge of each stage."""
    calls = Calls(prepared, prepared.values)
    yield from calls.ahead(None)
    for stage, plan in enumerate(prepared.plans):
        state = calls.placed(stage, prepared.like(stage))
        # What a run knows only once its teacher has run.
        if plan.distillation is not None:
            train = with_teacher(prepared, stage)
            yield from [calls.update(stage, state, train)] if plan.updates else []
            steps = next(s.steps for s in prepared.segments if s.stage == stage)
            yield calls.segment(stage, steps, state, train)
        if plan.start not in ("previous", "init", "random"):
            origin = prepared.stage_named(plan.start).index
            yield calls.rewind(stage, state, calls.placed(origin, variables(prepared, origin)))


def variables(prepared: Prepared, stage: int) -> Any:
    """What the network of a stage computes with at its end, as shapes."""
    calls = Calls(prepared, prepared.values)
    return jax.eval_shape(
        prepared.program(prepared.plans[stage]).seen, calls.placed(stage, prepared.like(stage)), calls.values
    )


def with_teacher(prepared: Prepared, stage: int) -> data.DeviceArrays:
    """The training part with the teacher's logits, or with its parameters where it runs along."""
    distillation, train = prepared.plans[stage].distillation, prepared.arrays["train"]
    assert distillation is not None
    teacher = prepared.stage_named(distillation.teacher.removeprefix("stage:")).index
    if prepared.plans[stage].teacher_computes_along:
        return train._replace(teacher=variables(prepared, teacher)._asdict())
    shape = prepared.task.output_shapes(prepared.dataset)
    assert shape is not None
    logits = jax.ShapeDtypeStruct((prepared.dataset.sizes[0], *shape[0]), np.float32)
    return train._replace(teacher=logits)


def text_of(request: Request, platform: str) -> str:
    """A program's text for a platform, with the scopes of its operations."""
    jitted = jax.jit(request.fn, donate_argnums=request.donate, keep_unused=True)
    return jitted.trace(*request.args).lower(lowering_platforms=(platform,)).as_text(debug_info=True)


def leaks(text: str) -> list[str]:
    """What only a CPU, or only this host, could run."""
    foreign = sorted(set(FOREIGN.findall(text)))
    return foreign + ([CPU_ONLY] if f"{CPU_ONLY}" in text else [])


def operations(text: str, name: str) -> int:
    """How often an operation of StableHLO stands in a program."""
    return len(re.findall(rf"\bstablehlo\.{name}\b", text))
