"""The first bad operation of a diverged run, found by replaying its last segment: `run(..., debug_nans=True)`."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jopt import data, keys
from jopt.rules import named_leaves
from jopt.train import interpreter
from jopt.train.compiler import Compiler
from jopt.train.interpreter import Bad
from jopt.train.operations import Operation, Range
from jopt.train.program import segment_rows
from jopt.train.schedule import Segment
from jopt.train.staging import Staging
from jopt.train.state import TrainState, to_host
from jopt.train.step import Parts, gather, loss

# How the names of a program's arguments begin.
_ARGUMENTS = ("", interpreter.VALUES, interpreter.DATA)


class Finding(NamedTuple):
    """What a replay found.

    Attributes:
      part: of the data, whose loss was not finite: 'training', 'validation' or 'test'.
      step: the first step with a result that is not finite, counted from 0; of an evaluation, the last step before.
      value: the first such result: 'loss', or a part of the state, such as `params/Dense_0/kernel`.
      operation: the first operation with a result that is not finite; None where there is none.
      nan: the first operation with a NaN, where `operation` gave an infinite number.
      problem: '' where `operation` is at fault; else what was found in its place.
      parameters: those that were not finite after the step.
      gradients: of the parameters whose gradient was not finite in the step; None where it was not computed: in an
        evaluation, and beside a teacher that computes along.
    """

    part: str
    step: int
    value: str
    operation: Operation | None
    nan: Operation | None
    problem: str
    parameters: tuple[str, ...]
    gradients: tuple[str, ...] | None

    def sentence(self) -> str:
        """The finding in one line."""
        if self.operation is None:
            return f"replayed, step {self.step}: {self.problem}"
        layer = f" of {self.operation.layer}" if self.operation.layer else ""
        return f"first at step {self.step}: {self.operation.primitive}{layer} ({self.operation.phase})"

    def lines(self) -> list[str]:
        """The finding in full."""
        lines = [f"the {self.part} loss: {self.sentence()}"]
        for title, operation in (("first not finite", self.operation), ("first NaN", self.nan)):
            if operation is not None:
                layer = operation.layer or "outside of all layers"
                lines += [f"{title}: {operation.primitive}, {operation.phase}, {layer}", f"  {operation.source}"]
                lines += [f"  input   {numbers}" for numbers in operation.inputs]
                lines += [f"  output  {numbers}" for numbers in operation.outputs]
        lines.append(f"it reached {self.value}")
        for title, names in (("gradients", self.gradients), ("parameters after the step", self.parameters)):
            if names is not None:
                lines.append(f"{title} that are not finite: {', '.join(names) or 'none'}")
        return lines

    def json(self) -> dict[str, Any]:
        """The finding for a manifest."""

        def plain(operation: Operation | None) -> dict[str, Any] | None:
            if operation is None:
                return None
            ranges = {"inputs": operation.inputs, "outputs": operation.outputs}
            return operation._asdict() | {name: [r._asdict() for r in values] for name, values in ranges.items()}

        return self._asdict() | {"operation": plain(self.operation), "nan": plain(self.nan)}


class Replay:
    """Keeps the state at the start of each segment, and replays the segment if a loss is not finite."""

    def __init__(self, staging: Staging):
        self.prepared, self.staging = staging.prepared, staging
        self.segment: Segment | None = None
        self.start: TrainState | None = None

    def keep(self, segment: Segment, state: TrainState) -> None:
        """Copies the state to the host: its buffers are given to the segment."""
        self.segment, self.start = segment, to_host(state)

    def find(self, part: str, stage: int, step: int, state: TrainState) -> Finding:
        """Replays the last segment.

        Args:
          part: whose loss was not finite.
          stage: in which.
          step: the step of that loss, or the last one before it.
          state: after the segment.
        """
        bad = _not_finite(state)
        if part == "training" or (self.start is not None and _new(bad, _not_finite(self.start))):
            return self._in_steps(part)
        program = self.prepared.program(self.prepared.plans[stage])
        arrays = self.prepared.arrays[part]

        def evaluation(
            state: TrainState, values: Mapping[str, jax.Array], arrays: data.DeviceArrays
        ) -> dict[str, Any]:
            judgement = program.judge(program.seen(state, values), values, arrays)
            return {"loss": judgement.statistics["loss"]["sum"], "judgement": judgement}

        return self._explain(evaluation, state, arrays, part, step, "evaluation", frozenset(bad))

    def _in_steps(self, part: str) -> Finding:
        assert self.segment is not None and self.start is not None
        segment, compiler = self.segment, Compiler()
        state, before = self.prepared.place(segment.stage, self.start), _not_finite(self.start)
        if broken := [name for name in before if before[name] and name.startswith("params")]:
            problem = (
                f"{', '.join(broken)} held NaN before the first step of the segment: the initial values, what the "
                "stage starts from, or the choice of masks, ranges and codebooks is at fault"
            )
            return Finding(
                part, segment.start, broken[0], None, None, problem, tuple(map(_parameter, broken)), None
            )
        # A segment of one step is the same step: the order of examples and all keys are functions of its number.
        program = self.prepared.program_of(segment.stage, 1)
        for step in range(segment.start, segment.stop):
            arrays = self.staging.train(segment.stage, step, 1)
            args = (state, self.prepared.values, arrays)
            after, metrics = compiler.call("step", 0, program.segment, *args)
            broken = _new(_not_finite(after), before)
            if broken or not np.isfinite(metrics["loss"]):
                finding = self._explain(program.segment, state, arrays, part, step, "segment", frozenset(before))
                parameters = tuple(_parameter(name) for name in broken if name.startswith("params"))
                gradients = self._gradients(segment.stage, state, arrays)
                return finding._replace(parameters=parameters, gradients=gradients)
            state = after
        problem = "its steps, replayed one by one, are all finite: the segment as one program rounds differently"
        return Finding(part, segment.stop - 1, "nothing", None, None, problem, (), None)

    def _explain(
        self,
        fn: Callable[..., Any],
        state: TrainState,
        arrays: data.DeviceArrays,
        part: str,
        step: int,
        phase: str,
        meant: frozenset[str],
    ) -> Finding:
        """Evaluates `fn` operation by operation, and follows the first bad result back."""
        args = (state, self.prepared.values, arrays)
        program, shapes = trace_for_replay(fn, *args)
        leaves = {
            f"{kind}{name}": leaf
            for kind, tree in zip(_ARGUMENTS, args, strict=True)
            for name, leaf in named_leaves(tree)
        }
        _, marks = interpreter.evaluate(program, list(leaves.values()), list(leaves), phase)
        bad = {
            _result(name): mark
            for (name, _), mark in zip(named_leaves(shapes), marks, strict=True)
            if mark is not None and _result(name) not in meant
        }
        # The loss before the state: what it came from is the forward pass, where a reader looks first.
        value = next(iter(["loss"] if "loss" in bad else bad), None)
        if value is None:
            problem = "no single operation is at fault: one after the other, in another rounding, all are finite"
            return Finding(part, step, "nothing", None, None, problem, (), None)
        chain = bad[value].chain()
        if chain[0].operation is None:
            problem = f"{chain[0].name} holds numbers that are not finite ({Range.of(leaves[chain[0].name])})"
            return Finding(part, step, value, None, _first_nan(chain), problem, (), None)
        operation, nan = chain[0].operation, _first_nan(chain)
        # A derivative's factors are computed beside the forward pass. What reached no loss can only be one of them.
        if operation.phase == "forward" and re.match("params|opt_state|transform_state", value):
            operation = operation._replace(phase="backward")
        return Finding(part, step, value, operation, nan, "", (), None)

    def _gradients(self, stage: int, state: TrainState, arrays: data.DeviceArrays) -> tuple[str, ...] | None:
        """The parameters whose gradient at `state` is not finite."""
        plan = self.prepared.plans[stage]
        if plan.teacher_computes_along:
            return None

        def gradients(state: TrainState, values: Mapping[str, jax.Array], arrays: data.DeviceArrays) -> Any:
            p, key = Parts.of(plan), keys.root(values["seed"])
            row = jax.tree.map(lambda x: x[0], segment_rows(arrays, key, state.step, 1, plan.batch_size))
            batch = gather(p, key, arrays, state.step, row)
            return jax.grad(loss, argnums=1, has_aux=True)(p, state.params, state, batch, key)[0]

        grads = Compiler().call("gradients", 0, gradients, state, self.prepared.values, arrays)
        return tuple(name for name, leaf in named_leaves(grads) if any(interpreter.count_not_finite(leaf)))


def trace_for_replay(fn: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """The jaxpr of `fn`, and the shapes of its results."""
    return jax.make_jaxpr(fn, return_shape=True)(*args)


def _not_finite(state: TrainState) -> dict[str, int]:
    """The leaves that are not finite, and how many NaNs they hold."""
    counts = {name: interpreter.count_not_finite(leaf) for name, leaf in named_leaves(state)}
    return {name: nans for name, (nans, infinities) in counts.items() if nans or infinities}


def _new(after: Mapping[str, int], before: Mapping[str, int]) -> list[str]:
    """The leaves that were finite before, or without NaN."""
    return [name for name, nans in after.items() if name not in before or (nans and not before[name])]


def _parameter(name: str) -> str:
    return name.removeprefix("params/")


def _result(name: str) -> str:
    """The name of a result of a segment, `(state, metrics)`, or of an evaluation, in a reader's words."""
    return re.sub(r"^(?:[01]/)", "", name)


def _first_nan(chain: list[Bad]) -> Operation | None:
    """The first operation with a NaN, if an infinite number came before it."""
    first = next((i for i, bad in enumerate(chain) if bad.has_nan), None)
    return chain[first].operation if first else None
