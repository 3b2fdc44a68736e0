"""Numbers and names as people read them."""

import math
from typing import Any

_NAMES = {
    "nonzero_parameters": "nonzero parameters",
    "flops": "FLOPs",
    "wall_seconds": "wall time",
    "compile_seconds": "compile time",
}


def printable(text: str) -> str:
    r"""Text that anybody may have written, without what a terminal could take for a command.

    Example:
      >>> printable("name\x1b[31m")
      'name [31m'
    """
    return "".join(c if c.isprintable() else " " for c in text)


def name(key: str) -> str:
    """The name of a metric in a table.

    Example:
      >>> name("nonzero_parameters"), name("test_accuracy")
      ('nonzero parameters', 'test accuracy')
    """
    return _NAMES.get(key, key.replace("_", " "))


def value(key: str, v: Any) -> str:
    """The value of the metric `key`, in the unit that its name implies.

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
    last = key.rsplit("_", 1)[-1]
    if last in ("accuracy", "sparsity"):
        return percent(v)
    if last == "seconds":
        return duration(v)
    if last == "bytes":
        return f"{integer(v)} ({binary(v)})" if v >= 1024 else integer(v)
    if last == "flops":
        return f"{integer(v)} ({si(v)})" if v >= 1e6 else integer(v)
    return integer(v) if isinstance(v, int) else number(v)


def number(v: float) -> str:
    """Four significant digits.

    Example:
      >>> number(0.0012345), number(1234.5678), number(1e-9), number(float("nan"))
      ('0.001234', '1235', '1e-09', 'nan')
    """
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
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def clock(seconds: float) -> str:
    """Whole seconds as hours, minutes and seconds.

    Example:
      >>> clock(75.2), clock(3675)
      ('1:15', '1:01:15')
    """
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def points(v: float) -> str:
    """A difference of fractions in percentage points.

    Example:
      >>> points(-0.0125), points(0.0), points(float("nan"))
      ('-1.25 pp', '0.00 pp', 'nan')
    """
    if not math.isfinite(v):
        return str(v)
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
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
