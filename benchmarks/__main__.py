"""Measures jopt against named alternatives, in turn, in one process; see docs/benchmarks.md.

python -m benchmarks                                        # every timed suite
python -m benchmarks train matmul --repeats 20 --json=train.json --markdown=train.md
python -m benchmarks --summary train.json serving.json      # where jopt is slower than others, and where not
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rich.console

from benchmarks import (
    calls,
    contenders,
    convolutions,
    files,
    grids,
    low_bits,
    output,
    plans,
    processes,
    ptq,
    steps,
    summary,
)
from benchmarks.timing import MissingPackageError, Options, Row
from jopt import report
from jopt.files import write_json, write_text

_ROUNDS = "median [p10, p90], measured"

# Linux counts in a process's peak memory what its parent held when it was started: start-up comes first, while this
# process is small.
SUITES: dict[str, tuple[Callable[[Options], list[Row]], str]] = {
    "startup": (processes.startup, f"Fresh processes: {_ROUNDS}"),
    "train": (steps.train, f"Training step, and the alternative's time over jopt's: {_ROUNDS}"),
    "matmul": (steps.matmul, f"Share of the float32 matmul rate; MFLOP (a step) are counted; {_ROUNDS}"),
    "masks": (steps.masks, f"Mask update, and the alternative's time over jopt's: {_ROUNDS}"),
    "compress": (steps.compress, f"Training step with compression: {_ROUNDS}"),
    "shrink": (calls.shrink, f"Shrinking: FLOPs counted; call, and the dense network's time over it: {_ROUNDS}"),
    # zlib takes seconds for each file: fewer rounds.
    "codec": (
        lambda options: files.packed(options.fewer(4)),
        f"Packed files: bytes counted; MB (1e6 bytes) of float32 parameters a second: {_ROUNDS}",
    ),
    "serving": (
        calls.serving,
        f"Serving: call, and its float32 counterpart's time over it; ONNX Runtime on {calls.THREADS} thread, "
        f"XLA on all cores: {_ROUNDS}",
    ),
    "ablate": (grids.ablate, f"Ablation; launches and the loop are scaled from a sample of the trials: {_ROUNDS}"),
    # Seventy programs of up to 64 trials each: fewer and shorter rounds.
    "strategies": (
        lambda options: processes.on_devices(grids.DEVICES, grids.strategies, options.fewer(4, 3)),
        f"Strategies, and the default rule's choice: {_ROUNDS}",
    ),
    "convolutions": (
        convolutions.convolutions,
        f"Forms of a convolution, and their time over the chosen one: {_ROUNDS}",
    ),
    # A plan takes seconds, and CPU seconds vary little.
    "plans": (lambda options: plans.plans(options.fewer(4)), f"Plans of wide grids: CPU seconds, {_ROUNDS}"),
    "low_bits": (low_bits.low_bits, "Accuracy at few bits, by calibration: mean of three seeds"),
    "ptq": (ptq.ptq, "8 bits of weights and activations without training: loss on the test part"),
}
TIMED = tuple(name for name in SUITES if name not in ("low_bits", "convolutions", "plans", "ptq"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suites, prints a table after each; returns 0, or 1 where a package or a file is missing."""
    arguments = vars(parser().parse_args(argv))
    names = ("suites", "json", "markdown", "summary")
    suites, json_file, markdown, summarized = (arguments.pop(name) for name in names)
    if summarized:
        return _summarize([Path(name) for name in summarized], markdown)
    options = Options(**arguments)
    if not steps.chosen_cases(options):
        names = [case.name for case in contenders.CASES]
        print(f"--cases={options.cases}: no case has this in its name; the cases are {names}", file=sys.stderr)
        return 2
    machine = output.describe()
    notes, tables = [output.machine_line(machine)], []
    print(notes[0])
    results: dict[str, Any] = {"schema": summary.SCHEMA, "argv": sys.argv, "settings": dataclasses.asdict(options)}
    results |= {"machine": machine, "others_share": {}}
    for name in suites or TIMED:
        run, title = SUITES[name]
        before = output.busy()
        try:
            results[name] = run(options)
        except MissingPackageError as error:
            print(error, file=sys.stderr)
            return 1
        share = output.others_share(before, output.busy())
        results["others_share"][name] = share
        tables.append(output.table(title, results[name]))
        report.show(tables[-1], _console())
        if share is not None:
            notes.append(output.others_line(name, share))
            print(notes[-1])
        # After each suite: the next one may be killed, or fail, half an hour later.
        if json_file:
            write_json(Path(json_file), output.to_json(results))
    peers = summary.tables({name: output.to_json(results[name]) for name in suites or TIMED})
    for table in peers:
        report.show(table, _console())
    if markdown:
        write_text(Path(markdown), "\n\n".join([*notes, *map(report.to_markdown, [*peers, *tables])]) + "\n")
    return 0


def _summarize(paths: Sequence[Path], markdown: str | None) -> int:
    try:
        suites, notes = summary.read(paths)
    except summary.SummaryError as error:
        print(error, file=sys.stderr)
        return 1
    tables = summary.tables(suites)
    for note in notes if tables else ["these files compare jopt with no other package"]:
        print(note)
    for table in tables:
        report.show(table, _console())
    if markdown:
        write_text(Path(markdown), "\n\n".join([*notes, *map(report.to_markdown, tables)]) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line: the suites' names, and the fields of `Options`."""
    cli = argparse.ArgumentParser("python -m benchmarks", description="Speed as ratios against named alternatives.")
    default = Options()
    cli.add_argument("suites", nargs="*", metavar="SUITE", type=_suite, help=f"of {', '.join(SUITES)}")
    for name, kind, text in (
        ("repeats", _positive, "rounds of each comparison"),
        ("seconds", _not_negative, "how long a contender works in each round"),
        ("cases", str, "suites train and matmul: only cases whose name contains this"),
        ("runs", _positive, "runs of experiments.train with a cold, and with a warm cache"),
        ("sample", _at_least_two, "trials of the grid that suite ablate also runs one at a time"),
        ("grids", _positive, "runs of the whole grid in suite ablate"),
        ("matmul_size", _positive, "rows and columns of the large matrices"),
        ("parameters", _positive, "parameters that suite codec writes and reads"),
    ):
        cli.add_argument(f"--{name}", type=kind, default=getattr(default, name), help=f"{text} (%(default)s)")
    cli.add_argument("--weights", type=_positive, nargs="+", default=default.weights, help="sizes of suite masks")
    cli.add_argument("--notorch", dest="torch", action="store_false", help="leave PyTorch out")
    cli.add_argument("--noqwix", dest="qwix", action="store_false", help="leave qwix out")
    cli.add_argument("--summary", nargs="+", metavar="JSON", help="only compare the measurements of these files")
    cli.add_argument("--json", help="file to write the measurements to")
    cli.add_argument("--markdown", help="file to write the tables to")
    return cli


# A type, not `choices`: with nargs="*" these would have to contain the empty list.
def _suite(text: str) -> str:
    if text not in SUITES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SUITES)}")
    return text


def _positive(text: str) -> int:
    return _number(int, text, 1)


def _at_least_two(text: str) -> int:
    return _number(int, text, 2)


def _not_negative(text: str) -> float:
    return _number(float, text, 0.0)


def _number(kind: Callable[[str], Any], text: str, least: float) -> Any:
    if kind(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is less than {least:g}")
    return kind(text)


def _console() -> rich.console.Console:
    # A file or a pipe has no width; the widest table needs more than the 80 columns that rich would take.
    return rich.console.Console(highlight=False, width=None if sys.stdout.isatty() else 130)


if __name__ == "__main__":
    # Unlike `main(sys.argv[1:])` in a test, a reader of the output may close it early, as `head` does.
    try:
        sys.exit(main())
    except BrokenPipeError:
        sys.exit(1)
