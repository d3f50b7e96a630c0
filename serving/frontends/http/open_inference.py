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
from serving.errors import ServingError
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Face, Head
from serving.runtime.routing import Endpoint

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

    async def model(self, request: Request) -> Response:
        """`GET /v2/models/{name}[/versions/{version}]`: inputs, outputs, versions."""
        model = self._find(request).model
        asked = request.path_params.get("version")
        served = self._plane.snapshot.versions[model.name]
        return _json(
            {
                "name": model.name,
                "versions": [asked] if asked else list(reversed(served)),
                "platform": model.spec.platform,
                "inputs": [_tensor(spec) for spec in model.spec.inputs],
                "outputs": [_tensor(spec) for spec in model.spec.outputs],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """`GET /v2/models/{name}[/versions/{version}]/ready`; an unknown model is not ready."""
        name = request.path_params["name"]
        try:
            self._find(request)
        except ServingError:
            return _json({"name": name, "ready": False}, 404)
        return _json({"name": name, "ready": True})

    def _find(self, request: Request) -> Endpoint:
        head = Head(Face.OPEN_INFERENCE, request.path_params["name"])
        head.version = request.path_params.get("version")
        return self._plane.snapshot.find(head)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type=JSON)
