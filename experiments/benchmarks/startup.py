"""Suite `startup`: what importing jopt costs, how soon the first step is done, how much memory a run takes."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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

    Bytecode is kept, as Python does by default, and compiled before anything is timed.

    Args:
      import_rounds: fresh processes for each import.
      run_rounds: runs with an empty compilation cache, and as many with a full one.
      config: the config file of the runs.
      *flags: more flags for `experiments.train`, such as `--config.epochs=2`.

    Raises:
      RuntimeError: if a process fails, with what it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="jopt-benchmark-") as name:
        environment = _environment()
        times = _imports(import_rounds, environment)
        compared = ratio(LIBRARIES_IMPORT, times[JOPT_IMPORT], times[LIBRARIES_IMPORT], IMPORT_TARGET)
        runs = _runs(Path(name), run_rounds, environment, ["--config=" + config, *flags])
        return Startup(
            import_seconds={statement: spread(t) for statement, t in times.items()},
            import_ratio=compared._replace(met=compared.median <= IMPORT_TARGET),
            first_step_seconds={k: spread([r.first_step for r in v]) for k, v in runs.items()},
            run_seconds={k: spread([r.end for r in v]) for k, v in runs.items()},
            peak_bytes={k: spread([r.peak for r in v]) for k, v in runs.items()},
        )


def _environment() -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(ROOT), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return environment | {"PYTHONPATH": os.pathsep.join(paths)}


def _imports(rounds: int, environment: dict[str, str]) -> dict[str, np.ndarray]:
    statements = (JOPT_IMPORT, LIBRARIES_IMPORT)
    # The first round compiles bytecode: it is not counted.
    times = [[_import(statement, environment) for statement in statements] for _ in range(rounds + 1)][1:]
    return dict(zip(statements, np.array(times).T, strict=True))


def _import(statement: str, environment: dict[str, str]) -> float:
    code = f"import time\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{statement!r} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def _runs(scratch: Path, rounds: int, environment: dict[str, str], flags: Sequence[str]) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {"cold": [], "warm": []}
    for i in range(rounds):
        # Each cold run fills an empty cache, which the warm run after it finds.
        for state in runs:
            runs[state].append(_run(scratch / f"{state}{i}", scratch / f"cache{i}", environment, flags))
    return runs


def _run(workdir: Path, cache: Path, environment: dict[str, str], flags: Sequence[str]) -> Run:
    # Without an evaluation after every segment, the first row of metrics.jsonl follows the first segment at once.
    command = [sys.executable, "-m", "experiments.train", f"--workdir={workdir}", f"--compilation_cache={cache}"]
    command += [*flags, "--quiet", "--config.evaluate_every=1000000"]
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
