"""What a run's bits depend on beside its config: data, sources, numerics, versions and the kind of device."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

Fact: TypeAlias = str | int | float | bool | None
Surroundings: TypeAlias = dict[str, Fact]
"""Facts by the name that a user knows them by, such as `jax`, `jax_enable_x64` or `data`."""

# Another version of these may compute other numbers. What prepares data is absent: the fingerprint of the arrays
# says more than its version.
PACKAGES = ("jopt", "jax", "jaxlib", "flax", "optax", "numpy")

# The options of jax.config that change numbers: types, random bits, precision, and how programs are differentiated,
# partitioned and compiled. The other options of jax 0.10 are of caches, logs, checks, exports and devices.
JAX_OPTIONS = (
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
    "jax_high_dynamic_range_gumbel",
    "jax_default_matmul_precision",
    "jax_allow_f16_reductions",
    "jax_softmax_custom_jvp",
    "jax_use_direct_linearize",
    "jax_use_shardy_partitioner",
    "jax_disable_jit",
    "jax_disable_most_optimizations",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
    "jax_memory_fitting_effort",
    "jax_memory_fitting_level",
    "jax_compiler_enable_remat_pass",
)

# Flags of XLA that write files or split the host; every other flag may change how a program is compiled.
_HARMLESS = ("--xla_dump_", "--xla_force_host_platform_device_count", "--xla_hlo_profile")

# The facts of a manifest that surroundings are made from.
_MAPPINGS = ("datasets", "sources", "jax_config", "packages", "devices")


class Change(NamedTuple):
    """A fact that is not what it was.

    Attributes:
      name: of the fact.
      then: its value in an earlier launch.
      now: its value in this one.
    """

    name: str
    then: Fact
    now: Fact


def surroundings(facts: Mapping[str, Any]) -> Surroundings:
    """The facts of a launch that its bits depend on.

    Args:
      facts: as `jopt.train.manifest.collect` gives them, or a manifest; what it does not record is left out.

    Raises:
      ValueError: if a fact of a manifest is of another type.

    Example:
      >>> surroundings({"packages": {"jax": "0.10.2", "scipy": "1.17"}, "xla_flags": "--xla_dump_to=/tmp"})
      {'XLA_FLAGS': '', 'jax': '0.10.2'}
    """
    datasets, sources, options, packages, devices = (_mapping(facts, name) for name in _MAPPINGS)
    # A grid has a fingerprint for each of its data sets; the single one is that of its first group.
    if datasets:
        named = {_data_name(config): value for config, value in datasets.items()}
    else:
        named = {"data": facts["dataset_fingerprint"]} if "dataset_fingerprint" in facts else {}
    named |= {f"source {directory}": value for directory, value in sources.items()}
    named |= {name: options[name] for name in JAX_OPTIONS if name in options}
    if "xla_flags" in facts:
        named["XLA_FLAGS"] = _changing_flags(str(facts["xla_flags"]))
    if "compiler_options" in facts:
        named["compiler options"] = json.dumps(facts["compiler_options"], sort_keys=True)
    named |= {name: packages[name] for name in PACKAGES if name in packages}
    # In a checkout the version stays the same whatever is edited.
    if "jopt_code" in facts:
        named["jopt code"] = facts["jopt_code"]
    # How many devices there are changes bits only where the examples of a batch are summed over them.
    config = _mapping(facts, "config")
    parallel = config.get("data_parallel") and config.get("shards") is None
    names = ("platform", "kind", "count") if parallel else ("platform", "kind")
    named |= {f"device {name}": devices[name] for name in names if name in devices}
    if "mesh" in facts:
        named["mesh"] = facts["mesh"]
    for name, value in named.items():
        if not isinstance(value, str | int | float | None):
            raise ValueError(f"{name} must be a string, a number, true, false or null, got {type(value).__name__}")
    return named


def compare(then: Surroundings, now: Surroundings) -> tuple[Change, ...]:
    """The facts that differ. A fact that one of them does not record is no difference.

    Example:
      >>> compare({"jax": "0.10.1", "data": "6de9"}, {"jax": "0.10.2", "data": "6de9", "numpy": "2.4"})
      (Change(name='jax', then='0.10.1', now='0.10.2'),)
    """
    # True == 1 in Python, and no fact may be one now and the other then.
    return tuple(
        Change(name, then[name], value)
        for name, value in now.items()
        if name in then and (type(then[name]), then[name]) != (type(value), value)
    )


def accepted(manifest: Mapping[str, Any]) -> list[Surroundings]:
    """The surroundings that work in a directory was done in: the first launch's, then those of accepted changes."""
    first = surroundings(manifest)
    every = [first]
    for event in _since_the_beginning(manifest):
        if changes := [Change(**change) for change in event.get("accepted", ())]:
            # Both sides: a round of a search may have been run in other surroundings than the search itself.
            every += [first | {c.name: c.then for c in changes}, first | {c.name: c.now for c in changes}]
    return every


def unknown(now: Surroundings, earlier: Sequence[Surroundings]) -> tuple[Change, ...]:
    """How `now` differs from the first of the `earlier` ones; nothing if it equals any of them.

    Example:
      >>> unknown({"jax": "2"}, [{"jax": "1"}, {"jax": "2"}]), unknown({"jax": "3"}, [{"jax": "1"}, {"jax": "2"}])
      ((), (Change(name='jax', then='1', now='3'),))
    """
    if not earlier or any(not compare(then, now) for then in earlier):
        return ()
    return compare(earlier[0], now)


def mixture(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The accepted changes in the order of the launches, as `result.json` lists them: name, then, now and step."""
    return [
        {**change, "step": event["step"]}
        for event in _since_the_beginning(manifest)
        for change in event.get("accepted", ())
    ]


def unasked(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As `mixture`, the changes of launches that earlier versions of jopt let go on without asking."""
    known, changes = accepted(manifest), []
    for event in _since_the_beginning(manifest):
        if event.get("differs") and not event.get("begins_again"):
            now = surroundings({**manifest, **event["differs"]})
            changes += [{**change._asdict(), "step": event["step"]} for change in unknown(now, known)]
            known.append(now)
    return changes


def fill(manifest: dict[str, Any], facts: Mapping[str, Any]) -> None:
    """Adds to a manifest what an earlier version, or an earlier launch with fewer data sets, did not record."""
    for name in _MAPPINGS:
        if name in facts:
            manifest[name] = {**facts[name], **_mapping(manifest, name)}
    for name in ("dataset_fingerprint", "xla_flags", "compiler_options", "jopt_code", "mesh"):
        if name in facts:
            manifest.setdefault(name, facts[name])


def _since_the_beginning(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The events since a launch that kept nothing of those before it."""
    events: list[Mapping[str, Any]] = list(manifest.get("events", ()))
    last = max((i for i, event in enumerate(events) if event.get("begins_again")), default=0)
    return events[last:]


def _mapping(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = facts.get(name, {})
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, got {type(value).__name__}")
    return value


def _data_name(config: str) -> str:
    """A name for a data set of a grid, from its config as JSON.

    Example:
      >>> _data_name('{"name":"mnist","train_examples":100}')
      'data mnist (dbae57)'
    """
    # The hash distinguishes configs of one data set, such as those of other validation parts.
    fields = json.loads(config)
    # What a set is called, or else its class: 'jopt.data:Synthetic'.
    name = fields.get("name") or str(fields.get("class", "digits")).rpartition(":")[2].lower()
    return f"data {name} ({hashlib.sha256(config.encode()).hexdigest()[:6]})"


def _changing_flags(flags: str) -> str:
    """The flags of XLA that may change numbers, in one order.

    Example:
      >>> _changing_flags("--xla_b=1 --xla_dump_to=/tmp/x --xla_a=true --xla_b=2")
      '--xla_a=true --xla_b=2'
    """
    # XLA takes the last of several values.
    values = {flag.partition("=")[0]: flag for flag in _words(flags) if not flag.startswith(_HARMLESS)}
    return " ".join(values[name] for name in sorted(values))


def _words(text: str) -> Iterable[str]:
    try:
        return shlex.split(text)
    except ValueError:
        # An unbalanced quote.
        return text.split()
