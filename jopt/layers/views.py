"""A parameter on its way through a program: which of its axes each axis of a value is made of.

What only moves axes (transposes, reshapes, slices) makes another view of the same parameter.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from jopt.typing import JaxprEqn

Factors: TypeAlias = tuple[tuple[int, int], ...]
"""The parameter's axes that one axis of a value is made of, slowest first, each with its size there."""


class View(NamedTuple):
    """A parameter, its axes moved.

    Attributes:
      leaf: the parameter's number.
      axes: of each axis of the value, what it is made of.
      stack: the axes of the parameter of which this is one slice.
      direct: whether no reshape came before, so that axes of size 1 are known too.
    """

    leaf: int
    axes: tuple[Factors, ...]
    stack: frozenset[int] = frozenset()
    direct: bool = True


def drop(view: View, axes: Sequence[int]) -> View:
    """One slice along axes of the value, which are gone: the parameter's axes there run over copies."""
    others = tuple(factors for i, factors in enumerate(view.axes) if i not in axes)
    return view._replace(axes=others, stack=view.stack | _copies([view.axes[i] for i in axes], others))


def _copies(removed: Sequence[Factors], others: Sequence[Factors]) -> frozenset[int]:
    """The parameter's axes that are removed as a whole.

    A product that is computed in chunks removes a part of an axis at a time, and that is no axis over copies.
    """
    present = {a for factors in others for a, n in factors if n > 1}
    return frozenset(a for factors in removed for a, _ in factors) - present


def resized(view: View, shape: Sequence[int]) -> View:
    """A part along some axes, or several things joined along one."""
    axes, removed = [], []
    for factors, n in zip(view.axes, shape, strict=True):
        size = math.prod(k for _, k in factors)
        if (
            n == 1 and size > 1
        ):  # one slice, so this axis of the value stands for no axis of the parameter any more.
            removed.append(factors)
            factors = ()
        elif n != size and factors:
            # Which entries they are is not followed: the slowest factor stands for all of them.
            factors = tuple((a, n if i == 0 else 1) for i, (a, _) in enumerate(factors))
        axes.append(factors)
    return view._replace(axes=tuple(axes), stack=view.stack | _copies(removed, axes))


def _transposed(eqn: JaxprEqn, view: View) -> list[View]:
    return [view._replace(axes=tuple(view.axes[i] for i in eqn.params["permutation"]))]


def _squeezed(eqn: JaxprEqn, view: View) -> list[View]:
    squeezed = eqn.params["dimensions"]
    axes = tuple(factors for i, factors in enumerate(view.axes) if i not in squeezed)
    # An axis of size 1 that was the parameter's own can no longer be told to be an input or an output.
    return [view._replace(axes=axes, direct=view.direct and not any(view.axes[i] for i in squeezed))]


def _broadcast(eqn: JaxprEqn, view: View) -> list[View]:
    axes: list[Factors] = [()] * len(eqn.params["shape"])
    for i, target in enumerate(eqn.params["broadcast_dimensions"]):
        axes[target] = view.axes[i]
    return [view._replace(axes=tuple(axes))]


def _sliced(eqn: JaxprEqn, view: View) -> list[View]:
    return [resized(view, eqn.outvars[0].aval.shape)]


def _reshaped(eqn: JaxprEqn, view: View) -> list[View]:
    """Splits the factors, in order, over the new axes; where a factor has to be cut, both parts are that axis."""
    sizes = eqn.outvars[0].aval.shape
    order = eqn.params["dimensions"]  # a transpose before it, which vmap's rules put there.
    before = view.axes if order is None else [view.axes[i] for i in order]
    # A stack of [axis, size that is not placed yet], slowest
    # first, as a reshape reads and writes in row-major order.
    unplaced = [list(factor) for joined in before for factor in joined]
    # A broadcast axis is made of no axis of the parameter: then the sizes do not match, and the view is given up.
    if math.prod(n for _, n in unplaced) != math.prod(sizes):
        return []
    axes: list[Factors] = []
    for position, size in enumerate(sizes):
        factors, remaining = [], size
        while unplaced and remaining > 1:
            axis, n = unplaced[0]
            part = math.gcd(n, remaining)
            if n > 1 and part == 1:  # the new axis cuts across two of the parameter's, so it is neither.
                return []
            factors.append((axis, part))
            remaining //= part
            unplaced[0][1] = n // part
            if unplaced[0][1] == 1:
                unplaced.pop(0)
        following = sizes[position + 1] if position + 1 < len(sizes) else 0
        # A factor of size 1 goes with the axis before it, or makes an axis of size 1.
        while unplaced and unplaced[0][1] == 1 and (following != 1 or (not factors and size == 1)):
            factors.append((unplaced.pop(0)[0], 1))
            if size == 1:
                break
        axes.append(tuple(factors))
    return [view._replace(axes=tuple(axes), direct=False)]


# By the name of the primitive: `(equation, view of its first input) -> views of its output`.
MOVES: dict[str, Callable[[JaxprEqn, View], list[View]]] = {
    "transpose": _transposed,
    "squeeze": _squeezed,
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "pad": _sliced,
    "tile": _sliced,
    "reshape": _reshaped,
}
