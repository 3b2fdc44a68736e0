"""Shows the bytes of a packed model file by kind, by layer and by tensor, in a terminal or as a page.

jopt inspect runs/a/model.jopt
jopt inspect runs/a/model.jopt --paper=lenet300
jopt inspect runs/a/model.jopt --html=bytes.html
jopt inspect runs/a/model.jopt --json
"""

import json
from pathlib import Path

from absl import flags

from jopt.apps.definitions import define_max_bytes, define_path
from jopt.apps.inputs import packed_file
from jopt.config import ConfigError, require

# Of `jopt.report.PAPER_NETWORKS`, which imports JAX.
PAPER_NETWORKS = ("lenet300", "lenet5")
FLAGS = flags.FlagValues()
_HTML = define_path(FLAGS, "html", None, "File for a page with the tables and their figure; by default none.")
_JSON = flags.DEFINE_bool(
    "json", False, "Print the ledger and the metadata as JSON, and nothing else.", flag_values=FLAGS
)
_PAPER = flags.DEFINE_enum(
    "paper",
    None,
    PAPER_NETWORKS,
    "Show the numbers of Deep Compression for this network and those of the file.",
    flag_values=FLAGS,
)
_MAX_BYTES = define_max_bytes(FLAGS)


def main(argv: list[str]) -> None:
    """Shows the packed model file that `argv` names."""
    from jopt import codec, report
    from jopt.apps import inspection

    path = packed_file(argv)
    # Before the file is read, which may take long: a wrong --html should fail at once.
    page = _page(path)
    file = codec.read(path, max_bytes=_MAX_BYTES.value)
    inspection.check(path, file.ledger)
    if _JSON.value:
        described = {"file": str(path), **report.ledger_json(file.ledger), "metadata": file.metadata}
        print(json.dumps(described, indent=2))
    else:
        inspection.show(path, file, _PAPER.value)
    if page is not None:
        inspection.write(page, path, file)
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
