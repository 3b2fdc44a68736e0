"""The container: magic number, version, header, sections; a checksum for each.

    "JOPT", version (1 byte), length of the header (varint), header, CRC-32 of all that
    then each section: its bytes, CRC-32 of (the header's CRC-32, the section's number, its bytes)

Numbers are little-endian, checksums and section numbers uint32. A section's checksum thus belongs to one place in
one file: bytes of another file, or of another section of the same length, do not pass for it.
"""

import struct
import zlib
from collections.abc import Sequence

from jopt.codec.cursor import Cursor, varint
from jopt.codec.error import CodecError

MAGIC, VERSION = b"JOPT", 1
CHECKSUM_BYTES = 4


class Budget:
    """Counts memory before it is used.

    Args:
      max_bytes: how much may be used in all.
      name: of the file, for errors.
    """

    def __init__(self, max_bytes: int, name: str):
        self._left, self._max_bytes, self._name = max_bytes, max_bytes, name

    def spend(self, count: int) -> None:
        """Raises a `CodecError` where `count` bytes more are too many."""
        self.check(count)
        self._left -= count

    def check(self, count: int) -> None:
        """Raises a `CodecError` where `count` bytes, which are given back soon, are too many."""
        if count > self._left:
            raise CodecError(
                f"{self._name}: the tensors take more than max_bytes = {self._max_bytes}; "
                "give a larger one if the file can be trusted"
            )


def join(header: bytes, sections: Sequence[bytes]) -> bytes:
    """The file of a header and its sections."""
    start = MAGIC + bytes([VERSION]) + varint(len(header)) + header
    checksum = zlib.crc32(start)
    parts = [start, struct.pack("<I", checksum)]
    for number, section in enumerate(sections):
        parts += [section, struct.pack("<I", _section_checksum(checksum, number, section))]
    return b"".join(parts)


class Sections:
    """Opens a file and hands out its sections, in order.

    Args:
      data: the file's bytes.
      name: of the file, for errors.

    Attributes:
      header: a `Cursor` over the header, whose checksum is right.

    Raises:
      CodecError: if that is no packed model file, of another version, or its header is damaged.
    """

    def __init__(self, data: bytes | memoryview, name: str):
        self._cursor, self._name, self._number = Cursor(data, name), name, 0
        cursor = self._cursor
        if bytes(cursor.buffer[:4]) != MAGIC:
            raise cursor.fail(f"is no packed model: it must begin with {MAGIC!r}, got {bytes(cursor.buffer[:4])!r}")
        cursor.take(4)
        if (version := cursor.byte()) != VERSION:
            raise cursor.fail(f"is of version {version}; this reads version {VERSION}")
        length = cursor.varint("the length of the header")
        self.header = Cursor(cursor.take(length), f"{name}: header")
        expected = zlib.crc32(cursor.buffer[: cursor.position])
        self._checksum = _unpack(cursor)
        if self._checksum != expected:
            found = self._checksum
            raise self.header.fail(f"is damaged: its checksum is {found:08x}, its bytes give {expected:08x}")

    def next(self, length: int, path: str) -> Cursor:
        """The next section, of `length` bytes, that of the tensor at `path`; its checksum is right."""
        section = Cursor(self._cursor.buffer[:0], f"{self._name}: section {self._number} ({path})")
        if length + CHECKSUM_BYTES > self._cursor.left:
            raise section.fail(f"is cut: it has {length} bytes and a checksum, {self._cursor.left} are left")
        section.buffer = self._cursor.take(length)
        expected = _section_checksum(self._checksum, self._number, section.buffer)
        if (found := _unpack(self._cursor)) != expected:
            raise section.fail(f"is damaged: its checksum is {found:08x}, its bytes give {expected:08x}")
        self._number += 1
        return section

    def end(self) -> None:
        """Raises a `CodecError` if bytes follow the last section."""
        self._cursor.end()


def _section_checksum(header: int, number: int, section: bytes | memoryview) -> int:
    return zlib.crc32(section, zlib.crc32(struct.pack("<II", header, number)))


def _unpack(cursor: Cursor) -> int:
    return struct.unpack("<I", cursor.take(CHECKSUM_BYTES))[0]
