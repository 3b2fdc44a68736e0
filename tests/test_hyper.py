"""What is traced and what is structure."""

import dataclasses

import jax
import numpy as np
import pytest

from jopt import hyper
from jopt.optim import Config as Optimizer
from jopt.train import Experiment, Stage


@dataclasses.dataclass
class Example:
    name: str = "a"
    seed: int = hyper.swept(0)
    bits: int = hyper.swept(8)
    width: int = 3
    rate: float = 0.5
    clip: float | None = None
    fraction: float = hyper.structural(0.1)
    pairs: tuple[float, ...] = (0.5,)
    parts: list["Example"] = dataclasses.field(default_factory=list)


def test_floats_and_declared_integers_are_traced():
    _, values = hyper.split(Example(clip=1, parts=[Example()]))
    assert set(values) == {
        "seed", "bits", "rate", "clip", "parts[0].seed", "parts[0].bits", "parts[0].rate",
    }  # fmt: skip
    assert values["seed"].dtype == np.uint32
    assert values["bits"].dtype == np.int32
    # An int in a float field is a float of the program.
    assert values["clip"].dtype == np.float32


def test_numbers_do_not_change_the_structure_and_everything_else_does():
    def structure(**changes):
        return hyper.split(Example(**changes))[0]

    same = structure()
    assert structure(rate=2.0, seed=7, bits=2) == same and hash(structure(rate=2.0)) == hash(same)
    others = [
        {"clip": 1.0},
        {"name": "b"},
        {"width": 4},
        {"fraction": 0.2},
        {"pairs": (0.25,)},
        {"parts": [Example()]},
    ]
    structures = {structure(**change) for change in others} | {same}
    assert len(structures) == len(others) + 1
    assert structure(clip=1.0) == structure(clip=0.0)


def test_join_restores_the_config_and_puts_tracers_into_its_leaves():
    config = Experiment(seed=3, stages=[Stage(optimizer=Optimizer(learning_rate=0.25))], ema_decay=0.5)
    structure, values = hyper.split(config)
    back = hyper.join(structure, {k: v.item() for k, v in values.items()})
    assert back.seed == 3 and back.ema_decay == 0.5 and back.stages[0].optimizer.learning_rate == 0.25
    assert config.seed == 3, "the original is left alone"

    @jax.jit
    def rate(values):
        return hyper.join(structure, values).stages[0].optimizer.learning_rate

    assert rate(values) == 0.25
    assert rate({**values, "stages[0].optimizer.learning_rate": np.float32(2)}) == 2
    assert rate._cache_size() == 1


@pytest.mark.parametrize("drop, add", [("rate", None), (None, "nonsense")])
def test_join_refuses_values_that_do_not_fit(drop, add):
    structure, values = hyper.split(Example())
    values = {k: v for k, v in values.items() if k != drop} | ({add: np.float32(1)} if add else {})
    with pytest.raises(ValueError, match=drop or add):
        hyper.join(structure, values)
