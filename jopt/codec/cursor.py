"""Reading bytes from left to right, never past the end; and the variable-length integers in them."""

from jopt.codec.error import CodecError

_LARGEST = 2**63 - 1


class Cursor:
    r"""Reads a buffer from left to right.

    Args:
      buffer: what is read.
      name: of the buffer, which errors begin with.

    Example:
      >>> cursor = Cursor(b"\x05\xac\x02ab", "header")
      >>> cursor.varint(), cursor.varint(), bytes(cursor.take(2))
      (5, 300, b'ab')
      >>> cursor.byte()
      Traceback (most recent call last):
      ...
      jopt.codec.error.CodecError: header: 1 byte is wanted at byte 5, 0 are left
    """

    def __init__(self, buffer: bytes | memoryview, name: str):
        self.buffer, self.name, self.position = memoryview(buffer), name, 0

    @property
    def left(self) -> int:
        """Bytes that are still to be read."""
        return len(self.buffer) - self.position

    def fail(self, text: str) -> CodecError:
        """The error to raise, with the name of the buffer before `text`."""
        return CodecError(f"{self.name}: {text}")

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        if count > self.left:
            wanted = "1 byte is" if count == 1 else f"{count} bytes are"
            raise self.fail(f"{wanted} wanted at byte {self.position}, {self.left} are left")
        self.position += count
        return self.buffer[self.position - count : self.position]

    def byte(self) -> int:
        """The next byte, as a number."""
        return self.take(1)[0]

    def varint(self, what: str = "a number", largest: int = _LARGEST) -> int:
        """The next variable-length integer, which must not be larger than `largest`; `what` names it in errors."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 56:
                raise self.fail(f"{what} before byte {self.position} has more than 63 bits")
        if byte == 0 and shift > 7:
            raise self.fail(f"{what} before byte {self.position} ends in zeros")
        if value > largest:
            raise self.fail(f"{what} must be at most {largest}, got {value}")
        return value

    def signed(self, what: str = "a number") -> int:
        """The next signed integer: 0, -1, 1, -2, ... are held as 0, 1, 2, 3, ..."""
        value = self.varint(what)
        return -(value + 1) // 2 if value % 2 else value // 2

    def end(self) -> None:
        """Raises a `CodecError` unless all is read."""
        if self.left:
            raise self.fail(f"{self.left} bytes too many, from byte {self.position}")


def varint(value: int) -> bytes:
    r"""An integer of at least 0, seven bits a byte, the lowest first; all bytes but the last have the top bit set.

    Example:
      >>> varint(5), varint(300)
      (b'\x05', b'\xac\x02')
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int) -> bytes:
    """An integer of any sign, as the `varint` of 2 v, or of -2 v - 1 where it is negative.

    Example:
      >>> [signed(v)[0] for v in (0, -1, 1, -2)]
      [0, 1, 2, 3]
    """
    return varint(2 * value if value >= 0 else -2 * value - 1)
