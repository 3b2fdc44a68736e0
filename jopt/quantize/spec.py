"""Spec: which integers stand for an array's values, and which values share a scale."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

BITS = (*range(1, 9), 16)
UNTOUCHED = 32
"""The bits with which values stay what they are: the control, as a number in the program of the other widths."""
OUTPUTS = "outputs"
"""The axis that stands for the output axes of the layer that an array is the kernel of."""
ACCEPTED = "1 to 8, 16, or 32, which changes nothing"
ACCEPTED_OR_NONE = "1 to 8, 16, 32 (which changes nothing) or None"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spec:
    """How an array is quantized: one description for fake quantization, integers, storage and export.

    `bits` is data, so that one program serves every width: a Spec is a pytree whose only leaf is `bits`. A Python
    integer given to a function of this package is a constant in the program; an array, concrete or traced, is not.

    Scales are shared by the entries that agree on the kept axes, so `axis=-1` gives each output channel of a kernel
    its own. `group` splits them further: the entries of the axes that are not kept, flattened in row-major order
    (a convolution's window and input channels), in runs of `group`; their number must be divisible by it.

    Attributes:
      bits: 1 to 8, or 16; 32: every value stays exactly what it is, with a gradient of 1, and there are no codes.
        None: no quantization, the functions of this package return what they are given. An array may hold 32 too,
        so that one program serves quantized and unquantized trials; None makes another program.
      symmetric: whether codes are signed and centred on 0: from -(2^(b-1) - 1) to 2^(b-1) - 1, zero point 0; at one
        bit the sign (0 for a zero). Otherwise they go from 0 to 2^b - 1, with an integer zero point.
      axis: the kept axes, negative ones from the end; None: one scale for the whole array; 'outputs': the output
        axes of the layer, for transforms of parameters, which put them in (`jopt.quantize.weights`).
      narrow: symmetric: whether the code -2^(b-1) is left out. With it the scale is the range over 2^(b-1) - 1/2,
        a finer one, and the ends of the range are not exact. Without meaning for asymmetric codes and one bit.
      group: the number of entries that share a scale, at least 1; None: all.

    Raises:
      ValueError: for `bits`, `axis` or `group` other than these.

    Example:
      >>> Spec(4, axis=-1)
      Spec(bits=4, symmetric=True, axis=-1, narrow=True, group=None)
      >>> jax.tree.leaves(Spec(4)), jax.tree.leaves(Spec.identity())
      ([4], [])
    """

    bits: Any = 8
    symmetric: bool = dataclasses.field(default=True, metadata={"static": True})
    axis: int | tuple[int, ...] | str | None = dataclasses.field(default=None, metadata={"static": True})
    narrow: bool = dataclasses.field(default=True, metadata={"static": True})
    group: int | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        # JAX rebuilds a Spec with anything in the place of `bits`; only a Python number is judged here.
        if isinstance(self.bits, np.integer):
            object.__setattr__(self, "bits", int(self.bits))
        number = isinstance(self.bits, bool | int | float | str)
        if number and (isinstance(self.bits, bool | float) or self.bits not in (*BITS, UNTOUCHED)):
            raise ValueError(f"bits must be {ACCEPTED_OR_NONE}, got {self.bits!r}")
        if isinstance(self.axis, list):
            object.__setattr__(self, "axis", tuple(self.axis))
        axes = () if self.axis in (None, OUTPUTS) else self.axis if isinstance(self.axis, tuple) else (self.axis,)
        if not all(isinstance(a, int) and not isinstance(a, bool) for a in axes):
            raise ValueError(f"axis must be None, an integer, a tuple of integers or 'outputs', got {self.axis!r}")
        if self.group is not None and (
            isinstance(self.group, bool) or not isinstance(self.group, int) or self.group < 1
        ):
            raise ValueError(f"group must be None or an integer, at least 1, got {self.group!r}")

    @classmethod
    def identity(cls) -> "Spec":
        """The Spec that changes nothing: `bits` is None."""
        return cls(bits=None)

    @property
    def is_identity(self) -> bool:
        """Whether the Spec changes nothing, as far as is known: an array of bits may still say so."""
        return self.bits is None or (isinstance(self.bits, int) and self.bits == UNTOUCHED)

    def kept_axes(self, ndim: int) -> tuple[int, ...]:
        """The kept axes of an array of rank `ndim`, counted from 0, in order.

        Args:
          ndim: the rank.

        Returns:
          A tuple without repetition.

        Raises:
          ValueError: if an axis is out of range, or named twice.

        Example:
          >>> Spec(axis=(-1, 0)).kept_axes(3), Spec().kept_axes(3)
          ((0, 2), ())
        """
        if isinstance(self.axis, str):
            raise ValueError(
                f"axis {self.axis!r} depends on the layer, and an array alone has none: give numbers, or let "
                "jopt.quantize.weights put them in"
            )
        axes = () if self.axis is None else self.axis if isinstance(self.axis, tuple) else (self.axis,)
        kept = {a % ndim for a in axes if -ndim <= a < ndim}
        if len(kept) != len(axes):
            raise ValueError(f"axis must name different axes of an array of rank {ndim}, got {self.axis!r}")
        return tuple(sorted(kept))


def split(spec: Spec) -> tuple[Spec, Any]:
    """What a program is built from, hashable, and `bits` where they are a number in it (else None).

    Example:
      >>> split(Spec(4))[1], split(Spec(np.array(4)))
      (None, (Spec(bits=None, symmetric=True, axis=None, narrow=True, group=None), array(4)))
    """
    if spec.bits is None or isinstance(spec.bits, int):
        return spec, None
    return dataclasses.replace(spec, bits=None), spec.bits


def merge(static: Spec, bits: Any) -> Spec:
    """Undoes `split`."""
    return static if bits is None else dataclasses.replace(static, bits=bits)


def compiled(*static_names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiles a function whose first argument is a Spec, also where it is called outside of a program.

    Eager calls then give the bits that jitted ones give. A Python integer in `spec.bits` is a constant of the
    program; an array is an argument, so another width does not compile again.

    Args:
      *static_names: keyword arguments that are constants too.

    Returns:
      A decorator.

    Example:
      >>> double = compiled()(lambda spec, x: x * 2.0 ** (spec.bits - 7))
      >>> float(double(Spec(8), 3.0))
      6.0
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.partial(jax.jit, static_argnames=("static", *static_names))
        def program(*args: Any, static: Spec, bits: Any, **options: Any) -> Any:
            return function(merge(static, bits), *args, **options)

        @functools.wraps(function)
        def call(spec: Spec, *args: Any, **options: Any) -> Any:
            static, bits = split(spec)
            return program(*args, static=static, bits=bits, **options)

        return call

    return decorate
