"""A tiny language: cyclic sequences of tokens, whose next token follows from the last two."""

import dataclasses

import numpy as np

from jopt import data
from jopt.data import Raw, Split

VOCABULARY = 12


@dataclasses.dataclass
class Cycles(data.Source):
    """Tokens a, a + d, a + 2 d, ... modulo the vocabulary, [examples, time]; targets are the next tokens."""

    time: int = 8
    examples: int = 64

    def read(self, *, trusted: bool = False) -> Raw:
        rng = np.random.RandomState(0)

        def part(n: int) -> Split:
            start, step = rng.randint(0, VOCABULARY, (2, n, 1))
            tokens = ((start + step * np.arange(self.time + 1)) % VOCABULARY).astype(np.uint8)
            return Split(tokens[:, :-1], tokens[:, 1:])

        parts = {"train": part(self.examples), "validation": part(16), "test": part(16)}
        return Raw(parts, VOCABULARY, tokens=True)
