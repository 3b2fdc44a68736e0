"""What a run shows while it goes on, and the report that it leaves."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jopt import codec, measure, optim, report
from jopt.codec import Ledger
from jopt.config import leaves, to_dict
from jopt.train import describe, metrics
from jopt.train.plan import StagePlan
from jopt.train.prepared import Prepared
from jopt.train.workdir import Workdir

_WIDEST_BARS = 110
_OF_SPEED = (
    "Of the forward pass, by this machine's clock, other work on it included. Masks and fake quantization keep the "
    "arrays' shapes, so they do not change it; a smaller network does, as jopt.prune.shrink makes one."
)


class Display:
    """Prints the plan, the progress and the result, unless it is quiet; writes the report in any case."""

    def __init__(self, quiet: bool = False):
        """Quiet displays print nothing but warnings."""
        self._quiet = quiet

    def _print(self, *lines: str) -> None:
        if not self._quiet:
            print(*lines, sep="\n", flush=True)

    def _show(self, table: report.Table) -> None:
        if not self._quiet:
            report.show(table)

    def warn(self, sentence: str) -> None:
        """Says on standard error what must not be overlooked."""
        print(f"warning: {sentence}", file=sys.stderr, flush=True)

    def plan(self, prepared: Prepared) -> None:
        """What will be run: data, stages, resolved rules, parameters and FLOPs."""
        if self._quiet:
            return
        p, data = prepared, prepared.dataset
        sizes = " / ".join(f"{len(part.labels):,}" for part in (data.train, data.validation, data.test))
        devices = "all local devices" if p.config.data_parallel else "one device"
        self._print(
            f"{p.config.name}: {data.name}, {sizes} examples (train / validation / test), seed {p.config.seed}, "
            f"on {devices} ({jax.default_backend()})"
        )
        self._show(stage_table(p))
        for stage in p.plans:
            if text := describe.optimizer_rules(stage, p.like(stage.index).params):
                self._print(f"rules of stage {stage.name!r}", text, "")
            for table in method_tables(p, stage):
                self._show(table)
            if stage.starts_network:
                self._show(model_table(p, stage.index))

    def resuming(self, step: int) -> None:
        """Says that the run goes on from a checkpoint."""
        self._print(f"going on from the checkpoint of step {step:,}")

    @contextlib.contextmanager
    def training(
        self, prepared: Prepared, files: Workdir, rows: list[metrics.Row]
    ) -> Iterator[Callable[[list[metrics.Row]], None]]:
        """Shows and mirrors metric rows: in the progress bar, and as TensorBoard events.

        Args:
          prepared: the run.
          files: its directory.
          rows: those that are known already, after a resume.

        Yields:
          What takes new rows.
        """
        if rows or any(files.path.glob("events.out.tfevents.*")):
            report.rewrite(files.path, rows)
        start = rows[-1]["step"] if rows else 0
        total = prepared.segments[-1].stop
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(report.Writer(files.path))
            bar = None if self._quiet else stack.enter_context(report.Progress(total, start))

            def take(new: list[metrics.Row]) -> None:
                writer.write(new)
                if bar is not None:
                    for row in new:
                        bar.update(row["step"], row["stage"], row)

            yield take

    def report(
        self,
        prepared: Prepared,
        files: Workdir,
        manifest: dict[str, Any],
        result: dict[str, Any],
        outcomes: list[measure.StageOutcome],
        ledger: Ledger | None = None,
    ) -> dict[str, Any]:
        """Writes `report.md` and its pictures; for several stages what each cost and saved, and `report.html` too.

        Args:
          prepared: the run.
          files: its directory.
          manifest: of the run.
          result: of the run, as far as it is known.
          outcomes: what each stage ended with.
          ledger: of the packed model, where there is one.

        Returns:
          What the outcomes add to the result: the numbers of each stage, if there are several.
        """
        rows = metrics.read(files.metrics)
        name = prepared.config.name
        report.save_figure(report.learning_curves(rows, title=name), files.path / "learning_curves.png")
        curves = report.Picture("Learning curves", "learning_curves.png")
        shown = {k: v for k, v in manifest.items() if k not in ("events", "exit_status")} | {
            "argv": command(manifest["argv"])
        }
        last = len(outcomes) - 1
        table = model_table(prepared, last, outcomes[last].params)
        packed = _packed_parts(files, name, ledger)
        found, more = None, report.parts_markdown(packed)
        if last:
            labels = prepared.dataset.test.labels
            found = report.compression(files.path, outcomes, labels, title=name)
            speed = [report.Heading("Speed, measured"), latency_table(prepared, outcomes), _OF_SPEED]
            more = "\n\n".join(filter(None, (found.markdown, more, report.parts_markdown(speed))))
            training = [report.Heading("Training"), curves, table]
            parts = [report.result_table(result), *found.parts, *packed, *speed, *training]
            report.write_html(files.path / "report.html", name, parts)
        text = report.report_markdown(
            to_dict(prepared.config), shown, rows, result, {curves.caption: curves.path}, table, more
        )
        files.write_report(text)
        return {} if found is None else {"stages": found.rows}

    def finished(self, files: Workdir, result: dict[str, Any]) -> None:
        """The result, and where to read more."""
        if "stages" in result:
            self._show(report.stages_table(result["stages"], brief=True))
        self._ledger(files.packed)
        self._show(report.result_table(result, title="Result"))
        picture = "compression.png" if "stages" in result else "learning_curves.png"
        self._print(f"report: {files.report}    picture: {files.path / picture}")
        if files.packed.is_file():
            size = files.packed.stat().st_size
            self._print(
                f"packed model: {files.packed}, {size:,} bytes (python -m experiments.inspect {files.packed})"
            )

    def _ledger(self, path: Path) -> None:
        """Where the bytes of the packed model are, as wide as the terminal."""
        if self._quiet or not path.is_file():
            return
        import rich.console

        ledger = codec.read(path).ledger
        console = rich.console.Console(highlight=False)
        report.show(
            report.ledger_tables(ledger)[0]._replace(title=report.ledger_headline(ledger, path.name)), console
        )
        console.print(report.ledger_bars(ledger, min(console.width, _WIDEST_BARS), console.options.ascii_only), "")

    def finished_before(self, files: Workdir, result: dict[str, Any]) -> None:
        """As `finished`, for a run that had been finished already."""
        self._print(f"{files.path} holds this run, finished; nothing was run")
        self._ledger(files.packed)
        self._show(report.result_table(result, title="Result"))


def _packed_parts(files: Workdir, name: str, ledger: Ledger | None) -> list[report.Part]:
    """The packed file's part of a report, its picture drawn."""
    if ledger is None:
        return []
    report.save_figure(report.ledger_figure(ledger, f"{name}: where the bytes are"), files.path / "bytes.png")
    return [
        report.Heading("Packed file"),
        f"{files.packed.name}, {ledger.total:,} bytes, is {ledger.ratio:.1f} times smaller than the arrays that it "
        "holds. Each byte is accounted for: the sums are the file's length.",
        *report.ledger_tables(ledger),
        report.Picture("Where the bytes of the packed file are", "bytes.png"),
    ]


def method_tables(prepared: Prepared, stage: StagePlan) -> list[report.Table]:
    """What the methods that a stage names make of each parameter and activation; none for one that names none."""
    p, tables = prepared, []
    named = any(stage.names(applied) for applied in stage.applied)
    columns, rows = describe.parameter_rows(stage, p.like(stage.index).params) if named else ((), [])
    if rows:
        header = ("parameter", "shape", "role", *columns)
        tables.append(report.Table(f"Stage {stage.name!r}: parameters", header, "l" * len(header), rows))
    if stage.transfer is not None:
        rows = [
            (row.path, "x".join(map(str, row.shape)) or "scalar", row.source or "-", row.status)
            for row in p.transferred(stage)
        ]
        header = ("of the target", "shape", f"from {stage.transfer.source}", "status")
        tables.append(report.Table(f"Stage {stage.name!r}: transfer", header, "llll", rows))
    if named and (rows := describe.input_rows(stage, p.input_shape)):
        tables.append(
            report.Table(f"Stage {stage.name!r}: activations", ("input of", "shape", "code"), "lll", rows)
        )
    return tables


def stage_table(prepared: Prepared) -> report.Table:
    """A row for each stage: its length, and the optimizer's fields that are not at their defaults."""
    rows = []
    for stage in prepared.plans:
        optimizer, default = stage.optimizer, dict(leaves(optim.Config()))
        changed = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in leaves(optimizer)
                   if v != default[k] and k not in ("name", "learning_rate")]  # fmt: skip
        segments = [s for s in prepared.segments if s.stage == stage.index and s.steps]
        rows.append(
            (
                stage.name,
                f"{stage.length.steps:,}",
                f"{len(segments):,} x {stage.length.segment_steps:,}",
                f"{prepared.batch_size:,}",
                stage.describe(),
                ", ".join([optimizer.name, f"learning_rate {optimizer.learning_rate:g}", *changed]),
            )
        )
    return report.Table("Plan", ("stage", "steps", "segments", "batch", "methods", "optimizer"), "lrrrll", rows)


def model_table(prepared: Prepared, stage: int = 0, params: Any = None) -> report.Table:
    """Parameters and FLOPs by layer; of shapes alone, where no `params` are given."""
    if params is None:
        params = jax.tree.map(
            lambda leaf: np.broadcast_to(np.ones((), leaf.dtype), leaf.shape), prepared.like(stage).params
        )
    return report.model_table(measure.layers(params), flops_of(prepared, stage))


def latency_table(prepared: Prepared, outcomes: Sequence[measure.StageOutcome]) -> report.Table:
    """Latency and throughput of each network of the run, at batch 1 and 256, by the clock of this machine."""
    rows = []
    for index, outcome in enumerate(outcomes):
        if not prepared.plans[index].starts_network:
            continue
        state, model = prepared.like(index).model_state, prepared.plans[index].wrapped
        state = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), state)
        for batch in (1, 256):
            x = np.zeros((batch, *prepared.dataset.train.inputs.shape[1:]), np.float32)
            found = measure.latency(
                lambda params, x, model=model, state=state: model.apply(params, state, x, train=False)[0],
                outcome.params,
                x,
            )
            milliseconds = [f"{1e3 * value:.3g}" for value in (found.median, found.p10, found.p90)]
            low, high = measure.throughput_spread(found, batch)
            rows.append(
                (
                    outcome.name,
                    str(batch),
                    f"{milliseconds[0]} [{milliseconds[1]}, {milliseconds[2]}]",
                    f"{measure.throughput(found, batch):,.0f} [{low:,.0f}, {high:,.0f}]",
                )
            )
    header = ("network", "batch", "ms a batch, median [p10, p90]", "examples a second [p10, p90]")
    return report.Table("", header, "lrrr", rows)


def flops_of(prepared: Prepared, stage: int) -> dict[str, int]:
    """FLOPs of one example's forward pass, by layer, in a stage's network."""
    like, model = prepared.like(stage), prepared.plans[stage].wrapped
    inputs = jax.ShapeDtypeStruct((1, *prepared.dataset.train.inputs.shape[1:]), np.float32)

    def logits(params: Any, model_state: Any, inputs: jax.Array) -> jax.Array:
        return model.apply(params, model_state, inputs, train=False)[0]

    return measure.flops_by_layer(
        measure.flops_by_scope(logits, like.params, like.model_state, inputs), like.params
    )


def command(argv: list[str]) -> list[str]:
    """The command as it was typed: Python replaces `-m experiments.train` by the module's path.

    Example:
      >>> command(["/home/me/jopt/experiments/train.py", "--workdir=runs/a"])
      ['python', '-m', 'experiments.train', '--workdir=runs/a']
    """
    parts = argv[0].replace("\\", "/").removesuffix(".py").split("/")
    return ["python", "-m", ".".join(parts[-2:]), *argv[1:]] if parts[-2:-1] == ["experiments"] else list(argv)
