"""Open Inference Protocol over REST: server, health and model metadata (inference itself is an invocation).

Source: Open Inference Protocol, REST.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serving.errors import BadRequest, ServingError, UnknownName
from serving.frontends import metadata
from serving.frontends.http.paths import Call, model_of, name_of, printable
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Face, Head

JSON = "application/json"


class Metadata:
    """The GET side of the protocol."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def server(self, request: Request) -> Response:
        """`GET /v2`: name, version, extensions."""
        return _json(metadata.server())

    async def live(self, request: Request) -> Response:
        """`GET /v2/health/live`."""
        return _json({"live": True})

    async def model(self, request: Request, call: Call) -> Response:
        """`GET /v2/models/{name}[/versions/{version}]`: inputs, outputs, versions; a target is loaded to know them."""
        return _json(await metadata.model(self._plane, _head(call)))

    async def model_ready(self, request: Request, call: Call) -> Response:
        """`GET /v2/models/{name}[/versions/{version}]/ready`; an unknown model is not ready, nor is one that is not loaded."""
        try:
            head = _head(call)
        except ServingError:
            return _json({"name": printable(call.raw), "ready": False}, 404)
        name = head.name if head.target_model is None else f"{head.name}:{head.target_model}"
        ready = metadata.is_ready(self._plane, head)
        return _json({"name": name, "ready": ready}, 200 if ready else 404)


def _head(call: Call) -> Head:
    """What a call asks about. Raises `UnknownName`, or `BadRequest` for an impossible target."""
    try:
        name, target = model_of(call.raw)
        version = None if call.version is None else name_of(call.version, Face.OPEN_INFERENCE)
    except BadRequest as error:
        if call.names_target:
            raise
        raise UnknownName(f"Request for unknown model: '{printable(call.raw)}' is not found") from error
    head = Head(Face.OPEN_INFERENCE, name)
    head.version = version
    head.target_model = target
    return head


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type=JSON)
