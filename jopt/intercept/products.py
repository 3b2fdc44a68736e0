"""Products of two activations, such as those of attention: where a program has them, and what they are called.

No module owns such a product, so it is found in the program: a `dot_general` whose operands both depend on the
data.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from jax.extend.core import Literal

from jopt.layers.flow import scan_counts
from jopt.typing import Jaxpr, JaxprEqn

At: TypeAlias = tuple[int, ...]
"""Where an equation is: itself and the calls around it. Calls of one function share its equations."""

SIDES = ("left", "right")
"""The operands of a product, as the last part of their paths."""


class Product(NamedTuple):
    """A product of two activations.

    Attributes:
      path: 'block/attention/product0': the scope of the module that runs it, and a number there.
      shapes: of its operands.
    """

    path: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def operands(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the operands, by their paths."""
        return {f"{self.path}/{side}": shape for side, shape in zip(SIDES, self.shapes, strict=True)}


def products(jaxpr: Jaxpr, depends: Sequence[bool]) -> Mapping[At, Product]:
    """The names of a program's products of two activations.

    Args:
      jaxpr: the program.
      depends: whether each input is data.

    Returns:
      The products, by where they are, in the order of the program.
    """
    result: dict[At, Product] = {}
    _walk(jaxpr, depends, (), (), result, Counter())
    return result


def _walk(
    jaxpr: Jaxpr,
    depends: Sequence[bool],
    at: At,
    scope: tuple[str, ...],
    result: dict[At, Product],
    counts: Counter[str],
) -> None:
    data = {var for var, d in zip(jaxpr.invars, depends, strict=True) if d}
    for eqn in live(jaxpr):
        inputs = [not isinstance(atom, Literal) and atom in data for atom in eqn.invars]
        inside = (*scope, *scope_names(eqn))
        if eqn.primitive.name == "dot_general" and all(inputs):
            path = _path(inside)
            shapes = tuple(atom.aval.shape for atom in eqn.invars)
            result[*at, id(eqn)] = Product(f"{path}/product{counts[path]}".lstrip("/"), shapes)
            counts[path] += 1
        if eqn.primitive.name == "scan":
            consts, carried = scan_counts(eqn)
            # What is carried depends on the data after the first round, if anything does.
            inputs[consts : consts + carried] = [any(inputs)] * carried
        for body in bodies(eqn):
            if len(body.invars) == len(inputs):
                _walk(body, inputs, (*at, id(eqn)), inside, result, counts)
        if any(inputs):
            data.update(eqn.outvars)


def live(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The equations on which the outputs depend.

    A function around another may have begun a trace in vain, which leaves calls of layers that are nobody's.
    """
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    equations = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(var in needed for var in eqn.outvars):
            equations.append(eqn)
            needed.update(atom for atom in eqn.invars if not isinstance(atom, Literal))
    return equations[::-1]


def scope_names(eqn: JaxprEqn) -> list[str]:
    """The named scopes of an equation, outermost first."""
    return [part.name for part in eqn.source_info.name_stack.stack if type(part).__name__ == "Scope"]


def _path(scope: Sequence[str]) -> str:
    """The path of the module of a scope, without the network's own class."""
    parts: list[str] = []
    for part in "/".join(scope).split("/")[1:]:
        name, _, method = part.partition(".")
        # Functions open scopes too: Equinox 'eqx.nn.Linear', JAX the formula of an einsum, Linen its methods.
        if re.fullmatch(r"\w+", name) and name != "eqx" and not (method and parts and parts[-1] == name):
            parts.append(name)
    return "/".join(parts)


def bodies(eqn: JaxprEqn) -> list[Jaxpr]:
    """The programs inside an equation."""
    values = [v for value in eqn.params.values() for v in (value if isinstance(value, tuple | list) else (value,))]
    return [jaxpr for jaxpr in (getattr(value, "jaxpr", value) for value in values) if hasattr(jaxpr, "eqns")]
