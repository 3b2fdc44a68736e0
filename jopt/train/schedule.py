"""The run as a list of segments: what runs when, known before anything compiles."""

from collections.abc import Iterator
from typing import NamedTuple

from jopt.config import require
from jopt.train.config import Experiment

# All are listed before the run starts, and each leaves a row in metrics.jsonl.
MAX_SEGMENTS = 1_000_000


class Segment(NamedTuple):
    """A stretch of optimizer steps that is one call of one XLA program.

    Attributes:
      stage: index of the stage.
      start, stop: first step, and the one after the last, counted from the start of the run.
      evaluate: whether the validation part is evaluated at `stop`; always so where a checkpoint is taken.
      checkpoint: whether the state at `stop` is saved.
      mark: names the boundary at `stop`: the step, plus one for each stage without steps up to there, so that no
        two boundaries share a mark.
      last: whether the stage ends at `stop`.
    """

    stage: int
    start: int
    stop: int
    evaluate: bool
    checkpoint: bool
    mark: int
    last: bool

    @property
    def steps(self) -> int:
        """The number of optimizer steps."""
        return self.stop - self.start


class StageSteps(NamedTuple):
    """A stage in optimizer steps: its start within the run, its length, and that of its segments."""

    start: int
    steps: int
    segment_steps: int

    @property
    def last_update(self) -> int:
        """The step at which the last segment starts, where masks and codebooks are chosen for the last time."""
        return self.start + max(self.steps - 1, 0) // max(self.segment_steps, 1) * self.segment_steps


def batch_size(config: Experiment, examples: int) -> int:
    """Examples a step.

    Raises:
      ConfigError: if the batch is larger than the training part.
    """
    require(
        config.batch_size <= examples, "batch_size", config.batch_size, f"at most the {examples} training examples"
    )
    return config.batch_size or examples


def stages(config: Experiment, examples: int) -> list[StageSteps]:
    """Each stage's place and length in steps, given the number of training examples."""
    epoch = examples // batch_size(config, examples)
    lengths, start, count = [], 0, 0
    for index, stage in enumerate(config.stages):
        steps = (stage.epochs or config.epochs) * epoch if stage.steps is None else stage.steps
        length = stage.segment_steps or config.segment_steps or epoch
        lengths.append(StageSteps(start, steps, min(length, steps)))
        start, count = start + steps, count + (-(-steps // lengths[-1].segment_steps) if steps else 1)
        name = "epochs" if stage.steps is None else "steps"
        stage_length = getattr(stage, name)
        field, value = (f"stages[{index}].{name}", stage_length) if stage_length else ("epochs", config.epochs)
        # Steps are int32 in the program, and a run that overflowed would repeat its random numbers.
        require(start < 2**31, field, value, f"such that the run has fewer than 2**31 steps (an epoch has {epoch})")
        accepted = f"long enough that the run has at most {MAX_SEGMENTS} segments, and not {count}"
        require(count <= MAX_SEGMENTS, "segment_steps", config.segment_steps, accepted)
    return lengths


def segments(config: Experiment, examples: int) -> Iterator[Segment]:
    """The segments of the whole run, in order.

    A stage whose length is no multiple of its segments' ends with one shorter segment, which is another program. A
    stage without steps is one segment of none.
    """
    still = 0
    for index, stage in enumerate(stages(config, examples)):
        end = stage.start + stage.steps
        still += stage.steps == 0
        # A stage without steps still has one boundary: its methods are applied, evaluated and saved there.
        starts = range(stage.start, end, stage.segment_steps) if stage.steps else [stage.start]
        for number, start in enumerate(starts, 1):
            stop = min(start + stage.segment_steps, end)
            # The end of a stage is always saved and evaluated: later stages and reports start from it.
            checkpoint = stop == end or number % config.checkpoint_every == 0
            yield Segment(
                index,
                start,
                stop,
                evaluate=stop == end or number % config.evaluate_every == 0 or checkpoint,
                checkpoint=checkpoint,
                mark=stop + still,
                last=stop == end,
            )
