"""Suite `startup`: what importing jopt costs, how soon the first optimizer step is done, how much memory a run takes."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.benchmarks.timing import Ratio, Spread, ratio, spread

JOPT_IMPORT = "import jopt, jopt.train"
LIBRARIES_IMPORT = "import jax, flax, optax"
IMPORT_TARGET = 1.2
ROOT = Path(__file__).resolve().parents[2]


class Startup(NamedTuple):
    """Suite `startup`.

    Attributes:
      import_seconds: by what is imported, each time in a fresh process, inside which it is timed.
      import_ratio: jopt's time over the libraries' time, round by round; met where it is at most the target.
      first_step_seconds: by `cold` and `warm` compilation cache: from the launch of `experiments.train` until the
        first segment (an epoch) is done and its row is in metrics.jsonl.
      run_seconds: by the same: from the launch until the process has ended.
      peak_bytes: by the same: most physical memory that the process has held.
    """

    import_seconds: dict[str, Spread]
    import_ratio: Ratio
    first_step_seconds: dict[str, Spread]
    run_seconds: dict[str, Spread]
    peak_bytes: dict[str, Spread]


class Run(NamedTuple):
    """One process of `experiments.train`: seconds from its launch, and bytes."""

    first_step: float
    end: float
    peak: float


def startup(import_rounds: int, run_rounds: int, config: str = "configs/digits_mlp.py", *flags: str) -> Startup:
    """Starts fresh processes in turn and times them.

    Bytecode is compiled beforehand into a directory of its own, as in any installation.

    Args:
      import_rounds: fresh processes for each import.
      run_rounds: runs with an empty compilation cache, and as many with a full one.
      config: the config file of the runs.
      *flags: more flags for `experiments.train`, such as `--config.epochs=2`.

    Raises:
      RuntimeError: if a process fails, with what it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="jopt-benchmark-") as name:
        scratch = Path(name)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(scratch / "bytecode")
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *environment.get("PYTHONPATH", "").split(os.pathsep)]
        )
        statements = (JOPT_IMPORT, LIBRARIES_IMPORT)
        imports: dict[str, list[float]] = {statement: [] for statement in statements}
        for statement in statements:
            _import(statement, environment)
        for _ in range(import_rounds):
            for statement in statements:
                imports[statement].append(_import(statement, environment))
        ours, theirs = (np.array(imports[statement]) for statement in statements)
        compared = ratio(LIBRARIES_IMPORT, ours, theirs, IMPORT_TARGET)
        runs = dict(_runs(scratch, run_rounds, environment, ["--config=" + config, *flags]))
        return Startup(
            import_seconds={statement: spread(times) for statement, times in imports.items()},
            import_ratio=compared._replace(met=compared.median <= IMPORT_TARGET),
            first_step_seconds={k: spread([r.first_step for r in v]) for k, v in runs.items()},
            run_seconds={k: spread([r.end for r in v]) for k, v in runs.items()},
            peak_bytes={k: spread([r.peak for r in v]) for k, v in runs.items()},
        )


def _import(statement: str, environment: dict[str, str]) -> float:
    code = f"import time\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{statement!r} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def _runs(
    scratch: Path, rounds: int, environment: dict[str, str], flags: Sequence[str]
) -> Iterator[tuple[str, list[Run]]]:
    # The first run of all also compiles bytecode and reads the data set from disk: it is not counted.
    _run(scratch / "unmeasured", scratch / "cache", environment, flags)
    yield "cold", [_run(scratch / f"cold{i}", scratch / f"cache{i}", environment, flags) for i in range(rounds)]
    yield "warm", [_run(scratch / f"warm{i}", scratch / "cache", environment, flags) for i in range(rounds)]


def _run(workdir: Path, cache: Path, environment: dict[str, str], flags: Sequence[str]) -> Run:
    # Without an evaluation after every segment, the first row of metrics.jsonl follows right after the first segment.
    command = [sys.executable, "-m", "experiments.train", f"--workdir={workdir}", f"--compilation_cache={cache}"]
    command += ["--quiet", "--config.evaluate_every=1000000", *flags]
    rows, log = workdir / "metrics.jsonl", workdir.with_suffix(".log")
    first = None
    with log.open("w") as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=out)
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if first is None:
                with contextlib.suppress(FileNotFoundError):
                    if rows.stat().st_size:
                        first = time.perf_counter() - start
            time.sleep(0.002)
        end = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or first is None:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    return Run(first, end, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
