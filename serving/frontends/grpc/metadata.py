"""Health, metadata and configuration of the server and its models. Sources: Open Inference Protocol, gRPC; Triton's extensions."""

from __future__ import annotations

from typing import Any

from serving.errors import BadRequest, UnknownName
from serving.frontends import metadata
from serving.frontends.grpc.call import Call
from serving.frontends.grpc.names import head_of
from serving.frontends.http.lane_state import LaneState


class Metadata:
    """The calls that change nothing and ask this worker alone."""

    def __init__(self, lane: LaneState) -> None:
        self._lane = lane
        self._plane = lane.plane

    async def server_live(self, request: Any, call: Call) -> dict[str, Any]:
        """`ServerLive`."""
        return {"live": True}

    async def server_ready(self, request: Any, call: Call) -> dict[str, Any]:
        """`ServerReady`: a server that drains is not."""
        return {"ready": not self._lane.draining}

    async def server_metadata(self, request: Any, call: Call) -> dict[str, Any]:
        """`ServerMetadata`."""
        return metadata.server()

    async def model_ready(self, request: Any, call: Call) -> dict[str, Any]:
        """`ModelReady`: a model that is unknown, impossible or not loaded is not."""
        if not request.name:
            raise BadRequest("the request names no model; its name was expected")
        try:
            head = head_of(request.name, request.version)
        except (BadRequest, UnknownName):
            return {"ready": False}
        return {"ready": metadata.is_ready(self._plane, head)}

    async def model_metadata(self, request: Any, call: Call) -> dict[str, Any]:
        """`ModelMetadata`."""
        head = head_of(request.name, request.version)
        head.timeout_s = call.timeout_s
        return await metadata.model(self._plane, head)

    async def model_config(self, request: Any, call: Call) -> dict[str, Any]:
        """`ModelConfig`."""
        from serving.frontends.model_config import model_config

        head = head_of(request.name, request.version)
        head.timeout_s = call.timeout_s
        return {"config": await model_config(self._plane, head)}
