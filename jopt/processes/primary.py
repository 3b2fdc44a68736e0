"""The primary process, to which all others connect."""

import asyncio
import ipaddress
from pathlib import Path
from typing import Any

from jopt.config import ConfigError
from jopt.processes.errors import ProcessError
from jopt.processes.layout import Layout
from jopt.processes.team import LOST, Team, all_closed, lost_line
from jopt.processes.wire import PROTOCOL, Channel, Message, Process, pump

# For the first message of whoever connects.
_HELLO_SECONDS = 10.0
# For an error that comes to all processes, at about the same time.
_GRACE_SECONDS = 2.0


class _Round:
    """What the processes give for one `gather`."""

    def __init__(self, result: asyncio.Future[Message]):
        self.names: dict[int, str] = {}
        self.values: dict[int, Any] = {}
        self.result = result
        self.timer: asyncio.TimerHandle | None = None


class Primary(Team):
    """Process 0: it listens, collects what the others give, and tells them who has died."""

    def __init__(self, layout: Layout, limit: float):
        super().__init__(layout, limit)
        self._rounds: dict[int, _Round] = {}
        self._by_index = {layout.index: self.this}
        self._complete: asyncio.Future[None] | None = None
        self._failing = asyncio.Event()
        self._service: asyncio.Future[Path] = self._loop.create_future()

    async def relay(self, path: Path) -> None:
        """Connects members with JAX's service, which listens at this socket soon."""
        self._service.set_result(path)

    async def _open(self, timeout: float) -> None:
        self._complete = self._loop.create_future()
        try:
            # It listens until the end, as JAX connects later.
            where = _interface(self.layout.host), self.layout.port
            self._servers.append(await asyncio.start_server(self._serve(self._accept), *where))
        except OSError as error:
            accepted = f"an address where process 0 can listen ({error.strerror}); is another process 0 running?"
            raise ConfigError("coordinator", self.layout.address, accepted) from error
        try:
            await asyncio.wait_for(asyncio.shield(self._complete), timeout)
        except TimeoutError:
            absent = [index for index in range(self.layout.count) if index not in self._by_index]
            which = f"process {absent[0]} has" if len(absent) == 1 else f"processes {_list(absent)} have"
            reason = (
                f"did not meet all of its {self.layout.count} processes: {which} not come in {timeout:g} seconds"
            )
            raise await self._refuse_all(ProcessError(f"coordinator {self.layout.address}", reason)) from None
        except ProcessError as error:
            raise await self._refuse_all(error) from None
        self.processes = [self._by_index[index] for index in range(self.layout.count)]
        for channel in self._channels.values():
            channel.post({"kind": "welcome", "processes": self.processes})

    async def _refuse_all(self, error: ProcessError) -> ProcessError:
        """Tells the error to all that have come."""
        self._leaving = True
        for channel in self._channels.values():
            _refuse(channel, error)
        await all_closed(self._channels.values())
        return error

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer)
        try:
            hello = await asyncio.wait_for(channel.receive(), _HELLO_SECONDS)
        except TimeoutError:
            hello = None
        match hello:
            case {"protocol": str(protocol), "kind": "relay"} if protocol == PROTOCOL:
                await self._relay(reader, writer)
            case {"protocol": str(protocol), "process": [int(index), int(count), str(host), int(pid)]} if (
                protocol == PROTOCOL
            ):
                await self._welcome(channel, Process(index, count, host, pid))
            case _:
                channel.close()

    async def _welcome(self, channel: Channel, process: Process) -> None:
        """Takes a process in, or says why not, which ends all: a launch that does not fit will not get better."""
        assert self._complete is not None
        error, address = None, f"coordinator {self.layout.address}"
        if self._complete.done():
            error = ProcessError(address, f"has all of its {self.layout.count} processes already")
        elif process.count != self.layout.count:
            reason = f"differs: {self.this} was started with {self.layout.count}, {process} with {process.count}"
            error = ProcessError("num_processes", reason)
        elif not 0 < process.index < process.count:
            # No process of jopt's says so: a stranger's message ends nothing.
            _refuse(channel, ProcessError("process_id", f"{process.index} is none of 1 to {process.count - 1}"))
            return
        elif other := self._by_index.get(process.index):
            error = ProcessError("process_id", f"{process.index} is given twice: to {other} and to {process}")
        if error is not None:
            _refuse(channel, error)
            if not self._complete.done():
                self._complete.set_exception(error)
            return
        self._channels[process.index], self._by_index[process.index] = channel, process
        self._spawn(self._listen(process, channel))
        if len(self._by_index) == self.layout.count:
            self._complete.set_result(None)

    async def _listen(self, process: Process, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            match message["kind"]:
                case "give":
                    self._give(process.index, message)
                case "finished":
                    channel.finished = True
                case "failed" if self._leaving:
                    channel.close()
                case "failed":
                    self._leaving = True
                    # The same error may be on its way here, and what the primary writes about it.
                    await asyncio.wait([asyncio.ensure_future(self._failing.wait())], timeout=_GRACE_SECONDS)
                    if self._failing.is_set():
                        channel.close()
                        continue
                    self._ending = True
                    informed = [other for other in self._channels.values() if other is not channel]
                    await self._end_for(f"{process} ended: {message['line']}", message["status"], informed)
        if not channel.finished:
            await self._lost(process.index, "died")

    async def _lost(self, index: int, how: str) -> None:
        if not self._leaving:
            self._leaving = self._ending = True
            informed = [channel for other, channel in self._channels.items() if other != index]
            if how != "died":
                # It may go on later, and then ends as the others do.
                self._channels[index].post({"kind": "ended", "line": f"this process {how}", "status": LOST})
            await self._end_for(lost_line(self._by_index[index], how), LOST, informed)

    async def _gather(self, number: int, name: str, value: Any, timeout: float | None) -> Message:
        self._give(0, {"number": number, "name": name, "value": value, "timeout": timeout})
        return await asyncio.shield(self._rounds[number].result)

    def _give(self, index: int, message: Message) -> None:
        """Notes what a process gives; the last one, and an error, decide the round."""
        number, name = message["number"], message["name"]
        if number not in self._rounds:
            self._rounds[number] = _Round(self._loop.create_future())
        current = self._rounds[number]
        current.names[index], current.values[index] = name, message["value"]
        if current.result.done():
            self._tell(index, number, current.result.result())
            return
        if message["timeout"] is not None and current.timer is None:
            current.timer = self._loop.call_later(message["timeout"], self._expire, number, message["timeout"])
        first = min(current.names)
        other = next(
            (other for other in sorted(current.names) if current.names[other] != current.names[first]), None
        )
        if other is not None:
            at = [f"{self._by_index[i]} is at {current.names[i]!r}" for i in (first, other)]
            self._decide(number, {"error": f"is not reached by all: {', '.join(at)}"})
        elif len(current.values) == self.layout.count:
            self._decide(number, {"values": [current.values[i] for i in range(self.layout.count)]})

    def _expire(self, number: int, timeout: float) -> None:
        current = self._rounds[number]
        if not current.result.done():
            absent = [str(self._by_index[i]) for i in range(self.layout.count) if i not in current.names]
            self._decide(number, {"error": f"is not reached within {timeout:g} seconds by {', '.join(absent)}"})

    def _decide(self, number: int, result: Message) -> None:
        current = self._rounds[number]
        current.result.set_result(result)
        if current.timer is not None:
            current.timer.cancel()
        for index in current.names:
            self._tell(index, number, result)
        # Whoever comes late to an error must hear of it; values have all been told.
        for past in [past for past in self._rounds if past < number and "values" in _result(self._rounds[past])]:
            del self._rounds[past]

    def _tell(self, index: int, number: int, result: Message) -> None:
        if index in self._channels:
            self._channels[index].post({"kind": "result", "number": number, "result": result})

    async def _fail(self, line: str, status: int) -> None:
        await self._stay_if_ending()
        self._leaving = True
        self._failing.set()
        for channel in self._channels.values():
            channel.post({"kind": "ended", "line": f"{self.this} ended: {line}", "status": status})
        await all_closed(self._channels.values())

    async def _finish(self) -> None:
        await self._stay_if_ending()
        self._leaving = True
        for channel in self._channels.values():
            channel.post({"kind": "finished"})
        await all_closed(self._channels.values())

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = await self._service
        while True:
            try:
                service = await asyncio.open_unix_connection(path)
                self._writers.add(service[1])
                break
            except OSError:
                # JAX has not begun to listen there.
                await asyncio.sleep(0.02)
        await _both_ways(reader, writer, *service)


def _result(past: _Round) -> Message:
    return past.result.result() if past.result.done() else {}


def _refuse(channel: Channel, error: ProcessError) -> None:
    channel.post({"kind": "refused", "subject": error.subject, "reason": error.reason})
    channel.close()


async def _both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    service_reader: asyncio.StreamReader,
    service_writer: asyncio.StreamWriter,
) -> None:
    """Copies bytes in both directions until one end is gone, then closes both."""
    ways = [
        asyncio.ensure_future(pump(reader, service_writer)),
        asyncio.ensure_future(pump(service_reader, writer)),
    ]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    writer.close()
    service_writer.close()


def _interface(host: str) -> str | None:
    """Where to listen: on all interfaces (a name may mean another one elsewhere), or for this machine alone."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return host if ipaddress.ip_address(host).is_loopback else None
    except ValueError:
        return None


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
