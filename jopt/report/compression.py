"""The compression part of a run's report: tables and pictures of its stages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import ArrayLike

from jopt import measure
from jopt.layers import is_weight
from jopt.measure import StageOutcome
from jopt.report import formats
from jopt.report.bars import class_bars, sparsity_bars
from jopt.report.canvas import save_figure
from jopt.report.histograms import weight_histograms
from jopt.report.page import Heading, Part, Picture, parts_markdown
from jopt.report.stages import classes_table, layers_table, stages_table
from jopt.report.tradeoff import accuracy_against_size, compression_overview, size_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPARSE_STAGES = 3
_NOTE = (
    "Theoretical: computed from the values that the model sees, not measured on a file or a clock. A size is the "
    "sum over the arrays of the fixed-width code that needs the fewest bits (dense or sparse values, a codebook, "
    "integers with their scales); effective FLOPs are the FLOPs of each layer times the share of its kernel that "
    "is not zero. The size of a packed file is its length, headers and all. Change and churn (the share of test "
    "examples whose predicted class differs) are against the first stage. Distinct values are the most that any "
    "kernel has."
)


class Compression(NamedTuple):
    """What a run's stages come to.

    Attributes:
      rows: of numbers, one a stage, as `jopt.measure.stage_rows` gives them; ready for JSON.
      parts: headings, tables and pictures, for `parts_markdown` and `to_html`.
      figures: file name to figure, of the pictures among the parts.
    """

    rows: list[dict[str, Any]]
    parts: list[Part]
    figures: dict[str, Figure]

    @property
    def markdown(self) -> str:
        """The section, in GitHub Markdown, from its heading of the second level on."""
        return parts_markdown(self.parts)


def compression(
    directory: str | os.PathLike[str],
    outcomes: Sequence[StageOutcome],
    labels: ArrayLike | None = None,
    flops: Mapping[str, int] | None = None,
    classes: Sequence[str] | None = None,
    title: str = "",
) -> Compression:
    """What `summarize` gives, its pictures written to `directory` as PNG files.

    Example:
      >>> import numpy as np, tempfile
      >>> dense = StageOutcome("dense", {"kernel": np.float32([[1, 2], [3, 4]])}, {"accuracy": 0.5})
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     found = compression(directory, [dense, dense._replace(name="same")])
      ...     sorted(path.name for path in Path(directory).iterdir())
      ['accuracy_against_size.png', 'compression.png', 'weights.png']
      >>> print(found.markdown.splitlines()[0])
      ## Compression
    """
    found = summarize(outcomes, labels, flops, classes, title)
    for name, figure in found.figures.items():
        save_figure(figure, Path(directory) / name)
    return found


def summarize(
    outcomes: Sequence[StageOutcome],
    labels: ArrayLike | None = None,
    flops: Mapping[str, int] | None = None,
    classes: Sequence[str] | None = None,
    title: str = "",
) -> Compression:
    """Tables and figures of the stages of a run: all stages, then the last against the first.

    Args:
      outcomes: the stages, the dense model first; at least one.
      labels: true classes of the test examples, integers [examples]; without them nothing is told by class.
      flops: FLOPs of one example by layer, as `jopt.measure.flops_by_layer` gives them.
      classes: names of the classes; None for their numbers.
      title: of compression.png; the run's name.

    Returns:
      A `Compression`, without comparisons for a lone stage.

    Raises:
      ValueError: if there is no stage, or predictions and labels are not of the same examples.
    """
    if not outcomes:
        raise ValueError("a compression has at least one stage, got none")
    first, last = outcomes[0], outcomes[-1]
    rows = measure.stage_rows(outcomes, labels, flops)
    meaning = size_of(rows)[1]
    figures: dict[str, Figure] = {"compression.png": compression_overview(rows, title)}
    parts: list[Part] = [Heading("Compression"), stages_table(rows, title=""), _NOTE]
    parts.append(Picture(f"Accuracy, {meaning}, sparsity and effective FLOPs by stage", "compression.png"))
    if len(outcomes) == 1:
        return Compression(rows, parts, figures)
    if sum(row.get("accuracy") is not None for row in rows) > 1:
        figures["accuracy_against_size.png"] = accuracy_against_size(rows)
        parts.append(Picture(f"Test accuracy against the size: {meaning}", "accuracy_against_size.png"))
    between = " → ".join(formats.shorten(outcome.name, 22) for outcome in (first, last))
    noise = None if last.latent is None else measure.sqnr_by_layer(last.latent, last.params)
    storages = (measure.storage(o.params, o.grids) for o in (first, last))
    parts += [Heading(f"Layers, {between}", 3), layers_table(*storages, sqnr=noise, title="")]
    if sparse := _sparse_stages(outcomes):
        figures["sparsity.png"] = sparsity_bars(sparse)
        parts.append(Picture("Sparsity by layer", "sparsity.png"))
    figures["weights.png"] = weight_histograms(first.params, last.params, f"Weights, {between}")
    parts.append(Picture("Nonzero weights before and after", "weights.png"))
    if labels is not None and first.predictions is not None and last.predictions is not None:
        changes = measure.class_changes(
            first.predictions, last.predictions, labels, None if classes is None else len(classes)
        )
        counts = measure.changes(first.predictions, last.predictions, labels)
        figures["classes.png"] = class_bars(changes, classes, f"Accuracy change by class, {between}")
        parts += [
            Heading(f"Predictions, {between}", 3),
            _sentence(counts),
            classes_table(changes, classes, title=""),
        ]
        parts.append(Picture("Accuracy change by class", "classes.png"))
    return Compression(rows, parts, figures)


def _sparse_stages(outcomes: Sequence[StageOutcome]) -> dict[str, Mapping[str, float]]:
    """The last stages that changed the sparsity of a kernel, under names that tell them apart."""
    changed: list[tuple[str, Mapping[str, float]]] = []
    previous: Mapping[str, float] = {}
    for i, outcome in enumerate(outcomes):
        kernels = {r.path for r in measure.layers(outcome.params) if is_weight(r.path, r.shape)}
        found = {p: s for p, s in measure.sparsity_by_layer(outcome.params).items() if p in kernels or not kernels}
        if found != previous and (previous or any(found.values())):
            name = outcome.name if all(outcome.name != n for n, _ in changed) else f"{outcome.name} ({i + 1})"
            changed.append((name, found))
        previous = found
    shown = changed[-_SPARSE_STAGES:]
    return dict(shown) if any(any(found.values()) for _, found in shown) else {}


def _sentence(counts: measure.Changes) -> str:
    return (
        f"Of {counts.examples:,} test examples {counts.lost + counts.gained + counts.moved:,} are predicted as "
        f"another class (churn {100 * counts.churn:.2f}%): {counts.lost:,} right before and wrong now, "
        f"{counts.gained:,} wrong before and right now, {counts.moved:,} wrong in another way."
    )
