"""A multi-model endpoint: one name, and any number of models behind it, its targets."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import cast

from serving.codecs.base import Buffer
from serving.errors import BadRequest, ServingError
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Destination, Face, Head, Invocation, Reply
from serving.runtime.routing import Absent, Endpoint, Moved
from serving.runtime.statistics import VariantStatistics
from serving.runtime.target_statistics import TargetStatistics
from serving.runtime.targets import Key, Targets, Waiter
from serving.runtime.wiring import EndpointWiring, TargetsWiring
from serving.settings import Settings
from serving.telemetry.endpoint_logs import EndpointLogger

log = logging.getLogger("serving.targets")


class MultiModelEndpoint:
    """The endpoint as the routing snapshot has it; its targets come and go beside the snapshot."""

    def __init__(
        self,
        wiring: EndpointWiring,
        statistics: VariantStatistics,
        targets: Targets,
        settings: Settings,
        counts: TargetStatistics | None = None,
    ) -> None:
        assert wiring.targets is not None
        self.name = wiring.name
        self.variant = wiring.variant
        self.wiring = wiring
        self.targets: TargetsWiring = wiring.targets
        self.statistics = statistics
        self.counts = counts or TargetStatistics(wiring.name, wiring.variant)
        self.log = EndpointLogger(log, wiring.name, wiring.variant, per_s=20.0, burst=200)
        self._cache = targets
        self._wait_s = settings.model_load_wait_s

    def find(self, head: Head) -> Endpoint:
        """The target that a head names. Raises `BadRequest` where it names none, and `Absent`."""
        target = head.target_model
        if target is None:
            raise BadRequest(self._unnamed(head.face))
        found = self._cache.cache.get((self.name, target))
        if found is None:
            raise Absent(self, target)
        return found

    def take(self, plane: DataPlane, head: Head, body: Buffer, reply: Reply, arrived: float) -> None:
        """Has a request go on once its target is in memory, here or in another worker, or fail."""
        assert head.target_model is not None
        key = (self.name, head.target_model)
        forwarder = self._cache.forwarder
        if forwarder is not None and forwarder.forward(key, plane, head, body, reply, arrived):
            return
        self.counts.misses += 1
        caller = _Caller(self, key, plane, head, body, reply, arrived)
        self._want(key, caller, arrived + self._patience(head.timeout_s))

    async def load(self, target: str, timeout_s: float | None = None) -> Endpoint:
        """The target, loaded. Raises `ServingError`s, `ModelLoading` among them once that took too long."""
        waiting = _Waiting(asyncio.get_running_loop().create_future())
        self._want((self.name, target), waiting, perf_counter() + self._patience(timeout_s))
        try:
            return await waiting.future
        finally:
            waiting.end()
            if waiting.future.cancelled():
                self._cache.leave((self.name, target), waiting)

    def _want(self, key: Key, waiter: Waiter, deadline: float) -> None:
        self._cache.want(key, waiter, deadline, keep=self.targets.keep)

    def leave(self, key: Key, waiter: Waiter) -> None:
        """The waiter hung up."""
        self._cache.leave(key, waiter)

    def _patience(self, timeout_s: float | None) -> float:
        return self._wait_s if timeout_s is None else min(self._wait_s, timeout_s)

    def _unnamed(self, face: Face) -> str:
        if face is Face.OPEN_INFERENCE:
            return f"'{self.name}' is a multi-model endpoint; name one of its models as {self.name}:MODEL"
        return (
            "Request is missing a target model header. Multi-model endpoints require this header: "
            f"X-Amzn-SageMaker-Target-Model names one of the models of {self.name}"
        )


class _Caller:
    """A request that waits for its target. Until then it is, to its caller's front end, the route and the model that it came to."""

    __slots__ = ("_arrived", "_body", "_endpoint", "_head", "_key", "_plane", "_reply", "model", "variant")

    def __init__(
        self,
        endpoint: MultiModelEndpoint,
        key: Key,
        plane: DataPlane,
        head: Head,
        body: Buffer,
        reply: Reply,
        arrived: float,
    ) -> None:
        self._endpoint = endpoint
        self._key = key
        self._plane = plane
        self._head = head
        self._body = body
        self._reply = reply
        self._arrived = arrived
        self.model = self
        self.variant = endpoint.variant
        route = cast("Destination", self)
        reply.invocation = Invocation(head, reply, route, 0, (), None, None, arrived, arrived, 0)

    def cancel(self, item: Invocation) -> None:
        """Stands in for `Model.cancel`: the caller hung up."""
        self._endpoint.leave(self._key, self)

    def served(self, endpoint: Endpoint) -> None:
        """Implements `Waiter`."""
        self._endpoint.counts.waited.observe(perf_counter() - self._arrived)
        self._go_on()

    def _go_on(self) -> None:
        if not self._reply.closed:
            self._endpoint.counts.ended += 1
            self._reply.invocation = None
            self._head.route = None
            self._plane.invoke(self._head, self._body, self._reply, self._arrived)

    def refused(self, error: ServingError) -> None:
        """Implements `Waiter`."""
        if isinstance(error, Moved):
            self._go_on()
            return
        self._endpoint.counts.ended += not self._reply.closed
        self._plane.refuse(self._head, self._reply, error, self._arrived, self._endpoint.statistics)


class _Waiting:
    """A task that waits for a target, which is held for it until it runs."""

    __slots__ = ("_held", "future")

    def __init__(self, future: asyncio.Future[Endpoint]) -> None:
        self.future = future
        self._held: Endpoint | None = None

    def served(self, endpoint: Endpoint) -> None:
        """Implements `Waiter`."""
        if not self.future.done():
            self._held = endpoint
            endpoint.model.hold()
            self.future.set_result(endpoint)

    def end(self) -> None:
        """The task runs: what it does not use before it waits again may be unloaded."""
        if self._held is not None:
            self._held.model.release()
            self._held = None

    def refused(self, error: ServingError) -> None:
        """Implements `Waiter`."""
        if not self.future.done():
            self.future.set_exception(error)
