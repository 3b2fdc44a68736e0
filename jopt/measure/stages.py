"""The numbers of every stage of a compression, side by side."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jopt.layers import Layers
from jopt.measure.compare import churn, sqnr
from jopt.measure.flops import effective_flops
from jopt.measure.size import IntegerCode, storage, total_storage


class StageOutcome(NamedTuple):
    """What a stage left behind.

    Attributes:
      name: of the stage.
      params: the parameters as the model sees them, after every transform; concrete arrays.
      metrics: its numbers on the test part: `accuracy` in [0, 1], `loss`, and any other.
      predictions: predicted classes of the test examples, integers [examples]; None where there are no classes.
      latent: the parameters before quantization, of the same structure and shapes; None if there is none.
      grids: path to the integers of an array, for `jopt.measure.storage`.
      flops: FLOPs by layer, where the stage changed the model's shapes; None: those of the first stage.
      bytes: length of its packed file, where there is one.
      layers: what the model says about its parameters; None: what their names and shapes say.
    """

    name: str
    params: Any
    metrics: Mapping[str, float] = {}
    predictions: ArrayLike | None = None
    latent: Any = None
    grids: Mapping[str, IntegerCode] | None = None
    flops: Mapping[str, int] | None = None
    bytes: int | None = None
    layers: Layers | None = None


def stage_rows(
    outcomes: Sequence[StageOutcome], labels: ArrayLike | None = None, flops: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """One row of numbers for each stage, ready for JSON; the first stage is what the others are held against.

    Args:
      outcomes: the stages, the dense model first.
      labels: true classes of the test examples, integers [examples]; only for the accuracy of a stage whose
        metrics lack it.
      flops: FLOPs of one example by layer, as `jopt.measure.flops_by_layer` gives them.

    Returns:
      For each stage: `stage`, its metrics, `parameters`, `nonzero_parameters`, `sparsity`, `distinct_values`,
      `bits_per_parameter` and `theoretical_bytes` (see `storage`); where what they need is known `accuracy_change`
      (against the first stage, a fraction), `churn` (against the first stage), `bytes`, `flops`,
      `effective_flops` (None where a model's layers cannot be seen) and `sqnr_db` (None where nothing was rounded:
      JSON has no infinity).

    Raises:
      ValueError: if a stage's predictions are of other examples than the first's or the labels.

    Example:
      >>> dense = StageOutcome("dense", {"kernel": np.float32([[1, 2], [3, 4]])}, {"accuracy": 0.5})
      >>> pruned = StageOutcome("prune", {"kernel": np.float32([[0, 0], [0, 4]])}, {"accuracy": 0.25})
      >>> rows = stage_rows([dense, pruned], flops={"": 8})
      >>> [row["accuracy_change"] for row in rows], [row["sparsity"] for row in rows]
      ([0.0, -0.25], [0.0, 0.75])
    """
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        total = total_storage(storage(outcome.params, outcome.grids), outcome.layers)
        row: dict[str, Any] = {"stage": outcome.name, **{k: _json(v) for k, v in outcome.metrics.items()}}
        if "accuracy" not in row and labels is not None and outcome.predictions is not None:
            row["accuracy"] = 1.0 - churn(labels, outcome.predictions)
        first = rows[0] if rows else row
        if row.get("accuracy") is not None and first.get("accuracy") is not None:
            row["accuracy_change"] = row["accuracy"] - first["accuracy"]
        if outcome.predictions is not None and outcomes[0].predictions is not None:
            row["churn"] = churn(outcomes[0].predictions, outcome.predictions)
        row |= {
            "parameters": total.parameters,
            "nonzero_parameters": total.nonzero_parameters,
            "sparsity": total.sparsity,
            "distinct_values": total.distinct_values,
            "bits_per_parameter": total.bits_per_parameter,
            "theoretical_bytes": total.bytes,
        }
        if outcome.bytes is not None:
            row["bytes"] = outcome.bytes
        by_layer = outcome.flops if outcome.flops is not None else flops
        if by_layer is not None:
            row["flops"] = sum(by_layer.values())
            effective = effective_flops(by_layer, outcome.params, outcome.layers)
            row["effective_flops"] = None if effective is None else sum(effective.values())
        if outcome.latent is not None:
            row["sqnr_db"] = _json(sqnr(outcome.latent, outcome.params))
        rows.append(row)
    return rows


def _json(value: Any) -> Any:
    """A Python number; None for what JSON does not have."""
    if isinstance(value, np.generic) or (hasattr(value, "item") and np.ndim(value) == 0):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
