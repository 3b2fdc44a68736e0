"""The pruning protocol: enough ratios, the baselines, size and FLOPs both (ShrinkBench's advice)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopt.ablate.findings import few_seeds
from jopt.ablate.paired import Comparison, compare, resolution, verdict
from jopt.ablate.results import Results, Row
from jopt.ablate.summary import HIGHER_IS_BETTER, by_seed, control_of, grouped, summarize, values_of
from jopt.config import require

LEAST_RATIOS = 5
BASELINES = ("random", "magnitude")
TOO_COARSE = 0.05
"""Of an accuracy: seeds that could miss a larger loss than this cannot tell what is kept."""

DENSE = "dense"


class Setting(NamedTuple):
    """How a point prunes.

    Attributes:
      sparsity: what is asked for, in [0, 1); 0 is the dense model.
      score: one of `jopt.prune.SCORES`; None where nothing is pruned.
    """

    sparsity: float
    score: str | None


def setting_of(experiment: Any) -> Setting:
    """How an experiment prunes: what the last of its stages that prunes says.

    Args:
      experiment: a `jopt.train.Experiment`.
    """
    for stage in reversed(experiment.stages):
        for method in stage.methods:
            if method.name == "prune":
                return _of_config(method)
    return Setting(0.0, None)


def setting_from(fields: Mapping[str, Any]) -> Setting:
    """How a point prunes, by the config fields that the grid sets; of several stages the last one counts.

    Args:
      fields: dotted path to value: `Point.fields`, or one of `Results.overrides`.

    Example:
      >>> setting_from({"stages[0].prune.sparsity": 0.9, "stages[0].prune.score": "random", "epochs": 3})
      Setting(sparsity=0.9, score='random')
    """
    found = Setting(0.0, None)
    for path, value in sorted(fields.items(), key=lambda item: item[0].count(".")):
        if path.endswith(".prune"):
            found = Setting(0.0, None) if value is None else _of_config(value)
        elif path.endswith("prune.sparsity"):
            found = found._replace(sparsity=float(value))
        elif path.endswith("prune.score"):
            found = found._replace(score=value)
    return found


def check_pruning(
    points: Sequence[Mapping[str, Any]], settings: Sequence[Setting], control: Mapping[str, Any] | None
) -> None:
    """Checks, before anything runs, that a grid can show what a pruning method is worth.

    Args:
      points: of the grid, axis name to value.
      settings: how each of them prunes.
      control: the point, or the values, that the others are compared with.

    Raises:
      ConfigError: without a dense point, with another control than a dense one, without the scores 'random' and
        'magnitude', or with fewer than five sparsities of a score.

    Reference:
      Blalock, Gonzalez Ortiz, Frankle and Guttag 2020, section 6.

    Example:
      >>> check_pruning([{"sparsity": 0.9}], [Setting(0.9, "magnitude")], None)
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: control must be the dense point, ... got None
    """
    dense = [point for point, own in zip(points, settings, strict=True) if own.sparsity == 0]
    accepted = "the dense point, of sparsity 0 or without pruning: the protocol 'pruning' compares with it"
    require(bool(control), "control", control, accepted)
    own = [p for p in points if all(p.get(name) == value for name, value in (control or {}).items())]
    require(bool(own) and all(point in dense for point in own), "control", control, accepted)
    ratios: dict[str, set[float]] = {}
    for sparsity, score in settings:
        if sparsity > 0:
            ratios.setdefault(str(score), set()).add(sparsity)
    for score in BASELINES:
        require(
            score in ratios, "prune.score", sorted(ratios), f"among others {score!r}, which the rest has to beat"
        )
    for score, found in ratios.items():
        accepted = f"at least {LEAST_RATIOS} ratios besides the dense one, for the score {score!r} too"
        require(len(found) >= LEAST_RATIOS, "prune.sparsity", sorted(found), accepted)


def pruning(
    results: Results, settings: Sequence[Setting] | None = None, confidence: float = 0.95
) -> tuple[list[Row], list[str]]:
    """Accuracy, size and FLOPs by score and ratio, against the dense control and against random pruning.

    Args:
      results: of the ablation; its control is the dense point.
      settings: how each of `results.points()` prunes; None: what `results.overrides` say.
      confidence: of the intervals.

    Returns:
      A row a point, and sentences. A row has the axes that are not of pruning, `score` ('dense' for the control),
      `sparsity` (asked for), `n`, the metric's `_mean`, `_sd`, `_low`, `_high`, the comparison with the control,
      `theoretical_bytes`, `compression_ratio` (the control's bytes over these), `effective_flops`,
      `theoretical_speedup` (the control's over these), and the comparison with random pruning at the same ratio:
      `random_difference`, `random_low` and `random_high` (adjusted for all such comparisons), `random_verdict`.

    Raises:
      ConfigError: as `check_pruning`.

    Reference:
      Blalock et al. 2020, section 6: compression ratio and theoretical speed-up.
    """
    points, trials = results.points(), grouped(results)
    if settings is None:
        settings = [setting_from(results.overrides[rows[0]["trial"]]) for rows in trials]
    check_pruning(points, settings, results.control)
    others = [axis.name for axis in results.axes if not _of_pruning(axis.fields)]
    keys = [tuple(point[name] for name in others) for point in points]
    summary, controls = summarize(results, confidence), control_of(results)
    places = {(key, own): index for index, (key, own) in enumerate(zip(keys, settings, strict=True))}
    pairs = {}
    for index, (key, own) in enumerate(zip(keys, settings, strict=True)):
        if own.sparsity > 0 and own.score != "random":
            pairs[index] = places.get((key, own._replace(score="random")))
    pairs = {index: random for index, random in pairs.items() if random is not None}
    step = resolution(values_of(results, results.metric))
    rows, seen = [], set()
    for index, (own, row) in enumerate(zip(settings, summary, strict=True)):
        name = own.score if own.sparsity > 0 else DENSE
        # A product of sparsities and scores holds the dense model once a score.
        if own.sparsity == 0 and (keys[index], name) in seen:
            continue
        seen.add((keys[index], name))
        place = controls[index]
        control = None if place is None else summary[place]
        found = None
        if index in pairs:
            values, random = (by_seed(trials[i], results.metric) for i in (index, pairs[index]))
            seeds = [seed for seed in values if seed in random]
            pair = ([part[seed] for seed in seeds] for part in (values, random))
            found = compare(*pair, confidence=confidence, comparisons=len(pairs), resolution=step)
        whole = index in pairs and not row["diverged"] and not summary[pairs[index]]["diverged"]
        rows.append(
            dict(zip(others, keys[index], strict=True))
            | {"score": name, "sparsity": own.sparsity}
            | _accuracy(row, results.metric)
            | _costs(row, control)
            | _against_random(found, results.metric in HIGHER_IS_BETTER, whole)
            | {"flags": row["flags"]}
        )
    return rows, _sentences(rows, results.metric, confidence)


def _of_config(config: Any) -> Setting:
    sparsity = 1 - config.n / config.m if config.pattern == "nm" else config.sparsity
    return Setting(float(sparsity), config.score)


def _of_pruning(fields: Sequence[str]) -> bool:
    return any(path.endswith((".prune", "prune.sparsity", "prune.score")) for path in fields)


def _accuracy(row: Row, metric: str) -> Row:
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


def _costs(row: Row, control: Row | None) -> Row:
    out: Row = {}
    for name, ratio in (("theoretical_bytes", "compression_ratio"), ("effective_flops", "theoretical_speedup")):
        own, whole = row[f"{name}_mean"], None if control is None else control[f"{name}_mean"]
        out |= {name: own, ratio: whole / own if own and whole is not None else None}
    return out


def _against_random(found: Comparison | None, higher: bool, whole: bool) -> Row:
    names = ("random_difference", "random_low", "random_high", "random_verdict")
    if found is None or found.n < 2:
        return dict.fromkeys(names)
    judged = verdict(found, higher) if whole else "diverged"
    return dict(zip(names, (found.difference, found.adjusted.low, found.adjusted.high, judged), strict=True))


def _sentences(rows: Sequence[Row], metric: str, confidence: float) -> list[str]:
    out = [
        "Sizes and FLOPs are theoretical: bytes of a code of fixed width, and products of weights that are not "
        "zero. Neither is a measured file or time."
    ]
    for score in dict.fromkeys(row["score"] for row in rows if row["score"] != DENSE):
        own = [row for row in rows if row["score"] == score]
        out += _kept_sentence(score, own, metric)
        if all(row["verdict"] == "worse" for row in own):
            out.append(f"{score}: worse than dense at each of its {len(own)} sparsities.")
        if score != "random":
            out += _random_sentence(score, own)
    return out + few_seeds([row["n"] for row in rows], confidence)


def _kept_sentence(score: str, rows: Sequence[Row], metric: str) -> list[str]:
    """Up to where nothing is shown to be lost, if so many seeds could have shown it.

    A sparsity counts only if all smaller ones do, too: else noise would be rewarded, which hides a loss.
    """
    kept: list[Row] = []
    for sparsity in sorted({row["sparsity"] for row in rows}):
        level = [row for row in rows if row["sparsity"] == sparsity]
        if any(row["verdict"] not in ("better", "undecided") for row in level):
            break
        stated = [row for row in level if row["detectable"] is not None]
        if len(stated) == len(level):
            kept.append(max(stated, key=lambda row: row["detectable"]))
    if not kept:
        return []
    most = kept[-1]
    fraction = metric.endswith("accuracy")
    missed = f"{100 * most['detectable']:.3g} points" if fraction else f"{most['detectable']:.3g}"
    change = (
        f"a {'loss' if metric in HIGHER_IS_BETTER else 'rise'} of {metric} below {missed} could have been missed"
    )
    if fraction and most["detectable"] > TOO_COARSE:
        return [f"{score}: the seeds are too few to tell up to which sparsity it is as good as dense; at "
                f"{most['sparsity']:g} {change}."]  # fmt: skip
    return [
        f"{score}: the largest sparsity at which, and below which, it is not shown to be worse than dense is "
        f"{most['sparsity']:g}{_cost(most)}; there {change}."
    ]


def _random_sentence(score: str, rows: Sequence[Row]) -> list[str]:
    judged = [row for row in rows if row["random_verdict"] is not None]
    if not judged:
        return []
    better, worse = ([r["sparsity"] for r in judged if r["random_verdict"] == name] for name in ("better", "worse"))
    text = f"{score}: better than random pruning at {len(better)} of {len(judged)} ratios"
    text += f" ({', '.join(f'{x:g}' for x in better)})" if better else ""
    text += f", worse at {', '.join(f'{x:g}' for x in worse)}" if worse else ""
    open_ = [row for row in judged if row["random_verdict"] == "undecided"]
    text += f", undecided at {len(open_)}" if open_ else ""
    left = len(judged) - len(better) - len(worse) - len(open_)
    return [f"{text}, not judged at {left}." if left else f"{text}."]


def _cost(row: Row) -> str:
    parts = [
        f"{row[name]:.3g} times {what}"
        for name, what in (("compression_ratio", "smaller"), ("theoretical_speedup", "fewer FLOPs"))
        if row[name] is not None
    ]
    return f" ({', '.join(parts)})" if parts else ""
