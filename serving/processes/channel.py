"""The channel between the supervisor and a worker: typed messages over a Unix socket.

Each message is a 4-byte big-endian length and MessagePack. Both ends run the same code of the same version.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec

from serving.control.call import Answer, Request
from serving.runtime.tracing import TraceSetting
from serving.runtime.wiring import EndpointWiring, Located
from serving.settings import Settings
from serving.telemetry.accumulators import Sample
from serving.telemetry.logs import Enabled

_LENGTH = struct.Struct(">I")
_MAX_BYTES = 256 * 1024 * 1024
_MOST_BACKLOG = 1024 * 1024


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker, first: who it is and what is set.

    `peers` are the sockets of all workers by their numbers, `secret` is what only workers know.
    """

    worker: int
    settings: Settings
    origins: tuple[str, ...]
    hosts: tuple[str, ...]
    peers: tuple[bytes, ...]
    secret: bytes


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: load this, beside what is in force, and keep it for a `Wire` until told to `Forget` it.

    `alone`: while nothing else that was to be prepared is loaded.
    """

    call: int
    endpoint: EndpointWiring
    alone: bool


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: what was loaded for these `Prepare`s and is not in force need not be kept, loaded yet or not."""

    calls: tuple[int, ...]


class Wire(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: put this snapshot in force; of each endpoint's versions the newest comes first."""

    version: int
    endpoints: tuple[EndpointWiring, ...]
    default: str | None


class Collect(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: tell what you count or hold: `metrics`, `targets`, or of one model, where `name` is set, `models` and
    `statistics`. Whatever else `what` is, the answer only tells that all before it was carried out.
    """

    call: int
    what: str
    name: str | None


class Gathered(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: the answer to its `Ask`, or the class and the message of the error."""

    call: int
    body: bytes
    error: str = ""
    message: str = ""


class Answered(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: the answer to its `Call`."""

    call: int
    answer: Answer


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: finish what is in flight, then end."""


class Began(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor, before it does so: it loads this, for a `Prepare`, or, where `call` is 0, for a `Wire`."""

    load: int
    call: int
    endpoint: EndpointWiring


class Ended(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: a load that it began has ended, well or not."""

    load: int


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: what was asked for is loaded, or why not."""

    call: int
    why: str


class Wired(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: a snapshot is in force, but for the endpoints in `missing`, and why each could not be loaded."""

    version: int
    missing: tuple[tuple[EndpointWiring, str], ...]
    lines: tuple[str, ...]


class Unfit(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor, last: why it cannot serve at all."""

    why: str


class Collected(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: the answer to `Collect`: metric samples, or JSON."""

    call: int
    samples: list[Sample]
    body: bytes


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: a caller of mine wants what all workers know, or something of the model repository."""

    call: int
    what: str
    name: str | None
    body: bytes = b""


class Call(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: a caller of mine calls an AWS API."""

    call: int
    request: Request


class Locate(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: get the artifact of a target onto the disk, unless its revision is still `revision`.

    Until `Release` with the same number nothing may take it away from there.
    """

    call: int
    endpoint: str
    target: str
    revision: str = ""


class Adjust(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: what your log lets through, and what you trace, by model, from now on."""

    logs: Enabled
    traces: dict[str, TraceSetting]


class Traced(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: requests that it traced, each as the name of its setting and an object of JSON."""

    traces: list[tuple[str, bytes]]


class Found(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: the answer to `Locate`; neither artifact nor error: its revision is still the same.

    `error` and `message` are the class and the message of the error, `retry_after_s` how long it is to be believed.
    """

    call: int
    located: Located | None = None
    error: str = ""
    message: str = ""
    retry_after_s: float = 0.0


class Release(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: what was found under this number is not read any more."""

    call: int


class TargetBegan(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor, before it does so: it loads this target."""

    load: int
    endpoint: str
    target: str


class TargetEnded(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: a load of a target that it began has ended, well or not."""

    load: int


class Lease(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: what its targets may take of memory from now on, in bytes."""

    memory_bytes: int


class Held(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor, each second in which it changed: bytes that its targets take, and that it had to refuse or evict.

    `lease_bytes`: the last `Lease` that it keeps to, so that what a worker gave up is only given away once it knows.
    """

    memory_bytes: int
    pressure_bytes: int
    lease_bytes: int = 0


class Change(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker: load a target now (`load`), or take it out of memory (`unload`)."""

    call: int
    what: str
    endpoint: str
    target: str


class Changed(msgspec.Struct, frozen=True, tag=True):
    """Worker to supervisor: the answer to `Change`, once it is done, or the class and the message of the error."""

    call: int
    error: str = ""
    message: str = ""


ToWorker: TypeAlias = (
    Begin | Prepare | Forget | Wire | Collect | Gathered | Answered | Drain | Found | Lease | Change | Adjust
)
ToSupervisor: TypeAlias = (
    Began
    | Ended
    | Prepared
    | Wired
    | Unfit
    | Collected
    | Ask
    | Call
    | Locate
    | Release
    | TargetBegan
    | TargetEnded
    | Held
    | Changed
    | Traced
)


class Channel:
    """One end of the channel; `expects` is the union of messages that the other end sends. Paths travel as text."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, expects: Any) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = msgspec.msgpack.Encoder(enc_hook=str)
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(expects, dec_hook=_decode)

    async def sent(self) -> None:
        """Returns once all that was sent is the kernel's, so that it arrives even if this process ends now."""
        self._writer.transport.set_write_buffer_limits(0)
        with suppress(ConnectionError):
            await self._writer.drain()

    def send(self, message: ToWorker | ToSupervisor) -> None:
        """Queues a message; lost when the other end is gone, which its reader notices."""
        if not self._writer.is_closing():
            body = self._encoder.encode(message)
            self._writer.write(_LENGTH.pack(len(body)) + body)

    def offer(self, message: ToWorker | ToSupervisor) -> bool:
        """Queues a message that may be lost, unless much waits already; whether it did."""
        if self.backlog > _MOST_BACKLOG:
            return False
        self.send(message)
        return True

    @property
    def backlog(self) -> int:
        """Bytes that were sent and that the kernel has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    async def receive(self) -> Any:
        """The next message, or None when the other end is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > _MAX_BYTES:
                return None
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """Closes this end."""
        self._writer.close()


def _decode(wanted: type, value: Any) -> Any:
    return wanted(value)
