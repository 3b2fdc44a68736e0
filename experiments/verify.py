"""Runs a finished run again, from its config, and compares the digests of the final parameters.

python -m experiments.verify runs/a
"""

import tempfile
from pathlib import Path

from absl import app, flags

from experiments.launch import launch
from jopt import train
from jopt.train import metrics
from jopt.train.workdir import Workdir, WorkdirError

_AGAIN = flags.DEFINE_string("again", None, "Directory to run in, and keep; by default a temporary one.")
_QUIET = flags.DEFINE_bool("quiet", False, "Print only the verdict.")


def main(argv: list[str]) -> int:
    """Verifies the run in the directory that `argv` names; returns 0 if it is the same, bit for bit."""
    if len(argv) != 2:
        raise app.UsageError("give one run directory: python -m experiments.verify RUN")
    first = Workdir(argv[1])
    if not first.result.exists():
        raise WorkdirError(f"{first.path} holds no finished run: there is no result.json")
    config, result = first.load_config(), first.load_json(first.result)
    train.enable_cache()
    with tempfile.TemporaryDirectory() as temporary:
        second = Workdir(_AGAIN.value or Path(temporary) / "again")
        again = train.run(config, second.path, quiet=_QUIET.value)
        rows, rows_again = (metrics.without_timing(metrics.read(w.metrics)) for w in (first, second))
        problems = _environment(first, second)
    same = again["digest"] == result["digest"] and rows == rows_again
    print(f"digest  then {result['digest']}\n        now  {again['digest']}")
    print(f"metrics {len(rows)} rows then, {len(rows_again)} now: {'equal' if rows == rows_again else 'different'}")
    if not same:
        print("what differs in the environment:", "; ".join(problems) or "nothing that the manifest records")
    print("VERIFIED: the run is the same, bit for bit" if same else "NOT VERIFIED: the run is not the same")
    return 0 if same else 1


def _environment(first: Workdir, second: Workdir) -> list[str]:
    """What the two manifests say differently of data, packages and machine."""
    a, b = first.load_json(first.manifest), second.load_json(second.manifest)
    names = (
        "config_hash",
        "dataset_fingerprint",
        "git",
        "python",
        "packages",
        "cpu",
        "cores",
        "devices",
        "xla_flags",
    )
    return [f"{name}: {a.get(name)} then, {b.get(name)} now" for name in names if a.get(name) != b.get(name)]


if __name__ == "__main__":
    launch(main)
