"""Ablation: an experiment, the fields to vary, and how the results are compared."""

import dataclasses
from typing import Any

from jopt.ablate.space import Space
from jopt.measure import Column, columns_of
from jopt.train.config import Experiment

PROTOCOLS = ("plain", "optimizers", "pruning")
STRATEGIES = ("auto", "map", "vmap", "measure")


@dataclasses.dataclass
class Ablation:
    """A grid of experiments, run together.

    Attributes:
      name: names the ablation in reports.
      experiment: the config that all trials share. Its `seed` is not used.
      space: the points of the grid (`jopt.ablate.axis`, `product`, `search`, ...).
      seeds: every point runs once with each. Trials of the same seed share initialization and data order.
      control: axis name, or the address of the axis' field (`pruned.prune.sparsity`, `sparsity`), to value: the
        point that the others are compared with, paired by seed; None: no comparison.
        If it names some axes only, each point is compared with the point that has these values and is equal else.
      metric: the key of the column that is compared (`jopt.measure.columns_of("trial")`); None: the metric that
        decides in the experiment's task, on the test part.
      protocol: 'plain'; 'optimizers' (AlgoPerf's idea: of each optimizer the point with the best value of the
        deciding metric in validation, over the axes in `tuned`, is reported on test; a point that misses `target`
        counts as a miss);
        'pruning' (ShrinkBench: at least five ratios, random and magnitude scores, the dense control).
      tuned: the axes that are chosen by validation within each point of the others.
      target: a value of the deciding metric to reach in validation; steps to it are reported, and misses are
        counted.
      strategy: how trials share a device: 'map' (one after the other in one program), 'vmap' (in one batch),
        'auto' (by the rule of `jopt.ablate.strategy`), 'measure' (the fastest on the first segment).
      chunk: the most trials in one program, rounded up to whole lanes; 0 is as many as fit. It changes no result.
      memory_gib: the memory that the trials may take on each device, in GiB; None is half of the free memory.
      confidence: of the intervals.
    """

    name: str = "ablation"
    experiment: Experiment = dataclasses.field(default_factory=Experiment)
    space: Space = dataclasses.field(default_factory=lambda: Space(()))
    # With fewer than five seeds no comparison gets a verdict (`jopt.ablate.paired.LEAST_SEEDS`).
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    control: dict[str, Any] | None = None
    metric: str | None = None
    protocol: str = "plain"
    tuned: tuple[str, ...] = ()
    target: float | None = None
    strategy: str = "auto"
    chunk: int = 0
    memory_gib: float | None = None
    confidence: float = 0.95

    @property
    def columns(self) -> tuple[Column, ...]:
        """The outcomes of its trials."""
        return columns_of("trial", self.experiment.columns, self.experiment.task)

    @property
    def decisive(self) -> str:
        """The key of the column that is compared."""
        return self.experiment.task.resolved().deciding.key if self.metric is None else self.metric
