"""Suite `compress`: its contenders do what they are called, and its ratios have the right side up."""

import numpy as np
import pytest
from quick import jit

from experiments.benchmarks import compress
from experiments.benchmarks.tables import compress_table
from jopt.train import prepare

pytestmark = pytest.mark.unoptimized


def test_masks_and_codes_are_on_in_the_steps_that_are_timed():
    for name, fields in compress.methods().items():
        p = prepare(compress.experiment(**fields))
        program = p.program_of(0, p.segments[0].steps)

        @jit
        def seen(key, values, arrays, program=program):
            return program.seen(program.update(program.init(key, values), values, arrays), values).params

        kernel = np.asarray(seen(p.key, p.values, p.arrays["train"])["Dense_1"]["kernel"])
        sparse, coded = "masks" in name, "int8" in name
        assert ((kernel == 0).mean() > 0.89) == sparse, name
        assert (len(np.unique(kernel[:, 0])) <= 255) == (coded or sparse), name


def test_costs_are_ratios_to_the_plain_step_and_rivals_ratios_to_ours():
    times = {name: np.array([2.0, 2.0]) for name in compress.methods()} | {compress.PLAIN: np.array([1.0, 1.0])}
    cost = compress._cost(compress.MASKS, times)
    assert (cost.median, cost.target, cost.met) == (2.0, 1.05, False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*VariableState:DeprecationWarning")  # of qwix
def test_the_suite_runs_and_makes_its_table():
    pytest.importorskip("qwix")
    row = compress.compress(rounds=1, seconds=0.0)
    table = compress_table(row)
    assert len(table.rows) == 1 + 4 + 2
