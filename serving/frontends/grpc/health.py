"""The service `grpc.health.v1.Health`: of the server, of its service, and of each model by its name.

Source: the gRPC health checking protocol.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from functools import cache
from typing import Any, Final

from serving.errors import BadRequest, MalformedBody, MissingExtra, ServingError, Unavailable, UnknownName
from serving.frontends import metadata
from serving.frontends.grpc import messages, protocol
from serving.frontends.grpc.call import Call
from serving.frontends.grpc.names import head_of
from serving.frontends.http.lane_state import LaneState
from serving.runtime.routing import Absent

SERVICE: Final = "grpc.health.v1.Health"
CHECK: Final = f"/{SERVICE}/Check"
WATCH: Final = f"/{SERVICE}/Watch"

LOOK_S: Final = 0.5
"""How often a watcher's status is looked at."""


@cache
def generated() -> Any:
    """The module of generated messages. Raises `MissingExtra`."""
    try:
        return importlib.import_module("grpc_health.v1.health_pb2")
    except ImportError as error:
        raise MissingExtra(
            f"gRPC needs grpcio-health-checking, which cannot be imported ({error}): pip install 'serving[grpc]'"
        ) from error


class Health:
    """The health of one worker. Raises `MissingExtra`."""

    def __init__(self, lane: LaneState) -> None:
        self._lane = lane
        self._plane = lane.plane
        self._request = generated().HealthCheckRequest
        self._response = generated().HealthCheckResponse

    async def check(self, body: bytes, call: Call) -> bytes:
        """`Check`. Raises `UnknownName`."""
        service: str = messages.read(self._request, body).service
        status = self._status(service)
        if status == "SERVICE_UNKNOWN":
            raise UnknownName(
                f"there is no service '{service[:80]}'; '', '{protocol.SERVICE}' or the name of a model was expected"
            )
        return messages.write(self._response, {"status": status})

    async def watch(self, bodies: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """`Watch`: the status, and each other that follows it. A server that drains ends it with `Unavailable`."""
        body = await anext(bodies, None)
        if body is None:
            raise MalformedBody("the call has no message; a HealthCheckRequest was expected")
        service: str = messages.read(self._request, body).service
        told = ""
        while True:
            draining = self._lane.draining
            status = self._status(service)
            if status != told:
                told = status
                yield messages.write(self._response, {"status": status})
            if draining:
                raise Unavailable("the server is stopping")
            await asyncio.sleep(LOOK_S)

    def _status(self, service: str) -> str:
        """The status of a service by the name that the protocol has for it."""
        if service in ("", protocol.SERVICE):
            return "NOT_SERVING" if self._lane.draining else "SERVING"
        try:
            head = head_of(service, "")
            if not metadata.is_ready(self._plane, head):
                self._plane.snapshot.find(head)
        except (BadRequest, UnknownName):
            return "SERVICE_UNKNOWN"
        except (ServingError, Absent):
            return "NOT_SERVING"
        return "NOT_SERVING" if self._lane.draining else "SERVING"
