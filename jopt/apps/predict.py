"""Runs a packed model file on a data set, from the file alone: metrics, loss, latency and throughput.

jopt predict runs/a/model.jopt
jopt predict runs/a/model.jopt --data=digits --split=validation --batch=64 --integer
"""

from absl import flags

from jopt.apps.definitions import define_max_bytes, define_path, define_trust
from jopt.apps.inputs import packed_file

FLAGS = flags.FlagValues()
_DATA = flags.DEFINE_string(
    "data", None, "Name of the data set; by default the one that the model was trained on.", flag_values=FLAGS
)
_DATA_DIR = define_path(FLAGS, "data_dir", None, "Directory of prepared data sets.")
_TRUST = define_trust(FLAGS)
_MAX_BYTES = define_max_bytes(FLAGS)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "Part of the data set.", flag_values=FLAGS
)
_BATCH = flags.DEFINE_integer(
    "batch", 64, "Examples in a call, for the second latency.", lower_bound=1, flag_values=FLAGS
)
_REPEATS = flags.DEFINE_integer("repeats", 50, "Calls that are timed.", lower_bound=1, flag_values=FLAGS)
_INTEGER = flags.DEFINE_bool(
    "integer", False, "Also compute in the integers that the file holds.", flag_values=FLAGS
)
_CACHE = define_path(FLAGS, "compilation_cache", None, "Directory of the compilation cache.")

_WIDTH = 100  # Columns where the output is no terminal.


def main(argv: list[str]) -> None:
    """Runs the packed model that `argv` names on `--data`."""
    from jopt import data, report, train
    from jopt.apps.prediction import agreement, dataset_for, floating, integers, run, tables
    from jopt.report import formats
    from jopt.train import packed

    path = packed_file(argv)
    train.enable_cache(_CACHE.value)
    model = packed.load(path, trusted=_TRUST.value, max_bytes=_MAX_BYTES.value)
    ways = {"float": floating(model)} | ({"integers": integers(model)} if _INTEGER.value else {})
    dataset = dataset_for(
        model, _DATA.value, _DATA_DIR.value, _MAX_BYTES.value, trusted=_TRUST.value, run=path.parent
    )
    arrays = data.device_arrays(dataset, _SPLIT.value)
    # One example shows the latency of a request, a batch the throughput; `--batch=1` is timed once.
    sizes = sorted({1, _BATCH.value})
    outcomes = {name: run(way, model.task, arrays, sizes, _REPEATS.value) for name, way in ways.items()}

    console = report.open_console(_WIDTH)
    console.print(report.ledger_headline(model.ledger, path.name), soft_wrap=True, markup=False)
    examples = f"{arrays.rows:,} examples of {dataset.name} ({_SPLIT.value})"
    console.print(f"{formats.printable(model.name)} on {examples}\n", soft_wrap=True, markup=False)
    for table in tables(model.task, outcomes):
        report.show(table, console)
    if _INTEGER.value and (sentence := agreement(outcomes)) is not None:
        console.print(sentence)
