"""The programs that a run calls, each with its arguments: asked for when it is called, or ahead of that."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from jopt import data, hyper, keys
from jopt.train.compiler import Request
from jopt.train.prepared import Prepared
from jopt.train.program import Program
from jopt.train.schedule import Segment
from jopt.train.sharing import common_names, stage_names
from jopt.train.state import TrainState, Variables, evaluated


@dataclasses.dataclass(frozen=True)
class Calls:
    """What is called for a stage. Arguments are arrays, or their shapes where a program is only compiled.

    Attributes:
      prepared: the run.
      values: the swept numbers, on the device.
    """

    prepared: Prepared
    values: Mapping[str, jax.Array]

    def init(self, stage: int, *previous: TrainState) -> Request:
        """The state that a stage starts from, given the one in which the stage before ended."""
        fn = with_key(self._program(stage).init)
        args = previous if stage or self.prepared.start is None else (None, self._weights)
        return self._request("init", stage, fn, self.values, *args)

    def update(self, stage: int, state: TrainState, train: data.DeviceArrays) -> Request:
        """Masks, ranges and codebooks are chosen. The state is donated, as two copies may not fit on a device."""
        return self._request("update", stage, self._program(stage).update, state, self.values, train, donate=(0,))

    def rewind(self, stage: int, state: TrainState, *origin: Variables) -> Request:
        """The network goes back to `origin`, or starts afresh."""
        p, args = self.prepared, origin
        first_network = not any(plan.starts_network for plan in p.plans[1 : stage + 1])
        if p.start is not None and first_network and p.plans[stage].start == "init":
            args = (None, self._weights)
        return self._request("rewind", stage, self._program(stage).rewind, state, self.values, *args)

    def segment(self, stage: int, steps: int, state: TrainState, train: data.DeviceArrays) -> Request:
        """So many optimizer steps. The state is donated."""
        fn, paths = self.prepared.segment_of(stage, steps), list(self.values)
        widening = self.prepared.widening(stage)

        def segment(
            state: TrainState, common: hyper.Hyper, train: data.DeviceArrays
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            return fn(state, stage_names(common, stage, paths), train)

        if widening is not None:
            if isinstance(state.step, jax.ShapeDtypeStruct):
                state = self.placed(stage, jax.eval_shape(widening.widen, state))
            else:
                state = widening.widen(state, lambda added: self.prepared.place(stage, added))
        # Under names that the segments of all stages have in common, so that equal programs have equal texts.
        args = (state, common_names(self.values, stage), train)
        return Request("segment", (stage, steps), segment, args, (0,))

    def after_segment(self, stage: int, state: TrainState) -> TrainState:
        """The stage's state, from that which its segment gave."""
        widening = self.prepared.widening(stage)
        return state if widening is None else widening.narrow(state)

    def seen(self, stage: int, state: TrainState) -> Request:
        """What the model computes with, of a stage with transforms."""
        return self._request("seen", stage, self._program(stage).seen, state, self.values)

    def judge(self, stage: int, variables: Variables, part: data.DeviceArrays) -> Request:
        """What the network does with the validation or test part, which are padded to one shape."""
        return self._request("evaluate", stage, self._program(stage).judge, variables, self.values, part)

    def ahead(self, last: Segment | None) -> Iterator[Request]:
        """What is still called, in the order of the first calls, as far as it is known before.

        Args:
          last: the segment after which a run is resumed; None: it begins.
        """
        first = 0 if last is None else last.stage + last.last
        for stage in range(first, len(self.prepared.plans)):
            yield from self._of_stage(stage, begun=last is not None and stage == last.stage)

    def _of_stage(self, stage: int, *, begun: bool) -> Iterator[Request]:
        p, plan = self.prepared, self.prepared.plans[stage]
        state, train = self.placed(stage, p.like(stage)), p.arrays.get("train")
        if not begun:
            yield self.init(stage, *([self.placed(stage - 1, p.like(stage - 1))] if stage else []))
        # What the teacher says of the training part is data of the stage, and not known yet; nor are rows that the
        # host gathers.
        if plan.distillation is None and train is not None:
            if plan.updates:
                yield self.update(stage, state, train)
            if plan.start in ("init", "random") and not begun:
                yield self.rewind(stage, state)
            lengths = dict.fromkeys(s.steps for s in p.segments if s.stage == stage and s.steps)
            yield from (self.segment(stage, steps, state, train) for steps in lengths)
        variables = evaluated(state)
        if plan.transforms:
            yield self.seen(stage, state)
            variables = self.placed(stage, jax.eval_shape(self._program(stage).seen, state, self.values))
        yield self.judge(stage, variables, p.arrays["test"])

    def placed(self, stage: int, shapes: Any) -> Any:
        """Shapes of arrays where the stage's programs expect them."""
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding, weak_type=x.weak_type),
            shapes,
            self.prepared.shardings(stage, shapes),
        )

    @property
    def _weights(self) -> Variables | None:
        """The weights that the first network begins with."""
        start = self.prepared.start
        return None if start is None else Variables(start.params, start.model_state)

    def _program(self, stage: int) -> Program:
        return self.prepared.program(self.prepared.plans[stage])

    def _request(
        self, name: str, stage: int, fn: Callable[..., PyTree], *args: PyTree, donate: tuple[int, ...] = ()
    ) -> Request:
        return Request(name, stage, fn, args, donate, self.prepared.level(stage, name))


def with_key(init: Callable[..., TrainState]) -> Callable[..., TrainState]:
    """`Program.init` of the numbers alone: the keys are made of the seeds, inside of the program."""

    def start(values: hyper.Hyper, *previous: TrainState) -> TrainState:
        return init(keys.roots(values["seed"]), values, *previous)

    return start
