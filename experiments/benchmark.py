"""Measures jopt against named alternatives, in turn, in one process; see docs/benchmarks.md.

python -m experiments.benchmark --json=benchmark.json --markdown=benchmark.md
python -m experiments.benchmark --only=train --repeats=20
"""

import sys
from pathlib import Path
from typing import Any

import rich.console
from absl import flags

from experiments.benchmarks import (
    ablation,
    ablation_process,
    ablation_strategies,
    cases,
    codec,
    compress,
    machine,
    masks,
    pytorch,
    serving,
    shrink,
    startup,
    tables,
    training,
)
from experiments.launch import launch
from jopt import report
from jopt.files import write_json, write_text

# Linux counts in a process's peak memory what its parent held when it was started: start-up comes first, while this
# process is small.
SUITES = ("startup", "train", "matmul", "masks", "compress", "shrink", "codec", "serving", "ablate", "strategies")
SCHEMA = 1

_ONLY = flags.DEFINE_multi_enum(
    "only", [], SUITES, "Run only this suite; may be given several times. Default: all."
)
_REPEATS = flags.DEFINE_integer("repeats", 12, "Rounds of each comparison.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 0.3, "How long a contender works in each round.", lower_bound=0.0)
_CASES = flags.DEFINE_string("cases", "", "Only the cases whose name contains this.")
_RUNS = flags.DEFINE_integer(
    "runs", 5, "Runs of experiments.train with a cold, and with a warm cache.", lower_bound=1
)
_SIZE = flags.DEFINE_integer("matmul_size", 2048, "Rows and columns of the large matrices.", lower_bound=1)
_WEIGHTS = flags.DEFINE_multi_integer(
    "weights", list(masks.SIZES), "Numbers of weights to choose among.", lower_bound=1
)
_PARAMETERS = flags.DEFINE_integer(
    "parameters", codec.PARAMETERS, "Parameters that suite codec writes and reads.", lower_bound=1
)
_SAMPLE = flags.DEFINE_integer(
    "sample", 5, "Trials of the grid that suite ablate also runs one at a time.", lower_bound=2
)
_GRIDS = flags.DEFINE_integer("grids", 2, "Runs of the whole grid in suite ablate.", lower_bound=1)
_TORCH = flags.DEFINE_bool("torch", True, "Whether PyTorch takes part.")
_QWIX = flags.DEFINE_bool("qwix", True, "Whether qwix takes part.")
_JSON = flags.DEFINE_string("json", None, "File to write the measurements to.")
_MARKDOWN = flags.DEFINE_string("markdown", None, "File to write the tables to.")


def main(argv: list[str]) -> int:
    """Runs the suites, prints a table after each; returns 0, or 1 where a package is wanted but not installed."""
    chosen = [case for case in cases.CASES if _CASES.value in case.name]
    if not chosen:
        print(
            f"--cases={_CASES.value}: no case is called so; there are {[c.name for c in cases.CASES]}",
            file=sys.stderr,
        )
        return 2
    suites = [suite for suite in SUITES if suite in (_ONLY.value or SUITES)]
    here = machine.describe()
    print(tables.machine_line(here))
    settings = {"repeats": _REPEATS.value, "seconds": _SECONDS.value, "runs": _RUNS.value}
    settings |= {"sample": _SAMPLE.value, "grids": _GRIDS.value}
    found: dict[str, Any] = {"schema": SCHEMA, "argv": sys.argv, "settings": settings, "machine": here}
    found["others_share"] = {}
    shown, notes = [], [tables.machine_line(here)]
    for suite in suites:
        before = machine.busy()
        try:
            measured, table = _run(suite, chosen)
        except (pytorch.MissingTorchError, compress.MissingQwixError, serving.MissingOnnxError) as error:
            print(error, file=sys.stderr)
            return 1
        found[suite] = measured
        found["others_share"][suite] = others = machine.others_share(before, machine.busy())
        shown.append(table)
        report.show(table, _console())
        if others is not None:
            notes.append(tables.others_line(suite, others))
            print(notes[-1])
    if _JSON.value:
        write_json(Path(_JSON.value), machine.to_json(found))
    if _MARKDOWN.value:
        write_text(Path(_MARKDOWN.value), "\n\n".join([*notes, *map(report.to_markdown, shown)]) + "\n")
    return 0


def _console() -> rich.console.Console:
    return rich.console.Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def _run(suite: str, chosen: list[cases.Case]) -> tuple[Any, report.Table]:
    if suite == "train":
        rows = training.train(chosen, _REPEATS.value, _SECONDS.value, _TORCH.value)
        return rows, tables.train_table(rows)
    if suite == "matmul":
        rates = training.matmul(chosen, _REPEATS.value, _SECONDS.value, _SIZE.value)
        return rates, tables.matmul_table(rates)
    if suite == "masks":
        selections = masks.masks(_WEIGHTS.value, _REPEATS.value, _SECONDS.value)
        return selections, tables.masks_table(selections)
    if suite == "compress":
        steps = compress.compress(_REPEATS.value, _SECONDS.value, _QWIX.value)
        return steps, tables.compress_table(steps)
    if suite == "shrink":
        sizes = shrink.shrink(_REPEATS.value, _SECONDS.value)
        return sizes, tables.shrink_table(sizes)
    if suite == "codec":
        # zlib takes seconds for each file: fewer rounds.
        files = codec.packed(_PARAMETERS.value, max(1, _REPEATS.value // 4), _SECONDS.value)
        return files, tables.codec_table(files)
    if suite == "serving":
        calls = serving.serving(_REPEATS.value, _SECONDS.value)
        return calls, tables.serving_table(calls)
    if suite == "ablate":
        grids = ablation.ablate(
            _REPEATS.value, _SECONDS.value, _TORCH.value, sample=_SAMPLE.value, grids=_GRIDS.value
        )
        return grids, tables.ablate_table(grids)
    if suite == "strategies":
        # Seventy programs of up to 64 trials each: fewer and shorter rounds.
        few = max(1, _REPEATS.value // 4), _SECONDS.value / 3
        layouts = ablation_process.apart(
            ablation_strategies.strategies, *few, devices=ablation_strategies.MOST_DEVICES
        )
        return layouts, tables.strategies_table(layouts)
    times = startup.startup(_REPEATS.value, _RUNS.value)
    return times, tables.startup_table(times)


if __name__ == "__main__":
    launch(main)
