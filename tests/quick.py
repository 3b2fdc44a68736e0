"""Small programs compiled quickly instead of well, and networks without compiling their initialization."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.train.compiler import compiler_options

# Without LLVM's optimizations, and by XLA's older emitters, that need no MLIR: together a quarter of the time.
# jaxlib 0.11 has no older ones, and refuses what it does not know.
OPTIONS: dict[str, int | bool] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
if jax.__version_info__ < (0, 11):
    OPTIONS["xla_cpu_use_fusion_emitters"] = False

# For other processes, and for a session of `unoptimized` tests alone: JAX has no option for the emitters of single
# operations, and the newer ones take half as long again.
FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())

# For tests that compare within a tolerance: compiling is most of what they do. Where bits are compared, programs
# are compiled as users compile them.
jit = functools.partial(jax.jit, compiler_options=OPTIONS)

# The option below is no part of the keys under which JAX keeps compiled functions; this context is.
_COMPILED = jax.make_user_context("well")


@contextlib.contextmanager
def compilation() -> Iterator[None]:
    """Compiles all programs quickly, those of single operations too, apart from those outside."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with _COMPILED("quickly"), compiler_options(**OPTIONS):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def start(model: Any, x: Any, seed: int = 0) -> tuple[Any, Any]:
    """Parameters and state of random numbers, biases and statistics included; variances and scales are positive."""
    rng = np.random.default_rng(seed)

    def leaf(path: Any, a: jax.ShapeDtypeStruct) -> jax.Array:
        value = rng.normal(size=a.shape) / np.sqrt(max(1, np.prod(a.shape[:-1])))
        positive = "var" in str(path[-1]) or "scale" in str(path[-1])
        return jnp.asarray(np.exp(value) if positive else value, a.dtype)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(model.init, jax.random.key(0), x))
