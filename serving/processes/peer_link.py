"""The end of a connection between two workers that asks: requests that run in the other worker, answered as if they ran here."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from enum import Enum
from itertools import count
from typing import Any, Final, Protocol, cast

from serving.codecs.base import Buffer
from serving.errors import InternalError, Overloaded
from serving.processes.faults import raised
from serving.processes.frames import Frames, Sized
from serving.processes.peer_messages import (
    Answer,
    Cancel,
    Failure,
    Hello,
    Invoke,
    Leaving,
    Ping,
    ToAsker,
    Unserved,
    Welcome,
    pack,
)
from serving.processes.peer_sockets import connect, is_own_user
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Destination, Head, Invocation, Reply
from serving.runtime.placement import Key

log = logging.getLogger("serving.peers")

WELCOME_S: Final = 0.2
"""How long requests wait for a worker that was not connected: one that ended is started again in seconds, and its socket
takes connections all the while."""

WATCH_S: Final = 1.0
SILENT_WATCHES: Final = 3
"""A worker that says nothing for so many times `WATCH_S`, not even to a `Ping`, does not run any more, whatever it holds."""


class State(Enum):
    """Of a link: not connected; connected, and waiting for the other worker; the same, for too long; in use; the other leaves."""

    DOWN = "down"
    OPENING = "opening"
    SILENT = "silent"
    UP = "up"
    LEAVING = "leaving"


class Asker(Protocol):
    """What all links of a worker share."""

    worker: int
    secret: bytes

    def unreachable(self, worker: int) -> None:
        """Nothing should be forwarded there for a moment."""

    def reachable(self, worker: int) -> None:
        """It takes requests again."""

    def overloaded(self, key: Key) -> None:
        """The home of a target refused a request because too much waits for it there."""

    def failed_over(self) -> None:
        """A request was forwarded for nothing, and goes on here."""

    def on_thread(self, work: Callable[[], Any], then: Callable[[Any, BaseException | None], None]) -> None:
        """As `Model.on_thread`."""


class Forwarded:
    """One request that another worker answers. To its caller's front end it is the route and the model that it came to."""

    __slots__ = ("_link", "arrived", "body", "call", "head", "invocation", "key", "model", "plane", "reply", "variant")

    def __init__(
        self,
        link: Link,
        call: int,
        key: Key,
        plane: DataPlane,
        head: Head,
        body: Buffer,
        reply: Reply,
        arrived: float,
    ) -> None:
        self._link = link
        self.call = call
        self.key = key
        self.plane = plane
        self.head = head
        self.body = body
        self.reply = reply
        self.arrived = arrived
        self.model = self
        self.variant = ""
        route = cast("Destination", self)
        self.invocation = Invocation(head, reply, route, 0, (), None, None, arrived, arrived, 0)

    def cancel(self, item: Invocation) -> None:
        """Stands in for `Model.cancel`: the caller hung up."""
        self._link.cancel(self)

    def on_thread(self, work: Callable[[], Any], then: Callable[[Any, BaseException | None], None]) -> None:
        """Stands in for `Model.on_thread`: a large answer is to be compressed."""
        self._link.asker.on_thread(work, then)

    def answered(self, answer: Answer, body: Buffer) -> None:
        """Answers the caller."""
        self.variant = answer.variant
        self.invocation.timings = answer.timings
        # A large body is not copied: front ends only measure, compress and write it, which takes any buffer.
        self.reply.answer(self.invocation, answer.fields, cast("bytes", body))

    def failed(self, failure: Failure) -> None:
        """Tells the caller of the error."""
        self.reply.invocation = None
        self.reply.fail(self.head, raised(failure.error, failure.message, failure.retry_after_s))

    def fail_over(self) -> None:
        """Has the request go on here."""
        self.reply.invocation = None
        try:
            self.plane.invoke(self.head, self.body, self.reply, self.arrived)
        except Exception:
            log.exception("a request that came back from another worker could not be taken")
            self.reply.fail(self.head, InternalError())


class Link:
    """The way to one other worker. Implements `Owner` of its connection, which is made when it is first wanted.

    Whatever becomes of the other worker, each request is answered or goes on here, once: inference may run twice.
    """

    def __init__(self, asker: Asker, worker: int, address: bytes) -> None:
        self.asker = asker
        self.worker = worker
        self.state = State.DOWN
        self.calls: dict[int, Forwarded] = {}
        self.bytes = 0
        """Of the bodies of all requests that are under way."""
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._frames: Frames | None = None
        self._task: asyncio.Task[Any] | None = None
        self._numbers = count(1)
        self._watching = False
        self._silent = 0

    def usable(self) -> bool:
        """Whether the other worker takes requests, as far as is known."""
        if self.state is State.DOWN:
            self._open()
        return self.state is State.OPENING or self.state is State.UP

    def forward(self, key: Key, plane: DataPlane, head: Head, body: Buffer, reply: Reply, arrived: float) -> None:
        """Has the other worker answer; only while `usable`."""
        forwarded = Forwarded(self, next(self._numbers), key, plane, head, body, reply, arrived)
        self.calls[forwarded.call] = forwarded
        self.bytes += len(body)
        reply.invocation = forwarded.invocation
        if self.state is State.UP:
            self._send(forwarded)
        if not self._watching:
            self._watching = True
            self._silent = 0
            self._loop.call_later(WATCH_S, self._watch)

    def cancel(self, forwarded: Forwarded) -> None:
        """The caller hung up."""
        if self._end(forwarded.call) is not None and self._frames is not None and self.state is not State.OPENING:
            self._frames.drop(forwarded.call)
            self._frames.send(Cancel(forwarded.call))

    def close(self) -> None:
        """Ends the connection; nothing is under way any more."""
        if self._task is not None:
            self._task.cancel()
        if self._frames is not None:
            self._frames.abort()

    def _send(self, forwarded: Forwarded) -> None:
        assert self._frames is not None
        body = forwarded.body
        message = Invoke(forwarded.call, len(body), pack(forwarded.head), forwarded.arrived)
        self._frames.send_body(message, body)

    def _end(self, call: int) -> Forwarded | None:
        forwarded = self.calls.pop(call, None)
        if forwarded is not None:
            self.bytes -= len(forwarded.body)
        return forwarded

    # ------------------------------------------------------------------ the connection

    def _open(self) -> None:
        try:
            connection = connect(self._address)
        except OSError:
            return  # nobody listens, or too many wait for the worker to be started
        self.state = State.OPENING
        self._frames = frames = Frames(self, ToAsker, holds_back=False)
        frames.trust()
        self._task = self._loop.create_task(self._connect(connection, frames))
        self._loop.call_later(WELCOME_S, self._expect_welcome, frames)

    async def _connect(self, connection: socket.socket, frames: Frames) -> None:
        try:
            await self._loop.create_unix_connection(lambda: frames, sock=connection)
        except OSError:
            connection.close()
            self.lost(frames)

    def connected(self, frames: Frames) -> None:
        """Implements `Owner`."""
        if not is_own_user(frames.transport.get_extra_info("socket")):
            frames.abort()
            return
        frames.send(Hello(self.asker.worker, self.asker.secret))

    def _expect_welcome(self, frames: Frames) -> None:
        """The worker is not there, or busy: nobody waits for it, but it may still come."""
        if frames is self._frames and self.state is State.OPENING:
            self.state = State.SILENT
            self._fail_over()

    def lost(self, frames: Frames) -> None:
        """Implements `Owner`."""
        self._frames = None
        self.state = State.DOWN
        self._fail_over()

    def _fail_over(self) -> None:
        """Has all that is under way go on here."""
        self.asker.unreachable(self.worker)
        calls, self.calls = self.calls, {}
        self.bytes = 0
        for forwarded in calls.values():
            if not forwarded.reply.closed:
                self.asker.failed_over()
                forwarded.fail_over()

    def _watch(self) -> None:
        """Notices a worker that holds requests and does not run any more."""
        self._watching = bool(self.calls) and self._frames is not None
        if not self._watching or self._frames is None:
            return
        self._loop.call_later(WATCH_S, self._watch)
        self._silent += 1
        if self._silent > SILENT_WATCHES:
            log.error("worker %d does not answer; what it was asked runs here", self.worker)
            self._frames.abort()
        elif self._silent > 1:
            self._frames.send(Ping())

    # ------------------------------------------------------------------ answers

    def wants(self, message: Sized) -> bool:
        """Implements `Owner`."""
        return message.call in self.calls

    def received(self, message: Any, body: Buffer) -> None:
        """Implements `Owner`."""
        self._silent = 0
        if isinstance(message, Answer):
            if (forwarded := self._end(message.call)) is not None:
                forwarded.answered(message, body)
        elif isinstance(message, Failure):
            if (forwarded := self._end(message.call)) is not None:
                if message.error == Overloaded.__name__:
                    self.asker.overloaded(forwarded.key)
                forwarded.failed(message)
        elif isinstance(message, Unserved):
            self._unserved(message.call)
        elif isinstance(message, Welcome):
            self._welcome()
        elif isinstance(message, Leaving):
            self.state = State.LEAVING
            self.asker.unreachable(self.worker)

    def _welcome(self) -> None:
        self.state = State.UP
        self.asker.reachable(self.worker)
        for forwarded in self.calls.values():
            self._send(forwarded)

    def _unserved(self, call: int) -> None:
        # Its wiring is on its way; until then all that is its own is loaded here.
        self.asker.unreachable(self.worker)
        forwarded = self._end(call)
        if forwarded is not None:
            self.asker.failed_over()
            forwarded.fail_over()
