"""Small programs compiled without LLVM's optimizations, and networks without compiling their initialization."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

OPTIONS = {"xla_backend_optimization_level": 0}

# For tests that compare within a tolerance: compiling is most of what they do, and LLVM's optimizations are most of
# that. Where bits are compared, programs are compiled as users compile them.
jit = functools.partial(jax.jit, compiler_options=OPTIONS)


def start(model: Any, x: Any, seed: int = 0) -> tuple[Any, Any]:
    """Parameters and state of random numbers, biases and statistics included; variances and scales are positive."""
    rng = np.random.default_rng(seed)

    def leaf(path: Any, a: jax.ShapeDtypeStruct) -> jax.Array:
        value = rng.normal(size=a.shape) / np.sqrt(max(1, np.prod(a.shape[:-1])))
        positive = "var" in str(path[-1]) or "scale" in str(path[-1])
        return jnp.asarray(np.exp(value) if positive else value, a.dtype)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(model.init, jax.random.key(0), x))
