"""From named arrays to a network's parameters: which array fills which, how it is turned, and what does not fit."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jopt.layers import Layers
from jopt.rules import named_leaves
from jopt.start.config import Pretrained, StartError
from jopt.start.flattened import Sizes
from jopt.start.layouts import (
    COUNTERS,
    Conversion,
    as_it_is,
    convolves_sequences,
    from_torch,
    last_part,
    layout_of,
    torch_name,
)
from jopt.start.reading import Source
from jopt.start.recurrent import join_biases
from jopt.start.renaming import Piece, apply_rules, match_name, nearest, size
from jopt.transfer import LeafTransfer
from jopt.typing import ModelState, Params

STATE = "state"
"""The part of a row that fills the model's state; that of parameters is 'params'."""

STATISTICS = "batch_stats/"
"""What begins the paths of Linen's batch statistics."""

Key = tuple[str, str]
"""A part and a path: one leaf of the network."""


class Network(NamedTuple):
    """What is filled.

    Attributes:
      params: its parameters, or their shapes.
      model_state: its state, or its shapes.
      layers: what it says about its parameters (`jopt.layers.trace`).
      flattened: gives what `jopt.start.flattened.flattened_inputs` does; called where the layout needs it.
    """

    params: Params
    model_state: ModelState
    layers: Layers
    flattened: Callable[[], Mapping[str, Sizes]] = dict


class Filled(NamedTuple):
    """What a source gives a network.

    Attributes:
      params: the arrays by the parameters' paths; those that keep their initial values are absent.
      model_state: the same.
      rows: a row for each leaf of the network.
      unused: names of the source that nothing reads.
      layout: 'flax' or 'torch', as it was declared or told by the names.
    """

    params: dict[str, np.ndarray]
    model_state: dict[str, np.ndarray]
    rows: list[LeafTransfer]
    unused: list[str]
    layout: str


def fill(config: Pretrained, source: Source, network: Network, path: str = "start") -> Filled:
    r"""Fills a network from a source. Nothing is guessed: what does not fit is an error.

    Args:
      config: the rules and what may be missing.
      source: the arrays.
      network: what is filled.
      path: the config's place, for messages.

    Returns:
      The `Filled`, in host memory.

    Raises:
      StartError: with a sentence for each array that does not fit, each parameter without an array, each array
        without a parameter, and each rule that does nothing.

    Example:
      >>> from jopt.layers import Parameter
      >>> kernel = Parameter("Dense_0/kernel", "Dense", "kernel", contract=(0,), outputs=(1,))
      >>> network = Network({"Dense_0": {"kernel": np.zeros((3, 2), np.float32)}}, {}, {kernel.path: kernel})
      >>> torch = Source({"fc.weight": np.arange(6.0).reshape(2, 3)})
      >>> filled = fill(Pretrained("a", rules=((r"fc\.(.*)", r"Dense_0.\1"),)), torch, network)
      >>> filled.params["Dense_0/kernel"].tolist()
      [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
      >>> filled.rows[0].reason
      'Dense of PyTorch, axes (1, 0); float64 to float32'
    """
    layout = _layout(config, source, path)
    problems: list[str] = []
    pieces, dropped = apply_rules(config, source.arrays, problems)
    leaves: dict[Key, np.ndarray] = {("params", name): leaf for name, leaf in named_leaves(network.params)}
    leaves |= {(STATE, name): leaf for name, leaf in named_leaves(network.model_state)}
    chosen, unused = _assign(pieces, leaves, network.layers, layout, problems)
    values: dict[Key, np.ndarray] = {}
    rows = []
    # A trace of the whole network, which only PyTorch's layout needs.
    of_torch = any((piece.layout or layout) == "torch" for piece in chosen.values())
    flattened = network.flattened() if of_torch else {}
    for key, leaf in leaves.items():
        if key not in chosen:
            rows.append(_fresh(config, key, leaf, unused, problems))
            continue
        value, row = _convert(chosen[key], key, leaf, network.layers, flattened, layout, problems)
        rows.append(row)
        if value is not None:
            values[key] = value
    free = [key[1] for key in leaves if key not in chosen]
    problems += _unused_problems(config, unused, free)
    problems += _idle_patterns(config, [name for _, name in leaves], source.arrays)
    if problems:
        accepted = (
            f"a source whose arrays fill this network, read in the layout {layout!r} "
            f"({len(problems)} do not fit: {'; '.join(problems)})"
        )
        raise StartError(f"{path}.path", config.path, accepted, tuple(problems))
    params = {name: value for (part, name), value in values.items() if part != STATE}
    state = {name: value for (part, name), value in values.items() if part == STATE}
    return Filled(params, state, rows, sorted({*dropped, *(piece.source for piece in unused)}), layout)


def _assign(
    pieces: Sequence[Piece], leaves: Iterable[Key], layers: Layers, layout: str, problems: list[str]
) -> tuple[dict[Key, Piece], list[Piece]]:
    """The array of each leaf, by the names of the array's own layout, and those that no leaf has."""
    leaves = list(leaves)
    torch = [piece for piece in pieces if (piece.layout or layout) == "torch"]
    flax = [piece for piece in pieces if (piece.layout or layout) != "torch"]
    chosen: dict[Key, Piece] = {}
    unused = []
    for named, in_torch in ((join_biases(torch, layers), True), (flax, False)):
        names = _names(leaves, layers, torch=in_torch)
        for piece in named:
            key = names.get(_plain(piece.name)) or names.get(_plain(_unwrapped(piece.name)))
            if key is None:
                unused.append(piece)
            elif key in chosen:
                problems.append(f"{key[1]} would be filled from both {chosen[key].source} and {piece.source}")
            else:
                chosen[key] = piece
    return chosen, unused


def _layout(config: Pretrained, source: Source, path: str) -> str:
    if config.layout != "auto":
        return config.layout
    if source.layout != "auto":
        return source.layout
    layout = layout_of(source.arrays)
    if layout is None:
        accepted = f"'torch' or 'flax', as the names in {config.path} tell none or both"
        raise StartError(f"{path}.layout", config.layout, accepted)
    return layout


def _matches(pattern: str, name: str) -> bool:
    return match_name(re.compile(pattern), name) is not None


def _names(leaves: Iterable[Key], layers: Layers, *, torch: bool) -> dict[str, Key]:
    """The names that stand for each leaf of the network, parts joined by slashes."""
    exact, short = {}, {}
    for key in leaves:
        part, path = key
        exact[path if part == "params" else f"model_state/{path}"] = key
        above, _, last = path.rpartition("/")
        # The state of a model is kept by collection: `batch_stats/BatchNorm_0/mean`.
        if part == STATE:
            short.setdefault(path, key)
            short.setdefault(path.removeprefix(STATISTICS), key)
            above = above.removeprefix(STATISTICS)
        if torch:
            role = layers.get(path)
            in_torch = {"mean": "running_mean", "var": "running_var"}.get(last) if part == STATE else None
            in_torch = in_torch or (torch_name(role) if role is not None and part == "params" else None)
            # A recurrent layer has no `weight`: it has two kernels.
            if in_torch and f"{above}/recurrent_kernel" not in layers:
                short.setdefault(f"{above}/{in_torch}".lstrip("/"), key)
    return {_plain(name): key for name, key in {**short, **exact}.items()}


def _plain(name: str) -> str:
    """A name whose parts are joined by slashes, whatever the source joins them by."""
    return name.replace(".", "/")


def _unwrapped(name: str) -> str:
    """A name without the collection of the parameters that a whole set of variables has in front."""
    return _plain(name).removeprefix("params/")


def _convert(
    piece: Piece,
    key: Key,
    leaf: np.ndarray,
    layers: Layers,
    flattened: Mapping[str, Sizes],
    layout: str,
    problems: list[str],
) -> tuple[np.ndarray | None, LeafTransfer]:
    """The values of a leaf, None where they do not fit, and its row."""
    part, path = key
    shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)
    parameter = layers.get(path) if part == "params" else None
    conversion: Conversion | str
    if (piece.layout or layout) == "torch" and parameter is not None:
        conversion = from_torch(
            parameter,
            shape,
            piece.array.shape,
            flattened=flattened.get(path),
            ordered=not convolves_sequences(layers),
        )
    else:
        conversion = as_it_is(shape, piece.array.shape)
    row = LeafTransfer(path, shape, piece.source, "copied", "", part)
    if isinstance(conversion, str):
        problems.append(f"{path} is {size(shape)}, {piece.source} is {size(piece.array.shape)}: {conversion}")
        return None, row
    floating = [jnp.issubdtype(d, jnp.floating) for d in (dtype, piece.array.dtype)]
    if floating[0] != floating[1]:
        problems.append(f"{path} is {dtype}, {piece.source} is {piece.array.dtype}")
        return None, row
    # Too large for float32 is refused below, in words.
    with np.errstate(over="ignore"):
        value = np.array(conversion.apply(piece.array), dtype, order="C", copy=True)
    if floating[0] and (bad := int(np.count_nonzero(~np.isfinite(value)))):
        problems.append(f"{piece.source} has {bad:,} of {value.size:,} values that are not finite")
        return None, row
    cast = f"{piece.array.dtype} to {dtype}" if piece.array.dtype != dtype else ""
    return value, row._replace(reason="; ".join(filter(None, (piece.text, conversion.text, cast))) or "as it is")


def _fresh(
    config: Pretrained, key: Key, leaf: np.ndarray, unused: Sequence[Piece], problems: list[str]
) -> LeafTransfer:
    part, path = key
    pattern = next((p for p in config.allow_missing if _matches(p, path)), None)
    if pattern is None:
        # Size only helps to find the right rule; nothing is filled by it.
        as_large = [piece.source for piece in unused if piece.array.size == leaf.size]
        near = nearest(path, [piece.source for piece in unused])
        near = near or (f" (as large: {', '.join(as_large[:3])})" if as_large else "")
        problems.append(f"{path} {size(leaf.shape)} gets no array{near}")
    return LeafTransfer(path, tuple(leaf.shape), None, "fresh", f"allow_missing {pattern!r}", part)


def _unused_problems(config: Pretrained, unused: Sequence[Piece], free: Sequence[str]) -> list[str]:
    problems = []
    for piece in unused:
        counts = last_part(piece.source) in COUNTERS
        if not counts and not any(_matches(p, piece.source) for p in config.allow_unused):
            renamed = f" (as {piece.name})" if piece.name != piece.source else ""
            what = f"{piece.source} {size(piece.array.shape)}{renamed}"
            problems.append(f"{what} fills no parameter{nearest(piece.name, free)}")
    return problems


def _idle_patterns(config: Pretrained, paths: Iterable[str], arrays: Iterable[str]) -> list[str]:
    """A sentence for each pattern that excuses nothing: it is misspelt."""
    problems = []
    for field, names in (("allow_missing", list(paths)), ("allow_unused", list(arrays))):
        for pattern in getattr(config, field):
            if not any(_matches(pattern, name) for name in names):
                problems.append(f"{field} {pattern!r} matches no name{nearest(pattern, names)}")
    return problems
