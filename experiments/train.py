"""Trains the experiment of a config file, or continues an interrupted run.

python -m experiments.train --config=configs/digits_mlp.py --workdir=runs/a --config.optimizer.learning_rate=3e-3
"""

from absl import flags

from experiments.launch import define_accept_changes, define_path, define_trust, experiment, launch
from experiments.signals import define_save_on, saving

_WORKDIR = define_path("workdir", None, "Directory of the run: new, empty, or of the same config.", required=True)
_TRIAL = flags.DEFINE_string("trial", None, "The id of the trial to run, where --config is an ablation.")
_ACCEPT_CHANGES = define_accept_changes()
_CACHE = define_path("compilation_cache", None, "Directory of the compilation cache.")
_SAVE_ON = define_save_on()
_MINUTES = flags.DEFINE_float(
    "checkpoint_minutes",
    10.0,
    "Save also at the end of a segment when so many minutes have passed since the last checkpoint; inf: only where "
    "the config says so. No number of the run depends on it.",
    lower_bound=0.0,
)
_PROFILE = define_path(
    "profile", None, "New or empty directory for a trace of one segment, by JAX's profiler; see docs/debugging.md."
)
_DEBUG_NANS = flags.DEFINE_bool(
    "debug_nans",
    False,
    "If a loss is not finite, replay the segment and name the first operation at fault; see docs/debugging.md.",
)
_TRUST = define_trust()
_QUIET = flags.DEFINE_bool("quiet", False, "Print nothing.")


def main(argv: list[str]) -> None:
    """Runs `--config` in `--workdir`."""
    del argv
    from jopt import report, train

    # Before the config is read, as a config file may build arrays and so compile.
    train.enable_cache(_CACHE.value)
    with saving(_SAVE_ON.value) as stop:
        train.run(
            experiment(_TRIAL.value),
            _WORKDIR.value,
            accept_changes=_ACCEPT_CHANGES.value,
            observer=report.Console(_QUIET.value),
            stop=stop,
            trusted=_TRUST.value,
            checkpoint_minutes=_MINUTES.value,
            profile_dir=_PROFILE.value,
            debug_nans=_DEBUG_NANS.value,
        )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    launch(main)
