"""The report of a run as parts: findings, stages, layers, predictions, packed file, speed, training and config."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from jopt import measure
from jopt.codec.ledger import Ledger
from jopt.layers import is_weight
from jopt.measure import CLASSIFIER, Column, StageOutcome
from jopt.report import formats
from jopt.report.differences import describe_mixture
from jopt.report.ledger import ledger_tables, times
from jopt.report.page import Code, Details, Findings, Heading, Part
from jopt.report.run_figures import learning_curves, ledger_figure
from jopt.report.run_tables import classes_table, last_rows_table, layers_table, result_table, stages_table
from jopt.report.stage_figures import (
    class_bars,
    compression_overview,
    metric_against_size,
    size_column,
    sparsity_bars,
    weight_histograms,
)
from jopt.report.tables import Table
from jopt.task import Classification, Task
from jopt.typing import Record

_SPARSE_STAGES = 3
_NOTE = (
    "Theoretical numbers are computed from the values that the model sees, not measured on a file or by a clock. A "
    "size is the sum over the arrays of the fixed-width code that needs the fewest bits (dense or sparse values, a "
    "codebook, integers with their scales); effective FLOPs are the FLOPs of each layer times the share of its "
    "kernel that is not zero. The size of a packed file is its length, headers included. {change} against the "
    "first stage. Distinct values are the most that any kernel has."
)
_SPEED_NOTE = (
    "Of the forward pass, by the clock of this machine, with whatever else runs on it. Masks and fake quantization "
    "do not change the shapes of the arrays, so they do not change it; a smaller network does, as "
    "jopt.prune.shrink makes one."
)
_ONE_SEED = (
    "This is one run with one seed: a difference of a few examples may be noise. For a claim, repeat it with "
    "several seeds (jopt ablate)."
)


def run_findings(result: Record, stages: Sequence[Record] = (), task: Task = CLASSIFIER) -> list[str]:
    """What a run shows, in sentences: the metric, what its stages changed, the sizes, and what is not shown.

    Args:
      result: as in result.json.
      stages: what `jopt.measure.stage_rows` gave, where there are several.
      task: of the run.

    Example:
      >>> stages = [{"stage": "dense", "theoretical_bytes": 4096, "accuracy": 0.98},
      ...           {"stage": "int4", "theoretical_bytes": 512, "accuracy": 0.97, "accuracy_change": -0.01}]
      >>> for sentence in run_findings({"accuracy": 0.97, "loss": 0.125}, stages)[:3]:
      ...     print(sentence)
      The model reaches a test accuracy of 97.00% and a test loss of 0.125.
      From 'dense' to 'int4' the test accuracy changes by -1.00 pp.
      The theoretical size falls from 4.00 KiB to 512 B, 8.0 times smaller.
    """
    keys = dict.fromkeys((task.deciding.key, "loss"))
    metrics = [(key, result[key]) for key in keys if isinstance(result.get(key), int | float)]
    # First, as it concerns every number.
    sentences = [describe_mixture(result["changes"])] if result.get("changes") else []
    if metrics:
        texts = [(formats.name(key, task), formats.value(key, value, task)) for key, value in metrics]
        named = " and ".join(f"a test {label} of {text}" for label, text in texts)
        sentences.append(f"The model reaches {named}.")
    if len(stages) > 1:
        sentences += [*_changes(stages[0], stages[-1], task), *_sizes(stages)]
    elif isinstance(result.get("bytes"), int):
        count = formats.integer(result.get("parameters", 0))
        sentences.append(f"It has {count} parameters in {formats.binary(result['bytes'])}.")
    return [*sentences, _ONE_SEED]


def _changes(first: Record, last: Record, task: Task) -> list[str]:
    column = formats.column(f"{task.deciding.key}_change", "stage", task)
    if last.get(column.key) is None:
        return []
    sentence = f"From {first['stage']!r} to {last['stage']!r} the test {task.deciding.label} changes by "
    sentence += formats.text(column, last[column.key])
    if last.get("churn") is not None:
        another = "test examples are predicted as another class"
        another = another if isinstance(task, Classification) else "decisions on the test part are others"
        sentence += f"; {formats.percent(last['churn'])} of the {another}"
    return [f"{sentence}."]


def _sizes(stages: Sequence[Record]) -> list[str]:
    first, last = stages[0], stages[-1]
    column = size_column(stages)
    sentences = []
    before, after = first.get(column.key), last.get(column.key)
    if before and after:
        verb, ratio = ("falls", times(before, after)) if after < before else ("grows", times(after, before))
        compared = f"{ratio} times {'smaller' if verb == 'falls' else 'larger'}"
        unchanged = f"The {column.label} stays at {formats.binary(after)}."
        fell = f"The {column.label} {verb} from {formats.binary(before)} to {formats.binary(after)}, {compared}."
        sentences.append(unchanged if before == after else fell)
    # A run that prunes nothing has no sentence about zeros.
    if last.get("sparsity"):
        text = f"{formats.percent(last['sparsity'])} of the parameters are zero"
        flops, effective = last.get("flops"), last.get("effective_flops")
        if flops and effective and effective < flops:
            text += f", which leaves {formats.percent(effective / flops)} of the FLOPs (theoretical)"
        sentences.append(f"{text}.")
    return sentences


def run_parts(
    config: Record,
    manifest: Record,
    rows: Sequence[Record],
    result: Record,
    *,
    stages: Sequence[Record] = (),
    compression: Sequence[Part] = (),
    packed: Sequence[Part] = (),
    speed: Table | None = None,
    model: Table | None = None,
    columns: Sequence[Column | str] = (),
    task: Task = CLASSIFIER,
) -> list[Part]:
    """The report of one run.

    Args:
      config: the resolved config, as in config.json; its `name` is the title.
      manifest: as in manifest.json; `argv` (a list) is shown as the command. Every other entry but the config is
        the environment; nested mappings become dotted names. What is missing is left out.
      rows: the rows of metrics.jsonl.
      result: as in result.json.
      stages: its stages, where there are several.
      compression: what `compression_parts` gave.
      packed: what `packed_parts` gave.
      speed: the measured latencies.
      model: the table of `model_table`.
      columns: columns from outside, or their names.
      task: of the run.

    Returns:
      Title, findings, command, result, stages, packed file, speed, training, model, environment and config.
    """
    name = str(config.get("name") or "Training run")
    parts: list[Part] = [Heading(name, 1), Findings(run_findings(result, stages, task))]
    if argv := manifest.get("argv"):
        parts.append(Code(argv if isinstance(argv, str) else shlex.join(map(str, argv))))
    parts += [Heading("Result"), result_table(result, title="", columns=columns, task=task), *compression, *packed]
    if speed is not None:
        parts += [Heading("Speed, measured"), speed, _SPEED_NOTE]
    parts += [Heading("Training"), learning_curves(rows, task=task)]
    last = last_rows_table(rows, task)
    if last.rows:
        parts += [Heading("Stages"), last]
    if model is not None:
        parts += [Heading("Model"), model._replace(title="")]
    environment = _flatten({k: v for k, v in manifest.items() if k not in ("argv", "config")})
    if environment:
        parts += [Heading("Environment"), Table("", ("", "value"), "ll", environment)]
    # A config may hold objects of the user's own, which JSON does not know.
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str)
    return [*parts, Heading("Config"), Details("config.json", [Code(text, "json")])]


def packed_parts(name: str, ledger: Ledger) -> list[Part]:
    """Where the bytes of a packed file are: tables and a figure.

    Args:
      name: of the file.
      ledger: of the file.
    """
    return [
        Heading("Packed file"),
        f"{name}, {ledger.total:,} bytes, is {ledger.ratio:.1f} times smaller than the arrays that it holds. Each "
        "byte is accounted for: the sums are the length of the file.",
        *ledger_tables(ledger),
        ledger_figure(ledger, "Where the bytes of the packed file are"),
    ]


def compression_parts(
    outcomes: Sequence[StageOutcome],
    rows: Sequence[Record],
    labels: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    columns: Sequence[Column | str] = (),
    task: Task = CLASSIFIER,
) -> list[Part]:
    """Tables and figures of the stages of a run: all stages, then the last against the first.

    Args:
      outcomes: the stages, the dense model first; at least one.
      rows: what `jopt.measure.stage_rows` gave of them.
      labels: true classes of the test examples, integers [examples]; without them there is no table of classes.
      classes: names of the classes; None for their numbers.
      columns: columns from outside, or their names.
      task: of the run.

    Returns:
      The parts, without comparisons for a single stage.

    Raises:
      ValueError: if there is no stage, or predictions and labels are not of the same examples.

    Example:
      >>> import numpy as np
      >>> dense = StageOutcome("dense", {"kernel": np.float32([[1, 2], [3, 4]])}, {"accuracy": 0.5})
      >>> outcomes = [dense, dense._replace(name="same")]
      >>> parts = compression_parts(outcomes, measure.stage_rows(outcomes))
      >>> [part.name for part in parts if hasattr(part, "traces")]
      ['compression', 'accuracy_against_size', 'weights']
    """
    if not outcomes:
        raise ValueError("a compression has at least one stage, got none")
    first, last = outcomes[0], outcomes[-1]
    table = stages_table(rows, title="", columns=columns, task=task)
    parts: list[Part] = [Heading("Compression"), table, _note(outcomes, task)]
    parts.append(compression_overview(rows, task=task))
    if len(outcomes) == 1:
        return parts
    # One point against its size is no trade-off.
    if sum(row.get(task.deciding.key) is not None for row in rows) > 1:
        parts.append(metric_against_size(rows, task))
    between = " → ".join(formats.shorten(outcome.name, 22) for outcome in (first, last))
    # Noise is that of rounding: without the values before it there is nothing to compare with.
    noise = None if last.latent is None else measure.sqnr_by_layer(last.latent, last.params)
    storages = (measure.storage(o.params, o.grids) for o in (first, last))
    parts += [Heading(f"Layers, {between}", 3), layers_table(*storages, sqnr=noise, title="")]
    if sparse := _sparse_stages(outcomes):
        parts.append(sparsity_bars(sparse))
    parts.append(weight_histograms(first.params, last.params, f"Weights, {between}"))
    # Of labels and of positions there is no one class that an example belongs to.
    labels = labels if isinstance(task, Classification) else None
    if labels is not None and first.predictions is not None and last.predictions is not None:
        changes = measure.class_changes(
            first.predictions, last.predictions, labels, None if classes is None else len(classes)
        )
        counts = measure.changes(first.predictions, last.predictions, labels)
        parts += [Heading(f"Predictions, {between}", 3), _sentence(counts)]
        parts += [classes_table(changes, classes, title=""), class_bars(changes, classes)]
    return parts


def _note(outcomes: Sequence[StageOutcome], task: Task) -> str:
    """What the numbers of the stages are."""
    decided = "of test examples whose predicted class differs"
    if not isinstance(task, Classification):
        decided = "of decisions on the test part that differ"
    churn = f"Change and churn (the share {decided}) are"
    return _NOTE.format(change="Change is" if outcomes[0].predictions is None else churn)


def _sparse_stages(outcomes: Sequence[StageOutcome]) -> dict[str, Mapping[str, float]]:
    """The last stages that changed the sparsity of a kernel, under distinct names."""
    changed: list[tuple[str, Mapping[str, float]]] = []
    previous: Mapping[str, float] = {}
    for i, outcome in enumerate(outcomes):
        kernels = {r.path for r in measure.layers(outcome.params) if is_weight(r.path, r.shape)}
        by_path = {
            p: s for p, s in measure.sparsity_by_layer(outcome.params).items() if p in kernels or not kernels
        }
        # A stage that only quantizes leaves the zeros where they are, and its bars would repeat the last.
        if by_path != previous and (previous or any(by_path.values())):
            name = outcome.name if all(outcome.name != n for n, _ in changed) else f"{outcome.name} ({i + 1})"
            changed.append((name, by_path))
        previous = by_path
    shown = changed[-_SPARSE_STAGES:]
    return dict(shown) if any(any(by_path.values()) for _, by_path in shown) else {}


def _sentence(counts: measure.Changes) -> str:
    return (
        f"Of {counts.examples:,} test examples {counts.lost + counts.gained + counts.moved:,} are predicted as "
        f"another class (churn {100 * counts.churn:.2f}%): {counts.lost:,} right before and wrong now, "
        f"{counts.gained:,} wrong before and right now, {counts.moved:,} wrong in another way."
    )


def _flatten(values: Record, prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            pairs.append((name, ", ".join(v if isinstance(v, str) else json.dumps(v, default=str) for v in value)))
        else:
            pairs.append((name, "-" if value is None else str(value)))
    return pairs
