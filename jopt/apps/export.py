"""Writes a finished run's model as files for other programs, with a model card.

jopt export runs/a
jopt export runs/a --format=packed,stablehlo,onnx,safetensors --out=release
jopt export runs/a --format=mypackage.mymodule:FORMAT
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jopt.apps.definitions import define_max_bytes, define_path, define_trust
from jopt.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jopt import export, report

# Of `jopt.export.FORMATS` and `BATCHES`, which import JAX.
FORMATS = ("packed", "stablehlo", "onnx", "safetensors")
BATCHES = (1, 64)
FLAGS = flags.FlagValues()
_FORMAT = flags.DEFINE_list(
    "format",
    ["packed", "stablehlo"],
    f"Some of {', '.join(FORMATS)}, or package.module:name of a jopt.export.Format, which is imported.",
    flag_values=FLAGS,
)
_OUT = define_path(FLAGS, "out", None, "Directory for the files, made if need be; by default RUN/export.")
_RAW = flags.DEFINE_bool(
    "raw_inputs",
    False,
    "StableHLO that takes inputs as the data set has them, and normalizes.",
    flag_values=FLAGS,
)
_SPEED = flags.DEFINE_list(
    "speed_batches",
    [str(batch) for batch in BATCHES],
    "Batch sizes at which quantized ONNX files are timed against float32, for the model card; empty: they are not.",
    flag_values=FLAGS,
)
_TRUST = define_trust(FLAGS)
_DATA_DIR = define_path(FLAGS, "data_dir", None, "Directory of prepared data sets, instead of the config's.")
_MAX_BYTES = define_max_bytes(FLAGS)
_CACHE = define_path(FLAGS, "compilation_cache", None, "Directory of the compilation cache.")

_WIDTH = 100  # Columns where the output is no terminal.
# A line that every model card of this package has: other README files do not.
_CARD_MARK = 'library_name: "jopt"'


def main(argv: list[str]) -> None:
    """Exports the run in the directory that `argv` names."""
    if len(argv) != 2:
        raise ConfigError("RUN", " ".join(argv[1:]), "one run directory")
    from jopt import export, report, train
    from jopt.train.workdir import Workdir, WorkdirError

    run = Workdir(argv[1])
    formats = [export.resolve(name.strip(), "--format") for name in _FORMAT.value]
    batches = [_batch(text.strip()) for text in _SPEED.value]
    out = Path(_OUT.value) if _OUT.value else run.path / "export"
    if not _OUT.value:
        _refuse_links(out, formats)
    _claim(out)
    train.enable_cache(_CACHE.value)
    console = report.open_console(_WIDTH)
    with console.status("loading the run, writing the files and running them on the test part"):
        try:
            written = export.export(
                run.path,
                out,
                formats,
                raw_inputs=_RAW.value,
                trusted=_TRUST.value,
                data_dir=_DATA_DIR.value,
                max_bytes=_MAX_BYTES.value,
                speed_batches=batches,
            )
        except OSError as error:
            raise WorkdirError(f"{run.path} cannot be exported to {out}: {error}") from error
    # Against the dense float32 network, as compression ratios are given in papers.
    dense = 4 * run.load_json(run.result)["parameters"]
    names = ", ".join(chosen.name for chosen in formats)
    console.print(f"{run.path} as {names}, in {out}\n", soft_wrap=True, markup=False)
    report.show(files_table(written, dense), console)
    if written[-1].summary:
        console.print(written[-1].summary, soft_wrap=True, markup=False)
    contents = "says how each does on the test part, how to run it, and what could not be written"
    console.print(f"{written[-1].file} {contents}.", soft_wrap=True, markup=False)


def _batch(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError("--speed_batches", text, "batch sizes of at least 1, such as 1,64")
    return int(text)


def files_table(written: Sequence[export.Written], dense: int) -> report.Table:
    """The written files, one a row.

    Args:
      written: the result of `jopt.export.export`.
      dense: bytes of the run's parameters in dense float32.

    Returns:
      A `Table`; files that hold no parameters are not compared.
    """
    from jopt import report
    from jopt.report.formats import binary, integer
    from jopt.report.ledger import times

    rows = [
        (
            w.format,
            w.file.name,
            integer(w.bytes),
            binary(w.bytes),
            "" if w.format == "card" or w.file.suffix == ".json" else f"{times(dense, w.bytes)}x",
        )
        for w in written
    ]
    title = f"Files (x smaller: than {binary(dense)}, the parameters in dense float32)"
    return report.Table(title, ("format", "file", "bytes", "", "x smaller"), "llrrr", rows)


def _refuse_links(out: Path, formats: Sequence[export.Format]) -> None:
    """Raises LinkError where the run's directory, which may come from somebody else, leads the export outside."""
    from jopt.export.formats import CARD
    from jopt.train.directory import LinkError

    files = [out / name for name in (CARD, *(name for chosen in formats for name in chosen.files))]
    for path in (out, *files, *(parent for file in files for parent in file.parents)):
        if path.is_relative_to(out) and path.is_symlink():
            raise LinkError(path)


def _claim(out: Path) -> None:
    """Checks that the model card replaces no file of another origin.

    Raises:
      WorkdirError: if it would, or if the directory cannot be read.
    """
    from jopt.export.formats import CARD
    from jopt.train.workdir import WorkdirError

    card = out / CARD
    try:
        foreign = card.exists() and _CARD_MARK not in card.read_text(errors="replace")
    except OSError as error:
        raise WorkdirError(f"--out={out} cannot be read: {error.strerror}") from error
    # Checked before the run is read: an export takes minutes, and the card is its last file.
    if foreign:
        raise WorkdirError(f"--out={out} holds a README.md that is no model card of jopt's; give another directory")
