"""A process of its own: JAX takes its number of devices once, at its start, and the other suites have one."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from typing import Any

import jax


def apart(fn: Callable[..., Any], *args: Any, devices: int) -> Any:
    """`fn(*args)` in a fresh process, whose CPU is so many devices and which reads no compilation cache.

    Args:
      fn: a function of a module; it and its arguments are sent to the process.
      *args: its arguments.
      devices: how many devices JAX is to see there.

    Returns:
      What `fn` returns; what it raises is raised here.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, _begin, (devices,)) as pool:
        return pool.submit(fn, *args).result()


def _begin(devices: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_compilation_cache", False)
