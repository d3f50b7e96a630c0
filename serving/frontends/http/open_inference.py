"""Open Inference Protocol over REST: server, health and model metadata (inference itself is an invocation).

Source: Open Inference Protocol, REST; extensions as Triton names them.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

import serving
from serving.contract import TensorSpec
from serving.errors import BadRequest, ServingError, UnknownName
from serving.frontends.http.paths import Call, model_of, name_of, printable
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Face, Head

JSON = "application/json"
EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
]


class Metadata:
    """The GET side of the protocol."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def server(self, request: Request) -> Response:
        """`GET /v2`: name, version, extensions."""
        return _json({"name": "serving", "version": serving.__version__, "extensions": EXTENSIONS})

    async def live(self, request: Request) -> Response:
        """`GET /v2/health/live`."""
        return _json({"live": True})

    async def model(self, request: Request, call: Call) -> Response:
        """`GET /v2/models/{name}[/versions/{version}]`: inputs, outputs, versions; a target is loaded to know them."""
        head = _head(call)
        model = (await self._plane.settled(head)).model
        served = self._plane.snapshot.versions.get(model.name, {model.version: model})
        return _json(
            {
                "name": model.name,
                "versions": [head.version] if head.version else list(reversed(served)),
                "platform": model.spec.platform,
                "inputs": [_tensor(spec) for spec in model.spec.inputs],
                "outputs": [_tensor(spec) for spec in model.spec.outputs],
            }
        )

    async def model_ready(self, request: Request, call: Call) -> Response:
        """`GET /v2/models/{name}[/versions/{version}]/ready`; an unknown model is not ready, nor is one that is not loaded."""
        try:
            head = _head(call)
        except ServingError:
            return _json({"name": printable(call.raw), "ready": False}, 404)
        name = head.name if head.target_model is None else f"{head.name}:{head.target_model}"
        snapshot = self._plane.snapshot
        takes_targets = head.name in snapshot.multi and head.target_model is None and head.version is None
        if takes_targets or snapshot.loaded(head):
            return _json({"name": name, "ready": True})
        return _json({"name": name, "ready": False}, 404)


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


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type=JSON)
