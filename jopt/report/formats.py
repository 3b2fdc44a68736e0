"""Numbers and names as people read them."""

import dataclasses
import math
from collections.abc import Callable

from jopt.measure.columns import CLASSIFIER, Column, Scope, built_in
from jopt.task import Metric, MultiLabel, NextToken, Regression, SequenceLabelling, Task

_PARTS = ("best_validation_", "last_validation_", "validation_", "train_", "test_", "")
_TASKS = (CLASSIFIER, Regression(), MultiLabel(), SequenceLabelling(), NextToken())


def printable(text: str) -> str:
    r"""Text that anybody may have written, without what a terminal could take for a command.

    Example:
      >>> printable("name\x1b[31m")
      'name [31m'
    """
    return "".join(c if c.isprintable() else " " for c in text)


def encodable(text: str, encoding: str = "utf-8") -> str:
    r"""The text with '?' for every character that an encoding lacks; UTF-8 lacks lone surrogates alone.

    Example:
      >>> encodable("\udcff: 4 µm"), encodable("4 µm", "ascii")
      ('?: 4 µm', '4 ?m')
    """
    return text.encode(encoding, "replace").decode(encoding)


def column(key: str, scope: Scope = "run", task: Task = CLASSIFIER) -> Column:
    """The column of a metric; one that neither the task nor any of jopt's has is made from its name.

    Args:
      key: of the metric, also with the part before it, such as `best_validation_accuracy`.
      scope: the table that it is in.
      task: whose metrics are looked at first.

    Example:
      >>> column("nonzero_parameters").label, column("best_validation_accuracy").label, column("f1_score").format
      ('nonzero parameters', 'best validation accuracy', 'number')
    """
    # A run may have another label for a metric; its format is the same in all tables.
    candidates = [c for c in built_in(task) if c.key == key]
    label, metric = _metric(key, task)
    for candidate in sorted(candidates, key=lambda c: scope not in c.scopes):
        return candidate if scope in candidate.scopes else dataclasses.replace(candidate, label=label)
    if metric is not None:
        return Column(key, label, metric.unit, metric.better, metric.format, origin="task")
    # The name of any other number is all there is to format it by.
    endings = {"accuracy": "percent", "sparsity": "percent", "seconds": "seconds", "bytes": "bytes", "flops": "si"}
    return Column(
        key if key.isidentifier() else "metric", _spaced(key) or "-", format=endings.get(_last(key), "number")
    )


def _metric(key: str, task: Task) -> tuple[str, Metric | None]:
    """How a run's tables call a number, and the metric that it is, of this task or else of one of jopt's."""
    for known in (task.resolved(), *_TASKS):
        metrics = {metric.key: metric for metric in (*known.metrics, known.loss_metric)}
        for part in _PARTS:
            if key.startswith(part) and (metric := metrics.get(key.removeprefix(part))) is not None:
                return _spaced(part) + metric.label, metric
    return _spaced(key), None


def _spaced(key: str) -> str:
    return key.replace("_", " ")


def _last(key: str) -> str:
    return key.rsplit("_", 1)[-1]


def name(key: str, task: Task = CLASSIFIER) -> str:
    """The label of a metric of a run.

    Example:
      >>> name("nonzero_parameters"), name("test_accuracy")
      ('nonzero parameters', 'test accuracy')
    """
    return column(key, task=task).label


def of_run(column: Column) -> Column:
    """The column of a metric, named without the part of the data."""
    parts = ("test ", "validation ", "training ")
    part = next((part for part in parts if column.label.startswith(part)), "")
    return dataclasses.replace(column, label=column.label.removeprefix(part))


def value(key: str, v: object, task: Task = CLASSIFIER) -> str:
    """The value of the metric `key` of a run, in full.

    Example:
      >>> value("accuracy", 0.98765), value("wall_seconds", 75.2), value("bytes", 2048), value("loss", 0.12345678)
      ('98.77%', '1 min 15 s', '2,048 (2.00 KiB)', '0.1235')
      >>> value("flops", 1_920_000), value("bits", None)
      ('1,920,000 (1.92 M)', '-')
    """
    if v is None:
        return "-"
    if isinstance(v, bool) or not isinstance(v, int | float):
        return str(v)
    described = column(key, task=task)
    if described.format == "bytes":
        return f"{integer(v)} ({binary(v)})" if v >= 1024 else integer(v)
    if described.format == "si":
        return f"{integer(v)} ({si(v)})" if v >= 1e6 else integer(v)
    if described.format == "number" and isinstance(v, int):
        return integer(v)
    return text(described, v)


def text(column: Column, v: float | int | None) -> str:
    """A number of a column as tables and figures show it.

    Example:
      >>> from jopt.measure import Column
      >>> text(Column("ms", "latency", "ms", "lower", ".3f"), 1.5), text(Column("n", "n", format="bytes"), 4096)
      ('1.500 ms', '4.00 KiB')
      >>> text(Column("n", "n"), None), text(Column("loss", "loss", "nats"), 0.25)
      ('-', '0.25')
    """
    if v is None:
        return "-"
    named = _NAMED.get(column.format)
    # The named formats bring their unit along; `number` leaves it to the header.
    return named(v) if named else f"{format(v, column.format)} {column.unit}".rstrip()


def short(column: Column, v: float | int | None) -> str:
    """The same where 80 columns must do: fewer digits, and units left to the header.

    Example:
      >>> from jopt.measure import Column
      >>> short(Column("churn", "churn", format="percent"), 0.025), short(Column("d", "d", format="points"), -0.01)
      ('2.5%', '-1.00')
    """
    if v is not None and column.format == "percent" and column.origin != "task":
        return f"{100 * v:.1f}%"
    return text(column, v).removesuffix(" pp")


def titled(column: Column) -> str:
    """The label with its unit, as an axis has it.

    Example:
      >>> titled(column("loss", "stage")), titled(column("accuracy", "stage"))
      ('test loss (nats)', 'test accuracy')
    """
    return f"{column.label} ({column.unit})" if column.unit else column.label


def capitalized(text: str) -> str:
    """The text with a large first letter, the others as they are.

    Example:
      >>> capitalized("macro F1")
      'Macro F1'
    """
    return text[:1].upper() + text[1:]


def number(v: float) -> str:
    """Four significant digits.

    Example:
      >>> number(0.0012345), number(1234.5678), number(1e-9), number(float("nan"))
      ('0.001234', '1235', '1e-09', 'nan')
    """
    # Beyond 1e15 a float no longer holds every integer, so all its digits would be a claim.
    return f"{v:.4g}" if not 1e4 <= abs(v) < 1e15 else integer(round(v))


def integer(v: float) -> str:
    """All digits of a whole number, in groups of three.

    Example:
      >>> integer(1234567)
      '1,234,567'
    """
    return f"{v:,.0f}"


def si(v: float) -> str:
    """Three significant digits and a decimal prefix.

    Example:
      >>> si(1_920_000), si(999), si(23_456_000_000)
      ('1.92 M', '999', '23.5 G')
    """
    return _scaled(v, 1000, ("", " k", " M", " G", " T", " P"))


def binary(v: float) -> str:
    """Bytes with three significant digits and a binary prefix.

    Example:
      >>> binary(512), binary(1024 * 1024), binary(1_066_440)
      ('512 B', '1.00 MiB', '1.02 MiB')
    """
    return _scaled(v, 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def _scaled(v: float, base: int, units: tuple[str, ...]) -> str:
    if abs(v) < base:
        return f"{v:.3g}{units[0]}" if v != int(v) else f"{int(v)}{units[0]}"
    power = 0
    # 999.96 would be written with four digits, so it belongs to the next unit.
    while power < len(units) - 1 and abs(v) >= base * 0.9995:
        v, power = v / base, power + 1
    return f"{v:.{2 if abs(v) < 9.995 else 1 if abs(v) < 99.95 else 0}f}{units[power]}"


def percent(v: float) -> str:
    """A fraction as a percentage, to a hundredth of a point.

    Example:
      >>> percent(0.9), percent(float("nan"))
      ('90.00%', 'nan')
    """
    return f"{100 * v:.2f}%" if math.isfinite(v) else str(v)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
      >>> duration(0.0123), duration(4.56), duration(75.2), duration(3 * 3600 + 61)
      ('12.3 ms', '4.56 s', '1 min 15 s', '3 h 1 min')
    """
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    # 59.96 would be rounded to 60.0.
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    seconds_rounded = round(seconds)
    if seconds_rounded < 3600:
        return f"{seconds_rounded // 60} min {seconds_rounded % 60} s"
    return f"{seconds_rounded // 3600} h {seconds_rounded % 3600 // 60} min"


def clock(seconds: float) -> str:
    """Whole seconds as hours, minutes and seconds.

    Example:
      >>> clock(75.2), clock(3675)
      ('1:15', '1:01:15')
    """
    seconds_rounded = int(seconds)
    hours, minutes = divmod(seconds_rounded // 60, 60)
    return f"{hours}:{minutes:02d}:{seconds_rounded % 60:02d}" if hours else f"{minutes}:{seconds_rounded % 60:02d}"


def points(v: float) -> str:
    """A difference of fractions in percentage points.

    Example:
      >>> points(-0.0125), points(0.0), points(float("nan"))
      ('-1.25 pp', '0.00 pp', 'nan')
    """
    if not math.isfinite(v):
        return str(v)
    # Without this a tiny loss would be written as -0.00.
    rounded = round(100 * v, 2)
    return f"{rounded:+.2f} pp" if rounded else "0.00 pp"


def shorten(text: str, width: int) -> str:
    """The text with its middle left out where it is longer than `width`.

    Example:
      >>> shorten("ResNet_0/BasicBlock_3/Conv_1/kernel", 20)
      'ResNet_0/…v_1/kernel'
    """
    if len(text) <= width:
        return text
    # Paths differ at their ends and share their beginnings, so the middle is what goes.
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


_NAMED: dict[str, Callable[[float], str]] = {
    "percent": percent, "points": points, "bytes": binary, "si": si, "integer": integer, "number": number,
    "seconds": duration,
}  # fmt: skip
