"""What the stages of a run ended with, on the test part, and what `result.json` says of the last one."""

from collections.abc import Mapping
from typing import Any

import jax

from jopt import measure, mesh
from jopt.train import packed
from jopt.train.display import flops_of
from jopt.train.prepared import Prepared
from jopt.train.staging import Staging
from jopt.train.state import TrainState, Variables, digest, evaluated


def stage_outcome(prepared: Prepared, staging: Staging, stage: int, state: TrainState) -> measure.StageOutcome:
    """What a stage ended with, on the test part.

    Args:
      prepared: the run.
      staging: gives what the model sees of a state, and what the network does with the test part.
      stage: index of the stage.
      state: its last, of NumPy arrays or on the device.
    """
    p, plan, state = prepared, prepared.plans[stage], mesh.whole(state)
    placed = p.place(stage, state)
    judgement, examples = jax.device_get(staging.judge(stage, placed, "test")), p.dataset.sizes[2]
    # The part is padded to the size of the larger one.
    predictions = None if isinstance(judgement.predictions, tuple) else judgement.predictions[:examples]
    formats = packed.storage(plan, state)
    seen = jax.device_get(mesh.whole(staging.seen(stage, placed)))
    return measure.StageOutcome(
        plan.name,
        seen.params,
        judgement.measured(plan.task, examples),
        predictions,
        latent=jax.device_get(plan.trainables.network_only(evaluated(state).params)) if formats else None,
        grids=packed.grids(formats) if formats else None,
        flops=flops_of(p, stage),
        bytes=packed.encode(packing(p, stage, state, seen)).ledger.total if p.config.pack else None,
        layers=plan.layers,
    )


def packing(prepared: Prepared, stage: int, state: TrainState, seen: Variables) -> packed.Packing:
    """What the packed file of a stage holds."""
    plan = prepared.plans[stage]
    return packed.Packing(prepared.config, plan, *seen, prepared.dataset, packed.storage(plan, state))


def result_fields(
    outcome: measure.StageOutcome, state: TrainState, times: Mapping[str, float], length: int | None
) -> dict[str, Any]:
    """The fields of `result.json` that every run has.

    Args:
      outcome: of the last stage.
      state: the last.
      times: `wall_seconds` and `compile_seconds`.
      length: bytes of the packed file; None if there is none.
    """
    size = measure.size(outcome.params)
    return {
        **outcome.metrics,
        "parameters": size.parameters,
        "nonzero_parameters": size.nonzero_parameters,
        "sparsity": size.sparsity,
        "bytes": size.bytes if length is None else length,
        "flops": sum((outcome.flops or {}).values()),
        **times,
        "digest": digest({"params": state.params, "model_state": state.model_state, "ema": state.ema}),
    }
