"""Whether a quantized form of a model is faster than its float32 form on this machine, and what to recommend.

Measuring (`measure`) and judging (`advise`) are separate: the judgement is a pure function of the measurements.
"""

import importlib.metadata
import importlib.util
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jopt.measure import CLASSIFIER
from jopt.task import Metric
from jopt.train.manifest import processor

BATCHES = (1, 64)
ROUNDS = 7
HOLDS = 0.99
"""Of the float32 form's metric, what a form must keep to be recommended: the usual quality target of MLPerf
Inference (Reddi et al., 2020, "MLPerf Inference Benchmark")."""
ACCURACY = CLASSIFIER.deciding
_ROUND_SECONDS = 0.02
_FORM_SECONDS = 2.0  # of a form at one batch size, where a single call is long; three rounds in any case


class Form(NamedTuple):
    """A file of the model.

    Attributes:
      name: the file's.
      bytes: its length.
      value: the metric on the test part.
    """

    name: str
    bytes: int
    value: float


class Calls(NamedTuple):
    """Times of one batch size.

    Attributes:
      batch: examples in a call.
      seconds: by file, of a call in each round; the files took turns, so the rounds of one file belong to those of
        another.
    """

    batch: int
    seconds: Mapping[str, Sequence[float]]


class Measurement(NamedTuple):
    """What was measured, and where.

    Attributes:
      calls: for each batch size.
      runtime: name and version of what ran the files.
      machine: the processor and its cores.
      threads: of an operation.
      date: of the measurement, such as '2026-11-30'.
    """

    calls: Sequence[Calls]
    runtime: str
    machine: str
    threads: int
    date: str


class Speed(NamedTuple):
    """A quantized form against float32 at one batch size: how many times as fast it is.

    Attributes:
      form: the quantized form.
      batch: examples in a call.
      median: over the rounds, of the float32 form's time over this form's.
      p10: nine of ten rounds reached this.
    """

    form: str
    batch: int
    median: float
    p10: float

    @property
    def faster(self) -> bool:
        """Whether it is faster than float32 beyond the noise of the rounds."""
        return self.p10 > 1


class Advice(NamedTuple):
    """The judgement.

    Attributes:
      fastest: by batch size, the file to take for speed: a quantized one only if it measured faster than float32.
      speeds: of every quantized form at every batch size.
      sentences: about each quantized form.
      recommendation: one sentence, or two.
    """

    fastest: dict[int, str]
    speeds: list[Speed]
    sentences: list[str]
    recommendation: str


class Report(NamedTuple):
    """What the model card says about speed.

    Attributes:
      measurement: None where nothing was measured.
      advice: of the measurement.
      reason: why nothing was measured.
    """

    measurement: Measurement | None = None
    advice: Advice | None = None
    reason: str = ""

    @property
    def recommendation(self) -> str:
        """The advice in a sentence; without a measurement nothing is recommended."""
        if self.advice is not None:
            return self.advice.recommendation
        return f"The quantized forms were not timed, because {self.reason}: nothing is recommended for speed."


Timer = Callable[[Mapping[str, Path], np.ndarray, Sequence[int]], Measurement | None]
"""`(files by name, examples, batch sizes)` to the measurement, or None where the runtime is not installed."""


def report(
    measurement: Measurement | None, floating: Form, quantized: Sequence[Form], metric: Metric = ACCURACY
) -> Report:
    """A measurement with what follows from it; None: ONNX Runtime is not installed."""
    if measurement is None:
        return Report(reason="onnxruntime is not installed")
    return Report(measurement, advise(floating, quantized, measurement.calls, metric))


def advise(floating: Form, quantized: Sequence[Form], calls: Sequence[Calls], metric: Metric = ACCURACY) -> Advice:
    """What to recommend, given the measurements.

    A quantized form is recommended at a batch size only if at least nine of ten rounds were faster than float32 and
    it keeps `HOLDS` of float32's metric (of one of which less is better, it may be as much larger); of several, the
    one of the smallest median time.

    Args:
      floating: the float32 form.
      quantized: the others.
      calls: times of all of them, at least one batch size.
      metric: of the forms.

    Example:
      >>> calls = [Calls(64, {"float.onnx": [2.0, 2.0], "quantized.onnx": [4.0, 4.0]})]
      >>> advice = advise(Form("float.onnx", 400, 0.9), [Form("quantized.onnx", 100, 0.9)], calls)
      >>> advice.sentences
      ['quantized.onnx: slower than float32 here: 0.50 times at batch 64; smaller by 4.0.']
      >>> advice.recommendation
      'For speed on this machine take float.onnx: no quantized form measured faster.'
    """
    by_form = {form.name: [_speed(form.name, floating.name, entry) for entry in calls] for form in quantized}
    fastest = {}
    for i, entry in enumerate(calls):
        candidates = [
            form.name for form in quantized if by_form[form.name][i].faster and _holds(form, floating, metric)
        ]
        times = {name: float(np.median(entry.seconds[name])) for name in candidates}
        fastest[entry.batch] = min(times, key=times.__getitem__, default=floating.name)
    return Advice(
        fastest,
        [speed for speeds in by_form.values() for speed in speeds],
        [_sentence(form, floating, by_form[form.name], metric) for form in quantized],
        _recommendation(floating, fastest, by_form, metric),
    )


def _holds(form: Form, floating: Form, metric: Metric) -> bool:
    if metric.better == "higher" and floating.value >= 0:
        return form.value >= HOLDS * floating.value
    worse = (form.value - floating.value) * (1 if metric.better == "lower" else -1)
    return worse <= (1 - HOLDS) * abs(floating.value)


def _speed(form: str, floating: str, calls: Calls) -> Speed:
    # Round by round: times one right after the other share the machine's state.
    ratios = np.divide(calls.seconds[floating], calls.seconds[form])
    return Speed(form, calls.batch, float(np.median(ratios)), float(np.quantile(ratios, 0.1)))


def _sentence(form: Form, floating: Form, speeds: Sequence[Speed], metric: Metric) -> str:
    groups = {
        "slower than float32 here": [s for s in speeds if not s.faster and s.median < 1],
        "no faster than float32 here": [s for s in speeds if not s.faster and s.median >= 1],
        "faster than float32 here": [s for s in speeds if s.faster],
    }
    parts = [f"{words}: {_times(group)}" for words, group in groups.items() if group]
    ratio = floating.bytes / form.bytes
    parts.append(f"smaller by {ratio:.1f}" if ratio > 1 else "not smaller")
    if not _holds(form, floating, metric):
        scale, unit = (100, "%") if metric.format == "percent" else (1, metric.unit)
        ours, theirs = (f"{scale * v:.4g} {unit}".rstrip() for v in (form.value, floating.value))
        parts.append(f"its {metric.label} is {ours}, float32's {theirs}")
    return f"{form.name}: {'; '.join(parts)}."


def _times(speeds: Sequence[Speed]) -> str:
    return ", ".join(f"{speed.median:.2f} times at batch {speed.batch}" for speed in speeds)


def _recommendation(
    floating: Form, fastest: Mapping[int, str], by_form: Mapping[str, Sequence[Speed]], metric: Metric
) -> str:
    batches: dict[str, list[int]] = {}
    for batch, name in fastest.items():
        batches.setdefault(name, []).append(batch)
    if list(batches) == [floating.name]:
        # A form may be faster and still not be recommended, for its metric.
        wrong = any(speed.faster for speeds in by_form.values() for speed in speeds)
        reason = f"whose {metric.label} holds measured faster" if wrong else "measured faster"
        return f"For speed on this machine take {floating.name}: no quantized form {reason}."
    choices = []
    for name, sizes in batches.items():
        speeds = [speed for speed in by_form.get(name, ()) if speed.batch in sizes]
        if speeds:
            choices.append(f"{name} ({_times(speeds)})")
        else:
            choices.append(f"{name} at batch {' and '.join(map(str, sizes))}")
    return f"For speed on this machine take {', and '.join(choices)}."


def measure(
    files: Mapping[str, Path],
    examples: np.ndarray,
    batches: Sequence[int] = BATCHES,
    *,
    rounds: int = ROUNDS,
    seconds: float = _ROUND_SECONDS,
) -> Measurement | None:
    """Times ONNX files in ONNX Runtime, in turn in this process, with a thread on each core.

    Args:
      files: by name.
      examples: [n, ...], inputs of the files, of their dtype; repeated where a batch is larger.
      batches: batch sizes.
      rounds: in each of which every file is called for `seconds`; fewer, but three, where calls are long.
      seconds: of a round; at least one call.

    Returns:
      The times, or None where onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    from jopt.export import onnx

    # Said to the sessions, so that what the card says is what ran.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sessions = {name: onnx.session(path, threads=cores) for name, path in files.items()}

    def calls(batch: int) -> Calls:
        x = np.asarray(examples)[np.arange(batch) % len(examples)]
        work = {name: lambda s=session: s.run(None, {onnx.INPUT: x}) for name, session in sessions.items()}
        return Calls(batch, _in_turn(work, rounds, seconds))

    return Measurement(
        [calls(batch) for batch in batches],
        f"ONNX Runtime {importlib.metadata.version('onnxruntime')}",
        f"{processor()}, {cores} {'core' if cores == 1 else 'cores'}",
        cores,
        datetime.now(UTC).date().isoformat(),
    )


def _in_turn(work: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of a call of each, in each round."""
    calls, longest = {}, 0.0
    for name, call in work.items():
        call()  # The first allocates memory.
        start = time.perf_counter()
        call()
        once = max(time.perf_counter() - start, 1e-9)
        calls[name], longest = max(1, math.ceil(seconds / once)), max(longest, once)
    rounds = min(rounds, max(3, int(_FORM_SECONDS / max(seconds, longest))))
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            # Threads of the file before this one spin for a moment after its last call.
            call()
            start = time.perf_counter()
            for _ in range(calls[name]):
                call()
            times[name].append((time.perf_counter() - start) / calls[name])
    return times
