"""Ahead-of-time compilation, counted and timed apart from running."""

import contextlib
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax

_OPTIONS: ContextVar[dict[str, Any] | None] = ContextVar("compiler_options", default=None)


@contextlib.contextmanager
def compiler_options(**options: bool | int | float | str) -> Iterator[None]:
    """XLA's options for the programs that every `Compiler` compiles inside the context.

    They are those of `jax.jit(..., compiler_options=)`, such as `xla_backend_optimization_level=0` for programs
    that compile quickly and run slowly. Other options give other bits. Options of an outer context hold too.

    Example:
      >>> with compiler_options(xla_backend_optimization_level=0):
      ...     int(Compiler().call("double", 0, lambda x: 2 * x, jax.numpy.int32(3)))
      6
    """
    token = _OPTIONS.set({**(_OPTIONS.get() or {}), **options})
    try:
        yield
    finally:
        _OPTIONS.reset(token)


@dataclasses.dataclass
class Compiler:
    """Compiles functions, keeps what it compiled, and counts.

    Attributes:
      seconds: spent tracing, lowering and compiling (or reading the persistent cache).
      counts: compilations by name.
    """

    seconds: float = 0.0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    _compiled: dict[Any, Callable[..., Any]] = dataclasses.field(default_factory=dict)

    def call(self, name: str, key: Any, fn: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Any:
        """Runs `fn(*args)`, compiled once for each `(name, key)`.

        Args:
          name: what to count it as.
          key: hashable; stands for everything that makes the program, the arguments' shapes included.
          fn: a pure function.
          *args: its arguments.
          donate: positions of arguments whose buffers the result may use.
        """
        return self.get(name, key, fn, *args, donate=donate)(*args)

    def get(self, name: str, key: Any, fn: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Any:
        """The executable of `fn` for arguments like `args`; as `call`, without the running."""
        if (name, key) not in self._compiled:
            start = time.perf_counter()
            lowered = jax.jit(fn, donate_argnums=donate).lower(*args)
            self._compiled[name, key] = lowered.compile(compiler_options=_OPTIONS.get())
            self.seconds += time.perf_counter() - start
            self.counts[name] += 1
        return self._compiled[name, key]


def enable_cache(directory: str | os.PathLike[str] | None = None) -> Path:
    """Turns on JAX's persistent compilation cache, for every program however small.

    Args:
      directory: where to keep it; None is `$JAX_COMPILATION_CACHE_DIR`, or else `~/.cache/jopt/xla`.

    Returns:
      The directory.
    """
    chosen = directory or os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path.home() / ".cache/jopt/xla"
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return Path(chosen)
