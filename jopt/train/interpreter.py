"""A program evaluated operation by operation, to find the one in which a value stopped being finite."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jopt.layers.flow import scan_counts
from jopt.train.operations import Operation, Place, describe

# Calls of one program that run its body once.
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")


@dataclasses.dataclass(eq=False)
class Bad:
    """A value that is not finite, and what it came from.

    Attributes:
      order: of two, the smaller was computed first.
      operation: whose result it is; None: it is an argument of the program.
      name: of the argument.
      has_nan: whether it holds a NaN, and not only infinite numbers.
      cause: the input of `operation` that was not finite, if there was one.
    """

    order: int
    operation: Operation | None
    name: str
    has_nan: bool
    cause: "Bad | None"

    def chain(self) -> list["Bad"]:
        """From the first value that was not finite to this one."""
        values, value = [], self
        while value is not None:
            values.append(value)
            value = value.cause
        return values[::-1]


# An infinity that the program means, such as the -inf which masks a logit. It is nobody's fault.
_MEANT = "meant"
DATA, VALUES = "data/", "values/"
"""How names of arguments begin that hold examples, and the config's numbers: no infinity is meant there."""
Mark = Bad | str | None
"""Of a value: None if it is finite."""


def count_not_finite(value: Any) -> tuple[int, int]:
    """The NaNs and the infinite numbers in an array; none in keys and integers."""
    if not jnp.issubdtype(getattr(value, "dtype", np.asarray(0).dtype), np.inexact):
        return 0, 0
    array = np.asarray(value)
    if np.isfinite(array).all():
        return 0, 0
    return int(np.isnan(array).sum()), int(np.isinf(array).sum())


def evaluate(program: ClosedJaxpr, args: Sequence[Any], names: Sequence[str], phase: str) -> tuple[list[Any], list]:
    """Evaluates a program one operation after the other, each compiled by itself.

    Args:
      program: what `jax.make_jaxpr` gives.
      args: the leaves of its arguments.
      names: of them. A NaN in one is its own first cause; infinite numbers are taken as meant, except in `DATA` and
        `VALUES`.
      phase: of operations that are part of no training step.

    Returns:
      The leaves of its results, and for each the `Bad` that it is, else None.
    """
    # JAX runs an operation on whatever it is given: leaves in another order would be another program.
    for name, value, atom in zip(names, args, program.jaxpr.invars, strict=True):
        kinds = [(x.shape, x.dtype) for x in (value, atom.aval)]
        assert kinds[0] == kinds[1], f"{name} is {kinds[0]}, not {kinds[1]}"
    evaluation = _Evaluation(phase)
    marks = [evaluation.mark_argument(name, value) for name, value in zip(names, args, strict=True)]
    results, marks = evaluation.run(program.jaxpr, program.consts, args, marks, Place("", ()))
    return results, [mark if isinstance(mark, Bad) else None for mark in marks]


class _Evaluation:
    def __init__(self, phase: str):
        self.phase, self.order = phase, 0

    def mark_argument(self, name: str, value: Any) -> Mark:
        nans, infinities = count_not_finite(value)
        if nans or (infinities and name.startswith((DATA, VALUES))):
            return self._bad(None, name, bool(nans), None)
        return _MEANT if infinities else None

    def run(
        self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], marks: Sequence[Mark], place: Place
    ) -> tuple[list[Any], list[Mark]]:
        """The results of `jaxpr` and their marks."""
        values: dict[Var, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        marked: dict[Var, Mark] = dict(zip(jaxpr.constvars, map(_mark_constant, consts), strict=True))
        marked |= dict(zip(jaxpr.invars, marks, strict=True))

        def read(atom: Any) -> tuple[Any, Mark]:
            if isinstance(atom, Literal):
                return atom.val, _mark_constant(atom.val)
            return values[atom], marked[atom]

        for eqn in jaxpr.eqns:
            inputs = [read(atom) for atom in eqn.invars]
            with eqn.ctx.manager:
                outputs, out_marks = self._equation(eqn, [v for v, _ in inputs], [m for _, m in inputs], place)
            values.update(zip(eqn.outvars, outputs, strict=True))
            marked.update(zip(eqn.outvars, out_marks, strict=True))
        results = [read(atom) for atom in jaxpr.outvars]
        return [value for value, _ in results], [mark for _, mark in results]

    def _equation(
        self, eqn: JaxprEqn, args: list[Any], marks: list[Mark], place: Place
    ) -> tuple[list[Any], list[Mark]]:
        name, params = eqn.primitive.name, eqn.params
        inner = place.within(eqn)
        body = next((params[key] for key in _BODIES if name in _CALLS and key in params), None)
        if body is not None:
            jaxpr, consts = (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())
            return self.run(jaxpr, consts, args, marks, inner)
        if name == "cond":
            branch = params["branches"][int(args[0])]
            return self.run(branch.jaxpr, branch.consts, args[1:], marks[1:], inner)
        outputs = eqn.primitive.bind(*args, **params)
        outputs = list(outputs) if eqn.primitive.multiple_results else [outputs]
        out_marks = self._judge(eqn, args, marks, outputs, inner)
        # A loop is run as a whole, and again step by step only where it is the first at fault: it may be long.
        loop: Callable[..., Bad | None] | None = {"scan": self._in_scan, "while": self._in_while}.get(name)
        first = next((m for m in out_marks if isinstance(m, Bad) and m.cause is None), None)
        if loop is not None and first is not None:
            found_inside = loop(eqn, args, marks, inner)
            out_marks = [found_inside or m if isinstance(m, Bad) else m for m in out_marks]
        return outputs, out_marks

    def _in_scan(self, eqn: JaxprEqn, args: list[Any], marks: list[Mark], place: Place) -> Bad | None:
        """The first bad result of a scan's body."""
        body, (count, carried) = eqn.params["jaxpr"], scan_counts(eqn)
        consts, carry, xs = args[:count], args[count : (end := count + carried)], args[end:]
        const_marks, carry_marks, x_marks = marks[:count], marks[count:end], marks[end:]
        order = range(eqn.params["length"])
        for i in reversed(order) if eqn.params["reverse"] else order:
            x = [jax.lax.index_in_dim(x, i, keepdims=False) for x in xs]
            outputs, out_marks = self.run(
                body.jaxpr, body.consts, [*consts, *carry, *x], [*const_marks, *carry_marks, *x_marks], place
            )
            # The last results first: those are a step's losses, and the causes of them its forward pass.
            if bad := [mark for mark in out_marks if isinstance(mark, Bad)]:
                return min(bad, key=lambda mark: mark.chain()[0].order)
            carry, carry_marks = outputs[:carried], out_marks[:carried]
        return None

    def _in_while(self, eqn: JaxprEqn, args: list[Any], marks: list[Mark], place: Place) -> Bad | None:
        """The first bad result of a loop's body."""
        condition, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
        first = eqn.params["cond_nconsts"]
        second = first + eqn.params["body_nconsts"]
        carry, carry_marks = args[second:], marks[second:]
        while bool(
            self.run(
                condition.jaxpr, condition.consts, [*args[:first], *carry], [*marks[:first], *carry_marks], place
            )[0][0]
        ):
            body_args, body_marks = [*args[first:second], *carry], [*marks[first:second], *carry_marks]
            carry, carry_marks = self.run(body.jaxpr, body.consts, body_args, body_marks, place)
            if bad := [mark for mark in carry_marks if isinstance(mark, Bad)]:
                return min(bad, key=lambda mark: mark.chain()[0].order)
        return None

    def _judge(
        self, eqn: JaxprEqn, args: list[Any], marks: list[Mark], outputs: list[Any], place: Place
    ) -> list[Mark]:
        """The marks of an operation's results."""
        counts = [count_not_finite(output) for output in outputs]
        bad = [mark for mark in marks if isinstance(mark, Bad)]
        out_marks: list[Mark] = []
        for nans, infinities in counts:
            if not nans and not infinities:
                out_marks.append(None)
            elif not bad and not nans and _MEANT in marks:
                out_marks.append(_MEANT)
            else:
                # A NaN comes from a NaN where one came in, even if an infinity came in too.
                causes = [mark for mark in bad if mark.has_nan] if nans else bad
                cause = min(causes or bad, key=lambda mark: mark.order, default=None)
                out_marks.append(self._bad(describe(eqn, args, outputs, place, self.phase), "", bool(nans), cause))
        return out_marks

    def _bad(self, operation: Operation | None, name: str, has_nan: bool, cause: Bad | None) -> Bad:
        self.order += 1
        return Bad(self.order, operation, name, has_nan, cause)


def _mark_constant(value: Any) -> Mark:
    return _MEANT if any(count_not_finite(value)) else None
