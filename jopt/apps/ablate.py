"""Runs the ablation of a config file, or continues an interrupted one.

jopt ablate --config=configs/ablations/sparsity_by_bits.py --workdir=runs/grid
"""

import shlex
import sys

from absl import flags

from jopt.apps.definitions import define_accept_changes, define_path, define_trust, define_workdir
from jopt.apps.executors import define_executor
from jopt.apps.inputs import CONFIG, config_of, use_cores
from jopt.apps.signals import define_save_on, saving

FLAGS = flags.FlagValues()
CONFIG.define(FLAGS)
_WORKDIR = define_workdir(
    FLAGS,
    "Directory of the ablation: new, empty, or of the same grid or a part of it; not with --dry_run.",
    required=False,
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    None,
    ["auto", "map", "vmap", "measure"],
    "How trials share a device, instead of the config's.",
    flag_values=FLAGS,
)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices",
    None,
    "CPU cores to use as devices; by default all of this process.",
    lower_bound=1,
    flag_values=FLAGS,
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only print the plan; nothing is compiled or written.", flag_values=FLAGS
)
_DEVICES = flags.DEFINE_integer(
    "devices",
    None,
    "With --dry_run: the number of devices that the plan is for, instead of those that are here.",
    lower_bound=1,
    flag_values=FLAGS,
)
_DEVICE_KIND = flags.DEFINE_string(
    "device_kind",
    "",
    "With --dry_run: their kind, such as h100 or tpu_v5e; by default that of this machine.",
    flag_values=FLAGS,
)
_EXECUTOR = define_executor(FLAGS)
_ACCEPT_CHANGES = define_accept_changes(FLAGS)
_CACHE = define_path(FLAGS, "compilation_cache", None, "Directory of the compilation cache.")
_SAVE_ON = define_save_on(FLAGS)
_TRUST = define_trust(FLAGS)
_QUIET = flags.DEFINE_bool("quiet", False, "Print nothing.", flag_values=FLAGS)


flags.register_multi_flags_validator(
    ["workdir", "dry_run"],
    lambda values: values["dry_run"] == (values["workdir"] is None),
    "--workdir=DIRECTORY is required, and absent with --dry_run",
    flag_values=FLAGS,
)
flags.register_multi_flags_validator(
    ["dry_run", "devices", "device_kind"],
    lambda values: values["dry_run"] or (values["devices"] is None and not values["device_kind"]),
    "--devices and --device_kind are of a plan: they need --dry_run",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    """Runs `--config` in `--workdir`."""
    del argv
    import jax

    from jopt import ablate, report, train

    executor = _EXECUTOR()
    # Before anything touches JAX: the number of devices cannot change once a backend is up.
    use_cores(_CPU_DEVICES.value)
    train.enable_cache(_CACHE.value)
    grid = config_of(ablate.Ablation)
    if _STRATEGY.value is not None:
        grid.strategy = _STRATEGY.value
    if _DRY_RUN.value:
        from jopt.ablate import dry_run

        fleet = dry_run.Fleet(_DEVICES.value or jax.local_device_count(), _DEVICE_KIND.value)
        report.Console(_QUIET.value).plan(lambda: dry_run.simulate(grid, fleet, trusted=_TRUST.value)[0])
        return
    with saving(_SAVE_ON.value) as stop:
        ablate.run(
            grid,
            _WORKDIR.value,
            arguments=config_arguments(sys.argv),
            executor=executor,
            accept_changes=_ACCEPT_CHANGES.value,
            observer=report.Console(_QUIET.value),
            should_stop=stop,
            trusted=_TRUST.value,
        )


def config_arguments(argv: list[str]) -> str:
    """The flags that define the grid, as they are typed in a shell.

    Example:
      >>> config_arguments(["experiments/ablate.py", "--config=configs/ablations/clipping.py", "--workdir=runs/a"])
      '--config=configs/ablations/clipping.py'
      >>> config_arguments(["ablate.py", "--config", "a.py", "--config.experiment.data.flip", "--workdir=b"])
      '--config=a.py --config.experiment.data.flip'
    """
    # Without `--workdir` and the like: the commands in the report name another directory, and change no result.
    config_flags: list[str] = []
    for position, arg in enumerate(argv[1:], 1):
        name = arg.lstrip("-").partition("=")[0]
        if arg.startswith("-") and (name == "config" or name.startswith(("config.", "noconfig."))):
            value = argv[position + 1] if position + 1 < len(argv) else "-"
            # A boolean flag has no value; for others the value may be the next argument.
            config_flags.append(arg if "=" in arg or value.startswith("-") else f"{arg}={value}")
    return " ".join(map(shlex.quote, config_flags))
