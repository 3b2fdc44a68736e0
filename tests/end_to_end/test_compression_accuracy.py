"""What compression costs on the digits. Slow; `-s` prints tables.

Ten seeds, each paired with its own dense model; twenty for a gain as small as distillation's. The dense network,
its compressed version and whatever stands between come from one run of one seed, so their difference is free of the
seed's own luck: its 95 % interval is that of Student's t over the differences.
"""

import functools
import importlib

import numpy as np
import pytest
from scipy import stats
from trials import by_stage

from jopt.address import with_values

pytestmark = pytest.mark.slow

SEEDS = range(10)


@functools.cache
def accuracies(name: str, *args: str, seeds: range = SEEDS, **changes: float) -> dict[str, np.ndarray]:
    """The test accuracy at the end of each stage, in points, for each seed; `changes` are values by address."""
    config = with_values(importlib.import_module(f"configs.{name}").get_config(*args), changes)
    return {stage: 100 * accuracy for stage, accuracy in by_stage(config, seeds).items()}


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of the mean."""
    if not differences.any():
        return 0.0, 0.0
    found = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    return float(found.low), float(found.high)


def report(title: str, found: dict[str, np.ndarray], reference: str) -> dict[str, float]:
    """Prints a row for each stage, and gives the mean of its difference from `reference`, in points."""
    print(f"\n{title}, {len(found[reference])} seeds\n")
    print(f"| stage | test, mean | sd | minus {reference} | 95 % interval |\n| --- | --- | --- | --- | --- |")
    means = {}
    for stage, accuracy in found.items():
        difference = accuracy - found[reference]
        low, high = interval(difference)
        means[stage] = float(difference.mean())
        row = f"| {stage} | {accuracy.mean():.2f} % | {accuracy.std(ddof=1):.2f} "
        print(row + ("| - | - |" if stage == reference else f"| {means[stage]:+.2f} | [{low:+.2f}, {high:+.2f}] |"))
    return means


@pytest.mark.parametrize(("sparsity", "within"), [(0.9, 0.5), (0.95, 1.0)])
def test_pruned_is_as_good_as_dense(sparsity, within):
    found = accuracies("digits_prune", sparsity=sparsity)
    assert report(f"digits_prune, {sparsity:.0%} sparse", found, "dense")["prune"] >= -within


@pytest.mark.parametrize(("code", "within"), [("int8", 0.2), ("int4", 0.5), ("ternary", 1.0)])
def test_quantized_in_training_is_as_good_as_dense(code, within):
    found = accuracies("digits_quantize", code)
    assert report(f"digits_quantize:{code}", found, "dense")["qat"] >= -within


def test_binary_weights_are_nearly_as_good_as_dense():
    assert report("digits_binary", accuracies("digits_binary"), "dense")["binary"] >= -2.0


def test_pruned_shared_and_quantized_is_nearly_as_good_as_dense():
    found = accuracies("digits_prune_quantize")
    means = report("digits_prune_quantize: 90 % sparse, 16 values, 4 bits", found, "dense")
    assert means["quantize"] >= -1.0


def test_a_student_gains_from_its_teacher():
    taught, alone = (accuracies("digits_distill", student, seeds=range(20)) for student in ("taught", "alone"))
    np.testing.assert_array_equal(taught["teacher"], alone["teacher"])
    found = {"teacher": taught["teacher"], "alone": alone["student"], "taught": taught["student"]}
    assert report("digits_distill", found, "alone")["taught"] > 0


def test_the_winning_ticket_beats_its_structure_with_other_weights():
    found = accuracies("digits_lottery")
    ticket = [stage for stage in found if stage.startswith("ticket")][-1]
    assert report("digits_lottery", found, "reinitialized")[ticket] > 0
