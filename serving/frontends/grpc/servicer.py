"""The service itself, free of any transport: messages in, messages or `ServingError`s out.

`ModelInfer` is the hot path: clients repeat all of a message but its tensors, so what its first bytes mean is remembered by
them, and no message is built on either side. Every other method takes and gives generated messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from serving.codecs import grpc_infer
from serving.errors import BadRequest, MalformedBody, ServingError, Unsupported
from serving.frontends.grpc import protocol
from serving.frontends.grpc.call import Call
from serving.runtime.invocation import Face, Head

if TYPE_CHECKING:
    from serving.frontends.http.app import Admin
    from serving.frontends.http.lane_state import LaneState
    from serving.settings import Settings

_MOST_HEADS: Final = 1024

Handler = Callable[[Any, Call], Awaitable[Any]]
"""A request message and its call to a response message; raises `ServingError`."""

Unary = Callable[[bytes, Call], Awaitable[bytes]]
"""The bytes of a request message to those of the response; raises `ServingError`."""

Stream = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]
"""The same of messages that come and go one by one; what it raises ends the stream."""


class Rpc(NamedTuple):
    """One method: either of the two."""

    path: str
    unary: Unary | None = None
    stream: Stream | None = None


class Servicer:
    """All methods of the service for one worker; lives on its loop."""

    def __init__(self, lane: LaneState, admin: Admin, settings: Settings) -> None:
        self._lane = lane
        self._plane = lane.plane
        self._admin = admin
        self._settings = settings
        self._heads: dict[bytes, Head] = {}
        self._lengths: dict[int, int] = {}
        """By the length of a message: how many of its first bytes decide its head."""
        self._rpcs: dict[str, Rpc] = {}
        self._add("ModelInfer", unary=self._infer)

    # ------------------------------------------------------------------ for transports

    def find(self, path: str) -> Rpc:
        """The method of a path, such as `/inference.GRPCInferenceService/ModelInfer`. Raises `Unsupported`."""
        rpc = self._rpcs.get(path)
        if rpc is None:
            raise Unsupported(f"the method {path[:120]} is not supported by this server")
        return rpc

    @property
    def rpcs(self) -> Iterable[Rpc]:
        """All methods."""
        return self._rpcs.values()

    def _add(self, name: str, unary: Unary | None = None, stream: Stream | None = None) -> None:
        path = name if name.startswith("/") else protocol.PREFIX + name
        self._rpcs[path] = Rpc(path, unary, stream)

    def _handle(self, name: str, handler: Handler) -> None:
        """Adds a method of the service that takes and gives messages."""
        method = protocol.methods()[name]

        async def unary(body: bytes, call: Call) -> bytes:
            request = method.request()
            _read(request, body)
            response = await handler(request, call)
            encoded: bytes = response.SerializeToString()
            return encoded

        self._add(name, unary)

    def forget(self) -> None:
        """Remembered heads hold routes through the snapshot that was in force."""
        self._heads.clear()
        self._lengths.clear()

    # ------------------------------------------------------------------ inference

    def infer(self, body: bytes, call: Call) -> None:
        """Takes a `ModelInferRequest`; the call's outcome is set later, or before this returns where it is refused."""
        try:
            head = self._head(body)
            if call.timeout_s is None:
                self._plane.invoke(head, body, call)
            else:
                timed = head.timed(call.timeout_s)
                self._plane.invoke(timed, body, call)
                head.route = timed.route
        except ServingError as error:
            self._plane.platform_errors += 1
            call.fail(Head(Face.OPEN_INFERENCE), error)

    async def _infer(self, body: bytes, call: Call) -> bytes:
        lane = self._lane
        held = len(body)
        try:
            lane.hold(held)
            self.infer(body, call)
            outcome = await call.outcome
        finally:
            lane.in_flight_bytes -= held
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome

    def _head(self, body: bytes) -> Head:
        length = self._lengths.get(len(body))
        if length is not None:
            known = self._heads.get(body[:length])
            if known is not None:
                return known
        places = grpc_infer.scan(body)
        head = self._named(places.model_name, places.model_version)
        if places.repeats:
            if len(self._heads) >= _MOST_HEADS:
                self.forget()
            self._heads[body[: places.start]] = head
            self._lengths[len(body)] = places.start
        return head

    def _named(self, name: str, version: str) -> Head:
        """The head of a call that names `ENDPOINT` or `ENDPOINT:TARGET`, and a version or ""."""
        endpoint, colon, target = name.partition(":")
        if not endpoint:
            raise BadRequest("the request has no model_name")
        head = Head(Face.OPEN_INFERENCE, endpoint)
        head.grpc = True
        head.version = version or None
        head.target_model = target if colon else None
        return head


def _read(message: Any, body: bytes) -> None:
    try:
        message.ParseFromString(body)
    except Exception as error:
        raise MalformedBody(f"the message is no {type(message).__name__}: {error}") from error
