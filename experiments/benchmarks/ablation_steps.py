"""Suite `ablate`, a trial's step: jopt's lifted segments on one and two devices against PyTorch, trial by trial."""

import gc
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks import pytorch
from experiments.benchmarks.cases import CASES, PYTORCH, PYTORCH_FUSED, PYTORCH_ONE_THREAD, Case, Work
from experiments.benchmarks.timing import Ratio, Spread, alternate, ratio, spread
from jopt import data, hyper, keys
from jopt.ablate import Ablation, Layout, Lift, axis
from jopt.ablate.execute import Chunk, lifted
from jopt.ablate.plan import sizes_of
from jopt.ablate.strategy import lanes
from jopt.ablate.trials import Trial, trials
from jopt.train import Compiler, Experiment, Prepared, TrainState, prepare
from jopt.train.state import to_host

DEVICES = 2
TRIALS = 16
TWO_DEVICES = "jopt, 2 devices"
ONE_DEVICE = "jopt, 1 device"
RATES = 4
"""Learning rates of a grid: the experiment's own, and each half the one before."""

_MLP, _CNN = CASES[0], CASES[3]
TARGETS: dict[str, dict[str, float]] = {
    _MLP.name: {PYTORCH: 2.5, PYTORCH_ONE_THREAD: 2.5},
    _CNN.name: {PYTORCH: 8.0, PYTORCH_ONE_THREAD: 8.0, ONE_DEVICE: 1.7},
}


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
        return self.prepared.stages[0].segment_steps


class Contender(NamedTuple):
    """One way to train the trials of a grid.

    Attributes:
      run: trains all of them, or the next one, for a segment from where it was, and waits; returns the number of
        trial-steps.
      losses: of each trial the mean loss of the segment that ran last, float [trials].
    """

    run: Callable[[], int]
    losses: Callable[[], np.ndarray]


class StepsRow(NamedTuple):
    """One case of suite `ablate`.

    Attributes:
      case: the network and the batch.
      trials: how many are trained.
      lanes: trials in one batch, by the default rule; 1 is one after the other.
      seconds_per_trial_step: of each contender.
      ratios: of each alternative to jopt on two devices.
    """

    case: str
    trials: int
    lanes: int
    seconds_per_trial_step: dict[str, Spread]
    ratios: list[Ratio]


def grid(experiment: Experiment, count: int) -> Grid:
    """`count` trials of an experiment that has one stage, and no compression.

    Args:
      experiment: what they share.
      count: how many.
    """
    first = experiment.optimizer.learning_rate
    rates = axis("optimizer.learning_rate", [first / 2**i for i in range(RATES)])
    found = trials(Ablation(experiment=experiment, space=rates, seeds=tuple(range(-(-count // RATES)))))[:count]
    prepared = prepare(found[0].config)
    layout = Layout(1, 1)
    p = lifted(Chunk(found, count, layout, prepared), Lift(layout))
    program = p.program_of(0, p.stages[0].segment_steps)
    return Grid(found, prepared, to_host(jax.jit(program.init)(p.place(keys.roots(p.values["seed"])), p.values)))


def segments(of: Grid, layout: Layout, count: int | None = None) -> Contender:
    """jopt: the first trials of a grid as one program, as a run of the grid compiles it.

    Args:
      of: the grid.
      layout: how the trials share the devices.
      count: how many trials; None is all.
    """
    count = count or len(of.trials)
    lift = Lift(layout)
    p = lifted(Chunk(of.trials[:count], count, layout, of.prepared), lift)
    state = lift.place(jax.tree.map(lambda x: x[:count].copy(), of.initial))
    values, arrays = p.values, p.arrays["train"]
    segment = Compiler().get(
        "segment", layout, p.program_of(0, of.steps).segment, state, values, arrays, donate=(0,)
    )
    losses: Any = np.nan

    def run() -> int:
        nonlocal state, losses
        state, metrics = jax.block_until_ready(segment(state, values, arrays))
        losses = metrics["loss"]
        return count * of.steps

    return Contender(run, lambda: np.asarray(losses))


def one_by_one(case: Case, of: Grid, *, threads: int = 2, fused: bool = False, epochs: int = 8) -> Contender:
    """PyTorch: `pytorch.eager` trains the next trial for an epoch, with its own rate, weights and batch order.

    Args:
      case: whose experiment the grid varies; a segment must be an epoch.
      of: the grid.
      threads: PyTorch's.
      fused: whether Adam is PyTorch's fused kernel.
      epochs: how many epochs' batch order to compute beforehand.

    Raises:
      MissingTorchError: if there is no PyTorch.
    """
    entered = [pytorch.eager(job, threads=threads, fused=fused) for job in works(case, of, epochs)]
    turn = itertools.cycle(entered)
    return Contender(lambda: next(turn).run(), lambda: np.array([contender.loss() for contender in entered]))


def works(case: Case, of: Grid, epochs: int) -> list[Work]:
    """Each trial of the grid alone: its numbers, its first weights and its batches."""
    program, examples = of.prepared.program_of(0, of.steps), of.prepared.dataset.train.labels.shape[0]
    out = []
    for trial in of.trials:
        key = keys.root(trial.seed)
        own = of.prepared._replace(config=trial.config, key=key, values=hyper.split(trial.config)[1])
        rows = data.indices(key, 0, epochs * of.steps, case.batch_size, examples)
        out.append(Work(case, own, program, of.steps, np.asarray(rows)))
    return out


def steps(rounds: int, seconds: float, torch: bool = True) -> list[StepsRow]:
    """Times the contenders of each case in turn, compilation excluded. There must be two devices.

    Args:
      rounds: how often each contender is timed.
      seconds: for how long each time, about.
      torch: whether PyTorch takes part.

    Raises:
      MissingTorchError: if it should and is not installed.
    """
    return [row(case, rounds, seconds, torch, TARGETS[case.name]) for case in (_MLP, _CNN)]


def row(
    case: Case, rounds: int, seconds: float, torch: bool, targets: Mapping[str, float], count: int = TRIALS
) -> StepsRow:
    """One case of `steps`.

    Args:
      case: what is trained.
      rounds: how often each contender is timed.
      seconds: for how long each time, about.
      torch: whether PyTorch takes part.
      targets: the least ratio to reach, by alternative.
      count: how many trials.
    """
    of = grid(case.experiment, count)
    own = lanes("auto", sizes_of(of.prepared))
    entered = {TWO_DEVICES: segments(of, Layout(own, DEVICES)), ONE_DEVICE: segments(of, Layout(own, 1))}
    if torch:
        entered[PYTORCH] = one_by_one(case, of)
        entered[PYTORCH_FUSED] = one_by_one(case, of, fused=True)
        entered[PYTORCH_ONE_THREAD] = one_by_one(case, of, threads=1)
    times = alternate({name: c.run for name, c in entered.items()}, rounds, seconds)
    ours = times[TWO_DEVICES]
    ratios = [ratio(name, t, ours, targets.get(name)) for name, t in times.items() if name != TWO_DEVICES]
    found = StepsRow(case.name, count, own, {name: spread(t) for name, t in times.items()}, ratios)
    del entered, of
    gc.collect()
    return found
