"""Shows the bytes of a packed model file by kind, by layer and by tensor, in a terminal or as a page.

python -m experiments.inspect runs/a/model.jopt
python -m experiments.inspect runs/a/model.jopt --paper=lenet300
python -m experiments.inspect runs/a/model.jopt --html=bytes.html
python -m experiments.inspect runs/a/model.jopt --json
"""

import json
from pathlib import Path
from typing import Any

import rich.console
from absl import flags

from experiments.launch import define_max_bytes, define_path, launch, packed_file
from jopt import codec, report
from jopt.config import ConfigError, require
from jopt.report import formats
from jopt.report.run_report import packed_parts
from jopt.train.workdir import WorkdirError

_HTML = define_path("html", None, "File for a page with the tables and their figure; by default none.")
_JSON = flags.DEFINE_bool("json", False, "Print the ledger and the metadata as JSON, and nothing else.")
_PAPER = flags.DEFINE_enum(
    "paper",
    None,
    list(report.PAPER_NETWORKS),
    "Show the numbers of Deep Compression for this network and those of the file.",
)
_MAX_BYTES = define_max_bytes()

_WIDTH = 160  # Columns where the output is no terminal.
_WIDEST_BARS = 110


def main(argv: list[str]) -> None:
    """Shows the packed model file that `argv` names."""
    path = packed_file(argv)
    # Before the file is read, which may take long: a wrong --html should fail at once.
    page = _page(path)
    file = codec.read(path, max_bytes=_MAX_BYTES.value)
    _check(path, file.ledger)
    if _JSON.value:
        described = {"file": str(path), **report.ledger_json(file.ledger), "metadata": file.metadata}
        print(json.dumps(described, indent=2))
    else:
        _print(path, file)
    if page is not None:
        _write(page, path, file)
        if not _JSON.value:
            print(f"page: {page}")


def _page(path: Path) -> Path | None:
    """The file of the page; None without --html."""
    if not _HTML.value:
        return None
    page = Path(_HTML.value)
    require(page.suffix.lower() == ".html", "--html", _HTML.value, "a file that ends in .html")
    # The packed model is the only copy of a compressed network; a page can be written again.
    if page.resolve() == path.resolve():
        raise ConfigError("--html", _HTML.value, "another file than the packed model")
    return page


def _check(path: Path, ledger: codec.Ledger) -> None:
    # The tables claim to explain each byte, so their sum must be the size on disk.
    size = path.stat().st_size
    if ledger.total != size:
        raise codec.CodecError(f"{path} has {size:,} bytes, its ledger {ledger.total:,}")


def _print(path: Path, file: codec.File) -> None:
    console = report.open_console(_WIDTH)
    console.print(report.ledger_headline(file.ledger, path.name), soft_wrap=True, markup=False)
    console.print(f"{file.ledger.total:,} bytes on the disk, each of them in these tables\n")
    for table in [_metadata(file.metadata), *report.ledger_tables(file.ledger)]:
        if table.rows:
            _show(table, console)
    if _PAPER.value:
        _show(_paper(file, _PAPER.value), console)
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


def _write(page: Path, path: Path, file: codec.File) -> None:
    headline = report.ledger_headline(file.ledger, path.name)
    parts = [report.Heading(path.name, 1), report.Findings([headline]), *packed_parts(path.name, file.ledger)]
    try:
        report.write_html(page, path.name, parts)
    except OSError as error:
        raise WorkdirError(f"the page {page} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    launch(main, arguments="FILE")
