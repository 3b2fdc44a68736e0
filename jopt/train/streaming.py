"""Stream: the training part stays on the host, and each segment's rows are gathered while the one before runs."""

import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from jopt import data, keys
from jopt.train.compiler import Compiler, Request
from jopt.train.prepared import Prepared
from jopt.train.program import draws_of_segment, draws_of_update


class _Window(NamedTuple):
    """Steps of a stage, whose examples are gathered at once."""

    stage: int
    start: int
    steps: int


class Stream:
    """Gathers what a run trains on: the same examples, in the same order, as from arrays on the device."""

    def __init__(self, prepared: Prepared, compiler: Compiler):
        """Reads nothing yet.

        Args:
          prepared: the run, whose data set has the residency 'host'.
          compiler: compiles the order of an epoch, and of draws, once.
        """
        self.prepared, self.compiler = prepared, compiler
        self.split = prepared.dataset.train
        self.examples = prepared.dataset.sizes[0]
        self._epochs: dict[int, np.ndarray] = {}
        self._pool = ThreadPoolExecutor(1, "jopt-gather")
        self._next: tuple[_Window, Future[data.Split]] | None = None
        windows = [_Window(s.stage, s.start, s.steps) for s in prepared.segments if s.steps]
        self._after = dict(itertools.pairwise(windows))

    def close(self) -> None:
        """Waits for the thread to end."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def segment(self, stage: int, start: int, steps: int) -> data.DeviceArrays:
        """The rows of a segment, on the device in the order of its steps; begins to gather those of the next."""
        window = _Window(stage, start, steps)
        rows = self._taken(window)
        # Asked for here and not in the thread: what is compiled is called from one thread alone.
        if (later := self._after.get(window)) is not None:
            self._next = (later, self._pool.submit(self._gather, self._rows(later)))
        draws = draws_of_segment(self.prepared.plans[stage], self._root(), start + steps)
        return self._arrays(rows, draws)

    def update(self, stage: int, start: int) -> data.DeviceArrays:
        """The examples that masks and ranges are chosen with at a step."""
        nothing = self._gather(np.zeros(0, np.int64))
        return self._arrays(nothing, draws_of_update(self.prepared.plans[stage], self._root(), start))

    def _taken(self, window: _Window) -> data.Split:
        if self._next is not None and self._next[0] == window:
            _, future = self._next
            self._next = None
            return future.result()
        return self._gather(self._rows(window))

    def _arrays(self, split: data.Split, draws: dict[str, tuple[jax.Array, int]]) -> data.DeviceArrays:
        p = self.prepared
        drawn = {name: self._gather(self._drawn(key, name, count)) for name, (key, count) in draws.items()}
        moments = jax.tree.map(np.array, (p.dataset.mean, p.dataset.std))
        (inputs, targets, weights), (mean, std), drawn = p.to_device((tuple(split), moments, drawn))
        return data.DeviceArrays(inputs, targets, mean, std, weights=weights, drawn=drawn)

    def _gather(self, rows: np.ndarray) -> data.Split:
        # In the order of the file, which a disk reads faster, and back into that of the steps.
        order = np.argsort(rows, kind="stable")
        back = np.argsort(order, kind="stable")

        def column(array: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(np.asarray(array[rows[order]])[back])

        return jax.tree.map(column, self.split)

    def _rows(self, window: _Window) -> np.ndarray:
        """The examples of a window, int64 [steps * batch]."""
        batch = self.prepared.batch_size
        per_epoch = data.steps_per_epoch(self.examples, batch)
        epochs = range(window.start // per_epoch, (window.start + window.steps - 1) // per_epoch + 1)
        # Of the last two epochs: segments are shorter than an epoch, whose order is computed as one.
        self._epochs = {e: self._epochs[e] if e in self._epochs else self._epoch(e) for e in epochs}
        rows = np.concatenate([self._epochs[e] for e in epochs])
        offset = window.start - epochs[0] * per_epoch
        return rows[offset : offset + window.steps].reshape(-1).astype(np.int64)

    def _epoch(self, epoch: int) -> np.ndarray:
        batch, count = self.prepared.batch_size, self.examples

        def order(root: jax.Array, epoch: jax.Array) -> jax.Array:
            return data.epoch(root, epoch, data.steps_per_epoch(count, batch), batch, count)

        args = self.prepared.to_device((self._root(), np.int32(epoch)))
        return np.asarray(self.compiler.run(Request("order", "epoch", order, args)))

    def _drawn(self, key: jax.Array, name: str, examples: int) -> np.ndarray:
        rows = self.compiler.run(
            Request("order", (name, examples), lambda key: data.drawn(key, name, examples, self.examples), (key,))
        )
        return np.asarray(rows, np.int64)

    def _root(self) -> jax.Array:
        return keys.root(self.prepared.values["seed"])
