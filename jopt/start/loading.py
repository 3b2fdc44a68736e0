"""Start: the values that a run begins with, read, converted and checked."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jaxtyping import PyTree

from jopt.layers import Layers
from jopt.models import Model
from jopt.report.tables import Table
from jopt.start.config import Pretrained
from jopt.start.flattened import Sizes, flattened_inputs
from jopt.start.reading import Source, from_object, read
from jopt.start.resolving import Network, fill
from jopt.transfer import LeafTransfer
from jopt.typing import Batch, ModelState, Params


class Start(NamedTuple):
    """The values that a run begins with, where they are not drawn.

    Attributes:
      params: arrays by path, a flat dictionary; what is absent keeps its initial values.
      model_state: the same.
      name: of the source: its path.
      digest: SHA-256 over the source's names and arrays.
      rows: where each leaf of the network comes from.
      unused: names of the source that nothing reads.
      layout: 'flax' or 'torch', in which the source was read.
      is_object: whether the source was given from Python, and is in no file.
    """

    params: dict[str, Any]
    model_state: dict[str, Any]
    name: str
    digest: str
    rows: list[LeafTransfer]
    unused: list[str]
    layout: str
    is_object: bool = False

    def placed(self, put: Callable[[PyTree], PyTree]) -> "Start":
        """The same with its arrays where `put` puts them."""
        return self._replace(params=put(self.params), model_state=put(self.model_state))

    def describe(self) -> list[Any]:
        """What is shown before a run: a row for each leaf of the network, and what is not used."""
        rows = [
            (row.path, _size(row.shape), row.source or "-", row.reason if row.source else f"initial ({row.reason})")
            for row in self.rows
        ]
        header = ("of the network", "shape", f"from {self.name}", f"how (layout {self.layout})")
        parts: list[Any] = [Table("Start", header, "llll", rows)]
        return [*parts, f"not used: {', '.join(self.unused)}", ""] if self.unused else parts


def load(
    config: Pretrained,
    model: Model,
    layers: Layers,
    variables: tuple[Params, ModelState],
    x: Batch,
    *,
    trusted: bool = False,
    source: PyTree = None,
) -> Start:
    """Reads a source and fills a network with it.

    Args:
      config: the path and the rules.
      model: the network.
      layers: what it says about its parameters.
      variables: its parameters and state, or their shapes.
      x: one batch, or its shape.
      trusted: as for `jopt.start.read`.
      source: an object to take in place of the file: see `jopt.start.from_object`.

    Raises:
      StartError: if the source cannot be read or does not fit.
      OSError: if the system cannot read it.
    """
    named: Source = read(config.path, trusted=trusted) if source is None else from_object(source)
    network = Network(*variables, layers, lambda: flattened_inputs(model, x, *variables))
    filled = fill(config, named, network)
    # The digest is of the arrays and not of the file: the same weights in another format are the same start.
    return Start(
        filled.params,
        filled.model_state,
        config.path,
        _digest(named),
        filled.rows,
        filled.unused,
        filled.layout,
        is_object=source is not None,
    )


def digests(configs: Iterable[Pretrained | None], *, trusted: bool = False) -> dict[str, str]:
    """The digest of each source that configs name, by its path."""
    paths = {config.path for config in configs if config is not None}
    return {path: _digest(read(path, trusted=trusted)) for path in sorted(paths)}


def _digest(source: Source) -> str:
    # Imported here: `jopt.train` imports this module.
    from jopt.train.state import digest

    return digest(dict(source.arrays))


def _size(shape: Sizes) -> str:
    return "x".join(map(str, shape)) or "scalar"
