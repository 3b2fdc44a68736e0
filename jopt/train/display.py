"""What a run shows: tables for its observer, the numbers that stages add to the result, and the report."""

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jopt import codec, data, measure, models, optim, report
from jopt.codec import Ledger
from jopt.config import to_dict
from jopt.measure import Column
from jopt.report import Table, formats
from jopt.report.observer import Shown
from jopt.report.page import PAGE, Findings, Heading, Part
from jopt.report.run_report import packed_parts
from jopt.task import Task
from jopt.train import describe, metrics
from jopt.train.plan import StagePlan
from jopt.train.prepared import Prepared
from jopt.train.workdir import Workdir
from jopt.typing import ModelState, Params


class Speed(NamedTuple):
    """The measured latency of one network at one batch size.

    Attributes:
      network: the name of its stage.
      batch: examples a call.
      latency: of a call.
    """

    network: str
    batch: int
    latency: measure.Latency


def collect_stages(
    prepared: Prepared,
    outcomes: Sequence[measure.StageOutcome],
    observer: report.Observer,
    columns: Sequence[Column | str] = (),
) -> list[dict[str, Any]]:
    """A row of numbers for each stage, of what it ended with. Nothing is written or drawn.

    Args:
      prepared: the run.
      outcomes: what each stage ended with.
      observer: is warned of columns from outside that cannot be computed: they are None.
      columns: columns from outside, or their names.
    """

    def warn(column: str, stage: str, error: Exception) -> None:
        observer.warn(measure.describe_failure(column, stage, error))

    targets = prepared.dataset.test.targets
    return measure.stage_rows(outcomes, targets, columns=columns, failed=warn, task=prepared.task)


def stage_fields(stages: Sequence[dict[str, Any]], columns: Sequence[Column | str] = ()) -> dict[str, Any]:
    """The fields of result.json: `stages` if there are several, and the last stage's columns from outside."""
    # A run of a single stage has no `stages`, so the value is always at the top level.
    outside = {c.key: stages[-1].get(c.key) for c in measure.load_columns(columns)}
    return outside | ({"stages": list(stages)} if len(stages) > 1 else {})


def measure_speeds(prepared: Prepared, outcomes: Sequence[measure.StageOutcome]) -> list[Speed]:
    """Measures each network of the run, at batch 1 and 256, by the clock of this machine."""
    measured = []
    for index, outcome in enumerate(outcomes):
        plan = prepared.plans[index]
        # Masks and fake quantization keep the shapes, so the latency would be that of the first network again.
        if not plan.starts_network:
            continue
        state, model = prepared.like(index).model_state, plan.wrapped
        # The values do not change the time; zeros in a variance would give NaN, which may.
        state = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), state)

        def forward(
            params: Params, x: jax.Array, model: models.Model = model, state: ModelState = state
        ) -> jax.Array:
            return model.apply(params, state, x, train=False)[0]

        # One example shows the latency, a large batch the throughput.
        for batch in (1, 256):
            x = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), data.batch_of(prepared.example, batch))
            measured.append(Speed(outcome.name, batch, measure.latency(forward, outcome.params, x)))
    return measured


def write_report(
    prepared: Prepared,
    files: Workdir,
    manifest: Mapping[str, Any],
    result: Mapping[str, object],
    outcomes: Sequence[measure.StageOutcome],
    stages: Sequence[dict[str, Any]],
    ledger: Ledger | None = None,
    columns: Sequence[Column | str] = (),
) -> None:
    """Writes `report.html` and `report.md`, with the latencies of the networks, which it measures.

    Args:
      prepared: the run.
      files: its directory.
      manifest: of the run.
      result: of the run.
      outcomes: what each stage ended with.
      stages: what `collect_stages` gave.
      ledger: of the packed model, where there is one.
      columns: columns from outside, or their names.
    """
    # Both change after the report has been written.
    environment = {k: v for k, v in manifest.items() if k not in ("events", "exit_status")}
    # A single stage has nothing to be compared with.
    several = len(outcomes) > 1
    task, labels = prepared.task, prepared.dataset.test.targets
    # Not before the result is on the disk: they take their time, compile, and may fail.
    speeds = measure_speeds(prepared, outcomes) if several else []
    compression = report.compression_parts(outcomes, stages, labels, columns=columns, task=task) if several else ()
    parts = report.run_parts(
        to_dict(prepared.config),
        environment | {"argv": command(manifest["argv"])},
        metrics.read(files.metrics),
        result,
        stages=stages,
        compression=compression,
        packed=packed_parts(files.packed.name, ledger) if ledger is not None else (),
        speed=speed_table(speeds) if speeds else None,
        model=model_table(prepared, len(outcomes) - 1, outcomes[-1].params),
        columns=columns,
        task=task,
    )
    if prepared.start is not None:
        parts += [Heading("Where the weights come from"), *prepared.start.describe()]
    report.write_html(files.path / PAGE, prepared.config.name, parts)
    report.write_markdown(files.report, parts)


def plan_parts(prepared: Prepared) -> list[Part]:
    """What will be run: data, stages, resolved rules, parameters and FLOPs."""
    p = prepared
    sizes = " / ".join(f"{size:,}" for size in p.dataset.sizes)
    parts: list[Part] = [
        f"{p.config.name}: {p.dataset.name}, {sizes} examples (train / validation / test), seed {p.config.seed}, "
        f"on {p.spread.describe()} ({jax.default_backend()})",
        *spread_parts(p),
        stage_table(p),
    ]
    for stage in p.plans:
        if text := describe.optimizer_rules(stage, p.like(stage.index).params):
            parts += [f"rules of stage {stage.name!r}", text, ""]
        parts += method_tables(p, stage)
        if stage.starts_network:
            parts.append(model_table(p, stage.index))
    return parts if p.start is None else [*parts, *p.start.describe()]


def spread_parts(prepared: Prepared) -> list[Part]:
    """How a run is spread over several devices: its shards, and per stage what each device holds."""
    p = prepared
    if p.spread.mesh is None:
        return []
    processes = len({device.process_index for device in p.spread.mesh.devices.flat})
    order = "in the machine's order: other devices give other bits"
    if p.spread.shards is not None:
        order = f"over {p.spread.shards} shards in a fixed order: the same bits on any number of devices"
    of = f" of {processes} processes" if processes > 1 else ""
    parts: list[Part] = [f"{p.spread.describe()}{of}; sums over a batch {order}"]
    rows = []
    for stage in p.plans:
        spread, state = p.spread_of(stage.index), p.like(stage.index)
        split = ", ".join(f"{path} {tuple(spec)}" for path, (_, spec) in list(spread.specs.items())[:3])
        more = f" and {len(spread.specs) - 3} more" if len(spread.specs) > 3 else ""
        sizes = (formats.binary(size) for size in (p.spread.bytes_of(state), spread.bytes_of(state)))
        rows.append((stage.name, *sizes, f"{split}{more}" or "none"))
    parts.append(
        Table("Bytes of the state", ("stage", "whole", "a device", "parameters that are split"), "lrrl", rows)
    )
    return parts


@contextlib.contextmanager
def observe_training(
    observer: report.Observer, prepared: Prepared, files: Workdir, rows: list[metrics.MetricsRow]
) -> Iterator[Callable[[list[metrics.MetricsRow]], None]]:
    """Sends metric rows to an observer, and writes them as TensorBoard events.

    Args:
      observer: receives the metrics.
      prepared: the run.
      files: its directory.
      rows: those that are known already, after a resume.

    Yields:
      The function that takes new rows.
    """
    # After a resume metrics.jsonl is the truth: events of steps that were rolled back must go.
    if rows or any(files.path.glob("events.out.tfevents.*")):
        report.rewrite(files.path, rows)
    start = rows[-1]["step"] if rows else 0
    total = prepared.segments[-1].stop
    with report.Writer(files.path) as writer, observer.training(total, start) as update:

        def take(new: list[metrics.MetricsRow]) -> None:
            writer.write(new)
            for row in new:
                update(row["step"], row["stage"], row)

        yield take


def finished_parts(
    files: Workdir,
    result: Mapping[str, Any],
    columns: Sequence[Column | str] = (),
    before: bool = False,
    task: Task = measure.CLASSIFIER,
) -> list[Shown]:
    """What is shown at the end: findings, stages, bytes and result, and where to read more.

    Args:
      files: of the run.
      result: of the run.
      columns: columns from outside, or their names.
      before: whether an earlier launch had finished the run.
      task: of the run.
    """
    stages = result.get("stages", ())
    parts: list[Shown] = [Findings(report.run_findings(result, stages, task))]
    if before:
        parts.insert(0, f"{files.path} holds this run, finished; nothing was run")
    if stages:
        parts.append(report.stages_table(stages, brief=True, columns=columns, task=task))
    if files.packed.is_file():
        # Read back rather than handed over: what is shown is what is in the file.
        ledger = codec.read(files.packed).ledger
        headline = report.ledger_headline(ledger, files.packed.name)
        parts += [report.ledger_tables(ledger)[0]._replace(title=headline), ledger]
    parts += [report.result_table(result, columns=columns, task=task), f"report: {files.path / 'report.html'}"]
    if files.packed.is_file():
        size = files.packed.stat().st_size
        inspect = shlex.join(["jopt", "inspect", str(files.packed)])
        parts.append(f"packed model: {files.packed}, {size:,} bytes ({inspect})")
    return parts


def method_tables(prepared: Prepared, stage: StagePlan) -> list[report.Table]:
    """Tables of what a stage's own methods do to each parameter and activation; none if it has no methods."""
    p, tables = prepared, []
    named = any(stage.names(applied) for applied in stage.applied)
    columns, rows = describe.parameter_rows(stage, p.like(stage.index).params) if named else ((), [])
    if rows:
        header = ("parameter", "shape", "role", *columns)
        tables.append(report.Table(f"Stage {stage.name!r}: parameters", header, "l" * len(header), rows))
    if stage.transfer is not None:
        rows = [
            (row.path, "x".join(map(str, row.shape)) or "scalar", row.source or "-", row.status)
            for row in p.transfer_rows(stage)
        ]
        header = ("of the target", "shape", f"from {stage.transfer.source}", "status")
        tables.append(report.Table(f"Stage {stage.name!r}: transfer", header, "llll", rows))
    if named and (rows := describe.input_rows(stage, p.example)):
        tables.append(
            report.Table(f"Stage {stage.name!r}: activations", ("input of", "shape", "code"), "lll", rows)
        )
    return tables


def stage_table(prepared: Prepared) -> report.Table:
    """A row for each stage: its length, and the optimizer's fields that are not at their defaults."""
    rows = []
    for stage in prepared.plans:
        segments = [s for s in prepared.segments if s.stage == stage.index and s.steps]
        rows.append(
            (
                stage.name,
                f"{stage.length.steps:,}",
                f"{len(segments):,} x {stage.length.segment_steps:,}",
                f"{prepared.batch_size:,}",
                stage.describe(),
                optim.summary(stage.optimizer),
            )
        )
    return report.Table("Plan", ("stage", "steps", "segments", "batch", "methods", "optimizer"), "lrrrll", rows)


def model_table(prepared: Prepared, stage: int = 0, params: Params = None) -> report.Table:
    """Parameters and FLOPs by layer; of shapes alone, where no `params` are given."""
    if params is None:
        # Broadcasting one element takes no memory, however large the model is.
        params = jax.tree.map(
            lambda leaf: np.broadcast_to(np.ones((), leaf.dtype), leaf.shape), prepared.like(stage).params
        )
    return report.model_table(measure.layers(params), flops_of(prepared, stage))


def speed_table(speeds: Sequence[Speed]) -> report.Table:
    """Latency and throughput of each network."""
    rows = []
    for network, batch, latency in speeds:
        milliseconds = [f"{1e3 * value:.3g}" for value in (latency.median, latency.p10, latency.p90)]
        low, high = measure.throughput_spread(latency, batch)
        rows.append(
            (
                network,
                str(batch),
                f"{milliseconds[0]} [{milliseconds[1]}, {milliseconds[2]}]",
                f"{measure.throughput(latency, batch):,.0f} [{low:,.0f}, {high:,.0f}]",
            )
        )
    header = ("network", "batch", "ms a batch, median [p10, p90]", "examples a second [p10, p90]")
    return report.Table("", header, "lrrr", rows)


def flops_of(prepared: Prepared, stage: int) -> dict[str, int]:
    """FLOPs of one example's forward pass, by layer, in a stage's network."""
    like, model = prepared.like(stage), prepared.plans[stage].wrapped
    inputs = data.batch_of(prepared.example)

    def logits(params: Params, model_state: ModelState, inputs: jax.Array) -> jax.Array:
        return model.apply(params, model_state, inputs, train=False)[0]

    return measure.flops_by_layer(
        measure.flops_by_scope(logits, like.params, like.model_state, inputs), like.params
    )


def command(argv: list[str]) -> list[str]:
    """The command as it was typed: Python replaces `jopt` and `-m jopt` by the paths of files.

    Example:
      >>> command(["/home/me/.venv/bin/jopt", "train", "--workdir=runs/a"])
      ['jopt', 'train', '--workdir=runs/a']
      >>> command(["/home/me/jopt/jopt/__main__.py", "train", "--workdir=runs/a"])
      ['python', '-m', 'jopt', 'train', '--workdir=runs/a']
      >>> command(["/home/me/jopt/experiments/train.py", "--workdir=runs/a"])
      ['python', '-m', 'experiments.train', '--workdir=runs/a']
    """
    # `-m` puts the module's file into argv[0]; run by that path, its imports would not be found.
    parts = argv[0].replace("\\", "/").removesuffix(".py").split("/")
    if parts[-2:] == ["jopt", "__main__"]:
        return ["python", "-m", "jopt", *argv[1:]]
    if parts[-2:-1] == ["experiments"]:
        return ["python", "-m", ".".join(parts[-2:]), *argv[1:]]
    return ["jopt" if parts[-1] == "jopt" else argv[0], *argv[1:]]
