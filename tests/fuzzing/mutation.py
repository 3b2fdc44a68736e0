"""Changes of bytes, of JSON values and of texts, and the ways to make each smaller."""

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

from jopt.codec.container import varint

BYTES = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 100, 127, 128, 200, 254, 255)

NUMBERS = (0, -1, 1, 2, 3, 7, 64, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308, float("inf"), float("nan"))
TEXTS = ("", "a", " ", "0", "None", "true", "nan", "../x", "/dev/zero", "\0", "\ud800", "ü", "$\\bad{", "x" * 300)
PACKAGE_TEXTS = ("jopt", "jopt.prune:Gradual", "jopt.quantize:Weights", "os:system", "builtins:eval", "stage:a")
VALUES = (None, True, False, *NUMBERS, *TEXTS, *PACKAGE_TEXTS, [], {}, [[]], [None], {"": None}, [1] * 50)
NESTED = 3000

TOKENS = (
    *(
        "None",
        "True",
        "false",
        "nan",
        "inf",
        "-",
        "1e400",
        "1" * 500,
        "0x",
        "1_0",
        "()",
        "[",
        "]",
        "{",
        "}",
        "(" * 300,
    ),
    *(
        ",",
        ":",
        "=",
        ".",
        "..",
        "'",
        '"',
        "\\",
        "\n",
        "\0",
        "\ud800",
        "ü",
        "[0]",
        "[-1]",
        "[99]",
        "stages",
        "prune",
    ),
    *(
        "quantize",
        "bits",
        "sparsity",
        "methods",
        "optimizer",
        "learning_rate",
        "model",
        "features",
        "rules",
        "<",
        "kB",
    ),
)


def change_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Flips, sets, cuts, inserts, doubles or replaces some bytes, one to four times."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randint(0, len(changed)), rng.randint(1, 8)
        kind = rng.randrange(9)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = rng.choice(BYTES)
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            changed[at:at] = rng.randbytes(length)
        elif kind == 4:
            del changed[at : at + length]
        elif kind == 5:
            changed[at : at + length] = bytes(length) if rng.random() < 0.5 else b"\xff" * length
        elif kind == 6:
            changed[at:at] = changed[at : at + length]
        elif kind == 7:
            changed[at : at + 1] = varint(int(2 ** (63 * rng.random())))
        else:
            start = rng.randint(0, len(other))
            changed[at : at + length] = other[start : start + length]
    return bytes(changed)


def smaller_bytes(data: bytes) -> Iterator[bytes]:
    """The bytes without a half, a quarter and so on, at each place."""
    length = len(data) // 2
    while length:
        yield from (data[:at] + data[at + length :] for at in range(0, len(data), length))
        length //= 2


def change_json(rng: random.Random, value: Any, other: Any) -> Any:
    """Replaces, removes, doubles, renames or moves some parts of a JSON value, one to three times."""
    changed = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(changed))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind <= 2:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 3:
            del holder[key]
        elif kind == 4 and isinstance(holder, dict):
            holder[rng.choice((*TEXTS, *list(holder)))] = holder.pop(key)
        elif kind == 4:
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 5:
            holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, str(holder[key]), [holder[key]] * 2))
        elif kind == 6 and (donors := list(_places(other))):
            source, name = rng.choice(donors)
            holder[key] = copy.deepcopy(source[name])
        elif kind == 7 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * rng.choice((-1, 2, 0.5, 1e10)) if abs(holder[key]) < 1e300 else 0
    return changed if rng.random() > 0.02 else rng.choice(VALUES)


def smaller_json(value: Any) -> Iterator[Any]:
    """The value without each of its parts."""
    for number in range(len(list(_places(value)))):
        smaller = copy.deepcopy(value)
        holder, key = list(_places(smaller))[number]
        del holder[key]
        yield smaller


def change_text(rng: random.Random, text: str, other: str) -> str:
    """Inserts, removes, doubles or replaces some characters or tokens, one to three times."""
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randint(0, len(text)), rng.randint(0, 6)
        kind = rng.randrange(4)
        start = rng.randint(0, len(other))
        inserted = ("", rng.choice(TOKENS), text[at : at + length] * 2, other[start : start + length])[kind]
        text = text[:at] + inserted + text[at + (length if kind != 1 or rng.random() < 0.5 else 0) :]
    return text


def smaller_text(text: str) -> Iterator[str]:
    """The text without each of its characters."""
    return (text[:at] + text[at + 1 :] for at in range(len(text)))


def _places(value: Any) -> Sequence[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    places, pending = [], [value]
    while pending:
        holder = pending.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            places += [(holder, key) for key in keys]
            pending += [holder[key] for key in keys]
    return places
