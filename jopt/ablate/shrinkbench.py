"""The pruning protocol: enough sparsities, both baselines, size and FLOPs together (ShrinkBench's advice)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopt.ablate.findings import few_seeds
from jopt.ablate.paired import Comparison, compare, resolution, verdict
from jopt.ablate.results import Results, TrialRow
from jopt.ablate.space import Value
from jopt.ablate.summary import control_of, grouped, paired_values, summarize, values_of
from jopt.config import require
from jopt.measure import Column
from jopt.train.config import Experiment

LEAST_RATIOS = 5
BASELINES = ("random", "magnitude")
TOO_COARSE = 0.05
"""Of a share: seeds that could miss a larger loss cannot show up to which sparsity an accuracy is kept."""

DENSE = "dense"


class Setting(NamedTuple):
    """How a point prunes.

    Attributes:
      sparsity: the target, in [0, 1); 0 is the dense model.
      score: one of `jopt.prune.SCORES`; None if nothing is pruned.
    """

    sparsity: float
    score: str | None


def setting_of(experiment: Experiment) -> Setting:
    """How an experiment prunes: the setting of its last stage that prunes.

    Args:
      experiment: of a trial.
    """
    # The last one decides the model that is evaluated.
    for stage in reversed(experiment.stages):
        for method in stage.methods:
            if method.name == "prune":
                return _setting(method)
    return Setting(0.0, None)


def setting_from(fields: Mapping[str, Any]) -> Setting:
    """How a point prunes, by the config fields that the grid sets; the last of several stages counts.

    Args:
      fields: dotted path to value: `Point.fields`, or one of `Results.overrides`.

    Example:
      >>> setting_from({"stages[0].prune.sparsity": 0.9, "stages[0].prune.score": "random", "epochs": 3})
      Setting(sparsity=0.9, score='random')
    """
    setting = Setting(0.0, None)
    # A whole config before its fields, in whichever order the grid names them.
    for path, value in sorted(fields.items(), key=lambda item: item[0].count(".")):
        if path.endswith(".prune"):
            setting = Setting(0.0, None) if value is None else _setting(value)
        elif path.endswith("prune.sparsity"):
            setting = setting._replace(sparsity=float(value))
        elif path.endswith("prune.score"):
            setting = setting._replace(score=value)
    return setting


def check_pruning(
    points: Sequence[Mapping[str, Value]], settings: Sequence[Setting], control: Mapping[str, Value] | None
) -> None:
    """Checks, before anything runs, that a grid can show what a pruning method is worth.

    Args:
      points: of the grid, axis name to value.
      settings: how each point prunes.
      control: the point, or the values, that the others are compared with.

    Raises:
      ConfigError: without a dense point, for a control that is not dense, without the scores 'random' and
        'magnitude', or for fewer than five sparsities of a score.

    Reference:
      Blalock, Gonzalez Ortiz, Frankle and Guttag 2020, section 6.

    Example:
      >>> check_pruning([{"sparsity": 0.9}], [Setting(0.9, "magnitude")], None)
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: control must be the dense point, ... got None
    """
    dense = [point for point, setting in zip(points, settings, strict=True) if setting.sparsity == 0]
    accepted = "the dense point, of sparsity 0 or without pruning: the protocol 'pruning' compares with it"
    require(bool(control), "control", control, accepted)
    # Every point that the control matches must be dense, or some would be compared with a pruned model.
    controls = [p for p in points if all(p.get(name) == value for name, value in (control or {}).items())]
    require(bool(controls) and all(point in dense for point in controls), "control", control, accepted)
    sparsities: dict[str, set[float]] = {}
    for sparsity, score in settings:
        if sparsity > 0:
            sparsities.setdefault(str(score), set()).add(sparsity)
    for score in BASELINES:
        require(
            score in sparsities, "prune.score", sorted(sparsities), f"scores that include {score!r}, a baseline"
        )
    for score, tried in sparsities.items():
        accepted = f"at least {LEAST_RATIOS} sparsities above 0 for the score {score!r}"
        require(len(tried) >= LEAST_RATIOS, "prune.sparsity", sorted(tried), accepted)


def pruning_protocol_table(
    results: Results, settings: Sequence[Setting] | None = None, confidence: float = 0.95
) -> tuple[list[TrialRow], list[str]]:
    """The metric, size and FLOPs by score and sparsity, against the dense control and against random pruning.

    Args:
      results: of the ablation; its control is the dense point.
      settings: how each of `results.points()` prunes; None: as `results.overrides` say.
      confidence: of the intervals.

    Returns:
      One row per point, and sentences. A row has the axes that are not about pruning, `score` ('dense' for the
      control), `sparsity` (the target), `n`, the metric's `_mean`, `_sd`, `_low`, `_high`, the comparison with the
      control, `theoretical_bytes`, `compression_ratio` (the control's bytes over these), `effective_flops`,
      `theoretical_speedup` (the control's FLOPs over these), and the comparison with random pruning at the same
      sparsity: `random_difference`, `random_low` and `random_high` (adjusted for all such comparisons),
      `random_verdict`.

    Raises:
      ConfigError: as `check_pruning`.

    Reference:
      Blalock et al. 2020, section 6: compression ratio and theoretical speed-up.
    """
    points, trials = results.points(), grouped(results)
    if settings is None:
        settings = [setting_from(results.overrides[rows[0]["trial"]]) for rows in trials]
    check_pruning(points, settings, results.control)
    names = [axis.name for axis in results.axes if not _is_pruning_axis(axis.fields)]
    keys = [tuple(point[name] for name in names) for point in points]
    summary, controls = summarize(results, confidence), control_of(results)
    index_of = {(key, setting): index for index, (key, setting) in enumerate(zip(keys, settings, strict=True))}
    # The point that differs in the score alone; without one, nothing is said about random pruning.
    random_of = {
        index: index_of[baseline]
        for index, (key, setting) in enumerate(zip(keys, settings, strict=True))
        if setting.sparsity > 0 and setting.score != "random"
        if (baseline := (key, setting._replace(score="random"))) in index_of
    }
    step = resolution(values_of(results, results.metric))
    rows, dense_rows = [], set()
    for index, (key, setting, row) in enumerate(zip(keys, settings, summary, strict=True)):
        # A product of sparsities and scores repeats the dense model once for each score.
        if setting.sparsity == 0 and key in dense_rows:
            continue
        # Other axes, such as the optimizer, have a dense model each.
        if setting.sparsity == 0:
            dense_rows.add(key)
        control, random = controls[index], random_of.get(index)
        comparison, complete = None, False
        if random is not None:
            pair = paired_values(trials[index], trials[random], results.metric)
            comparison = compare(*pair, confidence=confidence, comparisons=len(random_of), resolution=step)
            # The seeds that remain after a divergence favour the point: no verdict from them.
            complete = not row["diverged"] and not summary[random]["diverged"]
        rows.append(
            dict(zip(names, key, strict=True))
            | {"score": setting.score if setting.sparsity > 0 else DENSE, "sparsity": setting.sparsity}
            | _metric_columns(row, results.metric)
            | _cost_columns(row, None if control is None else summary[control])
            | _random_columns(comparison, results.decisive.better == "higher", complete)
            | {"flags": row["flags"]}
        )
    return rows, _sentences(rows, results.decisive, confidence)


def _setting(config: Any) -> Setting:
    # N of every M weights have a sparsity of their own; RigL and SET drop by magnitude.
    sparsity = config.sparsity if hasattr(config, "sparsity") else 1 - config.n / config.m
    return Setting(float(sparsity), getattr(config, "score", "magnitude"))


def _is_pruning_axis(fields: Sequence[str]) -> bool:
    return any(path.endswith((".prune", "prune.sparsity", "prune.score")) for path in fields)


def _metric_columns(row: TrialRow, metric: str) -> TrialRow:
    names = [f"{metric}_{part}" for part in ("mean", "sd", "low", "high")]
    names += [
        "difference",
        "difference_low_adjusted",
        "difference_high_adjusted",
        "p_holm",
        "detectable",
        "verdict",
    ]
    return {name: row[name] for name in ("n", "diverged", *names)}


def _cost_columns(row: TrialRow, control: TrialRow | None) -> TrialRow:
    costs: TrialRow = {}
    for name, ratio in (("theoretical_bytes", "compression_ratio"), ("effective_flops", "theoretical_speedup")):
        # A cost of 0 (all weights pruned) has no finite ratio.
        cost, dense = row[f"{name}_mean"], None if control is None else control[f"{name}_mean"]
        costs |= {name: cost, ratio: dense / cost if cost and dense is not None else None}
    return costs


def _random_columns(comparison: Comparison | None, higher: bool, complete: bool) -> TrialRow:
    names = ("random_difference", "random_low", "random_high", "random_verdict")
    if comparison is None or comparison.n < 2:
        return dict.fromkeys(names)
    judged = verdict(comparison, higher) if complete else "diverged"
    return dict(zip(names, (comparison.difference, *comparison.adjusted, judged), strict=True))


def _sentences(rows: Sequence[TrialRow], metric: Column, confidence: float) -> list[str]:
    text = [
        "Sizes and FLOPs are theoretical: bytes of a fixed-width code, and multiplications by nonzero weights. "
        "Neither is a measured file or time."
    ]
    for score in dict.fromkeys(row["score"] for row in rows if row["score"] != DENSE):
        of_score = [row for row in rows if row["score"] == score]
        text += _largest_sparsity_sentence(score, of_score, metric)
        if all(row["verdict"] == "worse" for row in of_score):
            text.append(f"{score}: worse than dense at each of its {len(of_score)} sparsities.")
        if score != "random":
            text += _random_sentence(score, of_score)
    return text + few_seeds([row["n"] for row in rows], confidence)


def _largest_sparsity_sentence(score: str, rows: Sequence[TrialRow], metric: Column) -> list[str]:
    """The largest sparsity up to which no loss is shown, if that many seeds could have shown one.

    A sparsity counts only if all smaller ones do. Otherwise noise would win: a collapsed point whose seeds scatter
    widely is undecided.
    """
    equal: list[TrialRow] = []
    for sparsity in sorted({row["sparsity"] for row in rows}):
        level = [row for row in rows if row["sparsity"] == sparsity]
        # A sparsity may have several points, of other axes; all of them must hold.
        if any(row["verdict"] not in ("better", "undecided") for row in level):
            break
        stated = [row for row in level if row["detectable"] is not None]
        if len(stated) == len(level):
            equal.append(max(stated, key=lambda row: row["detectable"]))
    if not equal:
        return []
    largest = equal[-1]
    is_share = metric.fraction
    missed = f"{100 * largest['detectable']:.3g} points" if is_share else f"{largest['detectable']:.3g}"
    change = (
        f"a {'loss' if metric.better == 'higher' else 'rise'} of {metric.key} below {missed} could have been missed"
    )
    # Undecided at such a resolution is no evidence that the metric was kept.
    if is_share and largest["detectable"] > TOO_COARSE:
        return [f"{score}: the seeds are too few to show up to which sparsity it is as good as dense; at "
                f"{largest['sparsity']:g} {change}."]  # fmt: skip
    return [
        f"{score}: up to sparsity {largest['sparsity']:g}{_savings(largest)} it is not shown to be worse than "
        f"dense; there {change}."
    ]


def _random_sentence(score: str, rows: Sequence[TrialRow]) -> list[str]:
    judged = [row for row in rows if row["random_verdict"] is not None]
    if not judged:
        return []
    better, worse, undecided = (
        [row["sparsity"] for row in judged if row["random_verdict"] == name]
        for name in ("better", "worse", "undecided")
    )
    text = f"{score}: better than random pruning at {len(better)} of {len(judged)} sparsities"
    text += f" ({', '.join(f'{x:g}' for x in better)})" if better else ""
    text += f", worse at {', '.join(f'{x:g}' for x in worse)}" if worse else ""
    text += f", undecided at {len(undecided)}" if undecided else ""
    others = len(judged) - len(better) - len(worse) - len(undecided)
    return [f"{text}, not judged at {others}." if others else f"{text}."]


def _savings(row: TrialRow) -> str:
    parts = [
        f"{row[name]:.3g} times {saving}"
        for name, saving in (("compression_ratio", "smaller"), ("theoretical_speedup", "fewer FLOPs"))
        if row[name] is not None
    ]
    return f" ({', '.join(parts)})" if parts else ""
