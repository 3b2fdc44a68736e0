"""The training part as columns that are read row by row; validation and test part, which are small, as arrays."""

import numpy as np
from generator import EXAMPLES, WIDTH, inputs, targets

from jopt.data import Lazy


def stream(examples: int = EXAMPLES, held_out: int = 512):
    """Inputs float32 [examples, 2500] and targets float32 [examples]."""
    x = Lazy(inputs, examples, (WIDTH,), np.float32, fingerprint="hash, version 1")
    y = Lazy(targets, examples, (), np.float32, fingerprint="hash, version 1")
    validation, test = np.split(EXAMPLES + np.arange(2 * held_out), 2)
    return (x, y), (inputs(validation), targets(validation)), (inputs(test), targets(test))
