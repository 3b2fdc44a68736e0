"""Code lengths in few bytes: neighbours of a sorted codebook, and of gaps, have codes of like length."""

import itertools

import numpy as np

from jopt.codec.error import CodecError

_FIXED, _STEPS, _RUNS = "00", "01", "10"


def pack_lengths(lengths: np.ndarray) -> bytes:
    """The shortest of three forms; nothing for an alphabet of one.

    `00` and two bits: each length in 1 to 4 bits. `01`: the first length in 4 bits, then the step to the next one,
    0 as `0`, and d as |d| ones, a zero and the sign. `10`: the lengths of what occurs in that way, after the runs
    of what occurs and what does not (in Elias's gamma code; the first bit says which of them begins).

    Args:
      lengths: (alphabet,) of 0 to 15.

    Returns:
      The bytes; the alphabet's size is not among them.

    Example:
      >>> pack_lengths(np.array([5, 4, 3, 2, 2, 2, 4, 5], np.uint8)).hex()
      '56486d'
    """
    values = [int(n) for n in np.asarray(lengths)]
    if values and (min(values) < 0 or max(values) > 15):
        raise ValueError(f"lengths must lie in 0 to 15, got {min(values)} to {max(values)}")
    if len(values) < 2:
        return b""
    width = max(1, max(values).bit_length())
    forms = [_FIXED + f"{width - 1:02b}" + "".join(f"{n:0{width}b}" for n in values)]
    used = [n for n in values if n]
    if len(used) == len(values):
        forms.append(_STEPS + _steps(values))
    else:
        forms.append(_RUNS + _runs([n > 0 for n in values]) + _steps(used))
    bits = min(forms, key=len)
    return np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0")).tobytes()


def unpack_lengths(buffer: bytes | memoryview | np.ndarray, alphabet: int) -> tuple[np.ndarray, int]:
    """The lengths `pack_lengths` was given.

    Args:
      buffer: begins with them; what follows is left alone.
      alphabet: number of symbols.

    Returns:
      (alphabet,) uint8 lengths, and how many bytes they took.

    Raises:
      CodecError: if the buffer ends too early or does not hold `alphabet` lengths of 0 to 15 in one of the forms.

    Example:
      >>> unpack_lengths(bytes.fromhex("56486dffff"), 8)
      (array([5, 4, 3, 2, 2, 2, 4, 5], dtype=uint8), 3)
    """
    if alphabet < 0 or alphabet > 1 << 16:
        raise CodecError(f"an alphabet must have 0 to 65536 symbols, got {alphabet}")
    if alphabet < 2:
        return np.zeros(alphabet, np.uint8), 0
    # No form takes more than 32 bits a symbol: two for its run, and 30 for a step of 15.
    data = np.frombuffer(buffer, np.uint8)[: 8 + 4 * alphabet]
    reader = _Reader((np.unpackbits(data) + np.uint8(ord("0"))).tobytes().decode())
    form = reader.take(2)
    if form == _FIXED:
        width = int(reader.take(2), 2) + 1
        bits = reader.take(width * alphabet)
        values = [int(bits[i : i + width], 2) for i in range(0, len(bits), width)]
    elif form == _STEPS:
        values = reader.steps(alphabet)
    elif form == _RUNS:
        flags = reader.runs(alphabet)
        used = iter(reader.steps(sum(flags)))
        values = [next(used) if flag else 0 for flag in flags]
    else:
        raise CodecError(f"a table of code lengths begins with 00, 01 or 10, got {form}")
    return np.array(values, np.uint8), reader.finish()


def _steps(values: list[int]) -> str:
    if not values:
        return ""
    steps = (b - a for a, b in itertools.pairwise(values))
    return f"{values[0]:04b}" + "".join("1" * abs(d) + "0" + ("" if not d else str(int(d > 0))) for d in steps)


def _runs(flags: list[bool]) -> str:
    edges = [0, *(i for i in range(1, len(flags)) if flags[i] != flags[i - 1]), len(flags)]
    runs = (f"{b - a:b}" for a, b in itertools.pairwise(edges))
    return str(int(flags[0])) + "".join("0" * (len(run) - 1) + run for run in runs)


class _Reader:
    """Reads a text of 0 and 1 from its start."""

    def __init__(self, bits: str):
        self.bits, self.at = bits, 0

    def take(self, count: int) -> str:
        part = self.bits[self.at : self.at + count]
        if len(part) < count:
            raise CodecError("a table of code lengths ends too early")
        self.at += count
        return part

    def unary(self, bit: str, limit: int) -> int:
        """How often `bit` comes before the other one, which is skipped."""
        end = self.bits.find("1" if bit == "0" else "0", self.at, self.at + limit + 1)
        if end < 0:
            raise CodecError(f"a table of code lengths ends too early, or repeats {bit} more than {limit} times")
        count, self.at = end - self.at, end + 1
        return count

    def steps(self, count: int) -> list[int]:
        if not count:
            return []
        values = [int(self.take(4), 2)]
        while len(values) < count:
            step = self.unary("1", 15)
            if step and self.take(1) == "0":
                step = -step
            values.append(values[-1] + step)
            if not 0 <= values[-1] <= 15:
                raise CodecError(f"a code length must lie in 0 to 15, got {values[-1]}")
        return values

    def runs(self, count: int) -> list[bool]:
        flag, flags = self.take(1) == "1", []
        while len(flags) < count:
            digits = self.unary("0", 16)
            run = int("1" + self.take(digits), 2)
            if run > count - len(flags):
                raise CodecError(f"runs of code lengths must end at {count}, got {len(flags) + run}")
            flags.extend([flag] * run)
            flag = not flag
        return flags

    def finish(self) -> int:
        """Bytes that were read."""
        if "1" in self.take(-self.at % 8):
            raise CodecError("the bits after a table of code lengths must be 0")
        return self.at // 8
