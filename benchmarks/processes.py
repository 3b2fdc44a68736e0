"""Fresh processes: what imports and runs of the apps take (suite `startup`), and functions on several devices."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.contenders import ROOT
from benchmarks.timing import Options, Row, at_most, compared, spread

JOPT_IMPORT = "import jopt, jopt.train"
LIBRARIES_IMPORT = "import jax, flax, optax"
CONFIG = "configs/digits_mlp.py"


class Run(NamedTuple):
    """One process of `experiments.train`: seconds from its launch, and the most bytes that it held."""

    first_epoch: float
    end: float
    peak: float


def startup(options: Options, config: str = CONFIG, *flags: str) -> list[Row]:
    """Suite `startup`: imports in turn, then runs of `experiments.train` with a cold and a warm cache.

    Args:
      options: `repeats` of each import, `runs` with each state of the cache.
      config: the config file of the runs.
      *flags: more flags for `experiments.train`, such as `--config.epochs=2`.

    Raises:
      RuntimeError: if a process fails, with what it wrote.
    """
    statements = (JOPT_IMPORT, LIBRARIES_IMPORT)
    # The first round compiles bytecode: it is not counted.
    seconds = [[import_seconds(code) for code in statements] for _ in range(options.repeats + 1)][1:]
    times: dict[str, np.ndarray] = dict(zip(statements, np.array(seconds).T, strict=True))
    rows = compared("imports", times, "seconds", LIBRARIES_IMPORT, {JOPT_IMPORT: at_most(1.2)})
    runs: dict[str, list[Run]] = {"cold cache": [], "warm cache": []}
    with tempfile.TemporaryDirectory(prefix="jopt-benchmark-") as name:
        scratch = Path(name)
        for i in range(options.runs):
            # Each cold run fills an empty cache, which the warm run after it finds.
            for state in runs:
                workdir, cache = scratch / f"{state}{i}", scratch / f"cache{i}"
                runs[state].append(timed_run(workdir, cache, [f"--config={config}", *flags]))
    for state, measured in runs.items():
        first, end, peak = (spread(numbers) for numbers in np.array(measured).T)
        values = {"first_epoch_seconds": first, "run_seconds": end, "peak_bytes": peak}
        rows.append(Row(f"experiments.train --config={config}", state, {**values}))
    return rows


def environment() -> dict[str, str]:
    """This process's, with the repository importable and bytecode kept, as Python does by default."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(ROOT), *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return kept | {"PYTHONPATH": os.pathsep.join(paths)}


def import_seconds(statement: str) -> float:
    """Seconds that a statement takes in a fresh process, measured inside it."""
    code = f"import time\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    return float(_finished([sys.executable, "-c", code]).split()[-1])


def launch_seconds(app: str, config: str, workdir: Path, cache: Path, *flags: str) -> float:
    """Seconds that a process of `experiments.<app>` takes, from its launch to its end.

    Raises:
      RuntimeError: if it fails, with what it wrote.
    """
    start = time.perf_counter()
    _finished(_app(app, workdir, cache, [f"--config={config}", *flags]))
    return time.perf_counter() - start


def timed_run(workdir: Path, cache: Path, flags: Sequence[str], xla_flags: str | None = None) -> Run:
    """A run of `experiments.train`, watched from its launch.

    Raises:
      RuntimeError: if it fails, with what it wrote.
    """
    # Without an evaluation after every segment, the first row of metrics.jsonl follows the first segment at once.
    command = _app("train", workdir, cache, [*flags, "--config.evaluate_every=1000000"])
    variables = environment() | ({} if xla_flags is None else {"XLA_FLAGS": xla_flags})
    metrics, log = workdir / "metrics.jsonl", workdir.with_suffix(".log")
    first = None
    with log.open("w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=variables, cwd=ROOT, stdout=output, stderr=output)
        # wait4 instead of Popen.wait: only it tells the memory of this one child.
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if first is None:
                with contextlib.suppress(FileNotFoundError):
                    if metrics.stat().st_size:
                        first = time.perf_counter() - start
            time.sleep(0.002)
        end = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or first is None:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    # macOS counts in bytes, Linux in kibibytes.
    return Run(first, end, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def _app(app: str, workdir: Path, cache: Path, flags: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", f"experiments.{app}", f"--workdir={workdir}", f"--compilation_cache={cache}"]
    return [*command, "--quiet", *flags]


def _finished(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def on_devices(devices: int, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a fresh process with that many CPU devices, which reads no compilation cache.

    JAX takes its number of devices once, at its start, and the other suites have one.

    Args:
      devices: how many devices JAX is to see there.
      function: a function of a module; it and its arguments are sent to the process.
      *args: its arguments.

    Returns:
      What `function` returns; what it raises is raised here.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, _begin, (devices,)) as pool:
        return pool.submit(function, *args).result()


def _begin(devices: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_compilation_cache", False)
