"""Shows the differences between runs, finished or not: config, environment, metrics and curves.

jopt compare runs/a runs/b --out=comparison
"""

from pathlib import Path

from absl import flags

from jopt.apps.definitions import define_path, define_trust
from jopt.config import ConfigError

FLAGS = flags.FlagValues()
_OUT = define_path(FLAGS, "out", "comparison", "Directory for comparison.md and comparison.html; made if need be.")
_TRUST = define_trust(FLAGS)


def main(argv: list[str]) -> None:
    """Compares the runs in the directories that `argv` names, and writes the comparison to `--out`."""
    from jopt.apps.comparison import compare

    paths = [Path(path).resolve() for path in argv[1:]]
    if len(paths) < 2:
        raise ConfigError("RUN_A RUN_B ...", argv[1:], "at least two run directories")
    compare(paths, Path(_OUT.value), trusted=_TRUST.value)
