"""The container of a packed file: magic number, version, header and sections, each with a checksum.

    "JOPT", version (1 byte), length of the header (varint), header, CRC-32 of everything before
    then for each section: its bytes, and the CRC-32 of (the header's CRC-32, the section's number, its bytes)

Numbers are little-endian. Checksums and section numbers are uint32.
"""

import struct
import zlib
from collections.abc import Sequence

MAGIC, VERSION = b"JOPT", 1
CHECKSUM_BYTES = 4

_LARGEST_VARINT = 2**63 - 1  # NumPy's sizes and offsets are int64


class CodecError(ValueError):
    """The bytes are not a packed model file, or the file is damaged.

    Attributes:
      where: the part of the file, such as 'model.jopt: section 3 (Dense_0/kernel)', with which the message begins;
        empty if the function that raises was given bytes without a name.
    """

    def __init__(self, text: str, where: str = ""):
        super().__init__(f"{where}: {text}" if where else text)
        self.where = where


def varint(value: int) -> bytes:
    r"""An integer of at least 0 in seven bits a byte, lowest first; every byte but the last has its top bit set.

    Example:
      >>> varint(5), varint(300)
      (b'\x05', b'\xac\x02')
    """
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def signed(value: int) -> bytes:
    """An integer of any sign: the `varint` of 2 v, or of -2 v - 1 for a negative one.

    Example:
      >>> [signed(v)[0] for v in (0, -1, 1, -2)]
      [0, 1, 2, 3]
    """
    return varint(2 * value if value >= 0 else -2 * value - 1)


class Cursor:
    r"""Reads a buffer from left to right, never past its end, and counts what its bytes are spent on.

    Args:
      buffer: the bytes.
      name: of the buffer, which every error has in `where`.

    Attributes:
      spent: kind of `jopt.codec.KINDS` to bytes, as `charge` counted them.

    Example:
      >>> cursor = Cursor(b"\x05\xac\x02ab", "header")
      >>> cursor.varint(), cursor.varint(), bytes(cursor.take(2))
      (5, 300, b'ab')
      >>> cursor.byte()
      Traceback (most recent call last):
      ...
      jopt.codec.container.CodecError: header: needs 1 more bytes at byte 5, 0 remain
    """

    def __init__(self, buffer: bytes | memoryview, name: str):
        self.buffer, self.name, self.position = memoryview(buffer), name, 0
        self.spent: dict[str, int] = {}
        self._charged = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self.buffer) - self.position

    def error(self, text: str) -> CodecError:
        """The error to raise."""
        return CodecError(text, self.name)

    def charge(self, kind: str) -> None:
        """Counts the bytes read since the last call as `kind`."""
        # Only differences of positions are added, so that no byte is counted twice or left out.
        self.spent[kind] = self.spent.get(kind, 0) + self.position - self._charged
        self._charged = self.position

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        if count > self.remaining:
            raise self.error(f"needs {count} more bytes at byte {self.position}, {self.remaining} remain")
        self.position += count
        return self.buffer[self.position - count : self.position]

    def byte(self) -> int:
        """The next byte, as a number."""
        return self.take(1)[0]

    def varint(self, field: str = "a number", largest: int = _LARGEST_VARINT) -> int:
        """The next variable-length integer, at most `largest`; `field` names it in errors."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 56:
                raise self.error(f"{field} before byte {self.position} has more than 63 bits")
        # A number has one encoding only, so that equal models have equal bytes.
        if byte == 0 and shift > 7:
            raise self.error(f"{field} before byte {self.position} ends in zeros")
        if value > largest:
            raise self.error(f"{field} must be at most {largest}, got {value}")
        return value

    def signed(self, field: str = "a number") -> int:
        """The next signed integer."""
        value = self.varint(field)
        return -(value + 1) // 2 if value % 2 else value // 2

    def end(self) -> None:
        """Raises a `CodecError` if bytes remain."""
        if self.remaining:
            raise self.error(f"{self.remaining} bytes too many, from byte {self.position}")


class Budget:
    """Counts memory before it is allocated: a file of five bytes can claim a tensor of 2^60 elements.

    Args:
      max_bytes: memory that may be allocated in all.
      name: of the file, for errors.
    """

    def __init__(self, max_bytes: int, name: str):
        self._remaining, self._max_bytes, self._name = max_bytes, max_bytes, name

    def spend(self, count: int) -> None:
        """Takes `count` bytes for what stays allocated; raises a `CodecError` if there are too few."""
        self.check(count)
        self._remaining -= count

    def check(self, count: int) -> None:
        """Raises a `CodecError` if there are too few bytes for a temporary array of `count`."""
        if count > self._remaining:
            raise CodecError(
                f"the tensors take more than max_bytes = {self._max_bytes}; give a larger one if the file can be "
                "trusted",
                self._name,
            )


UNLIMITED = Budget(2**62, "section")
"""For bytes that were just written by this process."""


def join(header: bytes, sections: Sequence[bytes]) -> bytes:
    """The file of a header and its sections."""
    start = MAGIC + bytes([VERSION]) + varint(len(header)) + header
    checksum = zlib.crc32(start)
    parts = [start, struct.pack("<I", checksum)]
    for number, section in enumerate(sections):
        parts += [section, struct.pack("<I", _section_checksum(checksum, number, section))]
    return b"".join(parts)


class Sections:
    """Opens a file and hands out its sections in order.

    Args:
      data: the file's bytes.
      name: of the file, for errors.

    Attributes:
      header: a `Cursor` over the header, whose checksum is right.

    Raises:
      CodecError: if this is not a packed model file of this version, or its header is damaged.
    """

    def __init__(self, data: bytes | memoryview, name: str):
        self._cursor, self._name, self._number = Cursor(data, name), name, 0
        cursor = self._cursor
        if bytes(cursor.buffer[:4]) != MAGIC:
            raise cursor.error(f"not a packed model: must begin with {MAGIC!r}, got {bytes(cursor.buffer[:4])!r}")
        cursor.take(4)
        if (version := cursor.byte()) != VERSION:
            raise cursor.error(f"version must be {VERSION}, got {version}")
        # Only the length is read before the checksum is compared: damage cannot reach the parser of the header.
        length = cursor.varint("the length of the header")
        self.header = Cursor(cursor.take(length), f"{name}: header")
        expected = zlib.crc32(cursor.buffer[: cursor.position])
        self._checksum = _stored_checksum(cursor)
        _compare(self.header, self._checksum, expected)

    def next(self, length: int, path: str) -> Cursor:
        """The next section, of `length` bytes, of the tensor at `path`; its checksum is right."""
        name = f"{self._name}: section {self._number} ({path})"
        if length + CHECKSUM_BYTES > self._cursor.remaining:
            raise CodecError(
                f"cut off: {length} bytes and a checksum expected, {self._cursor.remaining} remain", name
            )
        section = Cursor(self._cursor.take(length), name)
        expected = _section_checksum(self._checksum, self._number, section.buffer)
        _compare(section, _stored_checksum(self._cursor), expected)
        self._number += 1
        return section

    def end(self) -> None:
        """Raises a `CodecError` if bytes follow the last section."""
        self._cursor.end()


def _section_checksum(header: int, number: int, section: bytes | memoryview) -> int:
    # The header's checksum and the number bind a section to its position in its file: without them, two sections
    # of equal length could be swapped, or come from another file, and every checksum would still be right.
    return zlib.crc32(section, zlib.crc32(struct.pack("<II", header, number)))


def _stored_checksum(cursor: Cursor) -> int:
    return struct.unpack("<I", cursor.take(CHECKSUM_BYTES))[0]


def _compare(part: Cursor, stored: int, expected: int) -> None:
    if stored != expected:
        raise part.error(f"damaged: the stored checksum is {stored:08x}, the bytes give {expected:08x}")
