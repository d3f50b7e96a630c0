"""The Starlette app: every path that the hot lane does not take, and the lane's own in their less plain forms.

A chunked, compressed or `Expect`-ing invocation ends in the same `DataPlane.invoke` as the lane's, so authentication,
routing, codecs, errors and metrics are the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, request_response
from starlette.types import Receive, Scope, Send

from serving.control.call import MOST_BYTES, Answer, scope_of
from serving.control.call import Request as Call
from serving.control.refusal import refusal
from serving.errors import (
    BadRequest,
    ContainerFault,
    LengthRequired,
    MethodNotAllowed,
    NotFound,
    NotSerialized,
    ServingError,
    TooLarge,
    Unavailable,
)
from serving.frontends.http import model_repository, multi_model, open_inference, page, streaming
from serving.frontends.http.coding import COMPRESS_BYTES, Inflater, coding_fields, codings_of, compress
from serving.frontends.http.extensions import Extensions
from serving.frontends.http.faces import Faces
from serving.frontends.http.head import parse_head, stream_head
from serving.frontends.http.lane_state import LaneState, server_timing
from serving.frontends.http.paths import Call as ModelCall
from serving.frontends.http.paths import call_of, face_of, hot_face, model_of, printable, target_of
from serving.runtime.invocation import Face, Head, Invocation
from serving.runtime.model import BULK_BYTES

JSON = "application/json"
_UNREAD = (408, 413, 503)
"""After these there may be a body on its way that nobody reads."""

ModelHandler = Callable[[Request, ModelCall], Awaitable[Response]]

METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Admin(Protocol):
    """What a worker can ask of the whole server: answers are gathered over all workers."""

    async def metrics(self) -> bytes:
        """The Prometheus text of all workers."""

    async def models(self, name: str | None) -> bytes:
        """JSON: what is loaded, or the last batches of one model, over all workers."""

    async def statistics(self, name: str | None) -> bytes:
        """JSON: `serving.runtime.inference_counts` of each worker, of all models or one."""

    async def setting(self, what: str, name: str | None, changes: bytes) -> bytes:
        """The state of `logging` or `trace` (of all models or one) after these changes, where there are any.

        Both are JSON of `serving.processes.adjustments`. Raises `UnknownName`, `BadRequest` or `Unsupported`.
        """

    async def api(self, request: Call) -> Answer:
        """What the AWS APIs answer to a POST to `/`."""

    async def repository(self, what: str, name: str | None, parameters: bytes) -> bytes:
        """What `serving.frontends.http.model_repository` asks for."""

    async def container(self, what: str, name: str | None, parameters: bytes) -> bytes:
        """What `serving.frontends.http.multi_model` asks for."""


class Pending:
    """Implements `Reply` with a future, for requests that come through the app."""

    def __init__(self) -> None:
        self.invocation: Invocation | None = None
        self.closed = False
        self.outcome: asyncio.Future[tuple[Invocation, bytes, bytes] | ServingError] = (
            asyncio.get_running_loop().create_future()
        )

    def answer(self, invocation: Invocation, fields: bytes, body: bytes) -> None:
        """Implements `Reply`."""
        if not self.outcome.done():
            self.outcome.set_result((invocation, fields, body))

    def fail(self, head: Head, error: ServingError) -> None:
        """Implements `Reply`."""
        if not self.outcome.done():
            self.outcome.set_result(error)

    def hang_up(self) -> None:
        """The caller left: whatever is queued for it is cancelled."""
        self.closed = True
        if self.invocation is not None:
            self.invocation.route.model.cancel(self.invocation)


class HttpApp:
    """Builds the app over one worker's lane."""

    def __init__(self, lane: LaneState, admin: Admin) -> None:
        self._lane = lane
        self._plane = lane.plane
        self._faces: Faces = lane.faces
        self._admin = admin
        self._v2 = v2 = open_inference.Metadata(lane.plane)
        self._extensions = extensions = Extensions(lane.plane, admin, self._read)
        self._calls: dict[str, tuple[ModelHandler, tuple[str, ...]]] = {
            "metadata": (v2.model, ("GET",)),
            "ready": (v2.model_ready, ("GET",)),
            "config": (extensions.config, ("GET",)),
            "stats": (extensions.statistics, ("GET",)),
            "trace": (extensions.trace, ("GET", "POST")),
            "load": (self._load, ("POST",)),
            "unload": (self._unload, ("POST",)),
            "batches": (self._batches, ("GET",)),
            "container": (self._container_model, ("GET", "DELETE")),
        }

    def build(self) -> Starlette:
        """The ASGI application."""
        v2 = self._v2
        extensions = self._extensions
        routes = [
            self._route("/ping", self._ping),
            self._route("/", self._root, "GET", "POST"),
            self._route("/metrics", self._metrics),
            self._route("/debug/models", self._debug),
            self._route("/models", self._container, "GET", "POST"),
            self._route("/v2", v2.server),
            self._route("/v2/", v2.server),
            self._route("/v2/health/live", v2.live),
            self._route("/v2/health/ready", self._v2_ready),
            self._route("/v2/repository/index", self._index, "POST"),
            self._route("/v2/models/stats", extensions.all_statistics),
            self._route("/v2/trace/setting", extensions.all_trace, "GET", "POST"),
            self._route("/v2/logging", extensions.logging, "GET", "POST"),
        ]
        app = Starlette(routes=routes, exception_handlers={Exception: self._unexpected})
        # A route would answer GET only, and know each method by name; the rest of all paths and methods is ours.
        app.router.default = request_response(self._other)
        app.router.redirect_slashes = False
        return app

    # ------------------------------------------------------------------ invocations

    async def _other(self, request: Request) -> Response:
        path: bytes = request.scope["raw_path"]
        face = face_of(path)
        name: str | None = None
        try:
            beside = stream_head(path, request.scope["headers"])
            if beside is not None:
                name = beside.name
                if request.method != "POST":
                    raise MethodNotAllowed(f"{request.url.path} answers POST, not {request.method}")
                return await self._stream(request, beside)
            hot = hot_face(path)
            if hot is None:
                return await self._call(request, path)
            face, name, _, _ = hot
            if request.method != "POST":
                raise MethodNotAllowed(f"{request.url.path} answers POST, not {request.method}")
            head = parse_head(*hot, request.scope["headers"])
            if head.face is Face.CONTAINER and self._plane.snapshot.default_streams:
                head.streamed = True
                return await self._stream(request, head)
            return await self._invoke(request, head)
        except ServingError as error:
            return self._error(face, error, name)

    async def _invoke(self, request: Request, head: Head) -> Response:
        lane = self._lane
        body = await self._read(request)
        held = len(body)
        lane.in_flight_bytes += held
        try:
            pending = Pending()
            self._plane.invoke(head, body, pending)
            del body
            if not pending.outcome.done():
                await self._wait(request, pending)
            outcome = pending.outcome.result()
        finally:
            lane.in_flight_bytes -= held
        if isinstance(outcome, ServingError):
            raise outcome
        invocation, fields, content = outcome
        if head.streamed:
            if len(content) > BULK_BYTES:
                fields, content = await asyncio.to_thread(streaming.whole, head, fields, content)
            else:
                fields, content = streaming.whole(head, fields, content)
        fields += self._runtime_fields(head, invocation.route.variant)
        if invocation.timings is not None:
            fields += server_timing(*invocation.timings)
        if head.coding is not None and len(content) >= COMPRESS_BYTES and not head.streamed:
            fields += coding_fields(head.coding)
            content = await asyncio.to_thread(compress, head.coding, content)
        return _response(200, fields, content)

    async def _stream(self, request: Request, head: Head) -> Response:
        """An answer in parts, where the face and the model have them; else the whole answer, as the only part."""
        if not head.streamed or not await self._streams(head):
            return await self._invoke(request, head)
        if request.scope["http_version"] != "1.1":
            raise BadRequest("an answer in parts needs HTTP/1.1, which has chunked bodies")
        body = await self._read(request)
        return streaming.Streamed(
            self._lane,
            head,
            body,
            partial(self._runtime_fields, head),
            lambda error: self._error(head.face, error, head.name),
        )

    async def _streams(self, head: Head) -> bool:
        """Whether the model of a head answers in parts; a target has to be loaded to know."""
        if head.target_model is None:
            return self._plane.snapshot.streams(head)
        return (await self._plane.settled(head)).model.spec.streams

    def _runtime_fields(self, head: Head, variant: str) -> bytes:
        """The header lines that every answer of SageMaker's runtime has."""
        if head.face is not Face.RUNTIME:
            return b""
        return b"x-amzn-requestid: %b\r\nx-amzn-invoked-production-variant: %b\r\n" % (
            self._lane.request_id(),
            variant.encode(),
        )

    async def _wait(self, request: Request, pending: Pending) -> None:
        """Waits for the answer or for the caller to leave, whichever is first."""
        left = asyncio.ensure_future(request.receive())
        try:
            waits: set[asyncio.Future[Any]] = {left, pending.outcome}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not pending.outcome.done():
                pending.hang_up()
                raise ClientDisconnect
        finally:
            left.cancel()

    async def _read(self, request: Request, most: int | None = None) -> bytes:
        """The body, inflated, within the limits. Raises `TooLarge`, `Unavailable` or `MalformedBody`."""
        lane = self._lane
        limit = lane.max_body if most is None else most
        inflater = Inflater(codings_of(request.headers.getlist("content-encoding")), limit)
        declared = request.headers.get("content-length")
        if declared is None and "transfer-encoding" not in request.headers and request.method == "POST":
            raise LengthRequired
        received = 0
        held = 0
        try:
            async for chunk in request.stream():
                received += len(chunk)
                if received > limit:
                    raise TooLarge(f"HTTP content length exceeded {limit} bytes.")
                held += len(chunk)
                lane.hold(len(chunk))
                await inflater.feed(chunk)
            return await inflater.finish()
        finally:
            lane.in_flight_bytes -= held

    # ------------------------------------------------------------------ the rest

    async def _ping(self, request: Request) -> Response:
        return Response(status_code=503 if self._lane.draining else 200)

    async def _v2_ready(self, request: Request) -> Response:
        ready = not self._lane.draining
        return Response(b'{"ready":%b}' % (b"true" if ready else b"false"), 200 if ready else 503, media_type=JSON)

    async def _metrics(self, request: Request) -> Response:
        return Response(await self._admin.metrics(), headers={"content-type": METRICS})

    async def _debug(self, request: Request) -> Response:
        return Response(await self._admin.models(None), media_type=JSON)

    async def _batches(self, request: Request, call: ModelCall) -> Response:
        snapshot = self._plane.snapshot
        try:
            name, target = model_of(call.raw)
        except BadRequest:
            name, target = "", None
        if target is None and name in snapshot.multi:
            raise BadRequest(f"'{name}' is a multi-model endpoint; name one of its models as {name}:MODEL")
        if name not in (snapshot.endpoints if target is None else snapshot.multi):
            raise NotFound(f"no model '{printable(call.raw)}' is served")
        return Response(await self._admin.models(_full(name, target)), media_type=JSON)

    async def _root(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._api(request)
        return HTMLResponse(page.render(self._plane.snapshot, str(request.base_url).rstrip("/")))

    async def _api(self, request: Request) -> Response:
        """A call of an AWS API, which the supervisor answers."""
        headers = request.headers
        call = Call(
            target=headers.get("x-amz-target", ""),
            content_type=headers.get("content-type", ""),
            scope=scope_of(headers.get("authorization", "")),
            request_id=self._lane.request_id().decode(),
            body=b"",
        )
        closing: list[tuple[bytes, bytes]] = []
        try:
            body = await self._read(request, MOST_BYTES)
            self._lane.in_flight_bytes += len(body)
            try:
                answer = await self._admin.api(msgspec.structs.replace(call, body=body))
            finally:
                self._lane.in_flight_bytes -= len(body)
        except ServingError as error:
            # There is no container that could be at fault.
            fault = NotSerialized(error.message) if isinstance(error, ContainerFault) else error
            answer = refusal(fault, call)
            if answer.status in _UNREAD:
                closing = [(b"connection", b"close")]
        fields = [(name.lower().encode(), value.encode()) for name, value in answer.fields]
        response = Response(answer.body, answer.status)
        response.raw_headers = [
            *fields,
            *closing,
            (b"content-type", answer.content_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
        ]
        return response

    async def _index(self, request: Request) -> Response:
        return Response(await model_repository.index(self._admin, await self._read(request)), media_type=JSON)

    async def _load(self, request: Request, call: ModelCall) -> Response:
        name = _full(*model_of(call.raw))
        return Response(await model_repository.load(self._admin, name, await self._read(request)), media_type=JSON)

    async def _unload(self, request: Request, call: ModelCall) -> Response:
        name = _full(*model_of(call.raw))
        return Response(await model_repository.unload(self._admin, name, await self._read(request)), media_type=JSON)

    # ------------------------------------------------------------------ the multi-model container contract

    async def _container(self, request: Request) -> Response:
        multi_model.check(enabled=self._lane.multi_model)
        if request.method == "POST":
            body = await self._read(request, multi_model.MOST_BYTES)
            return Response(await multi_model.add(self._admin, body), media_type=JSON)
        query = request.query_params
        page_token, limit = query.get("next_page_token", ""), query.get("limit", "")
        return Response(await multi_model.page(self._admin, page_token, limit), media_type=JSON)

    async def _container_model(self, request: Request, call: ModelCall) -> Response:
        multi_model.check(enabled=self._lane.multi_model)
        name = target_of(call.raw)
        act = multi_model.remove if request.method == "DELETE" else multi_model.describe
        return Response(await act(self._admin, name), media_type=JSON)

    # ------------------------------------------------------------------ routes

    async def _call(self, request: Request, path: bytes) -> Response:
        """A call that names a model. Raises `NotFound` where the path is none."""
        call = call_of(path)
        if call is None:
            raise NotFound(f"there is no {request.method} {request.url.path} on this server")
        handler, known = self._calls[call.what]
        _check_method(request, known)
        return await handler(request, call)

    def _route(self, path: str, handler: Callable[[Request], Awaitable[Response]], *methods: str) -> Route:
        known = methods or ("GET",)
        plain = path.encode()

        async def endpoint(request: Request) -> Response:
            raw: bytes = request.scope["raw_path"]
            face = face_of(raw)
            try:
                if raw != plain:
                    # It is this path only once it is decoded.
                    raise NotFound(f"there is no {request.method} {printable(raw)} on this server")
                _check_method(request, known)
                return await handler(request)
            except ServingError as error:
                return self._error(face, error, None)

        route = Route(path, endpoint)
        route.methods = None  # whatever it is: `endpoint` refuses it in the words of its face
        return route

    def _error(self, face: Face, error: ServingError, name: str | None) -> Response:
        rendered = self._faces.render(face, error, name)
        fields = rendered.fields
        if face is Face.RUNTIME:
            fields += b"x-amzn-requestid: %b\r\n" % self._lane.request_id()
        if isinstance(error, TooLarge | Unavailable | BadRequest) and rendered.status in _UNREAD:
            fields += b"connection: close\r\n"
        response = Response(rendered.body, rendered.status)
        response.raw_headers = streaming.header_list(fields + rendered.length_field)
        return response

    async def _unexpected(self, request: Request, error: Exception) -> Response:
        return self._error(
            face_of(request.scope["raw_path"]), ServingError("the server failed; its log has the cause"), None
        )


def _check_method(request: Request, known: Sequence[str]) -> None:
    """Raises `MethodNotAllowed` where a path does not answer the method."""
    if request.method not in known and not (request.method == "HEAD" and "GET" in known):
        raise MethodNotAllowed(f"{request.url.path} answers {' and '.join(known)}, not {request.method}")


def _full(name: str, target: str | None) -> str:
    """An endpoint and its target as one name, as the whole server knows it."""
    return name if target is None else f"{name}:{target}"


def _response(status: int, fields: bytes, body: bytes) -> Response:
    response = Response(body, status)
    response.raw_headers = [*streaming.header_list(fields), (b"content-length", str(len(body)).encode())]
    return response


class Dated:
    """Adds the Date header, which uvicorn's own server would keep."""

    def __init__(self, app: Any, lane: LaneState) -> None:
        self._app = app
        self._lane = lane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def dated(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [(b"date", self._lane.date[6:-2]), *message.get("headers", ())]
            await send(message)

        try:
            await self._app(scope, receive, dated)
        except ClientDisconnect:
            return
