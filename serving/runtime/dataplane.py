"""The data plane: `invoke`, the one way in for every front end, free of any transport."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from time import perf_counter

from serving.codecs.base import Asked, Buffer, Decoded, Encoded
from serving.contract import Array
from serving.errors import InternalError, NotReady, ServingError, Unloaded
from serving.runtime.invocation import Head, Invocation, Reply
from serving.runtime.model import BULK_BYTES
from serving.runtime.routing import Absent, Endpoint, Moved, Route, Snapshot
from serving.runtime.statistics import VariantStatistics
from serving.runtime.streaming import PartStream
from serving.runtime.tracing import Tracing

log = logging.getLogger("serving.dataplane")


class DataPlane:
    """Holds the routing snapshot in force and sends requests through it. Lives on one event loop."""

    def __init__(self) -> None:
        self.snapshot = Snapshot(0, (), None)
        self.draining = False
        self._tracing: Tracing | None = None
        self._refused: list[tuple[VariantStatistics, float]] = []
        self.platform_errors = 0
        """Requests that failed before an endpoint was found for them."""

    def swap(self, snapshot: Snapshot) -> None:
        """Puts a new snapshot in force; requests under way finish in the one they began in."""
        snapshot.tracing = self._tracing
        self.snapshot = snapshot

    def trace(self, tracing: Tracing) -> None:
        """Traces these requests from now on: a copy of the snapshot in force takes its place, so that no route outlives it."""
        if self._tracing is None and not tracing.on:
            return
        if self._tracing is not None:
            self._tracing.flush()
        self._tracing = tracing if tracing.on else None
        self.swap(copy(self.snapshot))

    def invoke(self, head: Head, body: Buffer, reply: Reply, arrived: float = 0.0) -> None:
        """Takes a request; its reply is called later, or before this returns where the request is refused.

        `arrived`: it goes on, and this is when it came (seconds of `time.perf_counter`).
        """
        began = perf_counter()
        arrived = arrived or began
        route = head.route
        looked_up = route is None
        try:
            if route is None or route.snapshot is not self.snapshot:
                route = head.route = None
                route = head.route = self.snapshot.route(head)
            if len(body) > BULK_BYTES:
                self._invoke_bulk(head, route, body, reply, arrived, began)
                return
            self._enqueue(head, route, route.decode(body), reply, arrived, began)
        except Absent as absent:
            absent.endpoint.take(self, head, body, reply, arrived)
        except Unloaded as error:
            # The model went after the head was routed to it, or was replaced.
            head.route = None
            if looked_up:
                self._refuse(head, route, reply, error, arrived)
            else:
                self.invoke(head, body, reply, arrived)
        except ServingError as error:
            self._refuse(head, route, reply, error if route is None else route.told(error, empty=not body), arrived)
        except Exception as error:
            _tell(route, "a request could not be taken", error)
            self._refuse(head, route, reply, InternalError(), arrived)

    def refuse(
        self, head: Head, reply: Reply, error: ServingError, arrived: float, statistics: VariantStatistics
    ) -> None:
        """Tells a caller whose request got to no model, and counts it."""
        if not reply.closed:
            reply.invocation = None
            statistics.failed(error)
            self._fail(head, reply, error, arrived, statistics)

    async def settled(self, head: Head) -> Endpoint:
        """What a head names, loaded where it has to be. Raises the `ServingError` to answer with."""
        while True:
            try:
                return self.snapshot.find(head)
            except Absent as absent:
                with suppress(Moved):
                    await absent.endpoint.load(absent.target, head.timeout_s)

    async def stream(self, head: Head, body: Buffer, frame: Callable[[bytes], bytes]) -> PartStream:
        """Opens the stream of a request to a model whose container streams, and begins its first part.

        `frame` is what becomes of each part's bytes; it runs on a slot thread. Raises, and counts, the `ServingError` to
        answer with.
        """
        arrived = perf_counter()
        route: Route | None = None
        try:
            route = await self._routed(head)
            # It may be replaced or unloaded meanwhile, but is not closed.
            route.model.hold()
            try:
                return await self._open(head, route, body, frame, arrived)
            finally:
                route.model.release()
        except ServingError as error:
            self._count(route, error)
            raise
        except Exception as error:
            _tell(route, "a stream could not be opened", error)
            failure = InternalError()
            self._count(route, failure)
            raise failure from error

    async def _open(
        self, head: Head, route: Route, body: Buffer, frame: Callable[[bytes], bytes], arrived: float
    ) -> PartStream:
        decoded = route.decode(body) if len(body) <= BULK_BYTES else await asyncio.to_thread(route.decode, body)
        if route.model.streams is None:
            raise NotReady(f"model '{route.model.name}' does not answer in parts any more")
        asked = decoded[3]
        timeout_s = route.timeout_s
        if head.timeout_s is not None:
            timeout_s = min(timeout_s, head.timeout_s)
        if asked is not None and asked.timeout_us:
            timeout_s = min(timeout_s, asked.timeout_us * 1e-6)
        encode = partial(_encode_part, route, asked, frame)
        return route.model.streams.start(decoded, encode, route.statistics, arrived, timeout_s)

    async def _routed(self, head: Head) -> Route:
        while True:
            await self.settled(head)
            try:
                return self.snapshot.route(head)
            except Absent:
                continue

    def _enqueue(self, head: Head, route: Route, decoded: Decoded, reply: Reply, arrived: float, began: float) -> None:
        rows, columns, signature, asked = decoded
        # The model's own limit is none on how long it takes to be loaded.
        deadline = began + route.timeout_s
        if head.timeout_s is not None:
            deadline = min(deadline, arrived + head.timeout_s)
        priority = route.model_priority
        if asked is not None:
            if asked.timeout_us:
                deadline = min(deadline, arrived + asked.timeout_us * 1e-6)
            if asked.priority:
                priority = asked.priority
        invocation = Invocation(head, reply, route, rows, columns, signature, asked, arrived, deadline, priority)
        reply.invocation = invocation
        route.model.submit(invocation)

    def _invoke_bulk(self, head: Head, route: Route, body: Buffer, reply: Reply, arrived: float, began: float) -> None:
        def then(decoded: Decoded, error: BaseException | None) -> None:
            if reply.closed:
                return
            try:
                if error is not None:
                    raise error
                self._enqueue(head, route, decoded, reply, arrived, began)
            except Unloaded:
                head.route = None
                self.invoke(head, body, reply, arrived)
            except ServingError as refusal:
                self._refuse(head, route, reply, route.told(refusal), arrived)
            except Exception as failure:
                _tell(route, "a request could not be taken", failure)
                self._refuse(head, route, reply, InternalError(), arrived)

        decode = route.decode
        route.model.on_thread(lambda: decode(body), then)

    def _refuse(self, head: Head, route: Route | None, reply: Reply, error: ServingError, arrived: float) -> None:
        reply.invocation = None
        self._count(route, error)
        self._fail(head, reply, error, arrived, None if route is None else route.statistics)

    def _fail(
        self, head: Head, reply: Reply, error: ServingError, arrived: float, statistics: VariantStatistics | None
    ) -> None:
        reply.fail(head, error)
        if statistics is not None:
            if not self._refused:
                asyncio.get_running_loop().call_soon(self._written)
            self._refused.append((statistics, arrived))

    def _written(self) -> None:
        """Counts how long refusals took, in the turn of the loop after the one that wrote them."""
        now = perf_counter()
        for statistics, arrived in self._refused:
            statistics.refusal.observe(now - arrived)
        self._refused.clear()

    def _count(self, route: Route | None, error: ServingError) -> None:
        if route is None:
            self.platform_errors += 1
        else:
            route.statistics.failed(error)


def _tell(route: Route | None, what: str, error: Exception) -> None:
    """Logs what nobody foresaw, where it can be known as the endpoint's."""
    if route is None:
        log.error(what, exc_info=error)
    else:
        route.model.log.error(what, exc_info=error, extra={"variant": route.variant})


def _encode_part(
    route: Route, asked: Asked | None, frame: Callable[[bytes], bytes], outputs: Sequence[Array]
) -> Encoded:
    """A part as its caller wants it; what goes wrong here is no fault of the model."""
    try:
        fields, body = route.encode(outputs, asked)
        return fields, frame(body)
    except ServingError:
        raise
    except Exception as error:
        _tell(route, "a part could not be encoded", error)
        raise InternalError from error
