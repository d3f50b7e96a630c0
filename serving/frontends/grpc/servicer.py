"""The service itself, free of any transport: messages in, messages or `ServingError`s out.

`ModelInfer` is the hot path: clients repeat all of a message but its tensors, so what its first bytes mean is remembered by
them, and no message is built on either side. Every other method takes and gives generated messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from serving.codecs import grpc_infer
from serving.errors import InternalError, ServingError, TooLarge, Unsupported
from serving.frontends.grpc import health, messages, names, protocol, reflection, shared_memory
from serving.frontends.grpc.call import Call
from serving.frontends.grpc.metadata import Metadata
from serving.frontends.grpc.operations import Operations
from serving.frontends.grpc.repository import Repository
from serving.frontends.grpc.streaming import InferStream
from serving.runtime.invocation import Face, Head

if TYPE_CHECKING:
    from serving.frontends.http.app import Admin
    from serving.frontends.http.lane_state import LaneState
    from serving.settings import Settings

log = logging.getLogger("serving.grpc")

SLACK_BYTES: Final = 64 * 1024
"""What a message may hold beside the tensors of the largest body."""

_MOST_HEADS: Final = 1024
_MOST_HEAD_BYTES: Final = 4096

Handler = Callable[[Any, Call], Awaitable[dict[str, Any]]]
"""A request message and its call to the content of the response message, in JSON form; raises `ServingError`."""

Unary = Callable[[bytes, Call], Awaitable[bytes]]
"""The bytes of a request message to those of the response; raises `ServingError`."""

Stream = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]
"""The same of messages that come and go one by one; what it raises ends the stream.

An asynchronous generator, which is to be closed (or cancelled while it is waited for) when the caller leaves.
"""


class Rpc(NamedTuple):
    """One method: either of the two."""

    path: str
    unary: Unary | None = None
    stream: Stream | None = None


class Servicer:
    """All methods of the service for one worker; lives on its loop. Raises `MissingExtra`."""

    def __init__(self, lane: LaneState, admin: Admin, settings: Settings) -> None:
        self.lane = lane
        self.max_message_bytes = settings.max_body_bytes + SLACK_BYTES
        """The largest message that is taken, from whatever transport."""
        self._plane = lane.plane
        self._heads: dict[bytes, tuple[Head, grpc_infer.Between]] = {}
        self._named: dict[tuple[str, str], Head] = {}
        self._lengths: dict[int, int] = {}
        """By the length of a message: how many of its first bytes decide its head."""
        self._rpcs: dict[str, Rpc] = {}
        self._add("ModelInfer", unary=self._infer)
        self._add("ModelStreamInfer", stream=self._stream)
        metadata = Metadata(lane)
        operations = Operations(admin)
        self._handle("ServerLive", metadata.server_live)
        self._handle("ServerReady", metadata.server_ready)
        self._handle("ServerMetadata", metadata.server_metadata)
        self._handle("ModelReady", metadata.model_ready)
        self._handle("ModelMetadata", metadata.model_metadata)
        self._handle("ModelConfig", metadata.model_config)
        self._handle("ModelStatistics", operations.model_statistics)
        self._handle("TraceSetting", operations.trace_setting)
        self._handle("LogSettings", operations.log_settings)
        repository = Repository(admin)
        self._handle("RepositoryIndex", repository.index)
        self._handle("RepositoryModelLoad", repository.load)
        self._handle("RepositoryModelUnload", repository.unload)
        for name in shared_memory.METHODS:
            self._handle(name, shared_memory.refuse)
        checks = health.Health(lane)
        self._add(health.CHECK, unary=checks.check)
        self._add(health.WATCH, stream=checks.watch)
        described = reflection.Reflection((protocol.SERVICE, health.SERVICE))
        for path in reflection.PATHS:
            self._add(path, stream=described.info)

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
        """Adds a method of the service that takes a message and gives the content of one."""
        method = protocol.methods()[name]

        async def unary(body: bytes, call: Call) -> bytes:
            try:
                return messages.write(method.response, await handler(messages.read(method.request, body), call))
            except ServingError:
                raise
            except Exception as error:
                log.exception("a call of %s failed", name)
                raise InternalError from error

        self._add(name, unary)

    def forget(self) -> None:
        """Remembered heads hold routes through the snapshot that was in force."""
        self._heads.clear()
        self._lengths.clear()
        self._named.clear()

    # ------------------------------------------------------------------ inference

    def infer(self, body: bytes, call: Call) -> None:
        """Takes a `ModelInferRequest`; the call's outcome is set later, or before this returns where it is refused."""
        try:
            head = self.head(body)
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
        held = len(body)
        if held > self.max_message_bytes:
            raise TooLarge(f"the request has {held} bytes; at most {self.max_message_bytes} were expected")
        lane = self.lane
        try:
            lane.hold(held)
            self.infer(body, call)
            outcome = await call.outcome
        except asyncio.CancelledError:
            call.hang_up()
            raise
        finally:
            lane.in_flight_bytes -= held
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome

    def _stream(self, bodies: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        return InferStream(self, call).answers(bodies)

    def head(self, body: bytes) -> Head:
        """What a `ModelInferRequest` names. Raises `ServingError`s."""
        length = self._lengths.get(len(body))
        if length is not None:
            known = self._heads.get(body[:length])
            if known is not None:
                head, between = known
                # Between raw contents there could be another name.
                if all(body[place] == there for place, there in between):
                    return head
        places = grpc_infer.scan(body)
        name = places.model_name, places.model_version
        named = self._named.get(name)
        if named is None:
            named = names.head_of(*name)
            if len(self._named) >= _MOST_HEADS:
                self.forget()
            self._named[name] = named
        if places.repeats and places.start <= _MOST_HEAD_BYTES:
            if len(self._heads) >= _MOST_HEADS or len(self._lengths) >= _MOST_HEADS:
                self.forget()
            self._heads[body[: places.start]] = named, places.between
            self._lengths[len(body)] = places.start
        return named
