"""The networks and batches whose training steps are timed, and what is to be reached."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from jopt import data, models, optim
from jopt.train import Experiment, Prepared, Program, TrainState, prepare

PYTHON_LOOP = "jitted step, Python loop"
PLAIN_CONV = "the same with nn.Conv"
PYTORCH = "PyTorch eager"
PYTORCH_FUSED = "PyTorch eager, fused Adam"
PYTORCH_ONE_THREAD = "PyTorch eager, 1 thread"


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, a data set and a batch size; trained by Adam with its global norm clipped at 1.

    Attributes:
      name: names the case in tables and on the command line.
      model: the network.
      data: the data set.
      batch_size: examples a step.
      targets: the least ratio to reach, by alternative.
    """

    name: str
    model: models.Config
    data: data.Config
    batch_size: int
    targets: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def experiment(self) -> Experiment:
        """The experiment, of which one segment (an epoch) is timed."""
        return Experiment(
            name=self.name,
            model=self.model,
            data=self.data,
            optimizer=optim.Config(name="adam", learning_rate=1e-3, clip_by_global_norm=1.0),
            batch_size=self.batch_size,
        )


def _digits() -> data.Config:
    return data.Config(name="digits")


def _images() -> data.Config:
    return data.Config(name="synthetic", synthetic=data.Synthetic(shape=(28, 28, 1), train=2048))


def _mlp() -> models.Config:
    return models.Config(name="mlp", features=(300, 100))


def _cnn(*channels: int) -> models.Config:
    return models.Config(name="cnn", features=channels, hidden=64)


def _targets(python_loop: float, pytorch: float) -> dict[str, float]:
    """The usual step has Flax's convolution; the one with jopt's is the stricter alternative."""
    return {PLAIN_CONV: python_loop, PYTHON_LOOP: python_loop, PYTORCH: pytorch}


CASES = (
    Case("MLP 300-100, digits, batch 64", _mlp(), _digits(), 64, {PYTHON_LOOP: 1.5, PYTORCH: 2.0}),
    Case("MLP 300-100, digits, batch 16", _mlp(), _digits(), 16, {PYTHON_LOOP: 1.7, PYTORCH: 4.0}),
    Case("CNN 16-32, digits, batch 64", _cnn(16, 32), _digits(), 64, _targets(1.4, 1.5)),
    Case("CNN 8-16, digits, batch 16", _cnn(8, 16), _digits(), 16, _targets(1.2, 5.0)),
    Case("CNN 16-32, 28x28x1, batch 64", _cnn(16, 32), _images(), 64),
    Case("CNN 8-16, 28x28x1, batch 16", _cnn(8, 16), _images(), 16),
)


@dataclasses.dataclass(frozen=True)
class Work:
    """A case that is ready to be trained.

    Attributes:
      case: the case.
      prepared: what `jopt.train.prepare` made of its experiment.
      program: the program of its segments.
      steps: optimizer steps in a segment: an epoch.
      rows: int32 [epochs * steps, batch], the examples of the first steps, on the host; the same that the segments
        take.
    """

    case: Case
    prepared: Prepared
    program: Program
    steps: int
    rows: np.ndarray

    def initial(self) -> TrainState:
        """A new state, the same every time, which its receiver may donate."""
        return jax.jit(self.program.init)(self.prepared.key, self.prepared.values)


def work(case: Case, epochs: int = 8) -> Work:
    """Loads the data and builds the program of `case`.

    Args:
      case: the case.
      epochs: how many epochs' batch order to compute beforehand.
    """
    prepared = prepare(case.experiment)
    segment = prepared.segments[0]
    examples = prepared.dataset.train.labels.shape[0]
    rows = data.indices(prepared.key, 0, epochs * segment.steps, case.batch_size, examples)
    return Work(case, prepared, prepared.program_of(0, segment.steps), segment.steps, np.asarray(rows))
