"""Measured time and memory."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Latency(NamedTuple):
    """Measured wall-clock seconds of one call.

    Attributes:
      median: seconds; half of the calls were faster.
      p10: seconds; one in ten was faster.
      p90: seconds; one in ten was slower.
      compile_seconds: tracing, lowering and compiling, before the first call; a persistent compilation cache
        makes it shorter.
      n: number of calls timed.
    """

    median: float
    p10: float
    p90: float
    compile_seconds: float
    n: int


def latency(fn: Callable[..., Any], *args: object, repeats: int = 30, warmup: int = 3) -> Latency:
    """Times calls of `fn(*args)`, compiled ahead of time, each waited for until its outputs are ready.

    The arguments are put on the device first, so their transfer is not in the time; the cost of dispatch, some
    10 microseconds a call, is. `fn` must not donate its arguments.

    Args:
      fn: a function of arrays, jitted here unless it is already.
      *args: pytrees of arrays.
      repeats: calls that are timed, at least 1.
      warmup: calls before those.

    Returns:
      A `Latency`.

    Raises:
      ValueError: if `repeats` or `warmup` is out of range.

    Example:
      >>> measured = latency(lambda x: x @ x, np.ones((4, 4), np.float32), repeats=5)
      >>> measured.n, 0 < measured.p10 <= measured.median <= measured.p90
      (5, True)
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats!r}")
    if warmup < 0:
        raise ValueError(f"warmup must be at least 0, got {warmup!r}")
    # A function that is jitted keeps its options (shardings, static arguments).
    jitted: Any = fn if hasattr(fn, "lower") else jax.jit(fn)
    args = jax.block_until_ready(jax.device_put(args))
    start = time.perf_counter()
    compiled = jitted.lower(*args).compile()
    compile_seconds = time.perf_counter() - start
    # The first calls allocate buffers, and on an accelerator raise its clock.
    for _ in range(warmup):
        jax.block_until_ready(compiled(*args))
    seconds = np.empty(repeats)
    for i in range(repeats):
        # Each call is waited for by itself: a queue of calls would time throughput, not latency.
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        seconds[i] = time.perf_counter() - start
    p10, median, p90 = (float(q) for q in np.quantile(seconds, (0.1, 0.5, 0.9)))
    return Latency(median, p10, p90, compile_seconds, repeats)


def throughput(measured: Latency, n: int) -> float:
    """Examples a second: `n / measured.median`, where one call handles `n` examples.

    Example:
      >>> throughput(Latency(0.5, 0.4, 0.6, 1.0, 30), 64)
      128.0
    """
    return n / measured.median


def throughput_spread(measured: Latency, n: int) -> tuple[float, float]:
    """Examples a second that one call in ten stays below, and that one in ten exceeds.

    Example:
      >>> throughput_spread(Latency(0.5, 0.4, 0.8, 1.0, 30), 64)
      (80.0, 160.0)
    """
    return n / measured.p90, n / measured.p10


def peak_memory() -> int:
    """Most bytes of physical memory that this process has held at once, since it started.

    It is the resident set of the host process (`ru_maxrss`, which Linux counts in kibibytes and macOS in bytes),
    so arrays on an accelerator are not in it, and it never falls.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
