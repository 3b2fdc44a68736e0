"""Suite `ablate`: a grid as one program against a launch for each trial, a compilation for each, and PyTorch."""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks.ablation_process import apart
from experiments.benchmarks.ablation_steps import DEVICES, StepsRow, steps
from experiments.benchmarks.startup import ROOT
from experiments.benchmarks.timing import Ratio, Spread, ratio, spread
from jopt.ablate import Ablation
from jopt.ablate.plan import Loader
from jopt.ablate.table import read_csv
from jopt.ablate.trials import Trial, trials
from jopt.train import Compiler, Prepared, compression
from jopt.train.loop import run_segments
from jopt.train.program import Program

GRID = "experiments.ablate, cold cache"
WARM = "experiments.train once a trial, warm cache"
COLD = "experiments.train once a trial, cold cache"
LOOP = "one process, compiled once a trial"
CONFIG = "configs/ablations/sparsity_by_bits.py"
# Against launches that find everything compiled: the stricter one of the two.
TARGETS = {WARM: 20.0, LOOP: 5.0}


class Whole(NamedTuple):
    """A whole grid.

    Attributes:
      config: its config file.
      trials: how many it has.
      sample: how many of them the alternatives ran; their times are those of a trial, times `trials`.
      compilations: of the loop, in each trial.
      seconds: of the whole grid, by contender.
      ratios: of each alternative to the grid's one process.
      accuracy_difference: the largest difference between the test accuracy of a trial in the grid and that of the
        same trial run by an alternative.
    """

    config: str
    trials: int
    sample: int
    compilations: int
    seconds: dict[str, Spread]
    ratios: list[Ratio]
    accuracy_difference: float


class Ablate(NamedTuple):
    """Suite `ablate`: whole grids, and steps of a trial."""

    whole: Whole
    steps: list[StepsRow]


class Run(NamedTuple):
    """One trial, run alone: seconds, test accuracy, and how many programs were compiled."""

    seconds: float
    accuracy: float
    compilations: int


def ablate(
    rounds: int, seconds: float, torch: bool = True, *, sample: int = 5, grids: int = 2, config: str = CONFIG
) -> Ablate:
    """Measures both parts.

    Args:
      rounds: of the contenders of `steps`.
      seconds: for how long each of them works in a round, about.
      torch: whether PyTorch takes part.
      sample: see `whole`.
      grids: see `whole`.
      config: see `whole`.

    Raises:
      MissingTorchError: if PyTorch should take part and is not installed.
      RuntimeError: if a process fails, with what it wrote.
    """
    # First the shorter part, which ends at once where there is no PyTorch.
    found = apart(steps, rounds, seconds, torch, devices=DEVICES)
    return Ablate(whole(config, sample, grids), found)


def whole(config: str, sample: int, grids: int) -> Whole:
    """Runs the grid in a fresh process several times, with a sample of its trials between, by either alternative.

    The grid's time is that of its process, from launch to end, with an empty compilation cache each time. Of the
    launches the first finds an empty cache and the later ones what it left. The loop's time is that of training and
    evaluation, compilation included, import, data and initialization not.

    Args:
      config: the config file of an Ablation whose trials have one stage.
      sample: how many trials, at least 2, spread over the grid.
      grids: how often the grid is run.

    Raises:
      RuntimeError: if a process fails, with what it wrote.
    """
    every = trials(load(config))
    chosen = spread_over(every, sample)
    grid: list[float] = []
    launched: dict[str, Run] = {}
    looped: dict[str, Run] = {}
    with tempfile.TemporaryDirectory(prefix="jopt-benchmark-") as name:
        scratch = Path(name)
        for turn in range(grids):
            directory = scratch / f"grid{turn}"
            grid.append(_launch("ablate", config, directory, scratch / f"cache{turn}"))
            mine = [trial.id for trial in chosen[turn::grids]]
            for trial in mine:
                own = scratch / trial
                taken = _launch("train", config, own, scratch / "cache", f"--trial={trial}")
                launched[trial] = Run(taken, _accuracy(own), 0)
            looped |= apart(compiled_each, config, mine, devices=1)
        there = {row["trial"]: row["accuracy"] for row in read_csv(scratch / "grid0" / "trials.csv", ("trial",))}
    return summed(config, len(every), np.array(grid), launched, looped, there)


def summed(
    config: str,
    count: int,
    grid: np.ndarray,
    launched: Mapping[str, Run],
    looped: Mapping[str, Run],
    there: Mapping[str, float],
) -> Whole:
    """Scales the sample to the grid, and compares each of its trials with each run of the grid.

    Args:
      config: of the grid.
      count: its trials.
      grid: seconds of each run of it.
      launched: trial to its launch, in order; only the first found an empty cache.
      looped: trial to its run in the loop.
      there: trial to its test accuracy in the grid.
    """
    alone = [run.seconds for run in launched.values()]
    scaled = {WARM: alone[1:], COLD: alone[:1], LOOP: [run.seconds for run in looped.values()]}
    times = {name: count * np.array(values) for name, values in scaled.items()}
    ratios = [
        ratio(name, np.repeat(theirs, len(grid)), np.tile(grid, len(theirs)), TARGETS.get(name))
        for name, theirs in times.items()
    ]
    pairs = [(run.accuracy, there[trial]) for runs in (launched, looped) for trial, run in runs.items()]
    return Whole(
        config=config,
        trials=count,
        sample=len(launched),
        compilations=max(run.compilations for run in looped.values()),
        seconds={GRID: spread(grid)} | {name: spread(values) for name, values in times.items()},
        ratios=ratios,
        # A trial that diverged has no accuracy.
        accuracy_difference=max((abs(a - b) for a, b in pairs if b is not None), default=0.0),
    )


def load(config: str) -> Ablation:
    """What a config file gives."""
    return runpy.run_path(str(ROOT / config))["get_config"]()


def spread_over(every: Sequence[Trial], sample: int) -> list[Trial]:
    """So many trials, evenly over the grid, its first and its last among them."""
    places = np.unique(np.linspace(0, len(every) - 1, min(sample, len(every))).round().astype(int))
    return [every[i] for i in places]


def compiled_each(config: str, names: Sequence[str]) -> dict[str, Run]:
    """Trains these trials one after the other, each with its numbers as constants of programs of its own.

    Args:
      config: the config file of an Ablation whose trials have one stage, which learns from no teacher.
      names: the trials' ids.
    """
    found, loader = {trial.id: trial for trial in trials(load(config))}, Loader()
    return {name: _compiled(loader.prepare(found[name].config)) for name in names}


def _compiled(p: Prepared) -> Run:
    own, compiler, length = baked(p), Compiler(), p.stages[0].segment_steps
    first = jax.block_until_ready(jax.jit(p.program_of(0, length).init)(p.key, p.values))
    start = time.perf_counter()
    state = run_segments(
        lambda stage, steps: own(steps),
        p.segments,
        p.values,
        lambda stage: p.arrays,
        compiler=compiler,
        begin=lambda stage, state: first,
        origin=lambda stage: None,
        updated=lambda stage: compression.updates(p.config, stage),
        at_boundary=lambda boundary: None,
    )
    test = jax.device_get(compiler.call("test", 0, own(length).evaluate, state, p.values, p.arrays["test"]))
    return Run(time.perf_counter() - start, float(test["accuracy"]), compiler.counts.total())


def baked(p: Prepared) -> Any:
    """`steps -> Program` whose numbers are the config's own, whatever numbers it is called with."""

    def own(steps: int) -> Program:
        program, values = p.program_of(0, steps), p.values
        return program._replace(
            segment=lambda state, _, arrays: program.segment(state, values, arrays),
            update=lambda state, _, arrays: program.update(state, values, arrays),
            evaluate=lambda state, _, arrays: program.evaluate(state, values, arrays),
        )

    return own


def _accuracy(directory: Path) -> float:
    return json.loads((directory / "result.json").read_text())["accuracy"]


def _launch(app: str, config: str, workdir: Path, cache: Path, *more: str) -> float:
    """Seconds that a process of `experiments.<app>` takes, from its launch to its end."""
    command = [sys.executable, "-m", f"experiments.{app}", f"--config={config}", f"--workdir={workdir}"]
    command += [f"--compilation_cache={cache}", "--quiet", *more]
    # Bytecode is kept, as Python does by default.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return taken
