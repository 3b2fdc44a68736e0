"""From one stage to the next: what each starts from, learns from and is given."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jopt import data, keys, transfer
from jopt.train import compression, sources
from jopt.train.compilation import Compiler
from jopt.train.prepared import Prepared
from jopt.train.program import Origin
from jopt.train.sources import STAGE, Source
from jopt.train.state import TrainState


class Staging:
    """The starts of a run's stages."""

    def __init__(
        self,
        prepared: Prepared,
        compiler: Compiler,
        end_of: Callable[[int], TrainState],
        values: Mapping[str, jax.Array] | None = None,
    ):
        """Nothing is computed yet.

        Args:
          prepared: the run.
          compiler: compiles each function once for each stage.
          end_of: `stage ->` the state that an earlier stage ended in.
          values: the swept numbers, on the device, if not the config's own.
        """
        self.prepared, self.compiler, self.end_of = prepared, compiler, end_of
        self.values = prepared.values if values is None else values
        self._arrays: dict[int, dict[str, data.Arrays]] = {}

    def seen(self, stage: int, state: Any) -> Any:
        """The parameters that the model computes with in this state of a stage."""
        p = self.prepared
        if p.own_transform is None and not compression.parts(p.config, stage):
            return state.params if p.config.ema_decay is None else state.ema
        program = p.program_of(stage, p.stages[stage].segment_steps)
        return self.compiler.call("seen", stage, program.seen, p.place(state), self.values)

    def source(self, name: str) -> Source:
        """The network behind a config's `teacher` or `source`: a directory, or `stage:NAME`."""
        if not name.startswith(STAGE):
            return self.prepared.sources[name]
        stage = self.prepared.stage_named(name.removeprefix(STAGE))
        state = self.end_of(stage)
        return Source(self.prepared.model_of(stage), self.seen(stage, state), state.model_state)

    def begin(self, stage: int, previous: TrainState | None) -> TrainState:
        """The state that a stage starts from."""
        p = self.prepared
        program = p.program_of(stage, p.stages[stage].segment_steps)
        more = () if previous is None else (previous,)
        key = p.place(keys.root(self.values["seed"]))
        state = self.compiler.call("init", stage, program.init, key, self.values, *more)
        wanted = p.config.stages[stage].transfer
        if wanted is None:
            return state
        source = self.source(wanted.source)
        rows = p.transferred(stage)
        params = transfer.transfer(rows, state.params, source.params)
        model_state = state.model_state
        if wanted.include_state:
            model_state = transfer.transfer(rows, model_state, source.model_state, "state")
        origin = p.place(Origin(params, model_state))
        return self.compiler.call("transfer", stage, program.rewind, state, self.values, origin)

    def origin(self, stage: int) -> tuple[Any, ...] | None:
        """What `Program.rewind` is given besides, where a stage starts from an earlier point; else None."""
        start = self.prepared.config.stages[stage].start
        if start == "previous":
            return None
        if start in ("init", "random"):
            return ()
        state = self.end_of(self.prepared.stage_named(start))
        return (self.prepared.place(Origin(state.params, state.model_state)),)

    def arrays(self, stage: int) -> dict[str, data.Arrays]:
        """The data of a stage, with the teacher's logits of every training example, or its parameters."""
        if stage not in self._arrays:
            self._arrays[stage] = self._with_teacher(stage)
        return self._arrays[stage]

    def _with_teacher(self, stage: int) -> dict[str, data.Arrays]:
        p = self.prepared
        lesson = p.config.stages[stage].distill
        if lesson is None:
            return p.arrays
        source = self.source(lesson.teacher)
        if p.teaches(stage):
            known = p.place({"params": source.params, "model_state": source.model_state})
        else:
            known = self.compiler.call(
                "teacher", stage, lambda weights, arrays: sources.logits(
                    source._replace(params=weights[0], model_state=weights[1]), arrays
                ), p.place((source.params, source.model_state)), p.arrays["train"],
            )  # fmt: skip
        return p.arrays | {"train": p.arrays["train"]._replace(teacher=jax.block_until_ready(known))}
