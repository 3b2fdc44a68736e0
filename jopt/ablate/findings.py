"""Sentences on the results of an ablation and their limits: the list at the top of every report."""

from collections.abc import Mapping, Sequence

from jopt.ablate.paired import LEAST_SEEDS, smallest_p
from jopt.ablate.results import Results, TrialRow
from jopt.ablate.summary import best, summarize
from jopt.measure import Column
from jopt.report import formats


def label(point: Mapping[str, object]) -> str:
    """A point in a sentence.

    Example:
      >>> label({"sparsity": 0.9, "optimizer": "adam"})
      'sparsity=0.9, optimizer=adam'
    """
    return ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in point.items())


def sentences(results: Results, rows: Sequence[TrialRow] | None = None, confidence: float = 0.95) -> list[str]:
    """Sentences on the statistics of an ablation and their limits.

    Args:
      results: of the ablation.
      rows: `summarize(results, confidence)`, if it has been computed already.
      confidence: of the intervals.

    Returns:
      Sentences on the best point, the comparison with the control, the smallest point that is not shown to be
      worse, the limits of few seeds, and divergence.
    """
    rows = summarize(results, confidence) if rows is None else rows
    return [
        *_the_best(results, rows, confidence),
        *_against_control(results, rows, confidence),
        *_smallest(results, rows),
        *few_seeds([row["n"] for row in rows], confidence),
        *_diverged(results, rows),
    ]


def few_seeds(counts: Sequence[int], confidence: float = 0.95) -> list[str]:
    """Sentences on the limits of the smallest of these numbers of seeds.

    Example:
      >>> print(*few_seeds([5, 5]))
      With 5 seeds no exact test can give a p below 0.0625: none of these comparisons can be significant at 0.05
      by it, whatever the difference. Verdicts rest on t intervals, which take the differences to be normally
      distributed.
    """
    # The point with the fewest seeds limits what the grid as a whole can claim.
    n = min(counts, default=0)
    limits = []
    if 0 < n < LEAST_SEEDS:
        limits.append(f"Fewer than {LEAST_SEEDS} seeds ({n}) finished in some points: nothing is decided for them.")
    if n > 0 and smallest_p(n) > 1 - confidence:
        limits.append(
            f"With {n} seed{'s' * (n > 1)} no exact test can give a p below {smallest_p(n):g}: none of these "
            f"comparisons can be significant at {1 - confidence:.3g} by it, whatever the difference. Verdicts rest "
            "on t intervals, which take the differences to be normally distributed."
        )
    return limits


def _against_control(results: Results, rows: Sequence[TrialRow], confidence: float) -> list[str]:
    if results.control is None:
        return ["No control is named: no point is called better or worse."]
    # The control is not compared with itself.
    compared = [row for row in rows if row["verdict"] not in (None, "control")]
    counts = {name: sum(row["verdict"] == name for row in compared) for name in ("better", "worse", "undecided")}
    # Points with too few seeds, or that lost some, have no verdict.
    others = len(compared) - sum(counts.values())
    claims = [
        f"Of {len(compared)} points compared with the control ({label(results.control)}) by {results.metric}, "
        f"paired by seed: better {counts['better']}, worse {counts['worse']}, undecided {counts['undecided']}"
        + (f", not judged {others}" if others else "")
        + f"; any false verdict among them has a chance of about {1 - confidence:.3g} at most."
    ]
    # Each point has its own noise, so the sentence gives the best and the worst.
    spans = [row["detectable"] for row in compared if row["detectable"] is not None]
    if spans:
        claims.append(
            f"Undecided is not equal: a true difference below {_amount(min(spans), results.decisive)} "
            f"({_amount(max(spans), results.decisive)} at the noisiest point) would be missed more often than one "
            "time in five."
        )
    return claims


def _smallest(results: Results, rows: Sequence[TrialRow]) -> list[str]:
    """The smallest of the points that are not shown to be worse than the control, and how much smaller it is."""
    control = next((row for row in rows if row["verdict"] == "control"), None)
    if results.control is None or control is None:
        return []
    columns = {column.key: column for column in results.columns}
    # Packed files where every point has one: sizes of two kinds must not be mixed.
    key = "bytes" if all(row.get("bytes_mean") is not None for row in rows) else "theoretical_bytes"
    size = f"{key}_mean"
    # Undecided points are candidates: the sentence says 'not shown to be worse', and no more.
    candidates = [row for row in rows if row["verdict"] in ("better", "undecided", "control") and row.get(size)]
    if not candidates or not control.get(size):
        return []
    row = min(candidates, key=lambda row: row[size])
    if row is control or row[size] >= control[size]:
        return []
    names = [axis.name for axis in results.axes]
    kind = columns[key].label
    return [
        f"The smallest point that is not shown to be worse than the control is "
        f"{label({k: row[k] for k in names})}: {kind} {formats.binary(row[size])}, "
        f"{control[size] / row[size]:.1f} times smaller, mean {results.metric} "
        f"{row[f'{results.metric}_mean']:.4g}."
    ]


def _amount(value: float, column: Column) -> str:
    if column.fraction:
        return f"{100 * value:.3g} points"
    # A metric may have a unit; that of other columns, such as bytes, is in their name.
    return f"{value:.3g} {column.unit if column.origin == 'task' and column.unit != 'nats' else ''}".rstrip()


def _the_best(results: Results, rows: Sequence[TrialRow], confidence: float) -> list[str]:
    # By the same correction for all comparisons as the verdicts.
    leader = best(results, confidence)
    if leader.index is None:
        return ["No point finished with all its seeds: there is no best one."]
    names = [axis.name for axis in results.axes]
    row = rows[leader.index]
    mean, sd = row[f"{results.metric}_mean"], row[f"{results.metric}_sd"]
    spread = "" if sd is None else f", sd {sd:.2g}"
    text = (
        f"The best mean {results.metric} is {mean:.4g} ({label({k: row[k] for k in names})}; n {row['n']}{spread})"
    )
    if leader.compared == 1:
        return [f"{text}: the only point that finished with all its seeds."]
    # The best mean is often a lucky one: the points that it cannot be distinguished from matter as much.
    alike = len(leader.alike) - 1
    if alike:
        shown = [label({k: rows[index][k] for k in names}) for index in leader.alike[1:4]]
        others = f" and {alike - len(shown)} more" if alike > len(shown) else ""
        plural = "" if alike == 1 else "s"
        return [f"{text}; {alike} other point{plural} cannot be distinguished from it: {'; '.join(shown)}{others}."]
    return [f"{text}, better than {'the other one' if leader.compared == 2 else 'each of the others'}."]


def _diverged(results: Results, rows: Sequence[TrialRow]) -> list[str]:
    lost = sum(row["diverged"] for row in rows)
    if not lost:
        return []
    points = sum(row["diverged"] > 0 for row in rows)
    return [
        f"{lost} of {len(results.trials)} trials diverged, in {points} of {len(rows)} points. Their means are "
        "over the seeds that finished, and are called neither better nor worse."
    ]
