"""The plan of a grid for devices that need not be here: nothing is compiled, nothing is written."""

from collections.abc import Sequence
from typing import NamedTuple

import jax

from jopt.ablate.checks import validate
from jopt.ablate.config import Ablation
from jopt.ablate.display import axes_table
from jopt.ablate.judge import check, check_budget
from jopt.ablate.plan import GroupPlan, Loader, host_memory, memory_budget, plan, plan_table
from jopt.ablate.trials import axes, groups
from jopt.config import choice, require
from jopt.measure import program_cost
from jopt.report import Table, formats
from jopt.report.page import Part
from jopt.train.calls import Calls

MOST_PROGRAMS = 8
"""Groups whose programs are lowered for the plan: the first ones, as a wide grid may have hundreds."""

# JAX takes three quarters of a GPU's memory, and a TPU's whole, unless it is told otherwise.
_GPU_SHARE = 0.75

KINDS: dict[str, tuple[str, float]] = {
    "l4": ("gpu", 24e9),
    "a100": ("gpu", 40e9),
    "a100_80": ("gpu", 80e9),
    "h100": ("gpu", 80e9),
    "h200": ("gpu", 141e9),
    "tpu_v4": ("tpu", 32e9),
    "tpu_v5e": ("tpu", 16e9),
    "tpu_v5p": ("tpu", 95e9),
    "tpu_v6e": ("tpu", 32e9),
}
"""Kind of device to its platform and its memory in bytes, from the makers' data sheets."""


class Fleet(NamedTuple):
    """Devices that a plan is for.

    Attributes:
      count: how many.
      kind: 'cpu', or a key of `KINDS`; '' is the kind of the devices that are here.
    """

    count: int
    kind: str = ""

    @property
    def platform(self) -> str:
        """'cpu', 'gpu' or 'tpu'."""
        return KINDS[self.kind][0] if self.kind in KINDS else self.kind or jax.default_backend()

    def budget(self, gib: float | None) -> int:
        """Bytes that trials may take on each device: `gib`, or half of what JAX has there."""
        if gib is not None or not self.kind:
            return memory_budget(gib)
        if self.kind not in KINDS:
            # Devices that are cores of one host share its memory.
            return host_memory() // 2 // self.count
        platform, memory = KINDS[self.kind]
        return int(memory * (_GPU_SHARE if platform == "gpu" else 1)) // 2


def simulate(ablation: Ablation, fleet: Fleet, *, trusted: bool = False) -> tuple[list[Part], list[GroupPlan]]:
    """The plan of a grid on a fleet, labelled as simulated.

    Args:
      ablation: the grid.
      fleet: the devices.
      trusted: as for `jopt.ablate.run`.

    Returns:
      What to print, and the plans of the groups.

    Raises:
      ConfigError, RuleError: as `jopt.ablate.run`, or for a fleet of no device or of an unknown kind.
    """
    require(fleet.count >= 1, "devices", fleet.count, "at least 1")
    choice("device_kind", fleet.kind, ("", "cpu", *KINDS))
    trials = validate(ablation)
    check(ablation, trials)
    plans = plan(ablation, groups(trials), fleet.count, {}, Loader(trusted), fleet)
    check_budget(ablation, trials, plans)
    kind = fleet.kind or jax.local_devices()[0].device_kind
    devices = f"{fleet.count:,} x {kind}"
    most = max(p.memory.used(p.layout, p.width) for p in plans)
    sentence = (
        f"Simulated, not run: {ablation.name} on {devices}: {len(trials):,} trials, {len(plans)} "
        f"{'program' if len(plans) == 1 else 'programs'}; at most {formats.binary(most)} of "
        f"{formats.binary(plans[0].memory.budget)} on each device"
    )
    table = plan_table(plans, lambda trial: False)
    table = table._replace(title=f"Simulated plan for {devices} (programs, memory and time are estimates)")
    return [sentence, axes_table(axes(ablation, trials)), table, programs_table(plans[:MOST_PROGRAMS])], plans


def programs_table(plans: Sequence[GroupPlan]) -> Table:
    """What the programs of a trial of each group cost, as XLA counts it before compilation.

    Args:
      plans: of the groups; each program is traced and lowered, none is compiled.
    """
    rows = []
    for p in plans:
        for request in Calls(p.prepared, p.prepared.values).ahead(None):
            if request.name in ("segment", "update", "evaluate"):
                cost = program_cost(jax.jit(request.fn, keep_unused=True).lower(*request.args))
                stage = request.key[0] if isinstance(request.key, tuple) else request.key
                numbers = (cost.arguments, cost.outputs, cost.bytes_accessed)
                sizes = ("-" if n is None else formats.binary(int(n)) for n in numbers)
                flops = "-" if cost.flops is None else f"{cost.flops:.3g}"
                rows.append((str(p.group.index), str(stage), request.name, *sizes, flops))
    title = "Programs of a trial (not compiled; FLOPs and accessed bytes of a loop's body are counted once)"
    header = ("group", "stage", "program", "arguments", "results", "accessed", "FLOPs")
    return Table(title, header, "rrlrrrr", rows)
