"""A plan for devices that are not here: labelled as such; nothing compiles, nothing is written."""

import pytest

from jopt import prune
from jopt.ablate import axis, product
from jopt.ablate.dry_run import KINDS, Fleet, simulate
from jopt.ablate.plan import memory_budget
from jopt.config import ConfigError
from jopt.train import Stage
from jopt.train.compiler import Compiler

pytestmark = pytest.mark.unoptimized


@pytest.fixture(autouse=True)
def nothing_compiles_or_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(Compiler, "compiled", lambda *args, **kwargs: pytest.fail("something was compiled"))
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def wide(grid, small):
    rates = axis("optimizer.learning_rate", [0.001 * (i + 1) for i in range(40)])
    sparsities = axis("prune.sparsity", [0.018 * (i + 1) for i in range(50)])
    pruned = small(stages=[Stage(methods=(prune.Gradual(sparsity=0.5),))])
    return grid(product(rates, sparsities), experiment=pruned, seeds=tuple(range(5)))


def test_ten_thousand_trials_on_64_devices(wide):
    (sentence, axes, table, programs), (plan,) = simulate(wide, Fleet(64, "h100"))
    assert sentence.startswith("Simulated, not run: grid on 64 x h100: 10,000 trials, 1 program")
    assert table.title.startswith("Simulated plan for 64 x h100") and len(axes.rows) == 2
    assert [row[2] for row in programs.rows] == ["update", "segment", "evaluate"]
    assert plan.layout.devices == 64 and plan.layout.lanes == 32
    assert plan.chunks * plan.width >= 10_000 > (plan.chunks - 1) * plan.width
    assert plan.memory.used(plan.layout, plan.width) <= plan.memory.budget == int(80e9 * 0.75) // 2


def test_more_devices_take_less_time_and_less_memory_each(wide):
    few, many = (simulate(wide, Fleet(count, "tpu_v5e"))[1][0] for count in (4, 64))
    assert many.seconds == pytest.approx(few.seconds / 16)
    assert many.memory.used(many.layout, many.width) < few.memory.used(few.layout, few.width)


def test_the_kind_that_is_here_has_the_memory_that_is_here(wide):
    assert Fleet(3).budget(0.5) == Fleet(3, "h200").budget(0.5) == memory_budget(0.5) == 2**29
    assert simulate(wide, Fleet(2))[1][0].sizes.platform == "cpu"
    assert {Fleet(1, kind).platform for kind in KINDS} == {"gpu", "tpu"}
    # Cores of one host share its memory.
    assert Fleet(8, "cpu").budget(None) < Fleet(2, "cpu").budget(None)


@pytest.mark.parametrize(("fleet", "field"), [(Fleet(0, "h100"), "devices"), (Fleet(2, "h1000"), "device_kind")])
def test_a_fleet_that_cannot_be_is_refused(wide, fleet, field):
    with pytest.raises(ConfigError) as error:
        simulate(wide, fleet)
    assert error.value.field == field


def test_a_trial_larger_than_a_device_is_named(grid, small):
    with pytest.raises(ConfigError) as error:
        simulate(grid(memory_gib=1e-7), Fleet(64, "l4"))
    assert error.value.field == "the size of a trial of group 0"
