"""Every measured ratio of jopt to another package, the worst first, from the JSON of the suites."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.calls import ORT, XLA
from benchmarks.contenders import PLAIN_CONV, PYTHON_LOOP
from benchmarks.files import ANS, ZIP
from benchmarks.output import BUSY, digits, machine_line, others_line
from benchmarks.peers import JAXPRUNER, TORCH_PRUNE
from benchmarks.steps import SORT
from jopt.report import Table

SCHEMA = 2

# How the names of other packages' contenders begin. jopt's int8 is measured against float32 of the same runtime;
# "ONNX Runtime, int8" is jopt's own file.
PACKAGES = {
    "PyTorch": "PyTorch",
    TORCH_PRUNE: "PyTorch",
    "torch.ao": "torch.ao",
    "qwix": "qwix",
    JAXPRUNER: "jaxpruner",
    SORT: "JAX",
    PYTHON_LOOP: "JAX",
    PLAIN_CONV: "JAX",
    ORT: "ONNX Runtime",
    XLA: "XLA",
    ZIP: "NumPy",
    ANS: "constriction",
}

# A column to what it adds to the case, and whether it is the contender's time over that of `against`.
COLUMNS = {
    "ratio": ("", True),
    "speedup": ("", False),
    "write_ratio": (", writing", True),
    "read_ratio": (", reading", True),
}


class SummaryError(ValueError):
    """A file is no JSON of the benchmarks."""


class Comparison(NamedTuple):
    """jopt against another package.

    Attributes:
      suite: of the benchmarks.
      case: what was measured.
      ours: jopt's contender.
      peer: the other package's contender.
      package: the other package.
      median, p10, p90: how many times as fast as the peer jopt is.
    """

    suite: str
    case: str
    ours: str
    peer: str
    package: str
    median: float
    p10: float
    p90: float

    @property
    def verdict(self) -> str:
        """'slower' or 'faster' where the range of the middle 80 % of the rounds excludes 1; otherwise 'open'."""
        if self.p90 < 1:
            return "slower"
        return "faster" if self.p10 > 1 else "open"


def read(paths: Iterable[Path]) -> tuple[dict[str, Any], list[str]]:
    """The suites of some JSON files (of a suite that is in several, the last), and where each file was measured.

    Raises:
      SummaryError: for a file that cannot be read or is no JSON of this version.
    """
    suites: dict[str, Any] = {}
    notes = []
    for path in paths:
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise SummaryError(f"--summary={path} cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise SummaryError(
                f"--summary={path} must be a JSON file of `python -m benchmarks`, of schema {SCHEMA}"
            )
        rows_of = {name: rows for name, rows in content.items() if isinstance(rows, list) and name != "argv"}
        suites |= rows_of
        notes.append(f"{', '.join(rows_of)}: {machine_line(content['machine'])}")
        shares = content["others_share"].items()
        notes += [others_line(name, share) for name, share in shares if share is not None and share >= BUSY]
    return suites, notes


def package(contender: str) -> str | None:
    """The package of a contender, or None if it is jopt's own.

    Example:
      >>> package("PyTorch eager, 1 thread"), package("ONNX Runtime, float32"), package("ONNX Runtime, int8")
      ('PyTorch', 'ONNX Runtime', None)
    """
    return next((name for prefix, name in PACKAGES.items() if contender.startswith(prefix)), None)


def comparisons(suites: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Comparison]:
    """All comparisons, the worst first; of several contenders of one package in one case, only the fastest.

    Args:
      suites: to its rows, as in the JSON.
    """
    worst: dict[tuple[str, ...], Comparison] = {}
    for suite, rows in suites.items():
        for row in rows:
            for entry in _of_row(suite, row):
                key = (suite, entry.case, entry.ours, entry.package)
                if key not in worst or entry.median < worst[key].median:
                    worst[key] = entry
    return sorted(worst.values(), key=lambda entry: entry.median)


def _of_row(suite: str, row: Mapping[str, Any]) -> Iterator[Comparison]:
    contender, against = row.get("contender", ""), row.get("against")
    if against is None:
        return
    packages = package(contender), package(against)
    # Neither jopt against itself, nor two other packages.
    if (packages[0] is None) == (packages[1] is None):
        return
    for column, (what, is_contenders_time) in COLUMNS.items():
        value = row.get(column)
        if not isinstance(value, Mapping):
            continue
        times = (value["median"], value["p10"], value["p90"])
        # How many times as fast `against` is as the contender; then the same from jopt's side.
        if not is_contenders_time:
            times = _inverse(times)
        if packages[0] is None:
            yield Comparison(suite, row["case"] + what, contender, against, packages[1] or "", *_inverse(times))
        else:
            yield Comparison(suite, row["case"] + what, against, contender, packages[0], *times)


def _inverse(spread: tuple[float, float, float]) -> tuple[float, float, float]:
    median, p10, p90 = spread
    return 1 / median, 1 / p90, 1 / p10


def tables(suites: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Table]:
    """'Where jopt is slower', worst first, then the other comparisons in the same order; [] without comparisons.

    Args:
      suites: to its rows, as in the JSON.
    """
    entries = comparisons(suites)
    if not entries:
        return []
    slower = [entry for entry in entries if entry.median < 1]
    others = [entry for entry in entries if entry.median >= 1]
    title = "times as fast as the peer: median [p10, p90]; open: the range holds 1"
    return [
        _table(f"Where jopt is slower ({len(slower)} of {len(entries)} comparisons); {title}", slower),
        _table(f"Where jopt is as fast or faster ({len(others)} of {len(entries)}); {title}", others),
    ]


def _table(title: str, entries: Sequence[Comparison]) -> Table:
    lines = [
        (
            f"{entry.suite}: {entry.case}",
            entry.ours,
            entry.peer,
            f"{digits(entry.median)} [{digits(entry.p10)}, {digits(entry.p90)}]",
            entry.verdict,
        )
        for entry in entries
    ]
    return Table(title, ("suite: case", "jopt", "peer", "times as fast", "verdict"), "lllrl", lines)
