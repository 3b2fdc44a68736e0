"""A process other than the primary: it connects to it, and relays the connections of JAX."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

from jopt.processes.errors import ProcessError
from jopt.processes.layout import Layout
from jopt.processes.team import LOST, Team, all_closed, lost_line
from jopt.processes.wire import PROTOCOL, Channel, Message, Process, pump


class Member(Team):
    """A process that connects to process 0."""

    def __init__(self, layout: Layout, limit: float):
        super().__init__(layout, limit)
        self._results: dict[int, asyncio.Future[Message]] = {}

    async def relay(self, path: Path) -> None:
        """Listens for JAX in this process.

        When a connection to JAX's service breaks, JAX aborts the process with a page of text. The relay keeps its
        end of it, so that this process ends by one line and a status of its own; and the service listens to no
        other machine.
        """
        server = await asyncio.start_unix_server(self._serve(self._relay), path)
        self._servers.append(server)

    async def _open(self, timeout: float) -> None:
        channel = await self._connect(timeout)
        channel.post({"kind": "hello", "protocol": PROTOCOL, "process": self.this})
        address = f"coordinator {self.layout.address}"
        try:
            # The primary gives up after its own time, and says who is absent.
            message = await asyncio.wait_for(channel.receive(), timeout + 10)
        except TimeoutError:
            raise ProcessError(
                address, f"takes connections, but has not answered for {timeout + 10:g} seconds"
            ) from None
        if message is None:
            raise ProcessError(address, "closed the connection: it died, or no process 0 of jopt listens there")
        if message["kind"] == "refused":
            raise ProcessError(message["subject"], message["reason"])
        self.processes = [Process(*process) for process in message["processes"]]
        self._channels[0] = channel
        self._spawn(self._listen(channel))

    async def _connect(self, timeout: float) -> Channel:
        deadline = time.monotonic() + timeout
        while True:
            try:
                connection = self._dial(self.layout.host, self.layout.port)
                return await asyncio.wait_for(connection, max(0.1, deadline - time.monotonic()))
            except OSError as error:
                if time.monotonic() > deadline:
                    reason = f"does not answer within {timeout:g} seconds ({error.strerror or 'timed out'})"
                    message = f"{reason}; is process 0 running there?"
                    raise ProcessError(f"coordinator {self.layout.address}", message) from error
            await asyncio.sleep(0.1)

    async def _listen(self, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            match message["kind"]:
                case "result":
                    self._future(message["number"]).set_result(message["result"])
                case "finished":
                    channel.finished = True
                case "ended" if self._leaving:
                    channel.close()
                case "ended":
                    self._leaving = self._ending = True
                    self._end(message["line"], message["status"])
        if not channel.finished:
            await self._lost(0, "died")

    async def _lost(self, index: int, how: str) -> None:
        if not self._leaving:
            self._leaving = self._ending = True
            self._end(lost_line(self.processes[index], how), LOST)

    def _future(self, number: int) -> asyncio.Future[Message]:
        return self._results.setdefault(number, self._loop.create_future())

    async def _gather(self, number: int, name: str, value: Any, timeout: float | None) -> Message:
        message = {"kind": "give", "number": number, "name": name, "value": value, "timeout": timeout}
        self._channels[0].post(message)
        try:
            return await self._future(number)
        finally:
            del self._results[number]

    async def _fail(self, line: str, status: int) -> None:
        await self._stay_if_ending()
        self._leaving = True
        self._channels[0].post({"kind": "failed", "line": line, "status": status})
        await all_closed(self._channels.values())

    async def _finish(self) -> None:
        await self._stay_if_ending()
        self._leaving = True
        self._channels[0].post({"kind": "finished"})
        self._channels[0].close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connects JAX in this process with its service in the primary."""
        with contextlib.suppress(OSError):
            there = await self._dial(self.layout.host, self.layout.port)
            there.post({"kind": "relay", "protocol": PROTOCOL})
            out = asyncio.ensure_future(pump(reader, there.writer))
            await pump(there.reader, writer)
            # The primary's end is gone, but JAX's stays open: see `relay`.
            await out
            there.close()
        writer.close()
