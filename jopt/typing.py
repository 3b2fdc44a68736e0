"""Names for the types that packages hand to each other, defined once.

A pytree may have any containers, so these names say what a tree is for and not how it is built. Shapes of single
arrays are written where they are used, as jaxtyping has them: `Float[Array, "batch classes"]`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
from jaxtyping import PyTree

Params: TypeAlias = PyTree
"""What is trained: a tree of arrays, or of their shapes where nothing is computed (`jax.ShapeDtypeStruct`)."""

ModelState: TypeAlias = PyTree
"""What the forward pass itself updates, such as batch statistics; `{}` if there is none."""

Updates: TypeAlias = PyTree
"""Gradients, or steps made of them: a tree of the structure of `Params`."""

OptState: TypeAlias = PyTree
"""The state of an Optax transform."""

if TYPE_CHECKING:
    # NumPy's scalars mix with JAX arrays, but their declared operators would make every result a NumPy type too.
    Number: TypeAlias = float | jax.Array
else:
    Number: TypeAlias = float | int | np.number | np.ndarray | jax.Array
"""A number of a config: Python's or NumPy's, or a scalar array that may be traced."""

Shape: TypeAlias = tuple[int, ...]

Batch: TypeAlias = jax.Array | np.ndarray | jax.ShapeDtypeStruct
"""One batch of examples [batch, ...]; or only its shape and dtype, where a function is traced and not run."""

Key: TypeAlias = jax.Array
"""A typed key of `jax.random`, a scalar unless it says otherwise."""

Activation: TypeAlias = Callable[[jax.Array], jax.Array]
"""An elementwise function."""

# JAX declares the variables of a jaxpr without shapes and dtypes, so its own types would fail at every use.
Jaxpr: TypeAlias = Any
"""A `jax.extend.core.Jaxpr`: a program as JAX traced it."""

JaxprEqn: TypeAlias = Any
"""A `jax.extend.core.JaxprEqn`: one equation of a program."""

NameStack: TypeAlias = Any
"""The named scopes around an equation."""

Record: TypeAlias = Mapping[str, Any]
"""A row of `metrics.jsonl` or `trials.csv`, or another JSON object: keys to values."""
