"""Compiler: compiles the functions of programs, once each, and ahead of their first call where that is known."""

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jopt import levels, processes
from jopt.paths import cache, expanded
from jopt.train.surroundings import JAX_OPTIONS

# What stands in a program's text where it calls Python: on CPU and GPU, and on TPU.
_CALLS_BACK = ("callback", "host_transfer")

_OPTIONS: ContextVar[dict[str, Any] | None] = ContextVar("compiler_options", default=None)


@contextlib.contextmanager
def compiler_options(**options: bool | int | float | str) -> Iterator[None]:
    """XLA's options for the programs that every `Compiler` compiles inside the context.

    They are those of `jax.jit(..., compiler_options=)`, such as `xla_backend_optimization_level=0` for programs
    that compile quickly and run slowly, and come before those of a program's level. Other options give other bits.
    Options of an outer context hold too.

    Example:
      >>> with compiler_options(xla_backend_optimization_level=0):
      ...     int(Compiler().call("double", 0, lambda x: 2 * x, jax.numpy.int32(3)))
      6
    """
    # A context variable, not an argument of every Compiler: tests lower the optimization level of a whole run.
    token = _OPTIONS.set({**(_OPTIONS.get() or {}), **options})
    try:
        yield
    finally:
        _OPTIONS.reset(token)


def current_options() -> dict[str, Any]:
    """The options of the contexts of `compiler_options` around the caller."""
    return dict(_OPTIONS.get() or {})


class Request(NamedTuple):
    """A program to compile.

    Attributes:
      name: what to count it as.
      key: hashable; with the name it stands for everything that makes the program, the arguments' shapes included.
      fn: a pure function.
      args: its arguments, or their shapes.
      donate: positions of arguments whose buffers the result may use.
      level: how well to compile it, see `jopt.levels`.
    """

    name: str
    key: Hashable
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    donate: tuple[int, ...] = ()
    level: int | None = levels.FULL


@dataclasses.dataclass
class Compiler:
    """Compiles functions, keeps what it compiled, and counts.

    Programs of the same text are compiled once, whatever they are called: stages that differ in numbers alone share
    what they run. Threads may share a compiler.

    Attributes:
      seconds: in which something was traced, lowered or compiled (or read from the persistent cache), which a run
        may train beside.
      counts: compilations by name.
      options: XLA's, for each program, before those of its level.
      joins: whether equal operations are joined before XLA sees a program. It joins them itself, but not in
        programs for a single device, and some of its simplifications ask how often a number is used (a division by
        a scalar becomes a product with its inverse): bits would differ between one device and two.
      waits: whether `run` waits for the results: programs of several devices that add over them must not be under
        way at once, as each could wait for the other.
    """

    seconds: float = 0.0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    joins: bool = False
    waits: bool = False
    _futures: dict[Hashable, Future[Any]] = dataclasses.field(default_factory=dict)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    _compiling: int = 0
    _since: float = 0.0

    def call(
        self,
        name: str,
        key: Hashable,
        fn: Callable[..., Any],
        *args: object,
        donate: tuple[int, ...] = (),
        level: int | None = levels.FULL,
    ) -> Any:
        """Runs `fn(*args)`, compiled once for each `(name, key)`; see `Request`."""
        return self.run(Request(name, key, fn, args, donate, level))

    def run(self, request: Request) -> Any:
        """Runs what is requested, compiled once for its name and key."""
        program = self.compiled(request)
        if not self.waits:
            return program(*request.args)
        # Libraries that add over processes wait for the others some seconds only, and compiling takes longer.
        processes.barrier(request.name)
        return jax.block_until_ready(program(*request.args))

    def compiled(self, request: Request) -> Any:
        """The executable of what is requested."""
        return self._once((request.name, request.key), lambda: self._compile(request))

    @contextlib.contextmanager
    def ahead(self, requests: Iterable[Request]) -> Iterator[None]:
        """Compiles `requests` in a thread while the context runs; at its end the program at work is finished.

        What is asked for before its turn is compiled by the one who asks.
        """
        ended = threading.Event()
        # A thread has JAX's options without those of the contexts around its creator. A program is compiled ahead
        # only where both are equal: else it could have other bits.
        expected = _jax_options()

        def work() -> None:
            if _jax_options() != expected:
                return
            # Whoever calls the program will meet the same error.
            with contextlib.suppress(Exception):
                for request in requests:
                    if ended.is_set():
                        return
                    name = (request.name, request.key)
                    future, is_new = self._claim(name)
                    if is_new:
                        self._fulfil(name, future, functools.partial(self._compile, request))

        thread = threading.Thread(target=functools.partial(contextvars.copy_context().run, work))
        # Where the system has no thread left, programs are compiled when they are called.
        with contextlib.suppress(RuntimeError):
            thread.start()
        try:
            yield
        finally:
            ended.set()
            # Python's end must not meet a thread inside of XLA.
            if thread.ident is not None:
                thread.join()

    def _claim(self, name: Hashable) -> tuple[Future[Any], bool]:
        """The future of a name, and whether the caller is to fulfil it."""
        with self._lock:
            is_new = name not in self._futures
            return self._futures.setdefault(name, Future()), is_new

    def _fulfil(self, name: Hashable, future: Future[Any], work: Callable[[], Any]) -> Any:
        try:
            result = work()
        except BaseException as error:
            with self._lock:
                del self._futures[name]
            future.set_exception(error)
            raise
        future.set_result(result)
        return result

    def _once(self, name: Hashable, work: Callable[[], Any]) -> Any:
        """What `work` gives, done by the first thread that asks for this name."""
        while True:
            future, is_new = self._claim(name)
            if is_new:
                return self._fulfil(name, future, work)
            # What another thread failed to do is done again here, where its error has a caller.
            if future.exception() is None:
                return future.result()

    def _compile(self, request: Request) -> Any:
        # Compiled ahead of time, as `jax.jit` would hide compilation in the first call and its time in that step's.
        with self._clock():
            return self._compile_now(request)

    @contextlib.contextmanager
    def _clock(self) -> Iterator[None]:
        """Adds the time to `seconds`; where several threads compile at once, it counts once."""
        with self._lock:
            self._compiling += 1
            if self._compiling == 1:
                self._since = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._compiling -= 1
                if not self._compiling:
                    self.seconds += time.perf_counter() - self._since

    def _compile_now(self, request: Request) -> Any:
        # With arguments that are not read: of two programs of one text the same arguments are read then.
        jitted = jax.jit(request.fn, donate_argnums=request.donate, keep_unused=True)
        lowered = jitted.lower(*request.args)
        if self.joins:
            _join_equal(lowered)
        options: Any = (
            self.options | levels.options(request.level, levels.platform_of(request.args)) | current_options()
        )
        text = lowered.as_text()

        def compile_text() -> Any:
            compiled = lowered.compile(compiler_options=options or None)
            with self._lock:
                self.counts[request.name] += 1
            return compiled

        # A text has the donated arguments, but not the containers of arguments and results, nor which functions of
        # Python it calls back: with such calls it is nobody else's.
        calls_back = any(word in text for word in _CALLS_BACK)
        digest = hashlib.sha256(text.encode()).digest()
        name = (digest, lowered.in_tree, lowered.out_tree, tuple(sorted(options.items())))
        return compile_text() if calls_back else self._once(name, compile_text)


def _join_equal(lowered: Any) -> None:
    """Joins equal operations of a program that is not compiled yet (common subexpressions)."""
    from jaxlib.mlir import passmanager

    module = lowered.compiler_ir("stablehlo")
    with module.context:
        passmanager.PassManager.parse("builtin.module(cse)").run(module.operation)


def _jax_options() -> list[object]:
    """The options that change numbers, or where they are computed, as this thread has them."""
    return [getattr(jax.config, name, None) for name in (*JAX_OPTIONS, "jax_default_device")]


def enable_cache(directory: str | os.PathLike[str] | None = None) -> Path | None:
    """Turns on JAX's persistent compilation cache, for every program however small.

    Args:
      directory: where to keep it; None is `$JAX_COMPILATION_CACHE_DIR`, or else `~/.cache/jopt/xla`.

    Returns:
      The directory; None for a user without a home directory who names none: everything is then compiled again.

    Raises:
      ConfigError: for a `~` that stands for no home directory.
    """
    # JAX skips quick compilations by default. A short run has dozens, which together take longer than its training.
    chosen = directory or os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache("xla")
    if chosen is None:
        return None
    chosen = expanded(chosen, "the compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return chosen


def enable_cache_in_notebook() -> None:
    """`enable_cache()` where the process is a kernel of a notebook, in which the same config is run many times.

    Elsewhere a library changes no options of a program that it is a part of. JAX's own options go first: a
    `jax_compilation_cache_dir` that is set stays, and `jax_enable_compilation_cache=False` leaves the cache off.
    """
    options = jax.config.values
    chosen = options["jax_compilation_cache_dir"] or not options["jax_enable_compilation_cache"]
    if "ipykernel" in sys.modules and not chosen:
        enable_cache()
