"""Trains the experiment of a config file, or continues an interrupted run.

jopt train --config=configs/digits_mlp.py --workdir=runs/a --config.optimizer.learning_rate=3e-3

Over several processes, with --process_id=0 to 3 (docs/processes.md):
jopt train --config=configs/digits_mlp.py --workdir=runs/a --coordinator=node0:4321 --num_processes=4 --process_id=0
"""

from absl import flags

from jopt.apps.definitions import define_accept_changes, define_path, define_trust, define_workdir
from jopt.apps.inputs import CONFIG, experiment
from jopt.apps.processes import define_processes, together
from jopt.apps.signals import define_save_on, saving

FLAGS = flags.FlagValues()
CONFIG.define(FLAGS, required=False)
_WORKDIR = define_workdir(FLAGS, "Directory of the run: new, empty, or of the same config.")
_TRIAL = flags.DEFINE_string(
    "trial",
    None,
    "A trial to run: its id, where --config is an ablation; or DIRECTORY/ID without --config, of the directory of "
    "an ablation or of a round of a search.",
    flag_values=FLAGS,
)
_ACCEPT_CHANGES = define_accept_changes(FLAGS)
_CACHE = define_path(FLAGS, "compilation_cache", None, "Directory of the compilation cache.")
_SAVE_ON = define_save_on(FLAGS)
_MINUTES = flags.DEFINE_float(
    "checkpoint_minutes",
    10.0,
    "Save also at the end of a segment when so many minutes have passed since the last checkpoint; inf: only where "
    "the config says so. No number of the run depends on it.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_PROFILE = define_path(
    FLAGS,
    "profile",
    None,
    "New or empty directory for a trace of one segment, by JAX's profiler; see docs/debugging.md.",
)
_DEBUG_NANS = flags.DEFINE_bool(
    "debug_nans",
    False,
    "If a loss is not finite, replay the segment and name the first operation at fault; see docs/debugging.md.",
    flag_values=FLAGS,
)
_TRUST = define_trust(FLAGS)
_PROCESSES = define_processes(FLAGS)
_QUIET = flags.DEFINE_bool("quiet", False, "Print nothing.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    """Runs `--config` in `--workdir`."""
    del argv
    from jopt import processes, report, train

    # Before the config is read, as a config file may build arrays and so compile.
    train.enable_cache(_CACHE.value)
    with together(_PROCESSES), saving(_SAVE_ON.value) as stop:
        train.run(
            experiment(_TRIAL.value, trusted=_TRUST.value),
            _WORKDIR.value,
            accept_changes=_ACCEPT_CHANGES.value,
            observer=report.Console(_QUIET.value) if processes.is_primary() else report.SILENT,
            should_stop=stop,
            trusted=_TRUST.value,
            checkpoint_minutes=_MINUTES.value,
            profile_dir=_PROFILE.value,
            debug_nans=_DEBUG_NANS.value,
        )
