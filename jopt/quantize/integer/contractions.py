"""What a program multiplies and sums: every product and convolution in a jaxpr, with its dtypes."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

PRIMITIVES = ("conv_general_dilated", "dot_general", "ragged_dot_general")


class Contraction(NamedTuple):
    """One contraction in a program.

    Attributes:
      where: the names of the modules around it, such as 'MLP/Dense_0'.
      primitive: a name in `PRIMITIVES`.
      lhs: the dtype's name of what is multiplied.
      rhs: with what.
      sums: of the sums.
    """

    where: str
    primitive: str
    lhs: str
    rhs: str
    sums: str

    @property
    def is_integer(self) -> bool:
        """Whether codes of 8 bits or fewer are multiplied and summed in int32."""
        return self.lhs in _CODES and self.rhs in _CODES and self.sums == "int32"


_CODES = ("int2", "int4", "int8", "uint2", "uint4", "uint8")


def contractions(program: Callable[..., Any] | ClosedJaxpr | Jaxpr, *args: object) -> list[Contraction]:
    """Every contraction in a program: inside of scans, and in every branch, those of other platforms included.

    Args:
      program: a function, or its jaxpr.
      *args: the function's arguments, or their shapes; nothing is computed.

    Returns:
      A `Contraction` for each, in the order of the program.

    Example:
      >>> contractions(lambda x: x @ x, jnp.ones((2, 2)))
      [Contraction(where='', primitive='dot_general', lhs='float32', rhs='float32', sums='float32')]
    """
    # Traced, not compiled: what every platform would run is in the jaxpr, the branches of the others too.
    jaxpr: Any = program if isinstance(program, ClosedJaxpr | Jaxpr) else jax.make_jaxpr(program)(*args)
    return list(_contractions(jaxpr, ""))


def assert_integer(
    program: Callable[..., Any] | ClosedJaxpr | Jaxpr, *args: object, floats: Iterable[str] = ()
) -> list[Contraction]:
    """Asserts that every contraction in a program is of codes of 8 bits or fewer, with int32 sums.

    Products of packed signs (`jopt.quantize.integer.signs`) are not contractions; a program may have only these.

    Args:
      program: as in `contractions`.
      *args: as in `contractions`.
      floats: patterns, each of which must match some part of the path of the modules around a contraction that may
        be of floats: layers that are declared not to be quantized.

    Returns:
      The contractions, of which there is at least one in integers, unless signs are counted.

    Raises:
      AssertionError: names those that are not; or a pattern that matches none.

    Example:
      >>> codes = jnp.ones((2, 2), jnp.int8)
      >>> [c.sums for c in assert_integer(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.int32), codes)]
      ['int32']
      >>> assert_integer(lambda x: x @ x, jnp.ones((2, 2)))
      Traceback (most recent call last):
      ...
      AssertionError: not in integers: dot_general of float32 by float32 to float32 in ''
    """
    jaxpr: Any = program if isinstance(program, ClosedJaxpr | Jaxpr) else jax.make_jaxpr(program)(*args)
    every, floats = contractions(jaxpr), tuple(floats)
    others = [c for c in every if not c.is_integer]
    unused = [pattern for pattern in floats if not any(re.search(pattern, c.where) for c in others)]
    if unused:
        raise AssertionError(f"no contraction of floats is in {', '.join(map(repr, unused))}")
    wrong = [c for c in others if not any(re.search(pattern, c.where) for pattern in floats)]
    if wrong:
        listed = "; ".join(f"{c.primitive} of {c.lhs} by {c.rhs} to {c.sums} in {c.where!r}" for c in wrong)
        raise AssertionError(f"not in integers: {listed}")
    # Without any, the assertion would hold for a program that multiplies nothing.
    if len(others) == len(every) and not any(e.primitive.name == "population_count" for e in _equations(jaxpr)):
        raise AssertionError("the program has no contraction in integers")
    return every


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for inner in _jaxprs(equation.params):
            yield from _equations(inner)


def _contractions(jaxpr: Any, where: str) -> Iterator[Contraction]:
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        # Names are relative to the enclosing equation: a scan's body does not repeat those around the scan.
        modules = "/".join(filter(None, (where, str(equation.source_info.name_stack))))
        name = equation.primitive.name
        if name in PRIMITIVES:
            dtypes = (jnp.dtype(v.aval.dtype).name for v in (*equation.invars[:2], equation.outvars[0]))
            yield Contraction(modules, name, *dtypes)
        for inner in _jaxprs(equation.params):
            yield from _contractions(inner, modules)


def _jaxprs(value: object) -> Iterator[Any]:
    if isinstance(value, ClosedJaxpr | Jaxpr):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _jaxprs(v)
    elif isinstance(value, tuple | list):
        for v in value:
            yield from _jaxprs(v)
