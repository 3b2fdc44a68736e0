"""Share: weight sharing as a method of a stage."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jopt.checks import check_rules, is_fraction
from jopt.cluster.kmeans import MAX_CLUSTERS
from jopt.cluster.sharing import GRADIENTS, ShareState, clusters_by_leaf, share
from jopt.cluster.starts import STARTS
from jopt.config import check_types, choice, join_path, require
from jopt.hyper import known, swept
from jopt.layers import Layers, PlanRow, parameters, to_copies
from jopt.method import Context, Method
from jopt.rules import named_leaves
from jopt.transform import Params, ParamTransform


@dataclasses.dataclass(frozen=True)
class Share(Method):
    """Weight sharing; see `jopt.cluster.share`.

    Attributes:
      clusters: distinct values of a parameter, zero included; 1 to 4096, at least 2 with `keep_zero`.
      start: the first centroids of k-means: 'linear', 'density' or 'kmeans++'.
      iterations: of k-means, at most; at least 0.
      keep_zero: exact zeros (pruned weights) stay exactly zero.
      trained: centroids are trained on. If not, they stay as they were chosen.
      gradient: a centroid's gradient is the 'mean' or the 'sum' of its weights'.
      begin: the part of the stage after which the codebooks are chosen, in [0, 1).
      rules: patterns of paths, and the number of clusters, or None to leave a parameter alone. Without one,
        weights share.

    Example:
      >>> Share(clusters=32, rules=(("Dense_2/.*", None),)).validate()
      >>> Share(clusters=1).validate()
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: share.clusters must be an integer in [2, 4096] (one value is zero: keep_zero), got 1
      >>> transform = Share(begin=0.5).build(begin=10, steps=100)
      >>> state = transform.init({"kernel": jnp.ones((2, 2))})
      >>> [bool(transform.update(state, {"kernel": jnp.ones((2, 2))}, step=s).active) for s in (59, 60)]
      [False, True]
    """

    name: ClassVar[str] = "share"
    rank: ClassVar[int] = 30

    clusters: int = 16
    start: str = "linear"
    iterations: int = swept(100)
    keep_zero: bool = True
    trained: bool = True
    gradient: str = "mean"
    begin: float = 0.0
    rules: tuple[tuple[str, int | None], ...] = ()

    def validate(self, path: str = "share") -> None:
        """Raises `ConfigError` for a number, a start or a gradient that is not accepted."""
        check_types(self, path)
        least, why = (2, " (one value is zero: keep_zero)") if self.keep_zero else (1, "")

        def number(field: str, value: int | None) -> None:
            accepted = f"an integer in [{least}, {MAX_CLUSTERS}]{why}"
            require(value is None or least <= value <= MAX_CLUSTERS, field, value, accepted)

        number(join_path(path, "clusters"), self.clusters)
        choice(join_path(path, "start"), self.start, STARTS)
        choice(join_path(path, "gradient"), self.gradient, GRADIENTS)
        if self.gradient == "sum":
            require(self.trained, join_path(path, "gradient"), self.gradient, "'mean' where trained is False")
        good = 0 <= self.iterations < 2**31
        require(good, join_path(path, "iterations"), self.iterations, "a number of at least 0")
        require(is_fraction(self.begin), join_path(path, "begin"), self.begin, "a fraction in [0, 1)")
        check_rules(self.rules, join_path(path, "rules"), number)

    def validate_with(self, context: Context) -> None:
        """Raises `ConfigError` where another method or the optimizer would move weights of one value apart."""
        for other in context.applied:
            offending = other.method.splits_shared_values()
            if offending is not None:
                field, value, accepted = offending
                require(False, join_path(other.path, field), value, f"{accepted} where weights are shared")
        factor = context.optimizer.adaptive_clip
        accepted = "None where weights are shared: each unit's own factor would move those of one value apart"
        require(factor is None, join_path(context.optimizer_path, "adaptive_clip"), factor, accepted)

    @property
    def chosen_between_segments(self) -> bool:
        """A codebook is chosen for each layer."""
        return True

    def treats_equal_layers_alike(self) -> tuple[str, Any, str] | None:
        """Not with the start 'kmeans++', which is drawn for each layer."""
        return ("start", self.start, "'linear' or 'density'") if self.start == "kmeans++" else None

    def validate_length(self, path: str, *, begin: int, steps: int, last_update: int) -> None:
        """Raises `ConfigError` where the codebooks are due after the stage's last update."""
        due = self.settled_at(begin=begin, steps=steps, last_update=last_update)
        accepted = (
            f"such that the codebooks are chosen at step {last_update} or before, where the stage's last segment "
            f"starts, and not at step {due}; or shorter segments"
        )
        require(due <= last_update, join_path(path, "begin"), self.begin, accepted)

    def settled_at(self, *, begin: int, steps: int, last_update: int) -> int:
        """The step at which codebooks are due."""
        del last_update
        # Computed as the program does, in float32: rounded otherwise, the check could pass where the update comes
        # late.
        return int(begin + jnp.round(jnp.float32(self.begin) * jnp.float32(steps)))

    def update_bytes(self, parameters: int) -> int:
        """The distances of each weight from each value."""
        return self.clusters * parameters

    def build(
        self, *, begin: int = 0, steps: int = 0, last_update: int | None = None, layers: Layers | None = None
    ) -> ParamTransform:
        """The transform, whose codebooks are chosen by the first update at or after its begin."""
        del last_update
        known(self).validate("")
        # `begin` is a share of the stage, and may be traced: the step is computed in the program.
        wait = jnp.asarray(self.begin, jnp.float32) * jnp.asarray(steps).astype(jnp.float32)
        transform = share(
            self.clusters,
            start=self.start,
            iterations=self.iterations,
            keep_zero=self.keep_zero,
            trained=self.trained,
            gradient=self.gradient,
            begin=jnp.asarray(begin).astype(jnp.int32) + jnp.round(wait).astype(jnp.int32),
            rules=self.rules,
            layers=layers,
        )
        return transform._replace(needs=transform.needs | {"zeros"})

    def freeze(self, *, layers: Layers | None = None) -> ParamTransform:
        """The transform with a frozen codebook, in which weights that are pruned later still become zero."""
        # Not `hold`: its `update` does nothing, but a mask that a later stage chooses must reach the cluster of
        # zeros.
        return dataclasses.replace(self, begin=0.0).build(layers=layers)

    def plan(self, params: Params, layers: Layers | None = None) -> list[PlanRow]:
        """How many values each parameter gets, to be printed before a run; only the structure is read.

        Raises:
          RuleError: for a rule that matches no parameter, or one that is not a floating array.

        Example:
          >>> for row in Share(clusters=4).plan({"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}):
          ...     print(row.path, row.shape, row.what)
          bias (2,) left as it is
          kernel (3, 2) at most 4 values, one of them zero if any weight is, trained
        """
        counts = clusters_by_leaf(params, self.clusters, self.rules, self.keep_zero, layers)
        zero = ", one of them zero if any weight is" if self.keep_zero else ""
        suffix = f"{zero}, {'trained' if self.trained else 'fixed'}"
        rows = []
        for k, (path, leaf), parameter in zip(
            counts, named_leaves(params), parameters(params, layers), strict=True
        ):
            copies = math.prod(leaf.shape[axis] for axis in parameter.stack)
            each = f" in each of {copies} copies" if parameter.stack else ""
            text = "left as it is" if k is None else f"at most {k} values{each}{suffix}"
            rows.append(PlanRow(path, tuple(leaf.shape), text, parameter.reason))
        return rows

    def check(self, state: ShareState, seen: Params, layers: Layers | None = None) -> list[str]:
        """A sentence for each leaf with more than its number of values, or whose zeros are not zero.

        Example:
          >>> method = Share(clusters=2, keep_zero=False)
          >>> transform, params = method.build(), {"kernel": jnp.array([[1.0, 2.0], [7.0, 9.0]])}
          >>> state = transform.update(transform.init(params), params, step=0)
          >>> method.check(state, transform.apply(state, params))
          []
          >>> method.check(state, params)
          ['kernel: 4 distinct values where at most 2 are shared']
        """
        if not bool(state.active):
            return ["no codebook was chosen: no update came at or after its begin"]
        shared_leaves = jax.tree.structure(seen).flatten_up_to(state.leaves)
        problems = []
        for (name, leaf), shared, parameter in zip(
            named_leaves(seen), shared_leaves, parameters(seen, layers), strict=True
        ):
            if shared is None:
                continue
            k, copies = shared.centroids.shape[-1], parameter.stack
            # [copies, ...]: one copy of a layer that is not stacked.
            values = np.asarray(to_copies(np.asarray(leaf).astype(np.float32), copies))
            codes = np.asarray(to_copies(np.asarray(shared.assignments), copies))
            for i, copy in enumerate(values):
                if (distinct := np.unique(copy).size) > k:
                    where = f"{name} of copy {i}" if copies else name
                    problems.append(f"{where}: {distinct} distinct values where at most {k} are shared")
            # Compared on the host with what the state promises, not with what `apply` computes: that would always
            # agree.
            zeros = (codes == 0) & np.asarray(shared.has_zero).reshape(-1, *[1] * (codes.ndim - 1))
            if wrong := int((values[zeros] != 0).sum()):
                problems.append(f"{name}: {wrong} of {int(zeros.sum())} weights that are kept at zero are not zero")
        return problems
