"""The end of a connection between two workers that answers: what another worker forwards runs here, or fails here."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Any, Final

from serving.codecs.base import Buffer
from serving.errors import InternalError, ServingError
from serving.processes.faults import told
from serving.processes.frames import Frames, Sized
from serving.processes.peer_messages import (
    Answer,
    Cancel,
    Failure,
    Hello,
    Invoke,
    Leaving,
    Ping,
    Pong,
    ToAnswerer,
    Unserved,
    Welcome,
    unpack,
)
from serving.processes.peer_sockets import is_own_user
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Head, Invocation
from serving.runtime.routing import Absent

log = logging.getLogger("serving.peers")

_HELLO_S: Final = 5.0
_MEMO_HEADS: Final = 1024


class Served:
    """Implements `Reply` for a request that came from another worker: its answer goes back there."""

    __slots__ = ("_call", "_service", "closed", "invocation")

    def __init__(self, service: Service, call: int) -> None:
        self.invocation: Invocation | None = None
        self.closed = False
        self._service = service
        self._call = call

    def answer(self, invocation: Invocation, fields: bytes, body: bytes) -> None:
        """Implements `Reply`."""
        if not self.closed:
            variant = invocation.route.variant
            self._service.answer(Answer(self._call, len(body), fields, variant, invocation.timings), body)

    def fail(self, head: Head, error: ServingError) -> None:
        """Implements `Reply`."""
        if not self.closed:
            self._service.fail(self._call, error)

    def hang_up(self) -> None:
        """The caller left: whatever is queued for it is cancelled."""
        self.closed = True
        if self.invocation is not None:
            self.invocation.route.model.cancel(self.invocation)


class Services:
    """All connections on which this worker answers others. Public `memo`: heads seen before; cleared with the lane's."""

    def __init__(self, plane: DataPlane, secret: bytes) -> None:
        self.plane = plane
        self.secret = secret
        self.memo: dict[bytes, Head] = {}
        self.all: set[Service] = set()
        self.leaving = False
        self._calls = 0
        self._changed = asyncio.Event()

    def connection(self) -> Frames:
        """The protocol of a new connection."""
        return Frames(Service(self), ToAnswerer, holds_back=True)

    def head(self, packed: bytes) -> Head:
        """A head, with the route that it had the last time."""
        head = self.memo.get(packed)
        if head is None:
            head = unpack(packed)
            if len(self.memo) >= _MEMO_HEADS:
                self.memo.clear()
            self.memo[packed] = head
        return head

    @property
    def calls(self) -> int:
        """How many requests of other workers are under way."""
        return self._calls

    def began(self) -> None:
        """A request came."""
        self._calls += 1

    def ended(self, count: int = 1) -> None:
        """Requests were answered, or their callers left."""
        self._calls -= count
        self._changed.set()

    def lost(self, service: Service) -> None:
        """A connection is gone."""
        self.all.discard(service)
        self._changed.set()

    def leave(self) -> None:
        """Tells the other workers to send no more requests."""
        self.leaving = True
        for service in self.all:
            service.leave()

    async def close(self) -> None:
        """Waits until what is under way is answered and the answers are sent, and ends all connections."""
        self.leave()
        while self._calls:
            await self._change()
        for service in list(self.all):
            service.close()
        while self.all:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Service:
    """One connection: implements `Owner`. Whoever connects is a stranger until it said the secret."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._plane = services.plane
        self._frames: Frames | None = None
        self._known = False
        self._served: dict[int, Served] = {}

    @property
    def frames(self) -> Frames:
        """The connection."""
        assert self._frames is not None
        return self._frames

    # ------------------------------------------------------------------ the connection

    def connected(self, frames: Frames) -> None:
        """Implements `Owner`."""
        self._frames = frames
        if not is_own_user(frames.transport.get_extra_info("socket")):
            log.warning("a process of another user connected to this worker's socket and was turned away")
            frames.abort()
            return
        self._services.all.add(self)
        asyncio.get_running_loop().call_later(_HELLO_S, self._expect_hello)

    def lost(self, frames: Frames) -> None:
        """Implements `Owner`: the other worker is gone, and its callers with it."""
        self._services.lost(self)
        served, self._served = self._served, {}
        self._services.ended(len(served))
        for reply in served.values():
            reply.hang_up()

    def leave(self) -> None:
        """No more requests are taken."""
        if self._known:
            self.frames.send(Leaving())

    def close(self) -> None:
        """Ends the connection once all answers are sent."""
        self.frames.close()

    def _expect_hello(self) -> None:
        if not self._known:
            self.frames.abort()

    # ------------------------------------------------------------------ requests

    def wants(self, message: Sized) -> bool:
        """Implements `Owner`: a caller who leaves is told of in order."""
        return True

    def received(self, message: Any, body: Buffer) -> None:
        """Implements `Owner`."""
        if not self._known:
            self._meet(message)
        elif isinstance(message, Invoke):
            self._invoke(message, body)
        elif isinstance(message, Cancel):
            self._cancel(message.call)
        elif isinstance(message, Ping):
            self.frames.send(Pong())

    def _meet(self, message: Any) -> None:
        if not isinstance(message, Hello) or not hmac.compare_digest(message.secret, self._services.secret):
            log.warning(
                "a process that is no worker of this server connected to this worker's socket and was turned away"
            )
            self.frames.abort()
            return
        self._known = True
        self.frames.trust()
        self.frames.send(Leaving() if self._services.leaving else Welcome())

    def _invoke(self, message: Invoke, body: Buffer) -> None:
        head = self._services.head(message.head)
        snapshot = self._plane.snapshot
        if (snapshot.default if head.name is None else head.name) not in snapshot.multi:
            self.frames.send(Unserved(message.call))
            return
        reply = Served(self, message.call)
        self._served[message.call] = reply
        self._services.began()
        try:
            self._forget_old_route(head)
            self._plane.invoke(head, body, reply, message.arrived)
        except Exception:
            log.exception("a request of another worker could not be taken")
            self.fail(message.call, InternalError())

    def _forget_old_route(self, head: Head) -> None:
        """Lets a head that was seen before find its way again where its model was unloaded or replaced since."""
        if head.route is not None:
            try:
                if self._plane.snapshot.find(head) is head.route.endpoint:
                    return
            except (Absent, ServingError):
                pass
            head.route = None

    def _cancel(self, call: int) -> None:
        self.frames.drop(call)
        reply = self._end(call)
        if reply is not None:
            reply.hang_up()

    def _end(self, call: int) -> Served | None:
        reply = self._served.pop(call, None)
        if reply is not None:
            self._services.ended()
        return reply

    # ------------------------------------------------------------------ answers

    def answer(self, message: Answer, body: Buffer) -> None:
        """Sends an answer."""
        reply = self._end(message.call)
        if reply is not None:
            self.frames.send_body(message, body)

    def fail(self, call: int, error: ServingError) -> None:
        """Sends an error."""
        reply = self._end(call)
        if reply is not None:
            self.frames.send(Failure(call, *told(error), error.retry_after_s))
