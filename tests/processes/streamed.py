"""A run on examples that are read when they are asked for, and a list of who has read which of them."""

import os
from pathlib import Path

import numpy as np

from jopt import data, models, optim
from jopt.train import Experiment, Stage

LOG = "STREAMED_LOG"
"""Environment variable: a directory in which each process lists the rows that it reads."""

EXAMPLES, BATCH, CLASSES, STEPS = 2000, 16, 4, 21


class Images:
    """Images [3, 3, 1], each computed from its number."""

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, row: int) -> np.ndarray:
        if LOG in os.environ:
            with (Path(os.environ[LOG]) / str(os.getpid())).open("a") as log:
                log.write(f"{row}\n")
        return _image(row)


def _image(row: int) -> np.ndarray:
    return np.cos(np.arange(9, dtype=np.float32) * (row % 97)).reshape(3, 3, 1)


def parts(source: str) -> dict[str, tuple[data.Lazy | np.ndarray, np.ndarray]]:
    """The parts of the set, of which the inputs of the training part come from `source`, a name of SOURCES."""
    inputs = data.Lazy.of(SOURCES[source](Images()), fingerprint="images 1")
    few = np.arange(24)
    small = np.stack([_image(int(row)) for row in few]), few % CLASSES
    return {"train": (inputs, np.arange(EXAMPLES) % CLASSES), "validation": small, "test": small}


def _map_dataset(images: Images) -> object:
    import grain  # pyright: ignore[reportMissingImports]

    return grain.MapDataset.source(images).map(lambda image: image * 1)


def _range_source(images: Images) -> object:
    import grain  # pyright: ignore[reportMissingImports]

    return grain.MapDataset.source(grain.sources.RangeDataSource(0, EXAMPLES, 1)).map(lambda row: images[int(row)])


SOURCES = {"plain": lambda images: images, "map_dataset": _map_dataset, "range_source": _range_source}


def get_config(source: str) -> Experiment:
    """Seven segments, whose batches are all of the first epoch."""
    return Experiment(
        name="streamed",
        model=models.ModelConfig("mlp", features=(8,), num_classes=CLASSES),
        data=data.Custom("tests.processes.streamed:parts", options={"source": source}, residency="host"),
        optimizer=optim.Config("adam", learning_rate=1e-2),
        batch_size=BATCH,
        shards=4,
        mesh=(("data", -1),),
        segment_steps=3,
        checkpoint_every=1,
        pack=True,
        # Without methods: each process reads all of what masks and ranges are chosen with.
        stages=[Stage("dense", steps=STEPS)],
    )
