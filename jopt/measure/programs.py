"""What a program costs a device, in bytes and arithmetic: from the compiled program, or before from its text."""

import math
from typing import NamedTuple

import jax
from jaxtyping import PyTree


class ProgramCost(NamedTuple):
    """The cost of one call of a program on each device.

    Attributes:
      arguments: bytes of its arguments.
      outputs: bytes of its results, those in the buffers of donated arguments included.
      shared: bytes of results that are written over donated arguments; 0 where it is not known.
      temporaries: bytes of XLA's buffers for what lies between; None: it has not been compiled.
      flops: XLA's count of floating-point operations. A loop's body counts once, whatever the number of its rounds.
      bytes_accessed: XLA's count of bytes that operations read and write, of a loop's body once.
    """

    arguments: int
    outputs: int
    shared: int
    temporaries: int | None
    flops: float | None
    bytes_accessed: float | None

    @property
    def compiled(self) -> bool:
        """Whether the numbers are those of a compiled program; else XLA may need other buffers and operations."""
        return self.temporaries is not None

    @property
    def peak(self) -> int:
        """Bytes of all buffers of a call: an upper bound without temporaries is a lower bound."""
        return self.arguments + self.outputs - self.shared + (self.temporaries or 0)


def program_cost(program: jax.stages.Compiled | jax.stages.Lowered) -> ProgramCost:
    """The cost of a program on each device, from XLA's own analyses.

    Args:
      program: what `jax.jit(f).lower(...)` gives, or its `compile()`.

    Example:
      >>> import jax.numpy as jnp
      >>> lowered = jax.jit(lambda a: a @ a).lower(jnp.ones((8, 8), jnp.float32))
      >>> program_cost(lowered).arguments, program_cost(lowered).temporaries, program_cost(lowered).flops
      (256, None, 1024.0)
      >>> program_cost(lowered.compile()).outputs
      256
    """
    counts = program.cost_analysis() or {}
    # Some versions give a list with an entry for each computation of the module.
    counts = counts[0] if isinstance(counts, list | tuple) else counts
    flops, accessed = counts.get("flops"), counts.get("bytes accessed")
    memory = program.memory_analysis() if isinstance(program, jax.stages.Compiled) else None
    if memory is None:
        arguments, outputs = _bytes(program.in_avals), _bytes(program.out_info)
        return ProgramCost(arguments, outputs, 0, None, flops, accessed)
    return ProgramCost(
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        flops,
        accessed,
    )


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
