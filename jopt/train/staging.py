"""From one stage to the next: what each starts from, learns from and is given."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from jopt import data, keys, transfer
from jopt.train import sources
from jopt.train.compilation import Compiler
from jopt.train.config import STAGE
from jopt.train.prepared import Prepared
from jopt.train.state import TrainState, Variables, evaluated


class Over(Protocol):
    """Maps functions of one trial over several: `jopt.ablate.Lift`."""

    def __call__(self, fn: Callable[..., Any], per_trial: tuple[Any, ...]) -> Callable[..., Any]:
        """`fn` over a leading axis of trials, of the arguments that `per_trial` marks with True."""
        ...

    def share(self, tree: Any) -> Any:
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
        self._over = over
        self._arrays: dict[int, dict[str, data.Arrays]] = {}

    def seen(self, stage: int, state: Any) -> Variables:
        """What the model computes with when this state of a stage is evaluated: `Program.seen`."""
        p = self.prepared
        plan = p.plans[stage]
        if not plan.transforms:
            return evaluated(state)
        program = p.program(plan)
        return self.compiler.call("seen", stage, program.seen, p.place(state), self.values)

    def begin(self, stage: int, previous: TrainState | None) -> TrainState:
        """The state that a stage starts from."""
        p = self.prepared
        program = p.program(p.plans[stage])
        more = () if previous is None else (previous,)
        key = p.place(keys.roots(self.values["seed"]))
        state = self.compiler.call("init", stage, program.init, key, self.values, *more)
        wanted = p.plans[stage].transfer
        if wanted is None:
            return state

        def filled(params: Any, model_state: Any, source: Any) -> Variables:
            # Planned here, where the shapes are those of one trial.
            rows = transfer.plan(wanted, params, source["params"], model_state, source["model_state"])
            given = model_state
            if wanted.include_state:
                given = transfer.transfer(rows, model_state, source["model_state"], "state")
            return Variables(transfer.transfer(rows, params, source["params"]), given)

        if self._over is not None:
            filled = self._over(filled, (True, True, wanted.source.startswith(STAGE)))

        def adopt(state: TrainState, values: Any, source: Any) -> TrainState:
            return program.rewind(state, values, filled(state.params, state.model_state, source))

        return self.compiler.call("transfer", stage, adopt, state, self.values, self._weights(wanted.source))

    def origin(self, stage: int) -> tuple[Any, ...] | None:
        """What `Program.rewind` is given besides, where a stage starts from an earlier point; else None."""
        start = self.prepared.plans[stage].start
        if start == "previous":
            return None
        if start in ("init", "random"):
            return ()
        state = self.end_of(self.prepared.stage_named(start).index)
        return (self.prepared.place(Variables(state.params, state.model_state)),)

    def arrays(self, stage: int) -> dict[str, data.Arrays]:
        """The data of a stage, with the teacher's logits of every training example, or its parameters."""
        if stage not in self._arrays:
            self._arrays[stage] = self._with_teacher(stage)
        return self._arrays[stage]

    def _weights(self, name: str) -> dict[str, Any]:
        """Parameters and model state, as evaluated, of what a config's `teacher` or `source` names."""
        p = self.prepared
        if not name.startswith(STAGE):
            source = p.sources[name]
            share = p.place if self._over is None else self._over.share
            return share({"params": source.params, "model_state": source.model_state})
        stage = p.stage_named(name.removeprefix(STAGE)).index
        return p.place(self.seen(stage, self.end_of(stage))._asdict())

    def _with_teacher(self, stage: int) -> dict[str, data.Arrays]:
        p = self.prepared
        lesson = p.plans[stage].distillation
        if lesson is None:
            return p.arrays
        train = p.arrays["train"]
        if p.plans[stage].teacher_computes_along:
            known = self._weights(lesson.teacher)
        elif lesson.teacher.startswith(STAGE):
            # Through the teacher's own program, which has the numbers (bit-widths, say) that it was trained with.
            earlier = p.stage_named(lesson.teacher.removeprefix(STAGE))
            program = p.program(earlier)
            state = p.place(self.end_of(earlier.index))
            known = self.compiler.call("teacher", stage, program.predict, state, self.values, train)
        else:
            source = p.sources[lesson.teacher]
            known = self.compiler.call(
                "teacher", stage, lambda weights, arrays: sources.logits(source._replace(**weights), arrays),
                self._weights(lesson.teacher), train,
            )  # fmt: skip
        return p.arrays | {"train": train._replace(teacher=jax.block_until_ready(known))}
