"""Messages between two workers, with bodies of any size beside them.

A frame is two 4-byte big-endian lengths, a message in MessagePack, and raw bytes: a body, or the first part of one, whose
further parts follow in `More` frames. Parts of several bodies take turns, and other messages go between them, so that
nobody waits for the whole of a large one. The bytes of a large body are read where they are to lie, and are never joined.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import Any, Final, Protocol, cast

import msgspec
import numpy as np

from serving.codecs.base import Buffer

PART_BYTES: Final = 256 * 1024
"""The longest part, and what one turn of the loop sends or reads of a large body: about 0.1 ms."""

_SMALL_BYTES: Final = 64 * 1024
_MOST_BYTES: Final = 64 * 1024 * 1024
_STRANGER_BYTES: Final = 1024
_LENGTHS: Final = struct.Struct(">II")


class Sized(msgspec.Struct, frozen=True, array_like=True):
    """A message with a body of `size` bytes, which is known by the number of its call."""

    call: int
    size: int


class More(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Further bytes of a body."""

    call: int


class Owner(Protocol):
    """Who holds one end of a connection."""

    def connected(self, frames: Frames) -> None:
        """It is there."""

    def wants(self, message: Sized) -> bool:
        """Whether anybody waits for the body of this message, of which more is to come."""

    def received(self, message: Any, body: Buffer) -> None:
        """A message, and its body, if it has one."""

    def lost(self, frames: Frames) -> None:
        """It is gone; called once."""


class _Coming:
    """A body that is being received: its message, and where the rest of it goes."""

    __slots__ = ("body", "message", "rest")

    def __init__(self, message: Sized) -> None:
        self.message = message
        # Reserved, not filled (a bytearray would be): pages are only touched as the bytes come.
        self.body = memoryview(np.empty(message.size, np.uint8).data)
        self.rest = self.body


class _Going:
    """A body that is being sent: what goes before its next part, and the rest of it."""

    __slots__ = ("call", "prefix", "rest")

    def __init__(self, call: int, prefix: bytes, rest: memoryview) -> None:
        self.call = call
        self.prefix = prefix
        self.rest = rest


class Frames(asyncio.BufferedProtocol):
    """One end of a connection; `expects` is the union of messages that the other end sends, `More` among them.

    An end that `holds_back` reads nothing while the other does not read what it is sent: for the end that answers. The
    one that asks always reads, so that the two never wait for each other.
    """

    def __init__(self, owner: Owner, expects: Any, *, holds_back: bool) -> None:
        self._owner = owner
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(expects).decode
        self._holds_back = holds_back
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._limit = _STRANGER_BYTES
        self._buffer = memoryview(bytearray(_SMALL_BYTES))
        self._start = 0
        self._end = 0
        self._coming: dict[int, _Coming] = {}
        self._part: memoryview | None = None  # the rest of the part that is being received
        self._whole: _Coming | None = None  # the body that it is of; None where nobody wants it any more
        self._going: deque[_Going] = deque()
        self._pumping = False
        self._stalled = False  # the other end does not read
        self._resting = False
        self._closing = False
        self.closed = False

    def trust(self) -> None:
        """The other end has said who it is: from now on it may send large messages."""
        self._limit = _MOST_BYTES

    @property
    def transport(self) -> asyncio.Transport:
        """The transport, once connected."""
        assert self._transport is not None
        return self._transport

    # ------------------------------------------------------------------ out

    def send(self, message: msgspec.Struct) -> None:
        """Queues a message without a body; lost when the other end is gone, which the owner is told."""
        if not self.closed:
            packed = self._encode(message)
            self.transport.write(_LENGTHS.pack(len(packed), 0) + packed)

    def send_body(self, message: Sized, body: Buffer) -> None:
        """Queues a message with its body, which must not change until it was sent."""
        if self.closed:
            return
        packed = self._encode(message)
        size = len(body)
        if size <= _SMALL_BYTES:
            self.transport.write(b"".join((_LENGTHS.pack(len(packed), size), packed, body)))
            return
        self._going.append(_Going(message.call, packed, memoryview(body)))
        if not self._pumping:
            self._pump()

    def drop(self, call: int) -> None:
        """Neither sends nor takes further bytes of a body."""
        for going in self._going:
            if going.call == call:
                self._going.remove(going)
                break
        coming = self._coming.pop(call, None)
        if coming is not None and coming is self._whole:
            assert self._part is not None
            self._whole = None
            self._part = _reserved(len(self._part))

    def _pump(self) -> None:
        """Sends one part of the next body; the others have their turns first before the same has another."""
        self._pumping = False
        if self._stalled or self.closed or not self._going:
            return
        going = self._going.popleft()
        part = going.rest[:PART_BYTES]
        self.transport.write(_LENGTHS.pack(len(going.prefix), len(part)) + going.prefix)
        self.transport.write(part)
        going.rest = going.rest[PART_BYTES:]
        if going.rest:
            going.prefix = self._encode(More(going.call))
            self._going.append(going)
        if self._going:
            self._pumping = True
            self._loop.call_soon(self._pump)
        elif self._closing:
            self.transport.close()

    def pause_writing(self) -> None:
        """Implements `asyncio.BaseProtocol`."""
        self._stalled = True
        if self._holds_back:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Implements `asyncio.BaseProtocol`."""
        self._stalled = False
        if self._holds_back:
            self._read_on()
        if not self._pumping:
            self._pump()

    # ------------------------------------------------------------------ in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implements `asyncio.BaseProtocol`."""
        self._transport = cast("asyncio.Transport", transport)
        self._owner.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Implements `asyncio.BaseProtocol`."""
        self.closed = True
        self._going.clear()
        self._coming.clear()
        self._owner.lost(self)

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None and not self.closed:
            self._transport.abort()

    def close(self) -> None:
        """Ends the connection once what was queued is sent."""
        self._closing = True
        if not self.closed and not self._going:
            self.transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Implements `asyncio.BufferedProtocol`."""
        if self._part is not None:
            return self._part
        return self._buffer[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Implements `asyncio.BufferedProtocol`."""
        if self._part is not None:
            self._part = self._part[nbytes:]
            if not self._part:
                self._part_ends()
            self._rest_a_turn()
            return
        self._end += nbytes
        try:
            self._parse()
        except msgspec.DecodeError:
            self.abort()

    def _parse(self) -> None:
        """Takes the frames out of the buffer, and makes room in it for the rest of one."""
        start, end = self._start, self._end
        while end - start >= _LENGTHS.size and not self.closed:
            length, part = _LENGTHS.unpack_from(self._buffer, start)
            if max(length, part) > self._limit:
                self.abort()
                return
            low = start + _LENGTHS.size
            high = low + length
            if end < high:
                break
            message = self._decode(self._buffer[low:high])
            start = min(high + part, end)
            if part or isinstance(message, Sized):
                self._takes(message, self._buffer[high:start], part)
            else:
                self._owner.received(message, b"")
        self._start, self._end = start, end
        self._make_room()

    def _make_room(self) -> None:
        size = self._end - self._start
        if not size:
            self._start = self._end = 0
        start, need = self._start, _LENGTHS.size
        if size >= need:
            need += _LENGTHS.unpack_from(self._buffer, start)[0]
        if start + need > len(self._buffer) or len(self._buffer) > _SMALL_BYTES:
            # What a part is read into must not move; a buffer as large as a message took is not kept after it.
            buffer = memoryview(bytearray(max(need, _SMALL_BYTES)))
            buffer[:size] = self._buffer[start : self._end]
            self._buffer, self._start, self._end = buffer, 0, size

    def _takes(self, message: Any, there: memoryview, part: int) -> None:
        """Takes a body, or a part of one, of which so much is there already."""
        if isinstance(message, Sized):
            if self._limit < _MOST_BYTES:
                self.abort()
                return
            if message.size == len(there):
                self._owner.received(message, bytes(there))
                return
            coming = _Coming(message) if self._owner.wants(message) else None
            if coming is not None:
                self._coming[message.call] = coming
        else:
            coming = self._coming.get(message.call)
        # What was cancelled may be on its way all the same.
        target = _reserved(part) if coming is None else coming.rest[:part]
        target[: len(there)] = there
        self._part = target[len(there) :]
        self._whole = coming
        if coming is not None:
            coming.rest = coming.rest[part:]
        if not self._part:
            self._part_ends()

    def _part_ends(self) -> None:
        coming, self._whole, self._part = self._whole, None, None
        if coming is not None and not coming.rest:
            del self._coming[coming.message.call]
            self._owner.received(coming.message, coming.body)

    def _rest_a_turn(self) -> None:
        """Lets everybody else have a turn: libuv reads up to 32 times for one event."""
        if not self._resting and not self.closed:
            self._resting = True
            self.transport.pause_reading()
            self._loop.call_soon(self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._read_on()

    def _read_on(self) -> None:
        if not self.closed and not self._resting and not (self._stalled and self._holds_back):
            self.transport.resume_reading()


def _reserved(size: int) -> memoryview:
    return memoryview(np.empty(size, np.uint8).data)
