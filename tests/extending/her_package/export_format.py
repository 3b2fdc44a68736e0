"""An export format: the weights as a table, a row each."""

import csv

import jax

from jopt.export import File, Format
from jopt.rules import named_leaves


def write(source, directory, options):
    """Writes what the model computes with."""
    del options
    path = directory / "weights.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        for name, leaf in named_leaves(source.run.params):
            rows.writerows((name, i, f"{v:.9g}") for i, v in enumerate(leaf.ravel()))
    agreement = source.compare(jax.jit(source.function("masked")))
    yield File(path.name, "the weights, a row each", "print(open('{name}').readline())", agreement)


FORMAT = Format("csv", write, files=("weights.csv",), needs=("masked",))
