"""Stream: the training part stays on the host, and each segment's rows are gathered while the one before runs."""

import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jopt import data, keys, mesh
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

    def __init__(self, prepared: Prepared, compiler: Compiler, share: Callable[[PyTree], PyTree] | None = None):
        """Reads nothing yet.

        Args:
          prepared: the run, whose data set has the residency 'host'; or several trials of it, with a seed each.
          compiler: compiles the order of an epoch, and of draws, once.
          share: of several trials: puts arrays that all share where the programs expect them.
        """
        self.prepared, self.compiler, self._share = prepared, compiler, share
        self.split = prepared.dataset.train
        self.examples = prepared.dataset.sizes[0]
        # Trials of one seed have one order: their rows are read once.
        seeds, self._seed_of_trial = np.unique(np.asarray(prepared.values["seed"]), return_inverse=True)
        self._roots = [keys.root(seed) for seed in seeds]
        # Of one run, a process gathers the rows of its own devices; of several trials a device has whole ones.
        self._by_step = prepared.spread.by_step if share is None else None
        self._columns = mesh.columns(self._by_step, prepared.batch_size)
        self._epochs: dict[int, list[np.ndarray]] = {}
        self._pool = ThreadPoolExecutor(1, "jopt-gather")
        self._next: tuple[_Window, Future[list[data.Split]]] | None = None
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
            self._next = (later, self._pool.submit(self._gather_each, self._rows(later)))
        plan = self.prepared.plans[stage]
        return self._arrays(rows, [draws_of_segment(plan, root, start + steps) for root in self._roots])

    def update(self, stage: int, start: int) -> data.DeviceArrays:
        """The examples that masks and ranges are chosen with at a step."""
        batch = self.prepared.batch_size
        nothing = self._gather_each([np.zeros((0, batch), np.int64)] * len(self._roots))
        plan = self.prepared.plans[stage]
        return self._arrays(nothing, [draws_of_update(plan, root, start) for root in self._roots])

    def _taken(self, window: _Window) -> list[data.Split]:
        if self._next is not None and self._next[0] == window:
            _, future = self._next
            self._next = None
            return future.result()
        return self._gather_each(self._rows(window))

    def _arrays(self, splits: list[data.Split], draws: list[dict[str, tuple[jax.Array, int]]]) -> data.DeviceArrays:
        """What was gathered for each seed, on the device."""
        p = self.prepared
        moments = jax.tree.map(np.array, (p.dataset.mean, p.dataset.std))
        drawn = [
            {name: self._gather(self._drawn(key, name, count)) for name, (key, count) in each.items()}
            for each in draws
        ]
        rows = list(zip(map(tuple, splits), drawn, strict=True))
        if self._share is None:
            split = mesh.put_columns(rows[0][0], self._columns, p.batch_size, self._by_step)
            chosen, (mean, std) = p.to_device((drawn[0], moments))
        else:
            each_trial = [rows[i] for i in self._seed_of_trial]
            split, chosen = p.to_device(jax.tree.map(lambda *columns: np.stack(columns), *each_trial))
            mean, std = self._share(moments)
        inputs, targets, weights = split
        return data.DeviceArrays(inputs, targets, mean, std, weights=weights, drawn=chosen)

    def _gather_each(self, rows: list[np.ndarray]) -> list[data.Split]:
        """The examples of rows [steps, batch] that this process trains on, [steps, columns, ...]."""
        splits = [self._gather(each[:, self._columns].reshape(-1)) for each in rows]
        shapes = [(len(each), len(self._columns)) for each in rows]
        return [
            jax.tree.map(lambda x, shape=shape: x.reshape(*shape, *x.shape[1:]), split)
            for split, shape in zip(splits, shapes, strict=True)
        ]

    def _gather(self, rows: np.ndarray) -> data.Split:
        order = np.argsort(rows, kind="stable")

        def column(array: np.ndarray | data.Lazy) -> np.ndarray:
            if type(array) is np.ndarray:
                return array.take(rows, axis=0)
            # In the order of the file, which a disk reads faster, and back into that of the steps.
            in_order = array[rows[order]]
            gathered = np.empty(in_order.shape, in_order.dtype)
            gathered[order] = in_order
            return gathered

        return jax.tree.map(column, self.split)

    def _rows(self, window: _Window) -> list[np.ndarray]:
        """The examples of a window, of each seed int64 [steps, batch]."""
        batch = self.prepared.batch_size
        per_epoch = data.steps_per_epoch(self.examples, batch)
        epochs = range(window.start // per_epoch, (window.start + window.steps - 1) // per_epoch + 1)
        # Of the last two epochs: segments are shorter than an epoch, whose order is computed as one.
        self._epochs = {e: self._epochs[e] if e in self._epochs else self._epoch(e) for e in epochs}
        offset = window.start - epochs[0] * per_epoch
        orders = [np.concatenate(orders) for orders in zip(*self._epochs.values(), strict=True)]
        return [order[offset : offset + window.steps].astype(np.int64) for order in orders]

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """The order of an epoch, of each seed int32 [steps, batch]."""
        batch, count = self.prepared.batch_size, self.examples

        def order(root: jax.Array, epoch: jax.Array) -> jax.Array:
            return data.epoch(root, epoch, data.steps_per_epoch(count, batch), batch, count)

        requests = (
            Request("order", "epoch", order, jax.device_put((root, np.int32(epoch)))) for root in self._roots
        )
        return [np.asarray(self.compiler.run(request)) for request in requests]

    def _drawn(self, key: jax.Array, name: str, examples: int) -> np.ndarray:
        rows = self.compiler.run(
            Request("order", (name, examples), lambda key: data.drawn(key, name, examples, self.examples), (key,))
        )
        return np.asarray(rows, np.int64)
