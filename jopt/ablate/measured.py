"""Strategy 'measure': times the candidate numbers of lanes on the first segment."""

import time
from collections.abc import Callable

import jax
import numpy as np

from jopt.ablate.execute import Chunk, lifted
from jopt.ablate.lift import Layout, Lift
from jopt.ablate.plan import GroupPlan
from jopt.ablate.strategy import ACCELERATOR_LANES, TINY_LANES
from jopt.report import Table
from jopt.train.loop import Compiler
from jopt.train.staging import Staging

ROUNDS = 3


def fastest(plan: GroupPlan) -> tuple[int, Table]:
    """The number of lanes whose first segment takes the least time per trial.

    Each candidate that fits in memory runs the first segment of as many trials as the widest one needs, on the
    plan's
    devices: once to warm up, then in turn with the others. The median counts. A stage without steps cannot be
    timed; the plan's own choice then stays.

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
    trials = max(candidates) * plan.layout.devices
    runs = {
        lanes: _first_segment(plan, Layout(lanes, plan.layout.devices), trials, first.steps) for lanes in candidates
    }
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


def _first_segment(plan: GroupPlan, layout: Layout, count: int, steps: int) -> Callable[[], None]:
    """Compiles and warms up the first segment of `count` trials; the function runs it."""
    # A group of fewer trials repeats them: only the time matters.
    trials = [plan.group.trials[i % len(plan.group.trials)] for i in range(count)]
    lift = Lift(layout)
    p = lifted(Chunk(trials, count, layout, plan.prepared), lift)
    compiler = Compiler()
    staging = Staging(p, compiler, lambda stage: None, over=lift)  # pyright: ignore[reportArgumentType]
    state, arrays = staging.begin(0, None), staging.arrays(0)["train"]
    program = p.program_of(0, steps)
    segment = compiler.get("segment", steps, program.segment, state, p.values, arrays)

    def run() -> None:
        jax.block_until_ready(segment(state, p.values, arrays))

    run()
    return run
