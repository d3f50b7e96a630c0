"""The model repository extension over gRPC. Source: Triton's model repository extension."""

from __future__ import annotations

from typing import Any

import orjson

from serving.errors import BadRequest, Unsupported
from serving.frontends import repository
from serving.frontends.grpc.call import Call
from serving.frontends.grpc.names import full
from serving.frontends.repository import ModelControl


class Repository:
    """Index, load and unload, which the server as a whole answers."""

    def __init__(self, control: ModelControl) -> None:
        self._control = control

    async def index(self, request: Any, call: Call) -> dict[str, Any]:
        """`RepositoryIndex`."""
        _check_repository(request)
        return {"models": orjson.loads(await repository.index(self._control, ready=request.ready))}

    async def load(self, request: Any, call: Call) -> dict[str, Any]:
        """`RepositoryModelLoad`."""
        _check_repository(request)
        await repository.load(self._control, full(request.model_name), _parameters(request))
        return {}

    async def unload(self, request: Any, call: Call) -> dict[str, Any]:
        """`RepositoryModelUnload`; no model depends on another, so that `unload_dependents` is the same either way."""
        _check_repository(request)
        for parameter, value in _parameters(request).items():
            if parameter != "unload_dependents":
                raise BadRequest(f"there is no unload parameter '{parameter[:80]}'; unload_dependents was expected")
            if not isinstance(value, bool):
                raise BadRequest("the parameter unload_dependents is not a bool_param; true or false was expected")
        await repository.unload(self._control, full(request.model_name))
        return {}


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise Unsupported(
            f"the request names the model repository '{request.repository_name[:80]}'; the server's own are asked as one, "
            "so that repository_name has to be empty"
        )


def _parameters(request: Any) -> dict[str, Any]:
    """The values of a map of `ModelRepositoryParameter`s; None where one holds none."""
    parameters: dict[str, Any] = {}
    for name, value in request.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        parameters[name] = None if kind is None else getattr(value, kind)
    return parameters
