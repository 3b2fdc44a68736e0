"""Comparisons paired by seed: against SciPy, at the edges, and on pure noise."""

import math

import numpy as np
import pytest
from scipy import stats

from jopt.ablate.paired import compare, resolution, verdict
from jopt.config import ConfigError

BEFORE = [0.930, 0.925, 0.941, 0.936, 0.922, 0.933]
AFTER = [0.941, 0.930, 0.955, 0.940, 0.937, 0.939]


def test_a_comparison_is_scipys_paired_t_test():
    comparison = compare(AFTER, BEFORE)
    reference = stats.ttest_rel(AFTER, BEFORE)
    assert comparison.p_t == pytest.approx(reference.pvalue)
    np.testing.assert_allclose(comparison.interval, reference.confidence_interval(0.95))
    assert comparison.interval == comparison.adjusted
    assert comparison.difference == pytest.approx(np.mean(np.subtract(AFTER, BEFORE)))
    assert comparison.sd == pytest.approx(np.std(np.subtract(AFTER, BEFORE), ddof=1))
    assert comparison.p_exact == comparison.p_wilcoxon == 0.03125
    adjusted = compare(AFTER, BEFORE, comparisons=7).adjusted
    np.testing.assert_allclose(adjusted, reference.confidence_interval(1 - 0.05 / 7))
    back = compare(BEFORE, AFTER)
    assert back.difference == -comparison.difference and back.interval.low == pytest.approx(
        -comparison.interval.high
    )


def test_pairing_takes_out_what_the_seeds_share():
    rng = np.random.default_rng(0)
    shared, noise = rng.normal(size=8), rng.normal(size=(2, 8)) * 0.1
    better, control = shared + noise[0] + 0.3, shared + noise[1]
    assert verdict(compare(better.tolist(), control.tolist())) == "better"
    assert stats.ttest_ind(better, control).pvalue > 0.2


@pytest.mark.parametrize("n", range(5))
def test_fewer_than_five_seeds_decide_nothing(n):
    rng = np.random.default_rng(n)
    comparison = compare((0.9 + 1e-4 * rng.normal(size=n)).tolist(), (0.1 + 1e-4 * rng.normal(size=n)).tolist())
    assert comparison.n == n and verdict(comparison) == "too few seeds"


def test_a_loss_is_better_where_it_is_lower():
    comparison = compare(AFTER, BEFORE)
    assert verdict(comparison) == "better" and verdict(comparison, higher_is_better=False) == "worse"


def test_resolution():
    rng = np.random.default_rng(0)
    counts = rng.integers(200, 300, 200)
    assert resolution((counts / 360).tolist()) == pytest.approx(1 / 360)
    # As float32 numbers, and with the rounding of another order of summation.
    noisy = np.float32(counts / 360).astype(float) + rng.choice([0, 6e-8], 200)
    assert resolution(noisy.tolist()) == pytest.approx(1 / 360, rel=1e-4)
    # Steps that are only seen as 2 and 3 of them; and an outcome that has none.
    assert resolution([0.90, 0.92, 0.95]) == pytest.approx(0.01)
    assert resolution(rng.normal(0.9, 0.01, 100).tolist()) == 0.0
    assert resolution([]) == resolution([0.3]) == resolution([0.3, 0.3]) == 0.0


@pytest.mark.parametrize("n", [360, 1000, 3000, 5000, 10_000, 26_032, 50_000, 100_000])
def test_resolution_of_accuracies_over_large_test_sets(n):
    rng = np.random.default_rng(n)
    for low, high in ((0.5, 0.99), (0.1, 0.99), (0.7, 0.77), (0.9, 1.0), (0.985, 1.0)):
        for trials in (6, 25, 100):
            counts = rng.integers(round(low * n), round(high * n) + 1, trials)
            if np.unique(counts).size < 4:
                continue
            expected = np.gcd.reduce(np.diff(np.unique(counts))) / n
            for values in (np.float32(counts) / np.float32(n), np.float32(counts) * np.float32(1 / n)):
                assert resolution(values.astype(float).tolist()) == pytest.approx(expected, rel=1e-9), (low, trials)


def test_resolution_of_a_published_failure_and_of_continuous_outcomes():
    assert resolution((np.float32([914, 924, 957, 963, 999]) / np.float32(1000)).tolist()) == pytest.approx(1e-3)
    rng = np.random.default_rng(1)
    for trials in (6, 25, 100):
        for _ in range(20):
            losses = np.float32(rng.lognormal(-1, 0.3, trials))
            assert resolution(losses.astype(float).tolist()) == 0.0
    # Bytes and FLOPs: whole numbers, as many digits as float32 has or more.
    assert resolution([3859.0, 4004.0, 4149.0]) == 145.0
    assert resolution([1_110_800_000.0, 2_221_600_000.0, 3_332_400_000.0]) == pytest.approx(1_110_800_000)


def test_five_seeds_that_differ_by_the_same_one_example_are_no_certainty():
    step = 1 / 360
    control = np.arange(300, 305) * step
    # Student's interval of equal differences has no width; with float noise it is absurdly narrow.
    for noise in (0.0, 1e-8):
        one = compare(
            (control + step + noise * np.arange(5)).tolist(), control.tolist(), comparisons=19, resolution=step
        )
        assert one.no_spread and one.sd < 1e-6
        half = stats.t.ppf(1 - 0.05 / 19 / 2, 4) * step / 2 / math.sqrt(5)
        np.testing.assert_allclose(one.adjusted, (step - half, step + half), atol=1e-6)
        assert verdict(one) == "undecided"
        ten = compare((control + 10 * step).tolist(), control.tolist(), comparisons=19, resolution=step)
        assert verdict(ten) == "better"
    unknown = compare((control + step).tolist(), control.tolist())
    assert all(map(math.isnan, unknown.interval)) and verdict(unknown) == "undecided"


def test_the_same_results_do_not_differ():
    same = compare(BEFORE, BEFORE)
    assert same.difference == 0 and same.p_t == same.p_exact == same.p_wilcoxon == 1.0
    assert same.interval.spans(0.0) and verdict(same) == "undecided" and same.detectable == 0.0
    assert verdict(compare(BEFORE, BEFORE, resolution=0.001)) == "undecided"


def test_bad_arguments():
    with pytest.raises(ConfigError) as caught:
        compare([1.0, 2.0], [1.0])
    assert caught.value.field == "control"
    with pytest.raises(ConfigError) as caught:
        compare([1.0, 2.0], [1.0, 3.0], comparisons=0)
    assert caught.value.field == "comparisons"


def null_grids(rng, grids, points, seeds, noise):
    """Grids of pure noise: accuracies [grid, seed, point] of the same expectation for every point."""
    if noise == "normal":
        shared = rng.normal(size=(grids, seeds, 1))
        return 0.9 + 0.01 * (2 * shared + rng.normal(size=(grids, seeds, points)))
    if noise == "examples":
        # A test part of 360 examples; seeds differ in how many they get right.
        share = rng.uniform(0.9, 0.98, size=(grids, seeds, 1))
        return rng.binomial(360, np.broadcast_to(share, (grids, seeds, points))) / 360
    if noise == "near one":
        return rng.binomial(360, 0.995, size=(grids, seeds, points)) / 360
    # Hardly any noise: of one example more or less, or of two.
    wide = {"one example": 0.5, "two examples": 1.0}[noise]
    shared = rng.normal(size=(grids, seeds, 1)) * 5
    return np.round(330 + shared + wide * rng.normal(size=(grids, seeds, points))) / 360


def false_verdicts(accuracies):
    """The share of grids in which some point is called better, and better or worse, than the first."""
    step = [resolution(grid.ravel().tolist()) for grid in accuracies]
    better = decided = 0
    for grid, r in zip(accuracies, step, strict=True):
        verdicts = [
            verdict(compare(point.tolist(), grid[:, 0].tolist(), comparisons=grid.shape[1] - 1, resolution=r))
            for point in grid[:, 1:].T
        ]
        better += "better" in verdicts
        decided += "better" in verdicts or "worse" in verdicts
    return better / len(accuracies), decided / len(accuracies)


NOISES = ("normal", "examples", "near one", "one example", "two examples")


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("noise", NOISES)
def test_a_hundred_grids_of_noise_have_a_false_winner_in_at_most_five(seeds, noise):
    better, decided = false_verdicts(null_grids(np.random.default_rng(7), 100, 20, seeds, noise))
    print(
        f"{noise}, 20 points x {seeds} seeds: false winner in {better:.0%}, false verdict in {decided:.0%} of grids"
    )
    assert better <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("points", [2, 5, 10, 20, 50])
@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("noise", NOISES)
def test_the_rate_of_false_winners_over_many_grids(points, seeds, noise):
    grids = 1000
    better, decided = false_verdicts(null_grids(np.random.default_rng(11), grids, points, seeds, noise))
    print(f"{noise}, {points} x {seeds}: {better:.1%} false winners, {decided:.1%} false verdicts")
    # A rate of 2.5 % and of 5 % by design, and four standard errors of what a thousand grids can tell.
    assert better <= 0.025 + 4 * math.sqrt(0.025 * 0.975 / grids)
    assert decided <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / grids)


@pytest.mark.parametrize(("seeds", "effect"), [(5, 8.0), (10, 3.0)])
def test_a_real_effect_is_found_in_a_grid_of_twenty(seeds, effect):
    grids = null_grids(np.random.default_rng(5), 40, 20, seeds, "normal")
    grids[:, :, 3] += effect * 0.01
    verdicts = [
        verdict(
            compare(g[:, 3].tolist(), g[:, 0].tolist(), comparisons=19, resolution=resolution(g.ravel().tolist()))
        )
        for g in grids
    ]
    assert verdicts.count("better") >= 32 and "worse" not in verdicts


def test_the_detectable_difference_is_found_in_four_of_five_grids():
    rng = np.random.default_rng(2)
    control = rng.normal(size=(300, 5))
    noise = rng.normal(size=(300, 5)) * 0.5
    smallest = 0.5 * 3.7263  # power.detectable(1.0, 5, 0.05 / 19)
    verdicts = [
        verdict(compare((a + b + smallest).tolist(), a.tolist(), comparisons=19))
        for a, b in zip(control, noise, strict=True)
    ]
    assert verdicts.count("better") / 300 == pytest.approx(0.8, abs=0.07)
