"""The bytes of a packed model file by kind, by layer and by tensor: in a terminal and as a page."""

import json
from pathlib import Path
from typing import Any

import rich.console

from jopt import codec, report
from jopt.report import formats
from jopt.report.run_report import packed_parts
from jopt.train.workdir import WorkdirError

_WIDTH = 160  # Columns where the output is no terminal.
_WIDEST_BARS = 110


def check(path: Path, ledger: codec.Ledger) -> None:
    """Raises CodecError unless the ledger explains all bytes of the file."""
    # The tables claim to explain each byte, so their sum must be the size on disk.
    size = path.stat().st_size
    if ledger.total != size:
        raise codec.CodecError(f"{path} has {size:,} bytes, its ledger {ledger.total:,}")


def show(path: Path, file: codec.File, paper: str | None = None) -> None:
    """Prints the bytes of a packed file, beside the published numbers of the network `paper`."""
    console = report.open_console(_WIDTH)
    console.print(report.ledger_headline(file.ledger, path.name), soft_wrap=True, markup=False)
    console.print(f"{file.ledger.total:,} bytes on the disk, each of them in these tables\n")
    for table in [_metadata(file.metadata), *report.ledger_tables(file.ledger)]:
        if table.rows:
            _show(table, console)
    if paper:
        _show(_paper(file, paper), console)
        console.print(report.PAPER_NOTE, "")
    width = min(max(console.width, 40), _WIDEST_BARS)
    console.print(report.ledger_bars(file.ledger, width, console.options.ascii_only), "")


def _paper(file: codec.File, network: str) -> report.Table:
    """The rows of the paper and of this model, packed again with and without Huffman coding."""
    specs = {path: integers.spec for path, integers in file.integers.items()}
    ranges = {path: (integers.low, integers.high) for path, integers in file.integers.items()}
    fixed, coded = (
        codec.encode(file.params, model_state=file.model_state, specs=specs, ranges=ranges, metadata=file.metadata,
                     huffman=huffman).ledger
        for huffman in (False, True)
    )  # fmt: skip
    return report.paper_table(fixed, coded, network)


def _show(table: report.Table, console: rich.console.Console) -> None:
    """Prints the table, in parts where the terminal is too narrow for it."""
    closed = table._replace(rows=[*table.rows, *[table.footer] * bool(table.footer)], footer=())
    parts = report.fit(closed, console.width)
    for part in [table] if len(parts) == 1 else parts:
        report.show(part, console)


def _metadata(metadata: Any) -> report.Table:
    rows = [] if not isinstance(metadata, dict) else [(_brief(str(k)), _brief(v)) for k, v in metadata.items()]
    return report.Table("Metadata", ("", "value"), "ll", rows)


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    # The file may come from anyone, and characters that are not printable could be commands to the terminal.
    return formats.shorten(formats.printable(text), 90)


def write(page: Path, path: Path, file: codec.File) -> None:
    """Writes the page with the tables and their figure; raises WorkdirError where it cannot be written."""
    headline = report.ledger_headline(file.ledger, path.name)
    parts = [report.Heading(path.name, 1), report.Findings([headline]), *packed_parts(path.name, file.ledger)]
    try:
        report.write_html(page, path.name, parts)
    except OSError as error:
        raise WorkdirError(f"the page {page} cannot be written: {error.strerror}") from error
