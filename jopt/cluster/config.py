"""Weight sharing's config."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.cluster.kmeans import MAX_CLUSTERS
from jopt.cluster.sharing import GRADIENTS, ShareState, share
from jopt.cluster.starts import STARTS
from jopt.config import check_types, choice, join_path, require
from jopt.hyper import as_traced, known, swept
from jopt.layers import Layers, parameters, to_copies
from jopt.rules import named_leaves
from jopt.transform import ParamTransform


@dataclasses.dataclass
class Config:
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
      >>> validate(Config(clusters=32, rules=(("Dense_2/.*", None),)))
    """

    clusters: int = 16
    start: str = "linear"
    iterations: int = swept(100)
    keep_zero: bool = True
    trained: bool = True
    gradient: str = "mean"
    begin: float = 0.0
    rules: tuple[tuple[str, int | None], ...] = ()


def validate(config: Config, path: str = "share") -> None:
    """Checks a config of plain Python values, before anything compiles.

    Whether the rules match parameters is known only with the parameters: `plan` raises `RuleError` for that.

    Args:
      config: the config.
      path: its place in the experiment, for the message.

    Raises:
      ConfigError: names the field, the value and what would be accepted.

    Example:
      >>> validate(Config(clusters=1))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: share.clusters must be an integer in [2, 4096] (one value is zero: keep_zero), got 1
    """
    check_types(config, path)
    least, why = (2, " (one value is zero: keep_zero)") if config.keep_zero else (1, "")

    def number(field: str, value: Any) -> None:
        accepted = f"an integer in [{least}, {MAX_CLUSTERS}]{why}"
        require(least <= value <= MAX_CLUSTERS, field, value, accepted)

    number(join_path(path, "clusters"), config.clusters)
    choice(join_path(path, "start"), config.start, STARTS)
    choice(join_path(path, "gradient"), config.gradient, GRADIENTS)
    if config.gradient == "sum":
        require(config.trained, join_path(path, "gradient"), config.gradient, "'mean' where trained is False")
    require(
        0 <= config.iterations < 2**31, join_path(path, "iterations"), config.iterations, "a number of at least 0"
    )
    begin = config.begin
    require(0 <= begin < 1 and as_traced(begin) < 1, join_path(path, "begin"), begin, "a fraction in [0, 1)")
    for i, (pattern, value) in enumerate(config.rules):
        field = join_path(path, f"rules[{i}]")
        try:
            re.compile(pattern)
        except re.error as error:
            require(False, field, pattern, f"a regular expression ({error})")
        if value is not None:
            number(field, value)


def build(config: Config, *, begin: Any = 0, steps: Any = 0, layers: Layers | None = None) -> ParamTransform:
    """The transform that a config describes.

    Args:
      config: the config; its numbers may be traced. Concrete ones are validated.
      begin: the step at which the stage starts.
      steps: the stage's length.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A `ParamTransform`, whose codebooks are chosen by the first update at or after the step
      `begin + round(config.begin * steps)`.

    Raises:
      ConfigError: as `validate`.

    Example:
      >>> transform = build(Config(begin=0.5), begin=10, steps=100)
      >>> state = transform.init({"kernel": jnp.ones((2, 2))})
      >>> [bool(transform.update(state, {"kernel": jnp.ones((2, 2))}, step=s).active) for s in (59, 60)]
      [False, True]
    """
    validate(known(config), "")
    wait = jnp.asarray(config.begin, jnp.float32) * jnp.asarray(steps).astype(jnp.float32)
    return share(
        config.clusters,
        start=config.start,
        iterations=config.iterations,
        keep_zero=config.keep_zero,
        trained=config.trained,
        gradient=config.gradient,
        begin=jnp.asarray(begin).astype(jnp.int32) + jnp.round(wait).astype(jnp.int32),
        rules=config.rules,
        layers=layers,
    )


def check(config: Config, state: ShareState, seen: Any, layers: Layers | None = None) -> list[str]:
    """What does not hold of the parameters that the model sees, after a stage.

    Args:
      config: the config.
      state: the transform's state.
      seen: the parameters as the whole chain gives them.
      layers: as for `build`.

    Returns:
      A sentence for each leaf that has more than its number of distinct values, or whose zeros are not zero, and
      one if no codebook was chosen; none if all hold.

    Example:
      >>> transform = build(Config(clusters=2, keep_zero=False))
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [7.0, 9.0]])}
      >>> state = transform.update(transform.init(params), params, step=0)
      >>> check(Config(clusters=2, keep_zero=False), state, transform.apply(state, params))
      []
      >>> check(Config(clusters=2, keep_zero=False), state, params)
      ['kernel: 4 distinct values where at most 2 are shared']
    """
    del config
    leaves = list(named_leaves(seen))
    parts = jax.tree.structure(seen).flatten_up_to(state.leaves)
    if not bool(state.active):
        return ["no codebook was chosen: no update came at or after its begin"]
    out = []
    for (name, leaf), shared, parameter in zip(leaves, parts, parameters(seen, layers), strict=True):
        if shared is None:
            continue
        k, copies = shared.centroids.shape[-1], parameter.stack
        # [copies, ...]: one copy of a layer that is not stacked.
        values = np.asarray(to_copies(np.asarray(leaf).astype(np.float32), copies))
        codes = np.asarray(to_copies(np.asarray(shared.assignments), copies))
        for i, copy in enumerate(values):
            if (found := np.unique(copy).size) > k:
                where = f"{name} of copy {i}" if copies else name
                out.append(f"{where}: {found} distinct values where at most {k} are shared")
        zeros = (codes == 0) & np.asarray(shared.has_zero).reshape(-1, *[1] * (codes.ndim - 1))
        if wrong := int((values[zeros] != 0).sum()):
            out.append(f"{name}: {wrong} of {int(zeros.sum())} weights that are kept at zero are not zero")
    return out
