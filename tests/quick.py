"""Small programs compiled quickly instead of well, and networks without compiling their initialization."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import compiler

# Without LLVM's optimizations, and by XLA's older emitters, that need no MLIR: together a quarter of the time.
# jaxlib 0.11 has no older ones, and refuses what it does not know.
OPTIONS: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    OPTIONS["xla_cpu_use_fusion_emitters"] = False

# For other processes.
FLAGS = " ".join(f"--{name}={value}" for name, value in OPTIONS.items())

# For tests that compare within a tolerance: compiling is most of what they do. Where bits are compared, programs
# are compiled as users compile them.
jit = functools.partial(jax.jit, compiler_options=OPTIONS)

_COMPILED = jax.make_user_context("well")


@contextlib.contextmanager
def compilation() -> Iterator[None]:
    """All programs are compiled so, those of single operations too; none comes from outside, and none gets there.

    JAX has no public option for it. Where its function has another name one day, tests take longer, and no more.
    """
    given = getattr(compiler, "get_compile_options", None)
    if given is None:
        yield
        return

    @functools.wraps(given)
    def quick(*args: Any, env_options_overrides: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return given(*args, env_options_overrides=OPTIONS | (env_options_overrides or {}), **kwargs)

    compiler.get_compile_options = quick
    try:
        with _COMPILED("quickly"):
            yield
    finally:
        compiler.get_compile_options = given


def start(model: Any, x: Any, seed: int = 0) -> tuple[Any, Any]:
    """Parameters and state of random numbers, biases and statistics included; variances and scales are positive."""
    rng = np.random.default_rng(seed)

    def leaf(path: Any, a: jax.ShapeDtypeStruct) -> jax.Array:
        value = rng.normal(size=a.shape) / np.sqrt(max(1, np.prod(a.shape[:-1])))
        positive = "var" in str(path[-1]) or "scale" in str(path[-1])
        return jnp.asarray(np.exp(value) if positive else value, a.dtype)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(model.init, jax.random.key(0), x))
