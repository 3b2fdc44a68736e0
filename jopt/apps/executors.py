"""The flags that say where the chunks of a grid run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import flags

from jopt.config import ConfigError, require

if TYPE_CHECKING:
    from jopt.ablate.executors import Executor


def define_executor(values: flags.FlagValues) -> Callable[[], Executor]:
    """The flags of the apps that run grids.

    Args:
      values: of the app.

    Returns:
      What makes the executor that the flags name. It raises ConfigError for a value that is not accepted, and for a
      flag of another executor.
    """
    flags.DEFINE_enum(
        "executor",
        "local",
        ["local", "ray", "slurm"],
        "Where trials run: in this process, on a Ray cluster, or as SLURM jobs. The tables are the same.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "address",
        None,
        "ray: 'auto' for the cluster of this machine, or HOST:PORT of a head; by default Ray is started here.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "workers",
        None,
        "ray, slurm: chunks that run at once; by default as many as the Ray cluster has room for, or 4 jobs.",
        flag_values=values,
    )
    flags.DEFINE_float("cpus_per_chunk", None, "ray, slurm: processors of a worker; 1.", flag_values=values)
    flags.DEFINE_float(
        "gpus_per_chunk", None, "ray, slurm: GPUs of a worker; ray: 0.25 is four workers a GPU.", flag_values=values
    )
    flags.DEFINE_float(
        "memory_per_chunk",
        None,
        "ray, slurm: main memory of a worker in GiB; by default ray asks for the plan's estimate.",
        flag_values=values,
    )
    flags.DEFINE_integer("slurm_minutes", None, "slurm: the time limit of a job; 60.", flag_values=values)
    flags.DEFINE_list(
        "slurm", [], "slurm: more options of sbatch, such as partition=gpu,account=lab.", flag_values=values
    )
    flags.DEFINE_bool("slurm_local", False, "slurm: run the jobs as processes of this machine.", flag_values=values)
    return lambda: _executor(values)


# Which executors a flag is for, and the field that it sets.
_OF = {
    "address": ("ray",),
    "workers": ("ray", "slurm"),
    "cpus_per_chunk": ("ray", "slurm"),
    "gpus_per_chunk": ("ray", "slurm"),
    "memory_per_chunk": ("ray", "slurm"),
    "slurm_minutes": ("slurm",),
    "slurm": ("slurm",),
    "slurm_local": ("slurm",),
}
_FIELDS = {
    "address": "address",
    "workers": "workers",
    "cpus_per_chunk": "cpus",
    "gpus_per_chunk": "gpus",
    "memory_per_chunk": "memory_gib",
    "slurm_minutes": "minutes",
    "slurm": "options",
    "slurm_local": "local",
}


def _executor(values: flags.FlagValues) -> Executor:
    from jopt.ablate import executors

    name: str = values["executor"].value or "local"
    chosen: dict[str, Any] = {flag: values[flag].value for flag in _OF}
    for flag, owners in _OF.items():
        if name not in owners and chosen[flag] not in (None, [], False):
            raise ConfigError(f"--{flag}", chosen[flag], f"absent with --executor={name}")
    if name == "local":
        return executors.Local()
    # The session only plans: its device is a worker's.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Only what was given: the defaults are the executor's.
    fields = {_FIELDS[flag]: value for flag, value in chosen.items() if value is not None and name in _OF[flag]}
    if name == "ray":
        return executors.Ray(**fields)
    for field in ("cpus", "gpus"):
        # These flags are shared with Ray, where a worker may ask for a part of a processor.
        if field in fields and fields[field] == int(fields[field]):
            fields[field] = int(fields[field])
    fields["options"] = dict(map(_option, chosen["slurm"] or []))
    return executors.Slurm(**fields)


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    require(bool(name and equals and value), "--slurm", text, "NAME=VALUE,..., such as partition=gpu,account=lab")
    return name, value
