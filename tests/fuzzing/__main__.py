"""Fuzzes everything that jopt reads; the more often, the faster it is read.

    python -m tests.fuzzing 1000000 [SEED] [--targets='packed files,flags']

prints a line for each target, and every input that raised an undocumented error; then the exit status is 1.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzzing.engine import fuzz
from tests.fuzzing.targets import SHARES, all_targets

MEMORY = 1 << 30
"""Bytes that all inputs together may take above what the process has before the first one."""


def main(arguments: argparse.Namespace) -> int:
    """Prints the table; the exit status."""
    failed = False
    # In memory where the system has such a directory: a file is written for nearly each input.
    memory_disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None) as scratch:
        targets = all_targets(Path(scratch).resolve())
        names = arguments.targets.split(",") if arguments.targets else list(targets)
        bound_memory()
        total = sum(SHARES[name] for name in names)
        print(
            "| target | inputs | us each | outcomes | edges | corpus | slowest, s | findings |\n" + "|---" * 8 + "|"
        )
        for name in names:
            begun = time.process_time()
            report = fuzz(targets[name], max(1, int(arguments.count * SHARES[name] / total)), arguments.seed)
            seconds = (time.process_time() - begun) / report.inputs
            outcomes = ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.items())
            print(
                f"| {name} | {report.inputs} | {seconds * 1e6:.0f} | {outcomes} | {report.edges} | {report.corpus} "
                f"| {report.slowest:.2f} | {len(report.findings)} |",
                flush=True,
            )
            for place, finding in report.findings.items():
                failed = True
                print(f"{name}: {place}\n{finding.value!r:.2000}\n{finding.error}", file=sys.stderr, flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"seed {arguments.seed}, at most {memory:.0f} MiB in all")
    return int(failed)


def bound_memory() -> None:
    """What takes more raises MemoryError, which no reader documents."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        size = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--targets", default="")
    sys.exit(main(parser.parse_args()))
