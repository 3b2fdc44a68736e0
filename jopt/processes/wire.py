"""Messages between processes: JSON objects, each after its length, over one TCP connection a process."""

import asyncio
import contextlib
import json
import os
import socket
import struct
import time
from typing import Any, NamedTuple, TypeAlias

Message: TypeAlias = dict[str, Any]

PROTOCOL = "jopt-processes-1"
# More is not one of ours: the first bytes of an HTTP request, read as a length, are 1.2 GB.
_MAX_BYTES = 2**28
_LENGTH = struct.Struct(">I")


class Process(NamedTuple):
    """A process of a run.

    Attributes:
      index: from 0, the primary.
      count: of all processes.
      host: name of its machine.
      pid: its number there.

    Example:
      >>> print(Process(1, 4, "node7", 4242))
      process 1 of 4 (node7, pid 4242)
    """

    index: int
    count: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.index} of {self.count} ({self.host}, pid {self.pid})"


def this_process(index: int, count: int) -> Process:
    """The process that asks."""
    return Process(index, count, socket.gethostname(), os.getpid())


class Channel:
    """One end of a connection.

    Attributes:
      heard: `time.monotonic()` when a message came last.
      closed: set once the other end is gone.
      finished: whether the other end has said that it has nothing to do any more.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer
        self.heard = time.monotonic()
        self.closed = asyncio.Event()
        self.finished = False

    def post(self, message: Message) -> None:
        """Sends a message, in the background; does nothing if the other end is gone, which `receive` tells."""
        text = json.dumps(message).encode()
        if not self.writer.is_closing():
            self.writer.write(_LENGTH.pack(len(text)) + text)

    async def receive(self) -> Message | None:
        """The next message; None if the other end is gone or sends anything else than messages."""
        message = None
        with contextlib.suppress(OSError, EOFError, ValueError, RecursionError):
            (size,) = _LENGTH.unpack(await self.reader.readexactly(_LENGTH.size))
            if size <= _MAX_BYTES:
                message = json.loads(await self.reader.readexactly(size))
        if not isinstance(message, dict):
            self.closed.set()
            return None
        self.heard = time.monotonic()
        return message

    def close(self) -> None:
        """Closes the connection, after what was posted."""
        self.writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies bytes until the reader's other end is gone."""
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
