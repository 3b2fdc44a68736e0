"""How well XLA optimizes a program: a program that computes little is compiled quickly instead of well.

A run of a small network spends most of its time in the compiler, and most of that on programs that run once to ten
times. The level is chosen by structure alone (how much a run will compute, by formula), so that equal launches
choose alike and a trial of a grid is compiled as it would be alone: other levels give other bits.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

Options = dict[str, bool | int | float | str]

QUICK, GOOD, FULL = 0, 1, None
"""The levels: without LLVM's optimizations, with the first of them, and as XLA compiles by default."""

CPU_ONLY = "cpu_only"
"""The scope of operations that only programs of CPUs have; a program of another platform that names it is wrong."""


class Work(NamedTuple):
    """How much a program computes in a whole run of one trial.

    Attributes:
      elements: the array elements that its operations write, estimated: the order of magnitude counts.
    """

    elements: float

    @property
    def level(self) -> int | None:
        """The level to compile at.

        On the processors of 2026 an element takes 1 to 5 ns longer at level `QUICK` than at `FULL` and up to 0.3 ns
        longer at `GOOD`, while a program compiles in a fifth and in a half of the time. So what is saved, tenths of
        a second for each program, is more than what is lost.

        Example:
          >>> [Work(elements).level for elements in (1e6, 1e8, 1e10)]
          [0, 1, None]
        """
        if self.elements <= 5e7:
            return QUICK
        return GOOD if self.elements <= 1e9 else FULL


def options(level: int | None, platform: str = "cpu") -> Options:
    """XLA's options for a level on the devices of a platform; empty for `FULL`, and on others than CPUs.

    Example:
      >>> options(FULL), options(QUICK, "gpu")
      ({}, {})
    """
    # On other devices level 0 also drops passes that programs cannot do without.
    if level is None or platform != "cpu":
        return {}
    # The older emitters need no MLIR, and so a third of the time. jaxlib 0.11 has no older ones, and refuses what
    # it does not know.
    older: Options = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
    return {"xla_backend_optimization_level": level} | older


def platform_of(tree: PyTree) -> str:
    """The platform that a program of these arguments runs on: 'cpu', 'gpu', 'tpu'.

    Args:
      tree: arrays, numbers and shapes. Where none of them is on a device, it is the default one.

    Example:
      >>> platform_of(jax.device_put(1.0, jax.devices("cpu")[0]))
      'cpu'
    """
    # Of the arguments and not of the host: a host with a GPU may run a program on its CPU.
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if sharding is not None and sharding.device_set:
            return next(iter(sharding.device_set)).platform
    default = getattr(jax.config, "jax_default_device", None)
    return default if isinstance(default, str) else getattr(default, "platform", None) or jax.default_backend()


def quick_jit(fn: Callable[..., Any], *, static: tuple[str, ...] = ()) -> Callable[..., Any]:
    """`jax.jit(fn)`, compiled at level `QUICK` where it is called with concrete arrays.

    For calls on the host between programs: one program instead of one for each operation.

    Args:
      fn: a pure function.
      static: keyword arguments that are constants. Where they cannot be hashed, every call compiles anew.

    Example:
      >>> float(quick_jit(lambda x: x * 2 + 1)(3.0))
      7.0
    """
    inner = jax.jit(fn, static_argnames=static)

    # Made at the first call, since asking for the backend starts it.
    @functools.cache
    def outermost(platform: str) -> Callable[..., Any]:
        return jax.jit(fn, static_argnames=static, compiler_options=options(QUICK, platform))

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        constants = {name: kwargs[name] for name in static if name in kwargs}
        # Of classes from outside, such as dataclasses that are not frozen.
        if not all(map(_is_hashable, constants.values())):
            numbers = {name: value for name, value in kwargs.items() if name not in constants}
            return quick_jit(functools.partial(fn, **constants))(*args, **numbers)
        # Inside of another program this one is a part of it, compiled as that is.
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return inner(*args, **kwargs)
        # So is one of constants, but its callers want numbers.
        if isinstance(jax.device_put(np.zeros(())), Tracer):
            with jax.ensure_compile_time_eval():
                return inner(*args, **kwargs)
        return outermost(platform_of((args, kwargs)))(*args, **kwargs)

    return call


def _is_hashable(value: object) -> bool:
    # Of a tuple the type says nothing.
    try:
        hash(value)
    except TypeError:
        return False
    return True
