"""Strict JAX for every test: no silent promotion, several virtual devices, one compilation cache."""

import contextlib
import ctypes
import gc
import os
from pathlib import Path

import jax
import pytest
import quick

from jopt.train.compiler import enable_cache

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)

# Many tests compile the same small programs: in several workers, and again on the next day.
enable_cache()

# Traces make many objects and little rubbish: a tenth of the time went into looking for it.
gc.set_threshold(50_000, 20, 20)

# JAX keeps all that was ever traced and compiled: 4 GiB at the end of a worker that ran hundreds of tests.
RELEASE_ABOVE = 2**30

UNOPTIMIZED = (
    "unoptimized: its programs, and its fixtures', are compiled quickly: no bits of users' programs are compared"
)


def pytest_configure(config):
    config.addinivalue_line("markers", UNOPTIMIZED)
    config.addinivalue_line("markers", "optimized: an exception in a file of unoptimized tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    quickly = item.get_closest_marker("unoptimized") and not item.get_closest_marker("optimized")
    with quick.compilation() if quickly else contextlib.nullcontext():
        result = yield
    if resident() > RELEASE_ABOVE:
        release()
    return result


def resident() -> int:
    """Bytes of physical memory that this process holds; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def release() -> None:
    """Frees what JAX keeps for functions that may never be called again; the next test compiles what it needs."""
    jax.clear_caches()
    gc.collect()
    # The freed blocks lie between live ones, so glibc would not return their pages by itself.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


# Doctests are looked for in every file; two conftest.py cannot both be imported as a module of that name.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]
