"""The data plane: `invoke`, the one way in for every front end, free of any transport."""

from __future__ import annotations

import logging
from time import perf_counter

from serving.codecs.base import Buffer, Decoded
from serving.errors import InternalError, ServingError
from serving.runtime.invocation import Head, Invocation, Reply
from serving.runtime.model import BULK_BYTES
from serving.runtime.routing import Route, Snapshot

log = logging.getLogger("serving.dataplane")


class DataPlane:
    """Holds the routing snapshot in force and sends requests through it. Lives on one event loop."""

    def __init__(self) -> None:
        self.snapshot = Snapshot(0, {}, None)
        self.draining = False
        self.platform_errors = 0
        """Requests that failed before an endpoint was found for them."""

    def swap(self, snapshot: Snapshot) -> None:
        """Puts a new snapshot in force; requests under way finish in the one they began in."""
        self.snapshot = snapshot

    def invoke(self, head: Head, body: Buffer, reply: Reply) -> None:
        """Takes a request; its reply is called later, or before this returns where the request is refused."""
        arrived = perf_counter()
        route = head.route
        try:
            if route is None or route.snapshot is not self.snapshot:
                route = head.route = None
                route = head.route = self.snapshot.route(head)
            if len(body) > BULK_BYTES:
                self._invoke_bulk(head, route, body, reply, arrived)
                return
            self._enqueue(head, route, route.decode(body), reply, arrived)
        except ServingError as error:
            self._refuse(head, route, reply, error)
        except Exception:
            log.exception("a request could not be taken")
            self._refuse(head, route, reply, InternalError())

    def _enqueue(self, head: Head, route: Route, decoded: Decoded, reply: Reply, arrived: float) -> None:
        rows, columns, signature, asked = decoded
        deadline = arrived + route.timeout_s
        priority = route.model_priority
        if asked is not None:
            if asked.timeout_us:
                deadline = min(deadline, arrived + asked.timeout_us * 1e-6)
            if asked.priority:
                priority = asked.priority
        invocation = Invocation(head, reply, route, rows, columns, signature, asked, arrived, deadline, priority)
        reply.invocation = invocation
        route.model.submit(invocation)

    def _invoke_bulk(self, head: Head, route: Route, body: Buffer, reply: Reply, arrived: float) -> None:
        def then(decoded: Decoded, error: BaseException | None) -> None:
            if reply.closed:
                return
            try:
                if error is not None:
                    raise error
                self._enqueue(head, route, decoded, reply, arrived)
            except ServingError as refusal:
                self._refuse(head, route, reply, refusal)
            except Exception:
                log.exception("a request could not be taken")
                self._refuse(head, route, reply, InternalError())

        decode = route.decode
        route.model.on_thread(lambda: decode(body), then)

    def _refuse(self, head: Head, route: Route | None, reply: Reply, error: ServingError) -> None:
        reply.invocation = None
        if route is None:
            self.platform_errors += 1
        else:
            route.statistics.failed(error)
        reply.fail(head, error)
