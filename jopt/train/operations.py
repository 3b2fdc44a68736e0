"""An operation of a program, as a reader finds it again: its layer, its line, and the numbers in it."""

import linecache
import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from jax.extend.core import JaxprEqn

# Frames of these are of no use to the reader of a finding.
_LIBRARIES = tuple(
    str(Path(directory).resolve())
    for directory in (
        *(Path(str(module.__file__)).parent for module in (jax, jaxlib, flax, optax)),
        sysconfig.get_path("stdlib"),
    )
)
_PACKAGE = str(Path(__file__).parents[1])


class Range(NamedTuple):
    """The numbers in an array.

    Attributes:
      kind: dtype and shape, such as `float32[16,4]`.
      low, high: of those that are finite; None if there are none, or they are no numbers.
      nans, infinities: how many there are.
    """

    kind: str
    low: float | None
    high: float | None
    nans: int
    infinities: int

    @classmethod
    def of(cls, value: Any) -> "Range":
        """The range of an array.

        Example:
          >>> print(Range.of(np.array([1.0, -2.0, np.inf], np.float32)))
          float32[3] in [-2, 1], 1 infinite
        """
        kind = f"{value.dtype}[{','.join(map(str, value.shape))}]"
        if jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return cls(kind, None, None, 0, 0)
        array = np.asarray(value)
        if not jnp.issubdtype(array.dtype, np.inexact):
            low, high = (float(array.min()), float(array.max())) if array.size else (None, None)
            return cls(kind, low, high, 0, 0)
        finite, nans = array[np.isfinite(array)], int(np.isnan(array).sum())
        # Complex numbers have no order: of those, the real parts.
        numbers = np.real(finite)
        low, high = (float(numbers.min()), float(numbers.max())) if finite.size else (None, None)
        return cls(kind, low, high, nans, array.size - finite.size - nans)

    def __str__(self) -> str:
        numbers = "" if self.low is None else f" in [{self.low:.4g}, {self.high:.4g}]"
        counts = ((self.nans, "NaN"), (self.infinities, "infinite"))
        return f"{self.kind}{numbers}{''.join(f', {count:,} {name}' for count, name in counts if count)}"


class Operation(NamedTuple):
    """An operation of which a result is not finite.

    Attributes:
      primitive: JAX's name of it, such as `log`.
      phase: 'forward', 'backward', 'optimizer', 'input' (of a batch), or 'evaluation'.
      layer: its name scopes, such as `MLP/Dense_1`; '' outside of all layers.
      source: file and line of the innermost caller outside JAX, Flax and Optax, and the line's text.
      inputs, outputs: the numbers in them.
    """

    primitive: str
    phase: str
    layer: str
    source: str
    inputs: tuple[Range, ...]
    outputs: tuple[Range, ...]


class Place(NamedTuple):
    """Where an equation stands: its name scopes, and the Python frames that made it, innermost first."""

    scopes: str
    frames: tuple[Any, ...]

    def within(self, eqn: JaxprEqn) -> "Place":
        """The place of an equation of a program that is called here: it knows no scopes and frames outside."""
        scopes = "/".join(filter(None, (self.scopes, str(eqn.source_info.name_stack))))
        return Place(scopes, (*getattr(eqn.source_info.traceback, "frames", ()), *self.frames))


def describe(eqn: JaxprEqn, args: Sequence[Any], outputs: Sequence[Any], place: Place, phase: str) -> Operation:
    """The operation of an equation.

    Args:
      eqn: the equation.
      args: what it was given.
      outputs: what it gave.
      place: where it stands.
      phase: of what is part of no training step.
    """
    arrays = [arg if hasattr(arg, "shape") else np.asarray(arg) for arg in args]
    return Operation(
        eqn.primitive.name,
        _phase(place, phase),
        _layer(place.scopes),
        _source(place.frames),
        tuple(map(Range.of, arrays)),
        tuple(map(Range.of, outputs)),
    )


def _phase(place: Place, default: str) -> str:
    if "transpose(" in place.scopes:
        return "backward"
    if "jvp(" in place.scopes:
        return "forward"
    # A step's operations outside of `value_and_grad`, by the functions of `jopt.train.step`.
    steps = [frame for frame in place.frames if Path(frame.file_name).match("jopt/train/step.py")]
    functions = {frame.function_name for frame in steps}
    if "gather" in functions:
        return "input"
    return "optimizer" if "step" in functions else default


def _layer(scopes: str) -> str:
    """The layer of a name stack.

    Example:
      >>> _layer("jvp(MLP)/Dense_1"), _layer("transpose(jvp(MLP))/Dense_1"), _layer("jvp()")
      ('MLP/Dense_1', 'MLP/Dense_1', '')
      >>> _layer("transpose(jvp(ConvNet))/jvp(ConvNet)")
      'ConvNet'
    """
    names: list[str] = []
    for scope in scopes.split("/"):
        name = re.sub(r"^(?:(?:jvp|transpose|vmap|rematted_computation|checkpoint)\()+|\)+$", "", scope)
        if name and names[-1:] != [name]:
            names.append(name)
    return "/".join(names)


def _source(frames: Sequence[Any]) -> str:
    """Where an operation was called: in the caller's code if there is such, else in this package."""
    # Innermost first, up to the replay, whose callers are outside of the network.
    calls = []
    for frame in frames:
        if frame.function_name == REPLAY:
            break
        if not frame.file_name.startswith((*_LIBRARIES, "<")) and "site-packages" not in frame.file_name:
            calls.append(frame)
    custom = [frame for frame in calls if not frame.file_name.startswith(_PACKAGE)]
    frame = next(iter(custom or calls), None)
    if frame is None:
        return ""
    path, text = Path(frame.file_name), linecache.getline(frame.file_name, frame.line_num).strip()
    path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{path}:{frame.line_num} ({frame.function_name}){f': {text}' if text else ''}"


REPLAY = "trace_for_replay"
"""The name of the function that traces a program to be evaluated here."""
