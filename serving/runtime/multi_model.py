"""A multi-model endpoint: one name, and any number of models behind it, its targets."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter

from serving.codecs.base import Buffer
from serving.errors import BadRequest, ServingError
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Face, Head, Reply
from serving.runtime.routing import Absent, Endpoint
from serving.runtime.statistics import VariantStatistics
from serving.runtime.target_statistics import TargetStatistics
from serving.runtime.targets import Targets
from serving.runtime.wiring import EndpointWiring, TargetsWiring
from serving.settings import Settings
from serving.telemetry.endpoint_logs import EndpointLogger

log = logging.getLogger("serving.targets")


class MultiModelEndpoint:
    """The endpoint as the routing snapshot has it; its targets come and go beside the snapshot."""

    def __init__(
        self, wiring: EndpointWiring, statistics: VariantStatistics, targets: Targets, settings: Settings
    ) -> None:
        assert wiring.targets is not None
        self.name = wiring.name
        self.variant = wiring.variant
        self.wiring = wiring
        self.targets: TargetsWiring = wiring.targets
        self.statistics = statistics
        self.counts = TargetStatistics(wiring.name, wiring.variant)
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
        self._cache.want(
            key, _Caller(self, plane, head, body, reply, arrived), arrived + self._patience(head.timeout_s)
        )

    async def load(self, target: str, timeout_s: float | None = None) -> Endpoint:
        """The target, loaded. Raises `ServingError`s, `ModelLoading` among them once that took too long."""
        waiting = _Waiting(asyncio.get_running_loop().create_future())
        self._cache.want((self.name, target), waiting, perf_counter() + self._patience(timeout_s))
        try:
            return await waiting.future
        finally:
            if waiting.future.cancelled():
                self._cache.cache.leave((self.name, target), waiting)

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
    """A request that waits for its target."""

    __slots__ = ("_arrived", "_body", "_endpoint", "_head", "_plane", "_reply")

    def __init__(
        self, endpoint: MultiModelEndpoint, plane: DataPlane, head: Head, body: Buffer, reply: Reply, arrived: float
    ) -> None:
        self._endpoint = endpoint
        self._plane = plane
        self._head = head
        self._body = body
        self._reply = reply
        self._arrived = arrived

    def served(self, endpoint: Endpoint) -> None:
        """Implements `Waiter`."""
        self._endpoint.counts.waited.observe(perf_counter() - self._arrived)
        if not self._reply.closed:
            self._head.route = None
            self._plane.invoke(self._head, self._body, self._reply, self._arrived)

    def refused(self, error: ServingError) -> None:
        """Implements `Waiter`."""
        self._plane.refuse(self._head, self._reply, error, self._arrived, self._endpoint.statistics)


class _Waiting:
    """A task that waits for a target."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Endpoint]) -> None:
        self.future = future

    def served(self, endpoint: Endpoint) -> None:
        """Implements `Waiter`."""
        if not self.future.done():
            self.future.set_result(endpoint)

    def refused(self, error: ServingError) -> None:
        """Implements `Waiter`."""
        if not self.future.done():
            self.future.set_exception(error)
