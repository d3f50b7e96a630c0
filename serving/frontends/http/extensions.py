"""Triton's configuration, statistics, trace and logging extensions over REST: paths and bodies to plain data, and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from serving.errors import BadRequest
from serving.frontends.http.paths import Call, model_of, name_of
from serving.frontends.log_settings import log_settings
from serving.frontends.model_statistics import model_statistics
from serving.frontends.trace_settings import trace_setting
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Face, Head

if TYPE_CHECKING:
    from serving.frontends.http.app import Admin

MOST_BYTES: Final = 64 * 1024
"""Bodies hold a few settings."""

Read = Callable[[Request, int], Awaitable[bytes]]
"""The body of a request, of so many bytes at most."""


class Extensions:
    """What these paths answer."""

    def __init__(self, plane: DataPlane, admin: Admin, read: Read) -> None:
        self._plane = plane
        self._admin = admin
        self._read = read

    async def config(self, request: Request, call: Call) -> Response:
        """`GET /v2/models/{name}[/versions/{version}]/config`."""
        from serving.frontends.model_config import model_config

        return _json(await model_config(self._plane, _head(call)))

    async def statistics(self, request: Request, call: Call) -> Response:
        """`GET /v2/models/{name}[/versions/{version}]/stats`."""
        head = _head(call)
        return _json(await model_statistics(self._admin, _full(head), head.version or ""))

    async def all_statistics(self, request: Request) -> Response:
        """`GET /v2/models/stats`."""
        return _json(await model_statistics(self._admin, "", ""))

    async def trace(self, request: Request, call: Call) -> Response:
        """`GET|POST /v2/models/{name}/trace/setting`."""
        return _json(await trace_setting(self._admin, _full(_head(call)), await self._changes(request)))

    async def all_trace(self, request: Request) -> Response:
        """`GET|POST /v2/trace/setting`."""
        return _json(await trace_setting(self._admin, "", await self._changes(request)))

    async def logging(self, request: Request) -> Response:
        """`GET|POST /v2/logging`."""
        return _json(await log_settings(self._admin, await self._changes(request)))

    async def _changes(self, request: Request) -> dict[str, Any] | None:
        """The settings that a POST names; None for a GET."""
        if request.method != "POST":
            return None
        body = await self._read(request, MOST_BYTES)
        if not body.strip():
            return {}
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise BadRequest(f"failed to parse the request JSON buffer: {str(error).replace('`', '')}") from error


def _head(call: Call) -> Head:
    """What a call asks about. Raises `BadRequest` for what could never be a name."""
    name, target = model_of(call.raw)
    head = Head(Face.OPEN_INFERENCE, name)
    head.version = None if call.version is None else name_of(call.version, Face.OPEN_INFERENCE)
    head.target_model = target
    return head


def _full(head: Head) -> str:
    """An endpoint and its target as one name."""
    return head.name or "" if head.target_model is None else f"{head.name}:{head.target_model}"


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
