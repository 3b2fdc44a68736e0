"""Which units of a group may be removed without changing what the model computes, and what they leave behind."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jopt.coupling import Group, Layer, Reader

Arrays = Mapping[str, np.ndarray]


class Verdict(NamedTuple):
    """What is known of a group's units.

    Attributes:
      dead: bool [units], may be removed.
      shifts: for each kernel that reads the group its layer, and what the removed units add to its sums, float64
        [outputs].
      why: sentences on units that look dead and are not.
    """

    dead: np.ndarray
    shifts: dict[str, tuple[Layer, np.ndarray]]
    why: tuple[str, ...]


def judge(group: Group, size: int, arrays: Arrays, masks: Arrays) -> Verdict:
    """Finds the units of `group` that no one reads, and those that are constant and can be folded away.

    A unit is unread if every weight that reads it is pruned, or leads to units of the group that are unread
    themselves. It is constant if every weight that feeds it is pruned, or comes from units of the group that are
    always 0. (Both are the largest such sets, so cycles of a recurrent kernel do not keep each other alive.) A
    constant unit may go if it is 0, or where each of its readers can take the constant into a bias.

    Args:
      group: the group.
      size: its number of units now.
      arrays: masked parameters and state by path.
      masks: bool masks by path, of kernels and others; what has none is not pruned.

    Returns:
      The verdict; never all units are dead: the first one stays.
    """
    links = _Links(group, size, arrays, masks)
    unread = links.unread()
    values, zero = links.values()
    dead, why = np.ones(size, bool), []
    seen: dict[str, np.ndarray] = {}
    for point, value in zip(group.points, values, strict=True):
        for reader in point.readers:
            # A kernel that reads the group at several points has one bias for all of them.
            alike = value == seen.setdefault(reader.kernel, value)
            refusal = _refusal(reader, masks)
            fine = alike & ((value == 0) | (refusal == ""))
            reason = np.where(alike, refusal, "differs from use to use")
            # A reader that reads nothing of a unit needs to take nothing in for it.
            read = links.read_by(reader).any(1) & ~unread
            dead &= ~read | fine
            why += _sentences(reader, reason, read & ~fine & ~np.isnan(value))
    why += links.still_fed(zero, unread)
    # A layer of no units has no shape in most frameworks, and no size in most formats.
    if dead.all():
        dead[0] = False
        why = ["1 is left: a layer is never emptied"]
    shifts: dict[str, tuple[Layer, np.ndarray]] = {}
    for point, value in zip(group.points, values, strict=True):
        # An unread unit may be anything: NaN times a weight that is pruned would still be NaN.
        constant = np.where(dead & ~unread & ~np.isnan(value), value, 0.0)
        for reader in point.readers:
            # Once for a kernel: it read the same constants wherever else it read the group.
            if constant.any() and reader.kernel not in shifts:
                shifts[reader.kernel] = reader.layer, constant @ links.weights_of(reader)
    return Verdict(dead, shifts, tuple(dict.fromkeys(why)))


class _Links:
    """The connections of one group: bool, from what is read to what is written."""

    def __init__(self, group: Group, size: int, arrays: Arrays, masks: Arrays):
        self.group, self.size, self.arrays, self.masks = group, size, arrays, masks
        written = {kernel for p in group.points for layer in p.writers for kernel in layer.kernels}
        # Kernels from the group to itself, as in a recurrence: what is dead at one end is dead at the other.
        self.recurrent = written & {reader.kernel for p in group.points for reader in p.readers}

    def _kept(self, kernel: str) -> np.ndarray:
        """Whether any weight of the window is not pruned: bool [in, out]."""
        mask = self.masks.get(kernel)
        if mask is None:
            return np.ones(self.arrays[kernel].shape[-2:], bool)
        return np.asarray(mask.any(tuple(range(mask.ndim - 2))))

    def read_by(self, reader: Reader) -> np.ndarray:
        """Bool [units, outputs]."""
        links = self._kept(reader.kernel)
        return np.asarray(links.reshape(-1, self.size, links.shape[-1]).any(0))

    def weights_of(self, reader: Reader) -> np.ndarray:
        """The sum over window and positions, float64 [units, outputs]."""
        kernel = self.arrays[reader.kernel].astype(np.float64)
        return (
            kernel.reshape(-1, kernel.shape[-2], kernel.shape[-1])
            .sum(0)
            .reshape(-1, self.size, kernel.shape[-1])
            .sum(0)
        )

    def unread(self) -> np.ndarray:
        # From "all are unread" downwards, since from below two units that read only each other would both stay.
        unread = np.ones(self.size, bool)
        while True:
            before = unread.sum()
            for point in self.group.points:
                for reader in point.readers:
                    links = self.read_by(reader)
                    if reader.kernel in self.recurrent:
                        links = links & ~np.tile(unread, links.shape[1] // self.size)[None]
                    unread = unread & ~links.any(1)
            if unread.sum() == before:
                return unread

    def fed(self, layer: Layer, zero: np.ndarray) -> np.ndarray:
        """Whether anything but pruned weights and units that are always 0 leads to a unit: bool [units]."""
        connected = np.zeros(self.size, bool)
        for kernel in layer.kernels:
            # The value gate alone decides whether a unit stays at zero: the others scale what it lets in.
            links = self._kept(kernel).reshape(-1, layer.gates, self.size)[:, layer.value_gate]
            if kernel in self.recurrent:
                links = links[~np.tile(zero, links.shape[0] // self.size)]
            connected |= links.any(0)
        return connected

    def values(self) -> tuple[list[np.ndarray], np.ndarray]:
        """What each unit is at each point, float64 [units], NaN where not constant; and which are always 0."""
        # From "all are 0" downwards, for the same reason as in `unread`.
        zero = np.ones(self.size, bool)
        while True:
            values, before = [], np.zeros(self.size)
            for point in self.group.points:
                total = before if point.carries else np.zeros(self.size)
                for layer in point.writers:
                    total = total + np.where(self.fed(layer, zero), np.nan, self._alone(layer))
                # In float32, in which the model computes it: the constant must be the one that it adds.
                after = np.asarray(point.activation(jnp.asarray(total, jnp.float32)), np.float64)
                before = np.where(np.isfinite(total) & np.isfinite(after), after, np.nan)
                values.append(before)
            still = zero & np.all([value == 0 for value in values], axis=0)
            if (still == zero).all():
                return values, zero
            zero = still

    def _alone(self, layer: Layer) -> np.ndarray:
        """What the layer gives where nothing feeds it: float64 [units], NaN where that is not one number."""
        biases = []
        for path in layer.biases:
            bias = self.arrays[path].astype(np.float32)
            biases.append(bias.reshape(-1, self.size)[layer.value_gate if bias.size > self.size else 0])
        total = np.sum([np.zeros(self.size, np.float32), *biases], axis=0)
        # A gated state moves towards its bias from step to step, and so is constant only if that is 0.
        if layer.zero_only:
            return np.where(np.sum(np.abs(biases), axis=0) != 0, np.nan, np.zeros(self.size))
        if layer.norm is not None:
            scale, bias, mean, var = (
                self.arrays[path].astype(np.float32)
                for path in (layer.norm.scale, layer.norm.bias, layer.norm.mean, layer.norm.var)
            )
            total = (total - mean) * (scale / np.sqrt(var + np.float32(layer.norm.epsilon))) + bias
        return np.asarray(total, np.float64)

    def still_fed(self, zero: np.ndarray, unread: np.ndarray) -> list[str]:
        """Units that some but not all of the writers leave alone, and those whose bias keeps them moving."""
        layers = list(dict.fromkeys(layer for point in self.group.points for layer in point.writers))
        fed = np.array([self.fed(layer, zero) for layer in layers]).reshape(-1, self.size)
        out = []
        for layer, one in zip(layers, fed, strict=True):
            others = int((one & ~fed.all(0) & ~unread).sum())
            if others:
                out.append(f"{others} still written by {_layer_name(layer.kernels[0])}")
            moving = int((~one & np.isnan(self._alone(layer)) & ~unread).sum())
            if moving:
                out.append(f"{moving} without input, but with a bias that is not 0: the state is not constant")
        return out


def _refusal(reader: Reader, masks: Arrays) -> str:
    """Why the reader cannot take a constant; '' if it can."""
    if reader.inexact:
        return reader.inexact
    target = fold_target(reader.layer)
    if target is None:
        return "is read by a layer without a bias"
    # A bias with a mask of its own: the mask would take the constant away again.
    return "is read by a layer whose bias is pruned" if target in masks and not masks[target].all() else ""


def fold_target(layer: Layer) -> str | None:
    """The array that takes a constant in: a bias, or the mean that a normalization subtracts."""
    if layer.biases:
        return layer.biases[0]
    return layer.norm.mean if layer.norm is not None else None


def _sentences(reader: Reader, reason: np.ndarray, units: np.ndarray) -> list[str]:
    name = _layer_name(reader.kernel)
    return [f"{(units & (reason == r)).sum()} constant, but {r}: {name}" for r in np.unique(reason[units])]


def _layer_name(kernel: str) -> str:
    return kernel.rpartition("/")[0] or kernel
