"""How trials share a device: the rule of strategy 'auto', drawn from measurements, and strategy 'measure'."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from jopt.ablate.execute import Chunk, lifted
from jopt.ablate.lift import Layout, Lift
from jopt.config import require
from jopt.report import Table
from jopt.train.compiler import Compiler, Request
from jopt.train.schedule import Segment
from jopt.train.staging import Staging

if TYPE_CHECKING:
    # A plan chooses its lanes by the rule of this file, so at run time the import goes the other way.
    from jopt.ablate.plan import GroupPlan

TINY = 8_000
"""Parameters below which a network is so small that the calls, and not the arithmetic, take the time."""

TINY_LANES = 16
ACCELERATOR_LANES = 32
ROUNDS = 3


class Sizes(NamedTuple):
    """The facts that the rule decides by.

    Attributes:
      platform: 'cpu', 'gpu' or 'tpu'.
      parameters: of the largest network of the trial's stages.
      convolutions: whether a network has convolutions.
    """

    platform: str
    parameters: int
    convolutions: bool


def lanes(strategy: str, sizes: Sizes) -> int:
    """Trials in one batch (`vmap`); 1 is one after the other (`map`).

    | device | networks | strategy |
    | --- | --- | --- |
    | CPU | fewer than 8000 parameters, no convolution | vmap, 16 lanes |
    | CPU | all others | map |
    | GPU, TPU | all | vmap, 32 lanes |

    Measured (docs/benchmarks.md): on two CPU devices `map` takes at most a ninth longer than the best batch, and
    mostly no longer; on one device up to a third longer, for the smallest CNN. In exchange a trial by `map` has the
    bits that it has alone. Networks below the limit are bound by calls, of which a batch makes fewer: `map` takes a
    tenth to two times longer there. The rows for accelerators follow from their need of large operations; they have
    not been measured.

    The lanes decide the order of sums, and so the last bits. The rule is a function of the structure alone, so that
    a second launch chooses the same lanes and is bit-identical.

    Args:
      strategy: 'auto', 'map', 'vmap' or 'measure'.
      sizes: of the trials.

    Example:
      >>> lanes("auto", Sizes("cpu", 50_710, False)), lanes("auto", Sizes("cpu", 1_210, False))
      (1, 16)
    """
    # 'measure' starts from the rule too: it falls back on it where nothing can be timed.
    if strategy == "map":
        return 1
    if sizes.platform != "cpu":
        return ACCELERATOR_LANES
    tiny = sizes.parameters < TINY and not sizes.convolutions
    return TINY_LANES if strategy == "vmap" or tiny else 1


def chunks(trials: int, layout: Layout, most: int) -> tuple[int, int]:
    """The number of chunks and the trials in each: equal, the last padded, none larger than `most`.

    Args:
      trials: the number of trials.
      layout: how they share the devices.
      most: the most trials in a chunk, at least the layout's multiple.

    Returns:
      The number of chunks, and their width, a multiple of `layout.multiple`.

    Example:
      >>> chunks(100, Layout(1, 2), 100), chunks(100, Layout(1, 1), 7), chunks(3, Layout(8, 2), 64)
      ((1, 100), (15, 7), (1, 16))
    """
    step = layout.multiple
    require(most >= step, "chunk", most, f"0, or at least {step}: {layout.lanes} lanes on {layout.devices} devices")
    most = most // step * step
    # Equal widths, so that all chunks of a group run one compiled program, and the padding is small.
    count = -(-trials // most)
    width = -(-trials // count)
    return count, -(-width // step) * step


def fastest(plan: GroupPlan) -> tuple[int, Table]:
    """Strategy 'measure': the number of lanes whose first segment takes the least time per trial.

    Each candidate that fits in memory trains as many trials as the widest one needs, on the plan's devices: once to
    warm up, then in turn with the others. The median counts. A stage without steps cannot be timed; the plan's
    choice then stays.

    Args:
      plan: of a group.

    Returns:
      The lanes, and a table of all candidates to print.
    """
    first = next((s for s in plan.prepared.segments if s.steps), None)
    widest = max(plan.layout.lanes, -(-len(plan.group.trials) // plan.layout.devices))
    layouts = [Layout(n, plan.layout.devices) for n in (1, TINY_LANES, ACCELERATOR_LANES) if n <= widest]
    candidates = [layout.lanes for layout in layouts if plan.memory.room(layout) >= layout.multiple]
    if first is None or first.stage > 0 or len(candidates) <= 1:
        return plan.layout.lanes, Table("Strategies", ("strategy",), "l", [("only one candidate",)])
    # The same number of trials for all candidates, as a block that is not full would be timed as if it were.
    trials = max(candidates) * plan.layout.devices
    runs = {lanes: _first_segment(plan, Layout(lanes, plan.layout.devices), trials, first) for lanes in candidates}
    # In turn, so that a slow phase of the machine hits every candidate.
    times: dict[int, list[float]] = {lanes: [] for lanes in candidates}
    for _ in range(ROUNDS):
        for lanes, run in runs.items():
            start = time.perf_counter()
            run()
            times[lanes].append((time.perf_counter() - start) / trials / first.steps)
    medians = {lanes: float(np.median(seconds)) for lanes, seconds in times.items()}
    chosen = min(medians, key=lambda lanes: medians[lanes])
    rows = [
        (
            "map" if lanes == 1 else f"vmap x {lanes}",
            f"{1e6 * medians[lanes]:.1f}",
            "chosen" if lanes == chosen else "",
        )
        for lanes in candidates
    ]
    return chosen, Table(
        f"Strategies of group {plan.group.index}", ("strategy", "us a trial-step", ""), "lrl", rows
    )


def _first_segment(plan: GroupPlan, layout: Layout, count: int, first: Segment) -> Callable[[], None]:
    """Compiles and warms up the first segment of `count` trials; the function runs it."""
    # A group of fewer trials repeats them: only the time matters.
    trials = [plan.group.trials[i % len(plan.group.trials)] for i in range(count)]
    lift = Lift(layout)
    p = lifted(Chunk(trials, count, layout, plan.prepared), lift)
    compiler = Compiler()
    with Staging(p, compiler, lambda stage: None, over=lift) as staging:  # pyright: ignore[reportArgumentType]
        state, arrays = staging.begin(0, None), staging.train(0, first.start, first.steps)
    program = p.program_of(0, first.steps)
    segment = compiler.compiled(Request("segment", first.steps, program.segment, (state, p.values, arrays)))

    def run() -> None:
        jax.block_until_ready(segment(state, p.values, arrays))

    run()
    return run
