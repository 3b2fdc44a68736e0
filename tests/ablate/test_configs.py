"""The grids in configs/ablations: each is valid, as large as it says, and tells how it is run and what it found."""

import importlib
import re
from pathlib import Path

import pytest

from jopt.ablate import Ablation
from jopt.ablate.algoperf import check_tuning
from jopt.ablate.checks import validate
from jopt.ablate.shrinkbench import check_pruning, setting_of
from jopt.ablate.trials import axes, groups

pytestmark = pytest.mark.unoptimized

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "ablations").glob("*.py"))

# Name: points, trials, programs.
SIZES = {
    "adam_bias_correction": (40, 400, 2),
    "batch_size": (11, 110, 6),
    "clipping": (35, 350, 4),
    "lenet_channels": (12, 120, 12),
    "optimizers": (56, 280, 7),
    "prune_criteria": (26, 260, 5),
    "schedules": (45, 450, 7),
    "sparsity_by_bits": (20, 100, 1),
}


def load(name: str) -> Ablation:
    return importlib.import_module(f"configs.ablations.{name}").get_config()


def test_each_grid_is_counted_here():
    assert {path.stem for path in FILES} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_each_grid_is_valid_and_of_its_size(name):
    ablation = load(name)
    trials = validate(ablation)  # refuses a control that is not in the grid
    assert (len(ablation.space), len(trials), len(groups(trials))) == SIZES[name]
    assert ablation.control is not None
    points = [point.labels for point in ablation.space.points]
    if ablation.protocol == "optimizers":
        check_tuning(points, ablation.tuned)
    if ablation.protocol == "pruning":
        settings = [setting_of(trial.config) for trial in trials if trial.seed == ablation.seeds[0]]
        check_pruning(points, settings, ablation.control)


@pytest.mark.parametrize("name", SIZES)
def test_each_grid_tells_its_command_its_size_and_what_it_found(name):
    module = importlib.import_module(f"configs.ablations.{name}")
    doc, about = module.__doc__ or "", module.get_config.__doc__ or ""
    _, trials, programs = SIZES[name]
    assert f"jopt ablate --config=configs/ablations/{name}.py --workdir=" in doc
    assert re.search(r"Time: .*\d", doc), "time"
    assert re.search(r"Result: .*\[[-+]?[\d.]+, [-+]?[\d.]+\]", doc, re.DOTALL), "a result with interval"
    assert re.search(r"Measured \d{4}-\d\d-\d\d on ", doc), "where and when"
    words = {1: "one", 2: "two", 4: "four", 5: "five", 6: "six", 7: "seven", 12: "twelve"}
    plural = "s" * (programs > 1)
    assert about.startswith(f"{trials} trials, {words[programs]} program{plural}")
    text = (ROOT / "docs" / "ablations.md").read_text()
    assert re.search(rf"`{name}\.py` \|.*\| {trials} \| {programs} \|", text), "listed in docs/ablations.md"


def test_sparsity_by_bits_is_one_program_of_numbers():
    ablation = load("sparsity_by_bits")
    assert {axis.kind for axis in axes(ablation, validate(ablation))} == {"traced"}


def test_every_optimizer_has_the_same_rates():
    # The numbers: seven optimizers, eight rates, five seeds.
    rates: dict[str, list[float]] = {}
    for point in load("optimizers").space.points:
        rates.setdefault(str(point.labels["optimizer"]), []).append(point.fields["optimizer.learning_rate"])
    assert len(rates) == 7 and len(load("optimizers").seeds) == 5
    (shared,) = {tuple(counts) for counts in rates.values()}
    assert shared == pytest.approx([0.00025 * 4**k for k in range(8)], rel=0.03)


def test_scaled_rates_are_proportional_to_the_batch():
    fields = [point.fields for point in load("batch_size").space.points if point.labels["rate"] == "scaled"]
    assert {point["optimizer.learning_rate"] / point["batch_size"] for point in fields} == {0.05 / 32}
