"""Grids of trials: as one program (suite `ablate`), and in batches of several sizes (suite `strategies`)."""

import gc
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.contenders import (
    MLP,
    PYTORCH,
    PYTORCH_FUSED,
    PYTORCH_ONE_THREAD,
    SMALL_CNN,
    Case,
    Contender,
    Job,
    load_config,
    pytorch,
    strategy_cases,
)
from benchmarks.processes import launch_seconds, on_devices
from benchmarks.timing import Options, Row, Target, alternate, at_least, compared, spread
from jopt import data, hyper, keys
from jopt.ablate import Ablation, Layout, Lift, axis
from jopt.ablate.execute import Chunk, lifted
from jopt.ablate.plan import Loader, sizes_of
from jopt.ablate.results import read_csv
from jopt.ablate.strategy import lanes
from jopt.ablate.trials import Trial, trials
from jopt.train import Compiler, Experiment, Prepared, TrainState, prepare
from jopt.train.compiler import Request
from jopt.train.loop import run_segments
from jopt.train.program import Program
from jopt.train.staging import Staging
from jopt.train.state import to_host

GRID = "experiments.ablate, cold cache"
WARM = "experiments.train once a trial, warm cache"
COLD = "experiments.train once a trial, cold cache"
LOOP = "one process, compiled once a trial"
CONFIG = "configs/ablations/sparsity_by_bits.py"
# Against launches that find everything compiled: the stricter one of the two.
WHOLE_TARGETS = {WARM: at_least(20.0), LOOP: at_least(5.0)}

TRIALS, RATES, DEVICES = 16, 4, 2
TWO_DEVICES, ONE_DEVICE = "jopt, 2 devices", "jopt, 1 device"
STEP_TARGETS: dict[str, dict[str, Target | None]] = {
    MLP.name: {PYTORCH: at_least(2.5), PYTORCH_ONE_THREAD: at_least(2.5)},
    SMALL_CNN.name: {PYTORCH: at_least(8.0), PYTORCH_ONE_THREAD: at_least(8.0), ONE_DEVICE: at_least(1.7)},
}
LANES = (1, 4, 8, 16, 32)


class Run(NamedTuple):
    """One trial, run alone: seconds, test accuracy, and how many programs were compiled."""

    seconds: float
    accuracy: float
    compilations: int


def ablate(options: Options) -> list[Row]:
    """Suite `ablate`: a whole grid, and the step of a trial.

    Raises:
      MissingPackageError: if PyTorch should run and is not installed.
      RuntimeError: if a process fails, with what it wrote.
    """
    # First the shorter part, which ends at once where there is no PyTorch.
    steps = on_devices(DEVICES, trial_steps, options)
    return [*whole_grid(options), *steps]


def whole_grid(options: Options, config: str = CONFIG) -> list[Row]:
    """Runs the grid in a fresh process several times, with a sample of its trials between, by either alternative.

    The grid's time is that of its process, from launch to end, with an empty compilation cache each time. Of the
    launches the first finds an empty cache and the later ones what it left. The loop's time is that of training and
    evaluation, compilation included; import, data and initialization are not in it.

    Args:
      options: `grids`, and `sample` trials, at least 2, spread over the grid.
      config: the config file of an Ablation whose trials have one stage.

    Raises:
      RuntimeError: if a process fails, with what it wrote.
    """
    all_trials = trials(load_config(config))
    sample = evenly(all_trials, options.sample)
    grid_seconds: list[float] = []
    launched: dict[str, Run] = {}
    looped: dict[str, Run] = {}
    with tempfile.TemporaryDirectory(prefix="jopt-benchmark-") as name:
        scratch = Path(name)
        for turn in range(options.grids):
            grid_seconds.append(launch_seconds("ablate", config, scratch / f"grid{turn}", scratch / f"cache{turn}"))
            ids = [trial.id for trial in sample[turn :: options.grids]]
            for trial in ids:
                seconds = launch_seconds("train", config, scratch / trial, scratch / "cache", f"--trial={trial}")
                result = json.loads((scratch / trial / "result.json").read_text())
                launched[trial] = Run(seconds, result["accuracy"], 0)
            looped |= on_devices(1, compiled_each, config, ids)
        table = read_csv(scratch / "grid0" / "trials.csv", ("trial",))
    accuracies = {row["trial"]: row["accuracy"] for row in table}
    return scaled_to_grid(config, len(all_trials), np.array(grid_seconds), launched, looped, accuracies)


def scaled_to_grid(
    config: str,
    count: int,
    grid_seconds: np.ndarray,
    launched: Mapping[str, Run],
    looped: Mapping[str, Run],
    accuracies: Mapping[str, float | None],
) -> list[Row]:
    """Scales the sample to the grid, and compares each of its trials with each run of the grid.

    Args:
      config: of the grid.
      count: its trials.
      grid_seconds: of each run of it.
      launched: trial to its launch, in order; only the first found an empty cache.
      looped: trial to its run in the loop.
      accuracies: trial to its test accuracy in the grid.
    """
    launches = [run.seconds for run in launched.values()]
    sampled = {WARM: launches[1:], COLD: launches[:1], LOOP: [run.seconds for run in looped.values()]}
    pairs = [(run.accuracy, accuracies[trial]) for runs in (launched, looped) for trial, run in runs.items()]
    # A trial that diverged has no accuracy.
    difference = max((abs(a - b) for a, b in pairs if b is not None), default=0.0)
    case = f"{config}, {count} trials"
    rows = [Row(case, GRID, {"seconds": spread(grid_seconds)})]
    for name, seconds in sampled.items():
        times = count * np.array(seconds)
        # No two of them ran in one round, so all pairs of a trial and a run of the grid are compared.
        ratios = np.repeat(times, len(grid_seconds)) / np.tile(grid_seconds, len(times))
        values = {"seconds": spread(times), "ratio": spread(ratios, WHOLE_TARGETS.get(name)), "against": GRID}
        counts = {"sampled_trials": len(seconds), "accuracy_difference": difference}
        if name == LOOP:
            counts["compilations_per_trial"] = max(run.compilations for run in looped.values())
        rows.append(Row(case, name, {**values, **counts}))
    return rows


def evenly(all_trials: Sequence[Trial], count: int) -> list[Trial]:
    """So many trials, evenly over the grid, its first and its last among them."""
    positions = np.linspace(0, len(all_trials) - 1, min(count, len(all_trials))).round().astype(int)
    return [all_trials[i] for i in np.unique(positions)]


def compiled_each(config: str, ids: Sequence[str]) -> dict[str, Run]:
    """Trains these trials one after the other, each with its numbers as constants of programs of its own.

    Args:
      config: the config file of an Ablation whose trials have one stage, without a teacher.
      ids: the trials' ids.
    """
    by_id, loader = {trial.id: trial for trial in trials(load_config(config))}, Loader()
    return {trial: _run_compiled(loader.prepare(by_id[trial].config)) for trial in ids}


def _run_compiled(prepared: Prepared) -> Run:
    p, compiler = with_constants(prepared), Compiler()
    first = jax.block_until_ready(jax.jit(p.program(p.plans[0]).init)(p.key, p.values))
    start = time.perf_counter()
    staging = Staging(p, compiler, lambda stage: first)
    state = run_segments(staging, p.segments, lambda boundary: boundary.state, state=first, stage=0)
    test = staging.measured(0, jax.device_get(staging.judge(0, state, "test")), "test")
    return Run(time.perf_counter() - start, float(test["accuracy"]), compiler.counts.total())


def with_constants(p: Prepared) -> Prepared:
    """The run with programs whose numbers are the config's own, whatever numbers they are called with."""

    def program_of(stage: int, steps: int) -> Program:
        program, values = p.program_of(stage, steps), p.values
        return program._replace(
            segment=lambda state, _, arrays: program.segment(state, values, arrays),
            update=lambda state, _, arrays: program.update(state, values, arrays),
            seen=lambda state, _: program.seen(state, values),
            judge=lambda variables, _, arrays: program.judge(variables, values, arrays),
        )

    def segment_of(stage: int, steps: int) -> Callable[..., Any]:
        return lambda state, _, arrays: p.segment_of(stage, steps)(state, p.values, arrays)

    return p._replace(program_of=program_of, segment_of=segment_of)


class Grid(NamedTuple):
    """Trials of one program, which differ in learning rate and seed.

    Attributes:
      trials: the trials.
      prepared: the first of them.
      initial: the states that they start from, stacked, on the host.
    """

    trials: list[Trial]
    prepared: Prepared
    initial: TrainState

    @property
    def steps(self) -> int:
        """Optimizer steps in a segment."""
        return self.prepared.plans[0].length.segment_steps


def grid(config: Experiment, count: int) -> Grid:
    """`count` trials of an experiment that has one stage, and no compression."""
    rate = config.optimizer.learning_rate
    rates = axis("optimizer.learning_rate", [rate / 2**i for i in range(RATES)])
    space = Ablation(experiment=config, space=rates, seeds=tuple(range(-(-count // RATES))))
    first_trials = trials(space)[:count]
    prepared = prepare(first_trials[0].config)
    layout = Layout(1, 1)
    p = lifted(Chunk(first_trials, count, layout, prepared), Lift(layout))
    program = p.program_of(0, p.plans[0].length.segment_steps)
    # On the host: each contender puts its own copy on its devices, and its segment may write there.
    initial = to_host(jax.jit(program.init)(p.to_device(keys.roots(p.values["seed"])), p.values))
    return Grid(first_trials, prepared, initial)


def lifted_segments(trials_of: Grid, layout: Layout, count: int | None = None) -> Contender:
    """jopt: the first trials of a grid as one program, as a run of the grid compiles it.

    Args:
      trials_of: the grid.
      layout: how the trials share the devices.
      count: how many trials; None is all.
    """
    count = count or len(trials_of.trials)
    lift = Lift(layout)
    p = lifted(Chunk(trials_of.trials[:count], count, layout, trials_of.prepared), lift)
    state = lift.place(jax.tree.map(lambda x: x[:count].copy(), trials_of.initial))
    values, arrays = p.values, p.arrays["train"]
    program = p.program_of(0, trials_of.steps).segment
    segment = Compiler().compiled(Request("segment", layout, program, (state, values, arrays), (0,)))
    losses: Any = np.nan

    def run() -> int:
        nonlocal state, losses
        state, metrics = jax.block_until_ready(segment(state, values, arrays))
        losses = metrics["loss"]
        return count * trials_of.steps

    return Contender(run, lambda: np.asarray(losses), lambda: jax.tree.map(np.array, state.params))


def one_by_one(trials_of: Grid, *, threads: int = 2, fused: bool = False, epochs: int = 8) -> Contender:
    """PyTorch: trains the next trial for an epoch, with its own rate, weights and batch order.

    Args:
      trials_of: the grid; a segment must be an epoch.
      threads: PyTorch's.
      fused: whether Adam is PyTorch's fused kernel.
      epochs: how many epochs' batch order to compute beforehand.

    Raises:
      MissingPackageError: if there is no PyTorch.
    """
    ways = [pytorch(job, threads=threads, fused=fused) for job in trial_jobs(trials_of, epochs)]
    turn = itertools.cycle(ways)
    return Contender(
        lambda: next(turn).run(), lambda: np.array([way.loss() for way in ways]), lambda: [w.params() for w in ways]
    )


def trial_jobs(trials_of: Grid, epochs: int) -> list[Job]:
    """Each trial of the grid alone: its numbers, its first weights and its batches."""
    prepared, steps = trials_of.prepared, trials_of.steps
    program, examples = prepared.program_of(0, steps), prepared.dataset.train.targets.shape[0]
    jobs = []
    for trial in trials_of.trials:
        key = keys.root(trial.seed)
        alone = prepared._replace(config=trial.config, key=key, values=hyper.split(trial.config)[1])
        rows = data.indices(key, 0, epochs * steps, trial.config.batch_size, examples)
        jobs.append(Job(alone, program, steps, np.asarray(rows)))
    return jobs


def trial_steps(options: Options, cases: Sequence[Case] = (MLP, SMALL_CNN), count: int = TRIALS) -> list[Row]:
    """Times a trial-step of each case's contenders, compilation excluded. There must be two devices.

    Raises:
      MissingPackageError: if PyTorch should run and is not installed.
    """
    rows = []
    for case in cases:
        trials_of = grid(case.experiment, count)
        default = lanes("auto", sizes_of(trials_of.prepared))
        contenders = {TWO_DEVICES: lifted_segments(trials_of, Layout(default, DEVICES))}
        contenders[ONE_DEVICE] = lifted_segments(trials_of, Layout(default, 1))
        if options.torch:
            contenders[PYTORCH] = one_by_one(trials_of)
            contenders[PYTORCH_FUSED] = one_by_one(trials_of, fused=True)
            contenders[PYTORCH_ONE_THREAD] = one_by_one(trials_of, threads=1)
        times = alternate({name: contender.run for name, contender in contenders.items()}, options)
        name, targets = f"{case.name}, {count} trials, {layout_name(default)}", STEP_TARGETS.get(case.name)
        rows += compared(name, times, "seconds_per_trial_step", TWO_DEVICES, targets)
        del contenders, trials_of
        gc.collect()
    return rows


def strategies(options: Options, cases: Sequence[Case] | None = None) -> list[Row]:
    """Suite `strategies`: a trial-step by lanes, for each network and number of devices. There must be two devices.

    The rule of `jopt.ablate.strategy` is drawn from this table; its choice is marked.
    """
    rows = []
    for case in strategy_cases() if cases is None else cases:
        for devices in range(1, DEVICES + 1):
            trials_of = grid(case.experiment, max(case.least, max(LANES) * devices))
            contenders = {
                layout_name(n): lifted_segments(trials_of, Layout(n, devices), max(case.least, n * devices)).run
                for n in LANES
            }
            times = alternate(contenders, options)
            parameters = sum(x.size for x in jax.tree.leaves(trials_of.prepared.like(0).params))
            name = f"{case.name}: {parameters:,} parameters, {devices} device{'s' * (devices > 1)}"
            rows += strategy_rows(name, times, layout_name(lanes("auto", sizes_of(trials_of.prepared))))
            # Seventy programs of up to 64 trials each do not fit in memory at once.
            del contenders, trials_of
            gc.collect()
    return rows


def strategy_rows(case: str, times: Mapping[str, np.ndarray], rule: str) -> list[Row]:
    """Rows of one network: each layout's median over the best one's, and which of them the default rule chooses."""
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    best = min(medians.values())
    return [
        Row(
            case,
            name,
            {
                "seconds_per_trial_step": spread(seconds),
                "over_best": medians[name] / best,
                "rule": "chosen" if name == rule else None,
            },
        )
        for name, seconds in times.items()
    ]


def layout_name(lanes: int) -> str:
    """How a number of lanes is called in tables: `map` is one trial after the other."""
    return "map" if lanes == 1 else f"vmap x {lanes}"
