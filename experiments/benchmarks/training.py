"""Suite `train`: jopt's steps against the alternatives'. Suite `matmul`: against the machine's own rate."""

import gc
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import contenders, pytorch
from experiments.benchmarks.cases import (
    PLAIN_CONV,
    PYTHON_LOOP,
    PYTORCH,
    PYTORCH_FUSED,
    PYTORCH_ONE_THREAD,
    Case,
    Work,
    work,
)
from experiments.benchmarks.contenders import Contender
from experiments.benchmarks.timing import Ratio, Spread, alternate, ratio, spread
from jopt import measure

JOPT = "jopt segment"
MATMUL = "matmul"


class TrainRow(NamedTuple):
    """One case of suite `train`: seconds a step of each contender, and jopt's ratio to each alternative."""

    case: str
    batch_size: int
    parameters: int
    steps_per_segment: int
    seconds_per_step: dict[str, Spread]
    ratios: list[Ratio]


class MatmulRow(NamedTuple):
    """One case of suite `matmul`.

    Attributes:
      case: its name.
      flops_per_step: of the matrix products and convolutions, counted in the segment's jaxpr.
      gflops_per_second: measured.
      share: of the rate of the large matrix product, round by round.
    """

    case: str
    flops_per_step: float
    gflops_per_second: Spread
    share: Spread


class Matmul(NamedTuple):
    """Suite `matmul`: the rate of a float32 product of two square matrices, and what training reaches of it."""

    size: int
    gflops_per_second: Spread
    rows: list[MatmulRow]


def enter(job: Work, torch: bool) -> dict[str, Contender]:
    """The contenders of one case, by name; jopt's first."""
    out = {JOPT: contenders.scanned(job), PYTHON_LOOP: contenders.python_loop(job)}
    if job.case.model.name == "cnn":
        out[PLAIN_CONV] = contenders.plain_convolution(job)
    if torch:
        out[PYTORCH] = pytorch.eager(job)
        out[PYTORCH_FUSED] = pytorch.eager(job, fused=True)
        out[PYTORCH_ONE_THREAD] = pytorch.eager(job, threads=1)
    return out


def train(cases: Sequence[Case], rounds: int, seconds: float, torch: bool = True) -> list[TrainRow]:
    """Times the contenders of each case in turn.

    Args:
      cases: what to train.
      rounds: how often each contender is timed.
      seconds: for how long each time, about.
      torch: whether PyTorch takes part.

    Raises:
      MissingTorchError: if it should and is not installed.
    """
    rows = []
    for case in cases:
        job = work(case)
        entered = enter(job, torch)
        times = alternate({name: c.run for name, c in entered.items()}, rounds, seconds)
        ours = times[JOPT]
        rows.append(
            TrainRow(
                case=case.name,
                batch_size=case.batch_size,
                parameters=measure.size(entered[JOPT].params()).parameters,
                steps_per_segment=job.steps,
                seconds_per_step={name: spread(t) for name, t in times.items()},
                ratios=[ratio(n, t, ours, case.targets.get(n)) for n, t in times.items() if n != JOPT],
            )
        )
        del entered, job
        gc.collect()
    return rows


def matmul(cases: Sequence[Case], rounds: int, seconds: float, size: int = 2048) -> Matmul:
    """Times a large matrix product and jopt's segments in turn.

    Args:
      cases: what to train.
      rounds: how often each is timed.
      seconds: for how long each time, about.
      size: rows and columns of the large matrices.
    """
    jobs = {case.name: work(case, epochs=1) for case in cases}
    flops = {name: flops_per_step(job) for name, job in jobs.items()}
    running = {name: contenders.scanned(job).run for name, job in jobs.items()}
    times = alternate({MATMUL: _product(size), **running}, rounds, seconds)
    rate = 2 * size**3 / times.pop(MATMUL) / 1e9
    rows = []
    for name, t in times.items():
        reached = flops[name] / t / 1e9
        rows.append(MatmulRow(name, flops[name], spread(reached), spread(reached / rate)))
    return Matmul(size, spread(rate), rows)


def flops_per_step(job: Work) -> float:
    """Floating-point operations of the products and convolutions of one step, counted in the segment's jaxpr."""
    state: Any = jax.eval_shape(job.program.init, job.prepared.key, job.prepared.values)
    return measure.flops(job.program.segment, state, job.prepared.values, job.prepared.arrays["train"]) / job.steps


def _product(size: int) -> Any:
    a, b = (jnp.asarray(np.random.RandomState(i).standard_normal((size, size)), jnp.float32) for i in range(2))
    product = jax.jit(jnp.matmul)

    def run() -> int:
        product(a, b).block_until_ready()
        return 1

    return run
