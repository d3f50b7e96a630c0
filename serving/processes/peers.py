"""The workers beside this one: cold models live in one of them, and the others forward what they are asked for them.

Implements `serving.runtime.targets.Forwarder`. Where a model lives is `serving.runtime.placement`'s to say; what travels,
`serving.processes.peer_messages`'.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, Final

from serving.codecs.base import Buffer
from serving.errors import Overloaded
from serving.processes.peer_link import Link
from serving.processes.peer_service import Served, Services
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Head, Reply
from serving.runtime.placement import Key, Placement, home
from serving.telemetry.accumulators import Sample

MOST_CALLS: Final = 1024
"""Requests under way to one other worker."""


class Peers:
    """All other workers, as one of them sees them. Lives on one event loop.

    `listener` is this worker's own socket, `addresses` are those of all workers by their numbers, `secret` is what only
    workers know. `max_bytes`: what the bodies that are under way to one other worker may take together; a single one may
    be larger. `copy` has a model loaded that is served by another worker until it is there: it is asked for so often that
    a copy here pays.
    """

    def __init__(
        self,
        worker: int,
        listener: socket.socket,
        addresses: Sequence[bytes],
        secret: bytes,
        plane: DataPlane,
        *,
        max_bytes: int,
        copy: Callable[[Key], None],
        max_calls: int = MOST_CALLS,
    ) -> None:
        self.worker = worker
        self.secret = secret
        self.placement = Placement(worker, len(addresses))
        self.services = Services(plane, secret)
        self._listener = listener
        self._links = [Link(self, number, address) for number, address in enumerate(addresses)]
        self._max_bytes = max_bytes
        self._max_calls = max_calls
        self._copy = copy
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._forwarded = 0
        self._refused = 0
        self._failed_over = 0

    async def start(self) -> None:
        """Begins to take requests of the other workers; once the wiring is in force."""
        self._server = await self._loop.create_unix_server(self.services.connection, sock=self._listener)

    def leave(self) -> None:
        """Takes no more requests of others, who load what they want from here themselves."""
        if self._server is not None:
            self._server.close()
        self.services.leave()

    async def close(self) -> None:
        """Waits until the requests of others are answered, and ends all connections."""
        self.leave()
        await self.services.close()
        for link in self._links:
            link.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    def forward(self, key: Key, plane: DataPlane, head: Head, body: Buffer, reply: Reply, arrived: float) -> bool:
        """Implements `Forwarder`. True: the reply is called later, or was where too much is under way.

        What another worker forwarded is loaded here, so that no request goes round.
        """
        if type(reply) is Served:
            return False
        now = perf_counter()
        placement = self.placement
        worker = placement.elsewhere(key, now)
        if worker is None:
            return False
        link = self._links[worker]
        if not link.usable():
            placement.failed(worker, now)
            return False
        refusal = self._bound(link, len(body))
        if refusal is not None:
            self._refused += 1
            plane.refuse(head, reply, refusal, arrived, plane.snapshot.multi[key[0]].statistics)
            return True
        self._forwarded += 1
        link.forward(key, plane, head, body, reply, arrived)
        if placement.forwarded(key, now):
            self._loop.call_soon(self._copy, key)
        return True

    def is_home(self, key: Key) -> bool:
        """Implements `Forwarder`."""
        return home(key, len(self._links)) == self.worker

    def _bound(self, link: Link, size: int) -> Overloaded | None:
        """Why so many bytes more cannot be under way to another worker."""
        if len(link.calls) < self._max_calls and (not link.bytes or link.bytes + size <= self._max_bytes):
            return None
        return Overloaded(
            f"the worker that holds this model has {len(link.calls)} requests with {link.bytes} bytes under way from "
            f"this one, and {self._max_calls} with {self._max_bytes} bytes are the limit; try again",
            retry_after_s=1,
        )

    def samples(self) -> list[Sample]:
        """The metrics of what goes to and fro between the workers."""
        return [
            Sample("serving_forwarded_requests", "counter", (), self._forwarded),
            Sample("serving_forwarded_refused", "counter", (), self._refused),
            Sample("serving_forwarded_failovers", "counter", (), self._failed_over),
            Sample("serving_forwarded_in_flight", "gauge", (), sum(len(link.calls) for link in self._links)),
            Sample("serving_forwarded_in_flight_bytes", "gauge", (), sum(link.bytes for link in self._links)),
        ]

    # ------------------------------------------------------------------ what links share

    def unreachable(self, worker: int) -> None:
        """Implements `Asker`."""
        self.placement.failed(worker, perf_counter())

    def reachable(self, worker: int) -> None:
        """Implements `Asker`."""
        self.placement.reached(worker)

    def overloaded(self, key: Key) -> None:
        """Implements `Asker`."""
        if self.placement.overloaded(key, perf_counter()):
            self._loop.call_soon(self._copy, key)

    def failed_over(self) -> None:
        """Implements `Asker`."""
        self._failed_over += 1

    def on_thread(self, work: Callable[[], Any], then: Callable[[Any, BaseException | None], None]) -> None:
        """Implements `Asker`."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(2, thread_name_prefix="forwarded")

        def run() -> None:
            try:
                result, error = work(), None
            except BaseException as failure:
                result, error = None, failure
            self._loop.call_soon_threadsafe(then, result, error)

        self._threads.submit(run)
