"""Suite `strategies`: trials one after the other against batches of them; what `jopt.ablate.strategy` goes by."""

import dataclasses
import gc
import runpy
from collections.abc import Sequence
from typing import NamedTuple

import jax

from experiments.benchmarks.ablation_steps import grid, segments
from experiments.benchmarks.startup import ROOT
from experiments.benchmarks.timing import Spread, alternate, spread
from jopt import models, optim
from jopt.ablate import Layout
from jopt.ablate.plan import sizes_of
from jopt.ablate.strategy import lanes
from jopt.train import Experiment

LANES = (1, 4, 8, 16, 32)
DEVICES = (1, 2)
MOST_DEVICES = max(DEVICES)


class Network(NamedTuple):
    """What trials are trained of.

    Attributes:
      name: of the network, in tables.
      experiment: what the trials share.
      steps: optimizer steps in a segment: fewer where a step is long, so that a call is not.
      least: trials in a chunk at least, so that what a call costs is shared as it is in a grid.
    """

    name: str
    experiment: Experiment
    steps: int
    least: int = 64


class StrategyRow(NamedTuple):
    """One network on so many devices.

    Attributes:
      network: its name.
      parameters: how many it has.
      devices: how many CPU devices the trials are split over.
      seconds_per_trial_step: by the number of trials in a batch (lanes); 1 is `map`.
      rule: the lanes that the default rule chooses.
      best: the lanes with the least median.
      cost: the median time of the rule's choice over the best one's, at least 1.
    """

    network: str
    parameters: int
    devices: int
    seconds_per_trial_step: dict[int, Spread]
    rule: int
    best: int
    cost: float


def networks() -> list[Network]:
    """The smallest first; those that have a config, by it."""
    return [
        Network("XOR MLP 2-3-1, batch 4", _config("xor"), 300),
        Network("MLP 64-16-10, batch 64", _digits("mlp", 64, 16), 19),
        Network("CNN 8-16, digits, batch 16", _digits("cnn", 16, 8, 16, hidden=64), 20),
        Network("MLP 64-300-100-10, batch 64", _digits("mlp", 64, 300, 100), 19),
        Network("GRU 128, digits, batch 64", _config("digits_rnn"), 6, least=32),
        Network("LeNet-5, digits, batch 64", _config("digits_lenet"), 6, least=32),
        Network("MLP 64-1024-1024-10, batch 64", _digits("mlp", 64, 1024, 1024), 19, least=8),
    ]


def strategies(rounds: int, seconds: float, chosen: Sequence[Network] | None = None) -> list[StrategyRow]:
    """Times each number of lanes in turn, for each network and number of devices. There must be two devices.

    Args:
      rounds: how often each is timed.
      seconds: for how long each time, about.
      chosen: the networks; None is all of `networks()`.
    """
    wanted = networks() if chosen is None else chosen
    return [_row(network, devices, rounds, seconds) for network in wanted for devices in DEVICES]


def _row(network: Network, devices: int, rounds: int, seconds: float) -> StrategyRow:
    experiment = dataclasses.replace(network.experiment, segment_steps=network.steps)
    of = grid(experiment, max(network.least, max(LANES) * devices))
    entered = {n: segments(of, Layout(n, devices), max(network.least, n * devices)).run for n in LANES}
    times = alternate({str(n): run for n, run in entered.items()}, rounds, seconds)
    found = {n: spread(times[str(n)]) for n in LANES}
    rule, best = lanes("auto", sizes_of(of.prepared)), min(LANES, key=lambda n: found[n].median)
    parameters = sum(x.size for x in jax.tree.leaves(of.prepared.like(0).params))
    cost = found[rule].median / found[best].median
    del entered, of
    gc.collect()
    return StrategyRow(network.name, parameters, devices, found, rule, best, cost)


def _config(name: str) -> Experiment:
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()


def _digits(model: str, batch_size: int, *features: int, hidden: int | None = None) -> Experiment:
    return Experiment(
        name="strategies",
        model=models.Config(name=model, features=features, hidden=hidden),
        optimizer=optim.Config(name="adam", learning_rate=1e-3, clip_by_global_norm=1.0),
        batch_size=batch_size,
    )
