"""Strategy 'measure': the candidates, timed on the first segment."""

import time

import jax
import numpy as np

from jopt.ablate.execute import Chunk, lifted
from jopt.ablate.lift import Layout, Lift
from jopt.ablate.plan import GroupPlan
from jopt.ablate.strategy import ACCELERATOR_LANES, TINY_LANES
from jopt.report import Table
from jopt.train.compilation import Compiler
from jopt.train.staging import Staging

ROUNDS = 3


def fastest(plan: GroupPlan) -> tuple[int, Table]:
    """The number of lanes whose first segment took the least time a trial, and the times of all candidates.

    Each candidate that fits runs the first segment of as many trials as the widest needs, on the plan's devices,
    once to warm up and then in turn with the others; the median counts. Stages without steps have nothing to time:
    then the plan's own choice stays.

    Args:
      plan: of a group.

    Returns:
      The lanes, and a table to print.
    """
    first = next((s for s in plan.prepared.segments if s.steps), None)
    most = max(plan.layout.lanes, -(-len(plan.group.trials) // plan.layout.devices))
    layouts = [Layout(n, plan.layout.devices) for n in (1, TINY_LANES, ACCELERATOR_LANES) if n <= most]
    candidates = [layout.lanes for layout in layouts if plan.memory.room(layout) >= layout.multiple]
    if first is None or first.stage > 0 or len(candidates) <= 1:
        return plan.layout.lanes, Table("Strategies", ("strategy",), "l", [("nothing to choose from",)])
    together = max(candidates) * plan.layout.devices
    runs = {
        lanes: _first_segment(plan, Layout(lanes, plan.layout.devices), together, first.steps)
        for lanes in candidates
    }
    times: dict[int, list[float]] = {lanes: [] for lanes in candidates}
    for _ in range(ROUNDS):
        for lanes, run in runs.items():
            start = time.perf_counter()
            run()
            times[lanes].append((time.perf_counter() - start) / together / first.steps)
    medians = {lanes: float(np.median(own)) for lanes, own in times.items()}
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


def _first_segment(plan: GroupPlan, layout: Layout, together: int, steps: int):
    trials = [plan.group.trials[i % len(plan.group.trials)] for i in range(together)]
    lift = Lift(layout)
    p = lifted(Chunk(trials, together, layout, plan.prepared), lift)
    compiler = Compiler()
    staging = Staging(p, compiler, lambda stage: None, over=lift)  # pyright: ignore[reportArgumentType]
    state, arrays = staging.begin(0, None), staging.arrays(0)["train"]
    program = p.program_of(0, steps)
    segment = compiler.get("segment", steps, program.segment, state, p.values, arrays)

    def run() -> None:
        jax.block_until_ready(segment(state, p.values, arrays))

    run()
    return run
