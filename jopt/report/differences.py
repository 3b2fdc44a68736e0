"""What differs between runs: their configs, their environments and their numbers."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from jopt.measure import CLASSIFIER
from jopt.report import formats
from jopt.report.tables import Table
from jopt.task import Task
from jopt.typing import Record

# What two manifests may say differently without the runs being made in another way, or what is shown elsewhere.
_NOT_ENVIRONMENT = ("argv", "config", "config_hash", "digest", "events", "exit_status", "seed")
_LABELS = {"steps_per_second": "steps/s (median)"}
_SIZES = ("parameters", "nonzero_parameters", "sparsity", "bytes", "flops", "wall_seconds", "compile_seconds")
_ABSENT = "(absent)"


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by dotted path; a list is a leaf unless it holds dictionaries.

    Example:
      >>> flatten({"model": {"features": [300, 100]}, "stages": [{"steps": 5}, {"steps": 7}]})
      {'model.features': [300, 100], 'stages[0].steps': 5, 'stages[1].steps': 7}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            leaves |= flatten(value, name)
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            leaves |= flatten({f"[{i}]": v for i, v in enumerate(value)}, name)
        else:
            leaves[name] = value
    return {name.replace(".[", "["): value for name, value in leaves.items()}


def differing(trees: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, Any]]:
    """The leaves that are not the same in all trees.

    Args:
      trees: name to nested dictionaries, as JSON has them.

    Returns:
      Path to the values by name, in the order of the first tree; a name whose tree lacks the path is absent.

    Example:
      >>> differing({"a": {"seed": 0, "clip": None, "name": "x"}, "b": {"seed": 1, "name": "x"}})
      {'seed': {'a': 0, 'b': 1}, 'clip': {'a': None}}
    """
    flat = {name: flatten(tree) for name, tree in trees.items()}
    paths = dict.fromkeys(path for leaves in flat.values() for path in leaves)
    differences = {}
    for path in paths:
        values = {name: leaves[path] for name, leaves in flat.items() if path in leaves}
        first = next(iter(values.values()))
        if len(values) < len(flat) or not all(_same(first, v) for v in values.values()):
            differences[path] = values
    return differences


def _same(a: object, b: object) -> bool:
    """Equality in which True is not 1 and NaN is itself; 1 and 1.0 are one number."""
    # True == 1 in Python, but `nesterov: 1` is not `nesterov: true`.
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


def environment(manifest: Mapping[str, object]) -> dict[str, Any]:
    """What a manifest says of data, code, packages and machine: not what was asked for, nor when, nor what came.

    Example:
      >>> environment({"python": "3.11.9", "seed": 3, "events": []})
      {'python': '3.11.9'}
    """
    return {k: v for k, v in manifest.items() if k not in _NOT_ENVIRONMENT}


def summary(
    rows: Sequence[Record],
    result: Mapping[str, object],
    manifest: Mapping[str, object],
    task: Task = CLASSIFIER,
) -> dict[str, Any]:
    """The numbers of one run, finished or not; None where the run has none.

    Args:
      rows: of metrics.jsonl.
      result: result.json, or {} if the run has not finished.
      manifest: manifest.json, or {}.
      task: of the run.

    Returns:
      `status`, `last_step`; the task's metrics and the loss on the test part, and on the validation part in its
      last row; the best value of the deciding metric there and the (first) step that reached it; the median over
      the training rows of `steps_per_second`; the sizes and times of `result`; and `digest`.

    Example:
      >>> rows = [
      ...     {"step": 5, "split": "train", "loss": 0.9, "steps_per_second": 80.0},
      ...     {"step": 5, "split": "validation", "loss": 0.8, "accuracy": 0.75},
      ...     {"step": 9, "split": "validation", "loss": 0.7, "accuracy": 0.5},
      ... ]
      >>> numbers = summary(rows, {}, {"exit_status": "stopped"})
      >>> {k: v for k, v in numbers.items() if v is not None}  # doctest: +NORMALIZE_WHITESPACE
      {'status': 'stopped', 'last_step': 9, 'last_validation_accuracy': 0.5, 'last_validation_loss': 0.7,
       'best_validation_accuracy': 0.75, 'best_step': 5, 'steps_per_second': 80.0}
    """
    validation = [row for row in rows if row["split"] == "validation"]
    deciding = task.deciding
    measured = [row for row in validation if _number(row.get(deciding.key))]
    sign = 1 if deciding.better == "higher" else -1
    best = max(measured, key=lambda row: (sign * row[deciding.key], -row["step"]), default={})
    metrics = [*(metric.key for metric in task.metrics), "loss"]
    last = validation[-1] if validation else {}
    test = next((row for row in reversed(rows) if row["split"] == "test"), {})
    speeds = [row["steps_per_second"] for row in rows if _number(row.get("steps_per_second"))]
    ended = manifest.get("exit_status")
    # The result decides: without one a run has not finished, whatever its manifest says.
    status = "finished" if result else "unfinished" if ended in (None, "finished") else ended
    return {
        "status": status,
        "last_step": max((row["step"] for row in rows), default=None),
        **{f"test_{key}": result.get(key, test.get(key)) for key in metrics},
        **{f"last_validation_{key}": last.get(key) for key in metrics},
        f"best_validation_{deciding.key}": best.get(deciding.key),
        "best_step": best.get("step"),
        "steps_per_second": statistics.median(speeds) if speeds else None,
        **{key: result.get(key) for key in _SIZES},
        "digest": result.get("digest"),
    }


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def change(key: str, first: Any, other: Any, task: Task = CLASSIFIER) -> str:
    """How `other` differs from `first`: shares in percentage points (pp), amounts as a ratio, others signed.

    Example:
      >>> change("test_accuracy", 0.95, 0.9625), change("test_loss", 0.5, 0.4), change("best_step", 90, 60)
      ('+1.25 pp', '-0.1', '-30')
      >>> change("bytes", 4096, 1024), change("bytes", 4096, 4096), change("digest", "c0ffee", "decade")
      ('0.25x', 'equal', 'different')
    """
    if first is None or other is None:
        return "-"
    if _same(first, other):
        return "equal"
    if not (_number(first) and _number(other)):
        return "different"
    last, column = key.rsplit("_", 1)[-1], formats.column(key, task=task)
    if column.fraction:
        return f"{100 * (other - first):+.2f} pp"
    if last == "step":
        return f"{other - first:+,}"
    if column.origin == "task" or first == 0:
        return f"{other - first:+.4g}"
    ratio = other / first
    return f"{ratio:.2f}x" if 0.1 <= ratio < 1000 else f"{ratio:.2g}x"


def describe_mixture(changes: Sequence[Record]) -> str:
    """A sentence on a result that was computed in different surroundings.

    Args:
      changes: each with `name`, `then`, `now` and, where it is known and not 0, the `step` from which it holds.

    Example:
      >>> describe_mixture([{"name": "jax", "then": "0.9", "now": "0.10", "step": 24}]).partition(". ")[0]
      'This mixes different surroundings: jax 0.9, then 0.10 from step 24 on'
    """
    parts = [
        f"{c['name']} {_text(c['then']) or 'none'}, then {_text(c['now']) or 'none'}"
        + (f" from step {c['step']:,} on" if c.get("step") else "")
        for c in changes
    ]
    return (
        f"This mixes different surroundings: {'; '.join(parts)}. Another run of it cannot be expected to give the "
        "same bits."
    )


def difference_table(title: str, trees: Mapping[str, Mapping[str, object]]) -> Table:
    """The differing leaves, one a row, in a column for each tree.

    Example:
      >>> difference_table("Config", {"a": {"seed": 0, "lr": 0.1}, "b": {"seed": 1, "lr": 0.1}}).rows
      [('seed', '0', '1')]
    """
    rows = [
        (path, *(_text(values[name]) if name in values else _ABSENT for name in trees))
        for path, values in differing(trees).items()
    ]
    return Table(title, ("field", *trees), "l" * (1 + len(trees)), rows)


def _text(value: object) -> str:
    """A value on one line; of a hash its beginning."""
    if isinstance(value, str):
        return value[:12] if _is_hash(value) else value
    if isinstance(value, list):
        return f"({', '.join(map(_text, value))})"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _is_hash(text: str) -> bool:
    return len(text) >= 40 and set(text) <= set("0123456789abcdef")


def metrics_table(summaries: Mapping[str, Mapping[str, object]], task: Task = CLASSIFIER) -> Table:
    """The numbers of runs, one a row, in a column for each run; of two runs also how the second differs.

    Args:
      summaries: name to what `summary` gave. A number that no run has is left out.
      task: of the runs.

    Example:
      >>> metrics_table({"a": {"test_accuracy": 0.5}, "b": {"test_accuracy": 0.75}})[1:4]
      (('metric', 'a', 'b', 'change'), 'lrrr', [('test accuracy', '50.00%', '75.00%', '+25.00 pp')])
    """
    names = list(summaries)
    header, rows = ("metric", *names), []
    for key in _known(summaries.values()):
        values = [s.get(key) for s in summaries.values()]
        changes = [change(key, *values, task=task) if key != "status" else ""] if len(names) == 2 else []
        rows.append((_label(key, task), *(_brief(key, v, task) for v in values), *changes))
    if len(names) == 2:
        header = (*header, "change")
    return Table("Metrics", header, "l" + "r" * (len(header) - 1), rows)


def changes_table(summaries: Mapping[str, Mapping[str, object]], task: Task = CLASSIFIER) -> Table:
    """How each run differs from the first, in the same rows as `metrics_table` but for the status."""
    first, *others = summaries
    rows = [
        (_label(key, task), *(change(key, summaries[first].get(key), summaries[o].get(key), task) for o in others))
        for key in _known(summaries.values())
        if key != "status"
    ]
    return Table(f"Change from {first}", ("metric", *others), "l" + "r" * len(others), rows)


def _label(key: str, task: Task) -> str:
    return _LABELS.get(key, formats.name(key, task))


def _known(summaries: Iterable[Mapping[str, object]]) -> list[str]:
    summaries = list(summaries)
    keys = dict.fromkeys(key for s in summaries for key in s)
    return [key for key in keys if any(s.get(key) is not None for s in summaries)]


def _brief(key: str, value: object, task: Task) -> str:
    return _text(value) if isinstance(value, str) else formats.value(key, value, task).partition(" (")[0]


def unique_names(paths: Sequence[PurePath]) -> list[str]:
    """A name for each path: its last part or, where several end in the same part, as many parts as distinguish it.

    Example:
      >>> unique_names([PurePath("/r/x/run"), PurePath("/r/y/run"), PurePath("/r/z")])
      ['x/run', 'y/run', 'z']
      >>> unique_names([PurePath("/r/a"), PurePath("/r/a")])
      ['a', 'a (2)']
    """
    names: list[str] = []
    for path in paths:
        others = [p for p in paths if p != path]
        lengths = range(1, len(path.parts) + 1)
        # As short as possible, since these names head columns.
        unlike = (n for n in lengths if all(p.parts[-n:] != path.parts[-n:] for p in others))
        names.append("/".join(path.parts[-next(unlike, len(path.parts)) :]))
    return [n if names[:i].count(n) == 0 else f"{n} ({names[:i].count(n) + 1})" for i, n in enumerate(names)]
