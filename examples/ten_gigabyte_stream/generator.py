"""A million examples of 2500 numbers, 10 GB of float32, each made when it is read, as a reader of files would."""

import numpy as np

EXAMPLES, WIDTH = 1_000_000, 2500
WEIGHTS = np.random.default_rng(0).normal(size=WIDTH).astype(np.float32) / WIDTH**0.5


def inputs(rows):
    """A cheap hash of row and column as numbers in [-1, 1): float32 [rows, 2500]."""
    columns = np.arange(WIDTH, dtype=np.uint32) * np.uint32(40503)
    bits = (rows[:, None].astype(np.uint32) * np.uint32(2654435761)) ^ columns
    return (bits >> np.uint32(8)).astype(np.float32) / np.float32(2**23) - 1


def targets(rows):
    """What is to be learned: a weighted sum of the inputs, float32 [rows]."""
    return inputs(rows) @ WEIGHTS
