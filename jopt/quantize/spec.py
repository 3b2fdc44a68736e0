"""Spec: which integers stand for an array's values, and which values share a scale."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

BITS = (*range(1, 9), 16)
UNTOUCHED = 32
"""The bits at which values stay as they are: the control of a sweep, in the program of the other widths."""
OUTPUTS = "outputs"
"""Stands for the output axes of the layer whose kernel an array is."""
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
        a finer one, and the ends of the range are not exact. Not read for asymmetric codes and at one bit.
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
        # JAX rebuilds a Spec with anything in the place of `bits`; only Python numbers are checked here.
        if isinstance(self.bits, np.integer):
            object.__setattr__(self, "bits", int(self.bits))
        number = isinstance(self.bits, bool | int | float | str)
        if number and (isinstance(self.bits, bool | float) or self.bits not in (*BITS, UNTOUCHED)):
            raise ValueError(f"bits must be {ACCEPTED_OR_NONE}, got {self.bits!r}")
        # JSON gives lists, which would make the Spec unhashable.
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
        distinct = {a % ndim for a in axes if -ndim <= a < ndim}
        if len(distinct) != len(axes):
            raise ValueError(f"axis must name different axes of an array of rank {ndim}, got {self.axis!r}")
        return tuple(sorted(distinct))


def split(spec: Spec) -> tuple[Spec, Any]:
    """The hashable part of a Spec, and `bits` where they are a number in the program (else None).

    Example:
      >>> split(Spec(4))[1], split(Spec(np.array(4)))
      (None, (Spec(bits=None, symmetric=True, axis=None, narrow=True, group=None), array(4)))
    """
    # A Python integer stays static, so that a constant width costs no selection between widths.
    if spec.bits is None or isinstance(spec.bits, int):
        return spec, None
    return dataclasses.replace(spec, bits=None), spec.bits


def merge(static: Spec, bits: object) -> Spec:
    """Undoes `split`."""
    return static if bits is None else dataclasses.replace(static, bits=bits)


def compiled(*static_names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiles a function whose first argument is a Spec, also for calls outside of a program.

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
        # Compiled in eager calls too: XLA fuses operations, so that uncompiled ones could differ by a bit.
        @functools.partial(jax.jit, static_argnames=("static", *static_names))
        def program(*args: object, static: Spec, bits: object, **options: object) -> Any:
            return function(merge(static, bits), *args, **options)

        @functools.wraps(function)
        def call(spec: Spec, *args: object, **options: object) -> Any:
            static, bits = split(spec)
            return program(*args, static=static, bits=bits, **options)

        return call

    return decorate


def scale_shape(shape: tuple[int, ...], spec: Spec) -> tuple[int, ...]:
    """The shape of the scales of an array.

    Args:
      shape: the array's shape.
      spec: the Spec.

    Returns:
      `()` for one scale; for kept axes the array's shape with 1 in the others, so that the scales broadcast; with
      groups `(number of groups, *kept axes)`.

    Raises:
      ValueError: if an axis is out of range, no axis is left to share a scale, or the group does not divide the
        entries.

    Example:
      >>> [scale_shape((64, 10), s) for s in (Spec(), Spec(axis=-1), Spec(axis=-1, group=32))]
      [(), (1, 10), (2, 10)]
    """
    channels = spec.kept_axes(len(shape))
    if spec.group is None:
        if spec.axis is None:
            return ()
        if len(channels) == len(shape):
            raise ValueError(
                f"axis must leave an axis whose entries share a scale, got {spec.axis!r} for shape {shape}"
            )
        return tuple(n if i in channels else 1 for i, n in enumerate(shape))
    entries = math.prod(n for i, n in enumerate(shape) if i not in channels)
    if entries % spec.group:
        raise ValueError(
            f"group must divide the {entries} entries of shape {shape} outside the kept axes {channels}, "
            f"got {spec.group}"
        )
    return (entries // spec.group, *(shape[i] for i in channels))


def to_groups(x: jax.Array, spec: Spec) -> jax.Array:
    """The array with each group on axes of its own: with `spec.group` [groups, group, *kept axes], else `x`."""
    if spec.group is None:
        return x
    # The kept axes go last, so that the scales of groups are [groups, *kept axes] and broadcast against this.
    channels = spec.kept_axes(x.ndim)
    entries = [i for i in range(x.ndim) if i not in channels]
    groups, *sizes = scale_shape(x.shape, spec)
    return x.transpose(*entries, *channels).reshape(groups, spec.group, *sizes)


def from_groups(y: jax.Array, shape: tuple[int, ...], spec: Spec) -> jax.Array:
    """Undoes `to_groups` for an array of `shape`."""
    if spec.group is None:
        return y
    channels = spec.kept_axes(len(shape))
    # The order that `to_groups` made; its inverse undoes the transposition.
    order = [*(i for i in range(len(shape)) if i not in channels), *channels]
    return y.reshape([shape[i] for i in order]).transpose(*(order.index(i) for i in range(len(shape))))


def shared_axes(ndim: int, spec: Spec) -> tuple[int, ...]:
    """The axes of what `to_groups` gave (of rank `ndim`) along which the entries share a scale."""
    if spec.group is not None:
        return (1,)
    channels = spec.kept_axes(ndim)
    return tuple(i for i in range(ndim) if i not in channels)


def spread(scales: jax.Array, spec: Spec) -> jax.Array:
    """Scales (of `scale_shape`) as they broadcast against what `to_groups` gave."""
    return scales if spec.group is None or scales.ndim == 0 else jnp.expand_dims(scales, 1)


def collect(scales: jax.Array, spec: Spec) -> jax.Array:
    """Undoes `spread` for what was reduced along `shared_axes` with `keepdims`."""
    if spec.group is not None:
        return jnp.squeeze(scales, 1)
    # With `keepdims` a single scale has as many axes as the array; stored, it is a scalar.
    return scales.reshape(()) if spec.axis is None else scales


def check_array(x: object, name: str) -> None:
    """Raises `ValueError` unless `x` is a floating array and, where its values are known, finite.

    Args:
      x: an array, concrete or traced.
      name: what the message calls it.

    Raises:
      ValueError: names it, and what was accepted.

    Example:
      >>> check_array(jnp.array([1.0, jnp.nan]), "Dense_0/kernel")
      Traceback (most recent call last):
      ...
      ValueError: Dense_0/kernel must be finite, got 1 NaN and 0 infinite of 2 entries
    """
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(f"{name} must be a floating array, got {jnp.result_type(x)}")
    # Traced values are passed over: a check in the program would cost a pass over the data at every step.
    if isinstance(x, Tracer):
        return
    # In NumPy: inside of a trace, JAX would trace the check of a constant too.
    values = np.asarray(x)
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    if nan or infinite:
        raise ValueError(f"{name} must be finite, got {nan} NaN and {infinite} infinite of {values.size} entries")


def check_spec(spec: Spec, shape: tuple[int, ...] | None = None, *, codes: bool = False) -> None:
    """Raises `ValueError` for the identity Spec, concrete bits out of range, or a Spec that does not fit a shape.

    With `codes`, concrete bits of 32 are out of range too.

    Example:
      >>> check_spec(Spec(8, axis=-1), (3, 2))
    """
    if shape is not None:
        scale_shape(shape, spec)
    if spec.bits is None:
        raise ValueError("bits must be 1 to 8 or 16 here, got None (the identity Spec has no codes and no range)")
    if isinstance(spec.bits, Tracer):
        return
    bits = np.asarray(spec.bits)
    if codes and (bits == UNTOUCHED).any():
        raise ValueError(f"bits must be 1 to 8 or 16 here, got {bits} (values have no codes at 32)")
    if not np.isin(bits, (*BITS, UNTOUCHED)).all():
        raise ValueError(f"bits must be {ACCEPTED_OR_NONE}, got {bits}")
