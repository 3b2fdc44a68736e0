"""An export format of somebody else's: the weights as a table, one row each. Used as `--format=somebody:FORMAT`."""

import csv
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from jopt.export import File, Format, Options, Source


def write(source: Source, directory: Path, options: Options) -> Iterator[File]:
    """Writes the weights of the integer model, with the code and the scale of each."""
    path = directory / "weights.csv"
    _, params, _, weights, _ = source.integer_parts()
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("parameter", "index", "value"))
        for name in weights:
            layer, leaf = name.split("/")
            rows.writerows((name, i, f"{v:.9g}") for i, v in enumerate(np.asarray(params[layer][leaf]).ravel()))
    code = "import csv\nprint(sum(1 for row in csv.reader(open('{name}'))))"
    yield File(path.name, "the weights, a row each", code, source.compare(jax.jit(source.function("integer"))))


FORMAT = Format("csv", write, files=("weights.csv",), needs=("integer",))
