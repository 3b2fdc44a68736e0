"""From one stage to the next: the state that a stage starts from, its data and its teacher's outputs."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import PyTree

from jopt import data, hyper, transfer
from jopt import task as tasks
from jopt.train import finished
from jopt.train.calls import Calls
from jopt.train.compiler import Compiler
from jopt.train.config import STAGE
from jopt.train.prepared import Prepared
from jopt.train.program import Judgement
from jopt.train.state import TrainState, Variables, evaluated
from jopt.train.streaming import Stream
from jopt.typing import ModelState, Params


class Over(Protocol):
    """Maps functions of one trial over several: `jopt.ablate.Lift`."""

    # A protocol, as `jopt.ablate` is built on this package and cannot be imported by it.
    def __call__(self, fn: Callable[..., Any], per_trial: tuple[bool, ...], /) -> Callable[..., Any]:
        """`fn` over a leading axis of trials; `per_trial` says which arguments have that axis."""
        ...

    def share(self, tree: PyTree) -> PyTree:
        """Puts host arrays that all trials share where the programs expect them."""
        ...


class Staging:
    """The starts of a run's stages; of several trials at once, where the prepared programs are lifted over them."""

    def __init__(
        self,
        prepared: Prepared,
        compiler: Compiler,
        end_of: Callable[[int], TrainState],
        values: Mapping[str, jax.Array] | None = None,
        over: Over | None = None,
    ):
        """Nothing is computed yet.

        Args:
          prepared: the run.
          compiler: compiles each function once for each stage.
          end_of: `stage ->` the state that an earlier stage ended in.
          values: the swept numbers, on the device, if not the config's own.
          over: how the programs of `prepared` were lifted; None: they are of one trial.
        """
        self.prepared, self.compiler, self.end_of = prepared, compiler, end_of
        self.values = prepared.values if values is None else values
        self.calls = Calls(prepared, self.values)
        self._over = over
        share = None if over is None else over.share
        self.stream = Stream(prepared, compiler, share) if prepared.dataset.residency == "host" else None
        self._teachers: dict[int, PyTree] = {}
        self._arrays: dict[int, dict[str, data.DeviceArrays]] = {}

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *error: object) -> None:
        if self.stream is not None:
            self.stream.close()

    def seen(self, stage: int, state: TrainState) -> Variables:
        """What the model computes with when this state of a stage is evaluated: `Program.seen`."""
        # Without transforms it is the state itself: no program is compiled for it.
        if not self.prepared.plans[stage].transforms:
            return evaluated(state)
        return self.compiler.run(self.calls.seen(stage, self.prepared.place(stage, state)))

    def judge(self, stage: int, state: TrainState, part: str) -> Judgement:
        """What the network of this state does with the validation or test part."""
        variables = self.prepared.place(stage, self.seen(stage, state))
        return self.compiler.run(self.calls.judge(stage, variables, self.prepared.arrays[part]))

    def measured(self, stage: int, judgement: Judgement, part: str) -> dict[str, Any]:
        """The loss and the metrics of a part, from its statistics on the host; of several trials, an array each."""
        p = self.prepared
        examples = getattr(p.dataset, f"{part}").targets
        count = data.examples_in(examples)
        return self._each(lambda j: j.measured(p.plans[stage].task, count), judgement)

    def trained(self, stage: int, metrics: dict[str, Any]) -> dict[str, Any]:
        """The metrics of a segment, those of the task made of their statistics."""
        task = self.prepared.plans[stage].task

        def finished_metrics(values: dict[str, Any]) -> dict[str, Any]:
            statistics = {key: part for key, part in values.items() if key != "statistics"}
            return {**statistics, **tasks.measured(task, values["statistics"])}

        return self._each(finished_metrics, metrics)

    def _each(self, fn: Callable[[Any], dict[str, Any]], tree: Any) -> dict[str, Any]:
        """`fn` of host arrays; of each trial's, where there are several."""
        if self._over is None:
            return fn(tree)
        trials = len(jax.tree.leaves(tree)[0])
        results = [fn(jax.tree.map(lambda x, i=i: x[i], tree)) for i in range(trials)]
        return {key: np.array([result[key] for result in results]) for key in results[0]}

    def begin(self, stage: int, previous: TrainState | None) -> TrainState:
        """The state that a stage starts from."""
        p = self.prepared
        program = p.program(p.plans[stage])
        state = self.compiler.run(self.calls.init(stage, *([] if previous is None else [previous])))
        requested = p.plans[stage].transfer
        if requested is None:
            return state

        def filled(params: Params, model_state: ModelState, source: dict[str, PyTree]) -> Variables:
            # Planned here, where the shapes are those of one trial.
            rows = transfer.plan(requested, params, source["params"], model_state, source["model_state"])
            filled_state = model_state
            if requested.include_state:
                filled_state = transfer.transfer(rows, model_state, source["model_state"], "state")
            return Variables(transfer.transfer(rows, params, source["params"]), filled_state)

        if self._over is not None:
            filled = self._over(filled, (True, True, requested.source.startswith(STAGE)))

        # Through `rewind`, which also resets moments and projects: the new parameters are those of another network.
        def adopt(state: TrainState, values: hyper.Hyper, source: dict[str, PyTree]) -> TrainState:
            return program.rewind(state, values, filled(state.params, state.model_state, source))

        return self.compiler.call(
            "transfer",
            stage,
            adopt,
            state,
            self.values,
            self._weights(requested.source),
            level=p.level(stage, "transfer"),
        )

    def origin(self, stage: int) -> tuple[Variables, ...] | None:
        """The further arguments of `Program.rewind` where a stage starts from an earlier point; else None."""
        start = self.prepared.plans[stage].start
        if start == "previous":
            return None
        if start in ("init", "random"):
            return ()
        # From its checkpoint, as all but the last few states are gone from memory, and after a resume all are.
        state = self.end_of(self.prepared.stage_named(start).index)
        return (self.prepared.place(stage, Variables(state.params, state.model_state)),)

    def arrays(self, stage: int) -> dict[str, data.DeviceArrays]:
        """The data of a stage, with the teacher's logits of every training example, or its parameters."""
        # Kept for each stage: the loop asks for them before each segment, and the teacher must not run each time.
        if stage not in self._arrays:
            teacher_outputs, arrays = self.teacher(stage), self.prepared.arrays
            if not isinstance(teacher_outputs, tuple):
                arrays = arrays | {"train": arrays["train"]._replace(teacher=teacher_outputs)}
            self._arrays[stage] = arrays
        return self._arrays[stage]

    def train(self, stage: int, start: int, steps: int) -> data.DeviceArrays:
        """What so many steps of a stage train on."""
        if self.stream is None:
            return self.arrays(stage)["train"]
        return self.stream.segment(stage, start, steps)._replace(teacher=self.teacher(stage))

    def chosen_from(self, stage: int, start: int) -> data.DeviceArrays:
        """What the update at a step chooses masks and ranges with."""
        return self.arrays(stage)["train"] if self.stream is None else self.stream.update(stage, start)

    def _weights(self, name: str) -> dict[str, PyTree]:
        """Parameters and model state, as evaluated, of what a config's `teacher` or `source` names."""
        p = self.prepared
        if not name.startswith(STAGE):
            source = p.sources[name]
            share = p.to_device if self._over is None else self._over.share
            return share({"params": source.params, "model_state": source.model_state})
        stage = p.stage_named(name.removeprefix(STAGE)).index
        return p.to_device(self.seen(stage, self.end_of(stage))._asdict())

    def teacher(self, stage: int) -> PyTree:
        """The teacher's outputs for every training example, or its parameters; () without a teacher."""
        # Kept for each stage: the teacher must not run before each segment.
        if stage not in self._teachers:
            self._teachers[stage] = self._teacher(stage)
        return self._teachers[stage]

    def _teacher(self, stage: int) -> PyTree:
        p = self.prepared
        distillation = p.plans[stage].distillation
        if distillation is None:
            return ()
        # The teacher's logits are computed once, before the stage: a student then trains as fast as without a
        # teacher. Where its inputs vary, or features are matched, it must run along, and gets its parameters
        # through the data: as constants of the student's program they would be compiled into it.
        if p.plans[stage].teacher_computes_along:
            return self._weights(distillation.teacher)
        train, level = p.arrays["train"], p.level(stage, "teacher")
        if distillation.teacher.startswith(STAGE):
            # Through the teacher's own program, which has the numbers (bit-widths, say) that it was trained with.
            earlier = p.stage_named(distillation.teacher.removeprefix(STAGE))
            program = p.program(earlier)
            variables = p.place(earlier.index, self.seen(earlier.index, self.end_of(earlier.index)))
            teacher_outputs = self.compiler.call(
                "teacher", stage, program.predict, variables, self.values, train, level=level
            )
        else:
            source = p.sources[distillation.teacher]

            def teacher_logits(weights: dict[str, PyTree], arrays: data.DeviceArrays) -> jax.Array:
                return finished.compute_logits(source._replace(**weights), arrays)

            weights = self._weights(distillation.teacher)
            teacher_outputs = self.compiler.call("teacher", stage, teacher_logits, weights, train, level=level)
        return jax.block_until_ready(teacher_outputs)
