"""What the primary and the members of a run have in common: a thread that talks, and calls that wait for it."""

import asyncio
import contextlib
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

from jopt.processes.errors import ProcessError
from jopt.processes.layout import Layout
from jopt.processes.wire import Channel, Message, Process, this_process

T = TypeVar("T")
Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]

LOST = os.EX_TEMPFAIL
"""Exit status (75) of a process whose peer died: the same command goes on."""

# For the last words of a process that ends to reach the others.
_GOODBYE_SECONDS = 5.0


class Team:
    """This process among the others. A thread with an event loop sends, receives and watches.

    A process whose connection breaks before it has finished has died: the kernel closes it however the process
    ends. One that sends nothing for `limit` seconds is stuck, or its machine is gone. Both end this process, as a
    main thread that waits inside of XLA for the numbers of a dead process cannot be woken.

    Attributes:
      layout: where this process is among the others.
      processes: all of them, by index, after `open`.
    """

    def __init__(self, layout: Layout, limit: float):
        self.layout, self.limit = layout, limit
        self.this = this_process(layout.index, layout.count)
        self.processes: list[Process] = []
        self._channels: dict[int, Channel] = {}
        self._numbers = itertools.count()
        # No longer ended by the others: it has finished, or ends with an error.
        self._leaving = False
        self._ending = False
        self._servers: list[asyncio.Server] = []
        self._writers: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="jopt-processes", daemon=True)
        self._thread.start()

    def open(self, timeout: float) -> None:
        """Waits until all processes have met.

        Raises:
          ProcessError: if they do not within `timeout` seconds, or do not fit together.
          ConfigError: if the primary cannot listen at its address.
        """
        try:
            self.call(self._open(timeout))
            self.call(self._watch())
        except BaseException:
            self.close()
            raise

    def gather(self, name: str, value: Any, timeout: float | None = None) -> list[Any]:
        """The values that all processes give, by index; all must call it in the same order.

        Args:
          name: what the processes agree on; another one at the same time is an error in all of them.
          value: of JSON.
          timeout: in seconds; None waits as long as all processes live.

        Raises:
          ProcessError: if the names differ, or a process does not come in time.
        """
        result = self.call(self._gather(next(self._numbers), name, value, timeout))
        if "error" in result:
            raise ProcessError(name, result["error"])
        return result["values"]

    async def relay(self, path: Path) -> None:
        """Lets JAX in this process reach its coordination service at a socket of this machine."""
        raise NotImplementedError

    def fail(self, line: str, status: int) -> None:
        """Ends the other processes, with a line that names this one and its error, and lets this one go on.

        The thread stays, with the connections of JAX.
        """
        self.call(self._fail(line, status))

    def finish(self) -> None:
        """Leaves, after all others have called it too."""
        self.call(self._finish())
        self.close()

    def wait_for_verdict(self) -> None:
        """Waits as long as it may take to notice that another process is dead, which ends this one."""
        time.sleep(self.limit + 1)

    def close(self) -> None:
        """Stops the thread."""

        async def stop() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for closing in (*self._servers, *self._writers):
                closing.close()
            closed = asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closed, 1)
            self._loop.call_soon(self._loop.stop)

        if self._thread.is_alive():
            self.call(stop())
            self._thread.join()
            self._loop.close()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _dial(self, host: str, port: int) -> Channel:
        """Connects to an address."""
        reader, writer = await asyncio.open_connection(host, port)
        self._writers.add(writer)
        return Channel(reader, writer)

    def _serve(self, handle: Handler) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        """What a server does with a connection."""

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            self._spawn(handle(reader, writer))

        return connected

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine beside the others; its error is a defect, and must not leave a process unwatched."""

        async def guarded() -> None:
            try:
                await coroutine
            except Exception as error:
                self._end(f"cannot watch the other processes: {type(error).__name__}: {error}", 1)

        task = self._loop.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, timeout: float) -> None:
        raise NotImplementedError

    async def _gather(self, number: int, name: str, value: Any, timeout: float | None) -> Message:
        raise NotImplementedError

    async def _fail(self, line: str, status: int) -> None:
        raise NotImplementedError

    async def _finish(self) -> None:
        raise NotImplementedError

    async def _lost(self, index: int, how: str) -> None:
        """Ends this process because another one is gone."""
        raise NotImplementedError

    async def _watch(self) -> None:
        for channel in self._channels.values():
            channel.heard = time.monotonic()
        self._spawn(self._tick())

    async def _tick(self) -> None:
        """Tells the others that this process lives, and looks for those that do not tell."""
        interval = min(1.0, self.limit / 5)
        before = time.monotonic()
        while True:
            await asyncio.sleep(interval)
            now = time.monotonic()
            if now - before > 2 * interval:
                # This process was stopped itself, maybe with all others, and has heard nobody meanwhile.
                for channel in self._channels.values():
                    channel.heard = now
            before = now
            for index, channel in list(self._channels.items()):
                channel.post({"kind": "alive"})
                if now - channel.heard > self.limit and not channel.finished:
                    await self._lost(index, f"has not answered for {self.limit:g} seconds")

    async def _end_for(self, line: str, status: int, informed: Iterable[Channel]) -> None:
        """Ends this process after others have been told why."""
        self._ending = True
        for channel in informed:
            channel.post({"kind": "ended", "line": line, "status": status})
        await all_closed(informed)
        self._end(line, status)

    async def _stay_if_ending(self) -> None:
        """Keeps the main thread, which may have an error because another process died, until this one ends."""
        while self._ending:
            await asyncio.sleep(1)

    def _end(self, line: str, status: int) -> NoReturn:
        # Another thread may wait with the lock of standard output.
        flush = threading.Thread(target=_flush, daemon=True)
        flush.start()
        flush.join(1)
        with contextlib.suppress(OSError):
            os.write(2, f"[process {self.this.index}] {line}\n".encode(errors="replace"))
        os._exit(status)


def lost_line(process: Process, how: str) -> str:
    """The line about a process that is gone."""
    return f"{process} {how}; the same command continues from the last checkpoint"


async def all_closed(channels: Iterable[Channel]) -> None:
    """Waits until the other ends have read what was posted and closed, or for some seconds."""
    waits = [asyncio.ensure_future(channel.closed.wait()) for channel in channels]
    if waits:
        await asyncio.wait(waits, timeout=_GOODBYE_SECONDS)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
