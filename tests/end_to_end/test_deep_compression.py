"""Deep Compression on the digits: how small the files are, what it costs in accuracy. Slow; `-s` prints tables.

Ten seeds, each paired with its own dense stage. Sizes are lengths of whole packed files, everything counted. The
control is the same network trained as long, at the same rates, and never compressed.
"""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from scipy import stats
from trials import End
from trials import run as run_trials

from jopt import codec
from jopt.ablate.intervals import detectable
from jopt.address import with_values
from jopt.report.formats import integer
from jopt.train import Experiment, packed
from jopt.train.prepared import Prepared

pytestmark = pytest.mark.slow

SEEDS = range(10)


class Trial(NamedTuple):
    """A seed's run.

    Attributes:
      accuracy: stage to the test accuracy at its end, in points.
      size: stage to the length of the file at its end, without Huffman codes; 'huffman' to that of the last with.
    """

    accuracy: dict[str, float]
    size: dict[str, int]


def run(config: Experiment, seeds: Sequence[int]) -> list[Trial]:
    """The config's trials, with the file of each stage."""
    found = {seed: Trial({}, {}) for seed in seeds}
    seen_of: dict[int, Any] = {}

    def at_end(p: Prepared, end: End) -> None:
        trial, stage = found[end.seed], end.stage
        if stage not in seen_of:
            seen_of[stage] = jax.jit(p.program(p.plans[stage]).seen)
        trial.accuracy[end.name] = 100 * end.accuracy
        params = jax.device_get(seen_of[stage](end.state, end.values).params)
        about = packed.metadata(packed.Packing(config, p.plans[stage], params, {}, p.dataset))
        trial.size[end.name] = len(codec.encode(params, metadata=about, huffman=False).data)
        if stage == len(config.stages) - 1:
            trial.size["huffman"] = len(codec.encode(params, metadata=about).data)

    run_trials(config, seeds, at_end)
    return list(found.values())


def table(title: str, trials: Sequence[Trial], float32: int) -> None:
    """Prints a row for each stage: the file's length, and the accuracy against the same seed's dense stage."""
    print(f"\n{title}, {len(trials)} seeds; float32 takes {integer(float32)} bytes\n")
    print("| stage | bytes, mean | largest | times smaller | test, mean | sd | minus dense | 95 % interval |")
    print("| --- " * 8 + "|")
    dense = accuracies(trials, "dense")
    for stage in trials[0].size:
        sizes = np.array([trial.size[stage] for trial in trials])
        cells = [stage, integer(round(sizes.mean())), integer(int(sizes.max())), f"{float32 / sizes.mean():.1f}"]
        if stage == "huffman":
            cells += ["the same", "", "", ""]
        else:
            accuracy = accuracies(trials, stage)
            mean, low, high = paired(accuracy - dense)
            cells += [f"{accuracy.mean():.2f} %", f"{accuracy.std(ddof=1):.2f}"]
            cells += ["-", "-"] if stage == "dense" else [f"{mean:+.2f}", f"[{low:+.2f}, {high:+.2f}]"]
        print(f"| {' | '.join(cells)} |")


def accuracies(trials: Sequence[Trial], stage: str) -> np.ndarray:
    """The test accuracy at the end of a stage, by seed."""
    return np.array([trial.accuracy[stage] for trial in trials])


def paired(differences: np.ndarray) -> tuple[float, float, float]:
    """The mean, and Student's 95 % interval of it."""
    mean = float(differences.mean())
    if not differences.std():
        return mean, mean, mean
    found = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    return mean, float(found.low), float(found.high)


@pytest.mark.parametrize(("name", "float32"), [("lenet300", 202_440), ("lenet5", 524_320)])
def test_forty_times_smaller_and_no_accuracy_loss_that_ten_seeds_can_show(name, float32):
    get_config = importlib.import_module(f"configs.deep_compression_{name}").get_config
    trials = run(get_config(), SEEDS)
    table(f"deep_compression_{name}", trials, float32)
    compressed = accuracies(trials, "share")
    differences = compressed - accuracies(trials, "dense")
    shown = detectable(float(differences.std(ddof=1)), len(trials))
    print(f"\nTen seeds show a difference of {shown:.2f} points with a chance of 80 %.")

    never = with_values(get_config(), {"stages[1].prune": None, "stages[2].share": None})
    control = run(never, SEEDS)
    np.testing.assert_array_equal(accuracies(control, "dense"), accuracies(trials, "dense"))
    longer = accuracies(control, "share")
    mean, low, high = paired(compressed - longer)
    print(f"Never compressed, trained as long: {longer.mean():.2f} % (sd {longer.std(ddof=1):.2f});")
    print(f"compressed minus that: {mean:+.2f} [{low:+.2f}, {high:+.2f}].")

    assert min(float32 / trial.size["huffman"] for trial in trials) >= 40
    assert paired(differences)[2] >= 0
