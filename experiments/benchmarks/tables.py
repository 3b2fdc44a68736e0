"""The measurements as tables, for the terminal and for Markdown."""

from collections.abc import Iterator, Sequence

from experiments.benchmarks.ablation import GRID, Ablate
from experiments.benchmarks.ablation_steps import TWO_DEVICES
from experiments.benchmarks.ablation_strategies import LANES, StrategyRow
from experiments.benchmarks.codec import DECODE, ENCODE, TARGETS, CodecRow
from experiments.benchmarks.compress import PLAIN, CompressRow
from experiments.benchmarks.machine import Machine
from experiments.benchmarks.masks import JOPT as TOP_K_MASK
from experiments.benchmarks.masks import MaskRow
from experiments.benchmarks.serving import THREADS, ServingRow
from experiments.benchmarks.shrink import ShrinkRow
from experiments.benchmarks.startup import Startup
from experiments.benchmarks.timing import Ratio, Spread
from experiments.benchmarks.training import JOPT, Matmul, TrainRow
from jopt.report import Table


def machine_line(machine: Machine) -> str:
    """The machine in one sentence."""
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if version)
    return (
        f"{machine.date}: {machine.cores} cores {machine.cpu}, {machine.memory_bytes / 2**30:.0f} GiB, "
        f"JAX on {machine.device}; Python {machine.python}, {packages}; load before the start {machine.load:.2f}"
    )


def others_line(suite: str, share: float) -> str:
    """How quiet the machine was while a suite ran."""
    verdict = "" if share < 0.05 else ": NOT A QUIET MACHINE, do not quote these figures"
    return f"{suite}: other processes took {100 * share:.0f} % of the processors' time{verdict}"


def train_table(rows: Sequence[TrainRow]) -> Table:
    """Suite `train`: a line for each case and contender."""
    title = "Training step: its time, and the ratio to jopt's; median [p10, p90], measured"
    header = ("case, contender", "µs a step", "ratio", "target")
    return Table(title, header, "lrrr", [cells for row in rows for cells in _train_cells(row)])


def _train_cells(row: TrainRow) -> Iterator[tuple[str, ...]]:
    yield (row.case, "", "", "")
    yield ("· " + JOPT, _scaled(row.seconds_per_step[JOPT], 1e6), "1", "")
    for ratio in row.ratios:
        time = _scaled(row.seconds_per_step[ratio.against], 1e6)
        yield ("· " + ratio.against, time, *_ratio_cells(ratio, "≥"))


def matmul_table(measured: Matmul) -> Table:
    """Suite `matmul`: a line for each case, under the rate of the large product."""
    title = "Share of the float32 matmul rate; MFLOP a step are counted, GFLOP/s measured, median [p10, p90]"
    rows = [(f"one product of {measured.size}²", "", _scaled(measured.gflops_per_second, 1), "100 %")]
    for row in measured.rows:
        share = _scaled(row.share, 100, " %")
        rows.append((row.case, f"{row.flops_per_step / 1e6:.1f}", _scaled(row.gflops_per_second, 1), share))
    return Table(title, ("case", "MFLOP", "GFLOP/s", "share"), "lrrr", rows)


def masks_table(rows: Sequence[MaskRow]) -> Table:
    """Suite `masks`: a line for each size and contender."""
    title = "Mask update: its time, and the ratio to jopt's; median [p10, p90], measured"
    cells = []
    for row in rows:
        cells.append((f"{row.weights:,} weights, {100 * row.sparsity:g} % pruned", "", "", ""))
        cells.append(("· " + TOP_K_MASK, _scaled(row.seconds_per_mask[TOP_K_MASK], 1e3), "1", ""))
        for ratio in row.ratios:
            time = _scaled(row.seconds_per_mask[ratio.against], 1e3)
            cells.append(("· " + ratio.against, time, *_ratio_cells(ratio, "≥")))
    return Table(title, ("size, contender", "ms a mask", "ratio", "target"), "lrrr", cells)


def compress_table(row: CompressRow) -> Table:
    """Suite `compress`: a line for each contender."""
    title = f"Training step with compression ({row.case}): median [p10, p90], measured"
    cells = [(PLAIN, _scaled(row.seconds_per_step[PLAIN], 1e6), "1", "")]
    for ratios, against, relation in ((row.costs, PLAIN, "≤"), (row.rivals, "jopt", "≥")):
        for ratio in ratios:
            time = _scaled(row.seconds_per_step[ratio.against], 1e6)
            number, target = _ratio_cells(ratio, relation)
            cells.append((ratio.against, time, f"{number} of {against}", target))
    return Table(title, ("contender", "µs a step", "ratio", "target"), "lrrr", cells)


def shrink_table(rows: Sequence[ShrinkRow]) -> Table:
    """Suite `shrink`: a line for each network, batch size and share of removed units."""
    title = "Shrinking: FLOPs counted; time of a call and the dense network's over it measured, median [p10, p90]"
    cells, head = [], None
    for row in rows:
        if (row.network, row.batch_size) != head:
            head = row.network, row.batch_size
            cells.append((f"{row.network}, batch {row.batch_size}", *[""] * 6))
        name, rate = f"· {100 * row.removed:g} % removed", f"{row.examples_per_second:,.0f}"
        sizes = f"{row.units:,}", f"{row.parameters:,}", f"{row.flops / 1e6:,.3g}"
        cells.append((name, *sizes, _scaled(row.seconds, 1e6), rate, _ratio_cells(row.speedup, "")[0]))
    header = ("network, batch", "units", "parameters", "MFLOP", "µs a call", "examples/s", "times as fast")
    return Table(title, header, "lrrrrrr", cells)


def serving_table(rows: Sequence[ServingRow]) -> Table:
    """Suite `serving`: a line for each network, batch size and way to serve it."""
    title = (
        f"Serving: time of a call, and its float32 counterpart's over it; ONNX Runtime on {THREADS} thread, XLA on "
        "all cores; median [p10, p90], measured"
    )
    cells, head = [], None
    for row in rows:
        if (row.network, row.batch_size) != head:
            head = row.network, row.batch_size
            cells.append((f"{row.network}, batch {row.batch_size}", *[""] * 5))
        speed, target = ("1", "") if row.speedup is None else _ratio_cells(row.speedup, "≥")
        size = "" if row.bytes is None else f"{row.bytes / 1e3:,.0f}"
        rate = f"{row.examples_per_second:,.0f}"
        cells.append(("· " + row.contender, size, _scaled(row.seconds, 1e6), rate, speed, target))
    header = ("network, batch, contender", "file, kB", "µs a call", "examples/s", "times as fast", "target")
    return Table(title, header, "lrrrrr", cells)


def startup_table(measured: Startup) -> Table:
    """Suite `startup`: imports, runs, memory."""
    rows = [(f"{statement}, s", _scaled(s, 1), "") for statement, s in measured.import_seconds.items()]
    rows.append(("ratio of the two", *_ratio_cells(measured.import_ratio, "≤")))
    for what, unit, factor, values in (
        ("launch to first epoch trained", "s", 1, measured.first_step_seconds),
        ("whole run", "s", 1, measured.run_seconds),
        ("peak memory", "MiB", 2**-20, measured.peak_bytes),
    ):
        rows += [(f"{what}, {cache} cache, {unit}", _scaled(v, factor), "") for cache, v in values.items()]
    title = "Starting: fresh processes, runs of experiments.train on digits_mlp, measured"
    return Table(title, ("what", "median [p10, p90]", "target"), "lrr", rows)


def ablate_table(measured: Ablate) -> Table:
    """Suite `ablate`: a line for each contender, under the grid or the network that they train."""
    whole = measured.whole
    cells = [(f"{whole.config}, {whole.trials} trials: s in all", "", "", "")]
    cells.append(("· " + GRID, _scaled(whole.seconds[GRID], 1), "1", ""))
    for ratio in whole.ratios:
        cells.append(("· " + ratio.against, _scaled(whole.seconds[ratio.against], 1), *_ratio_cells(ratio, "≥")))
    for row in measured.steps:
        cells.append((f"{row.case}, {row.trials} trials, {_strategy(row.lanes)}: µs a trial-step", "", "", ""))
        cells.append(("· " + TWO_DEVICES, _scaled(row.seconds_per_trial_step[TWO_DEVICES], 1e6), "1", ""))
        for ratio in row.ratios:
            time = _scaled(row.seconds_per_trial_step[ratio.against], 1e6)
            cells.append(("· " + ratio.against, time, *_ratio_cells(ratio, "≥")))
    off = f"test accuracy within {100 * whole.accuracy_difference:.2g} points of the grid's"
    title = (
        "Ablation: median [p10, p90], measured; "
        f"once a trial: scaled from {whole.sample} of {whole.trials} trials, {off}"
    )
    return Table(title, ("grid, contender", "time", "ratio", "target"), "lrrr", cells)


def strategies_table(rows: Sequence[StrategyRow]) -> Table:
    """Suite `strategies`: a line for each network and number of devices."""
    title = (
        "Strategies: µs a trial-step, median, measured; the default rule's choice, and its time over the best one's"
    )
    cells = []
    for row in rows:
        times = [_digits(1e6 * row.seconds_per_trial_step[lanes].median) for lanes in LANES]
        name = f"{row.network}: {row.parameters:,} parameters"
        cells.append((name, str(row.devices), *times, _strategy(row.rule), f"{row.cost:.2f}"))
    header = ("network", "devices", *map(_strategy, LANES), "rule", "cost")
    return Table(title, header, "lr" + "r" * len(LANES) + "lr", cells)


def codec_table(rows: Sequence[CodecRow]) -> Table:
    """Suite `codec`: a line for each kind of parameters and contender."""
    title = "Packed files: bytes counted; MB (1e6 bytes) of float32 parameters a second measured, median [p10, p90]"
    cells = []
    for row in rows:
        targets = [f"≥ {TARGETS[way]:g} {'met' if row.met[way] else 'MISSED'}" for way in (ENCODE, DECODE)]
        cells.append((f"{row.case}: {row.encoding}", f"{4 * row.parameters:,}", "1", *targets))
        for name, size in row.bytes.items():
            rates = [_scaled(row.megabytes_per_second[way][name], 1) for way in (ENCODE, DECODE)]
            cells.append((f"· {name}", f"{size:,}", f"{row.times_smaller[name]:.2f}", *rates))
    header = ("parameters: encoding, contender", "bytes", "times smaller", "write, MB/s", "read, MB/s")
    return Table(title, header, "lrrrr", cells)


def _strategy(lanes: int) -> str:
    return "map" if lanes == 1 else f"vmap x {lanes}"


def _ratio_cells(ratio: Ratio, relation: str) -> tuple[str, str]:
    met = "met" if ratio.met else "MISSED"
    target = "" if ratio.target is None else f"{relation} {ratio.target:g} {met}"
    return f"{ratio.median:.2f} [{ratio.p10:.2f}, {ratio.p90:.2f}]", target


def _scaled(spread: Spread, factor: float, unit: str = "") -> str:
    median, p10, p90 = (_digits(factor * value) for value in spread)
    return f"{median}{unit} [{p10}, {p90}]"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
