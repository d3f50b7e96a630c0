"""The hot lane: invocations answered in the HTTP parser's callbacks, without ASGI scope, task or future.

`Connection` is uvicorn's protocol class with three additions:

1. A plain invocation (POST on one of its routes, HTTP/1.1, no transfer or content coding, no Expect, no upgrade)
   goes straight to `DataPlane.invoke`; every other request goes to the Starlette app, untouched, and both share one
   order of answers on the connection: one request is outstanding, the rest wait and reading pauses.
2. A head seen before, byte for byte, is not parsed again. The parser is strict and a head's meaning is a function of
   its bytes, so a bounded memo from head bytes to `Head` is safe; it saves llhttp and ten callbacks for each request
   of a client that repeats itself (benchmark: loadtests/bench/micro.py).
3. Limits: httptools has none, so bytes of heads, headers, bodies and idle time are counted here. Time is counted in
   sweeps of one timer over all connections, so that no request sets a timer.

This is the only module that touches uvicorn's private names; `check_uvicorn` fails on a version it was not written for.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import httptools
import numpy as np
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from serving.errors import (
    BadRequest,
    HeadersTooLarge,
    InternalError,
    MethodNotAllowed,
    RequestTimeout,
    ServingError,
    TooLarge,
)
from serving.frontends.http.coding import COMPRESS_BYTES, coding_fields, compress
from serving.frontends.http.faces import STATUS_LINES
from serving.frontends.http.head import parse_head
from serving.frontends.http.lane_state import SWEEP_S, LaneState, server_timing
from serving.frontends.http.paths import face_of, hot_face, printable
from serving.runtime.invocation import Face, Head, Invocation

UVICORN_VERSION: Final = "0.54.0"

_SMALL_BODY: Final = 64 * 1024
_LINGER_SWEEPS: Final = 3

_LENGTHS: Final = [b"content-length: %d\r\n\r\n" % length for length in range(4096)]
_CLOSE: Final = b"connection: close\r\n"


def check_uvicorn() -> None:
    """Raises `RuntimeError` unless uvicorn is the version whose private names this module was written for."""
    if uvicorn.__version__ != UVICORN_VERSION:
        raise RuntimeError(
            f"uvicorn {uvicorn.__version__} is installed; this server needs exactly {UVICORN_VERSION} (run: make install)"
        )


class Connection(HttpToolsProtocol):
    """One client connection. Implements `Reply` for the invocation that is outstanding on it."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        lane: LaneState = app_state["lane"]
        self.lane = lane
        self.invocation: Invocation | None = None
        self.closed = False
        self.url = b""
        self._invoke = lane.plane.invoke
        self._memo = lane.memo
        self._idle = True  # nothing outstanding or waiting, parser at the start of a message
        self._outstanding: Head | None = None
        self._stalled = False  # the client does not read its answers
        self._advancing = False
        self._lingering = False  # answered and closing: what still comes is thrown away
        self._in_message = False
        self._head_done = False
        self._with_app = False  # the message under way is the app's
        # the cycle that the app works on; uvicorn knows only the last
        self._running: RequestResponseCycle | None = None
        self._again = b""  # a head that offered another protocol, without the offer
        self._head_bytes = 0
        self._fed_bytes = 0
        self._head: Head | None = None
        self._bodiless: Head | None = None  # whose answer is one to HEAD
        self._fault: ServingError | None = None
        self._body: bytes | memoryview = b""
        self._received = 0
        self._held = 0
        self._held_outstanding = 0  # of which by the request that is outstanding
        self._completed = 0  # messages completed by the chunk that is being fed
        self._last_seen: tuple[int, str, int] = (0, "", 0)
        self._served = 0
        self._age = 0
        # The app's cycles and the lane's (head, body or error) wait in one queue, so that answers keep their order.
        self._queue = cast("Any", self.pipeline)

    # ------------------------------------------------------------------ bytes in

    def data_received(self, data: bytes) -> None:
        if self._idle:
            end = data.find(b"\r\n\r\n") + 4
            raw = data[:end]
            head = self._memo.get(raw)
            if head is not None:
                if len(data) - end == head.length:
                    self._idle = False
                    self._outstanding = head
                    self._invoke(head, data[end:], self)
                    return
            elif end > 3:
                self._feed(data)
                head = self._outstanding
                if self._completed == 1 and head is not None and len(data) - end == head.length:
                    self.lane.remember(raw, head)
                return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        if self._lingering or self.parser is None:
            return
        self._unset_keepalive_if_required()
        self._completed = 0
        self._fed_bytes += len(data)
        parts: list[bytes | memoryview] = [data]
        while parts:
            part = parts.pop()
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserUpgrade as upgrade:
                again, self._again = self._again, b""
                parts += [memoryview(part)[upgrade.args[0] :], again]
                self._fed_bytes = len(parts[0])
            except httptools.HttpParserCallbackError as error:
                self._reject(_cause(error))
                return
            except httptools.HttpParserError as error:
                self._reject(BadRequest(f"the request is not valid HTTP/1.1: {printable(str(error).encode())}"))
                return
        if self._in_message:
            self._check_fed()

    def _check_fed(self) -> None:
        """Refuses a head that does not end, and chunks with more around them than in them."""
        limit = self.lane.max_head
        if not self._head_done:
            if self._fed_bytes > limit:
                self._reject(self._head_too_large())
        elif self._fed_bytes > limit + 16 * self._received:
            self._reject(BadRequest("the chunks of the body carry far more around their data than data"))

    def on_message_begin(self) -> None:
        if self.transport.is_closing():
            raise BadRequest("the request before this one closed the connection")
        self._idle = False
        self._in_message = True
        self._head_done = False
        self._with_app = False
        self._head_bytes = 0
        self._head = None
        self._fault = None
        self._body = b""
        self._received = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._head_bytes += len(url)
        if self._head_bytes > self.lane.max_head:
            raise self._head_too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        # A trailer is counted and dropped: merged into the headers it would speak with their authority (RFC 9110, 6.5.1).
        if not self._head_done:
            self.headers.append((name.lower(), value))
        if self._head_bytes > self.lane.max_head or len(self.headers) > self.lane.max_headers:
            raise self._head_too_large()

    def on_headers_complete(self) -> None:
        self._head_done = True
        self._fed_bytes = 0
        parser = self.parser
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise BadRequest(f"HTTP/{printable(version.encode())} is not supported; HTTP/1.1 is")
        refused = self.lane.guard.check(self.headers, version)
        path = self.url.partition(b"?")[0]
        method = parser.get_method()
        if method == b"CONNECT":
            raise MethodNotAllowed("CONNECT is not answered: this server is no proxy")
        if parser.should_upgrade():
            # llhttp takes what follows for the other protocol, a body too. We take no offer (RFC 9110, 7.8), so that it
            # is HTTP/1.1, and the message begins again without the offer.
            fields = b"".join(b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
            self._again = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version.encode(), fields)
            return
        length = 0
        plain = version == "1.1" and method == b"POST"
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                plain = False
                _check_coding(value, version)
            elif name == b"content-encoding":
                plain = False
            elif name == b"expect":
                plain = False
                self.expect_100_continue = value.lower() == b"100-continue"
        if length > self.lane.max_body:
            raise self._body_too_large()
        if refused is not None:
            self._refuse(Head(face_of(path)), refused)
            return
        if plain:
            try:
                hot = hot_face(path)
                if hot is not None and not (hot[0] is Face.CONTAINER and self.lane.plane.snapshot.default_streams):
                    head = parse_head(*hot, self.headers)
                    head.length = length
                    head.keep_alive = parser.should_keep_alive()
                    self._head = head
                    return
            except ServingError as error:
                self._refuse(Head(face_of(path)), error)
                return
        self._to_app()

    def on_body(self, body: bytes) -> None:
        size = len(body)
        head = self._head
        if head is None or self._fault is not None:
            self._received += size
            if self._received > self.lane.max_body:
                raise self._body_too_large()
            if head is None:
                super().on_body(body)
            return
        if size == head.length:
            self._body = body
            return
        if not self._received:
            # Reserved, not filled (a bytearray would be): pages are only touched as the bytes come.
            self._body = memoryview(np.empty(head.length, np.uint8).data)
        if head.length > _SMALL_BODY:
            self._held += size
            self.lane.hold(size)
        self._body[self._received : self._received + size] = body  # type: ignore[index]
        self._received += size
        if self._received < head.length and not self.flow.read_paused:
            # libuv reads up to 32 times for one event; a fast sender would keep everybody else waiting that long.
            self.transport.pause_reading()
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self.closed and not self.flow.read_paused:
            self.transport.resume_reading()

    def on_message_complete(self) -> None:
        if self._again:
            return
        self._in_message = False
        self._fed_bytes = 0
        if self.transport.is_closing():
            return  # an earlier request on this connection was the last
        self._completed += 1
        head = self._head
        if head is None:
            super().on_message_complete()
            return
        content: bytes | memoryview | ServingError = self._body if self._fault is None else self._fault
        self._body = b""
        if self._occupied():
            self.flow.pause_reading()
            self._queue.appendleft((head, content))
        else:
            self._dispatch(head, content)

    # ------------------------------------------------------------------ one at a time, in order

    def _to_app(self) -> None:
        """Hands the message under way to uvicorn's own machinery, which made its scope at message begin."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expect
        super().on_headers_complete()
        self._with_app = True
        self.cycle.transport = cast("asyncio.Transport", _AppTransport(self))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # Called by uvicorn for a new request when no earlier one of the app is under way; the lane's may be.
        if self._occupied():
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))
        else:
            self._run(cycle, app)

    def _run(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _app_runs(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _occupied(self) -> bool:
        """A new request has to wait: for an answer, for others before it, or for the client to read."""
        return self._outstanding is not None or bool(self.pipeline) or self._stalled or self._app_runs()

    def _dispatch(self, head: Head, content: bytes | memoryview | ServingError) -> None:
        self._outstanding = head
        if isinstance(content, ServingError):
            self.fail(head, content)
        else:
            if len(content) > _SMALL_BODY and isinstance(content, memoryview):
                self._held_outstanding = len(content)
            self._invoke(head, content, self)

    def _next(self, head: Head) -> None:
        """The outstanding request was answered: starts the next, or waits for one."""
        self.invocation = None
        self._outstanding = None
        self._served += 1
        self.lane.requests += 1
        if self._held_outstanding:
            self._release(self._held_outstanding)
            self._held_outstanding = 0
        if not head.keep_alive or self.lane.draining:
            self._close_after_answer()
        else:
            self._advance()

    def on_response_complete(self) -> None:
        """The app answered (called by its cycle; uvicorn's own would arm a timer)."""
        self.server_state.total_requests += 1
        self._served += 1
        self.lane.requests += 1
        if self.transport.is_closing():
            return
        unasked = self._with_app and self.expect_100_continue and self._in_message and not self._received
        if unasked and self.cycle.response_complete:
            # Answered without asking for the body: whether the client sends it now is anybody's guess.
            self.close_politely()
        elif self.lane.draining:
            self.transport.close()
            return
        self._advance()

    def _advance(self) -> None:
        """Starts what waits, or reads on; not before the client has read what it was sent.

        A loop, since a refused request is answered before `_dispatch` returns, and any number of them may wait.
        """
        if self._advancing:
            return
        self._advancing = True
        waiting = self._queue
        while self._outstanding is None and not self._app_runs() and not self.transport.is_closing():
            if self.flow.write_paused:
                self._stalled = True
                self.flow.pause_reading()
                break
            if not waiting:
                if self.flow.read_paused:
                    self.flow.resume_reading()
                self._idle = not self._in_message and not self._lingering
                break
            first, content = waiting.pop()
            if isinstance(first, Head):
                self._dispatch(first, content)
            else:
                self._run(first, content)
        self._advancing = False

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled and not self.closed:
            self._stalled = False
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        invocation = self.invocation
        if invocation is not None:
            self.invocation = None
            invocation.route.model.cancel(invocation)
        self._release(self._held)
        self._body = b""
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)
        self.lane.closed.set()

    # ------------------------------------------------------------------ answers

    def answer(self, invocation: Invocation, fields: bytes, body: bytes) -> None:
        """Implements `Reply`."""
        if self.closed:
            return
        lane = self.lane
        head = invocation.head
        length = len(body)
        if length >= COMPRESS_BYTES and head.coding is not None and b"content-encoding" not in fields:
            self._compress(head.coding, invocation, fields, body)
            return
        end = _LENGTHS[length] if length < 4096 else b"content-length: %d\r\n\r\n" % length
        if head.face is Face.RUNTIME or head.timing or not head.keep_alive or lane.draining:
            fields += self._extra_fields(head, invocation)
        if length < _SMALL_BODY:
            self.transport.write(b"".join((lane.ok, fields, end, body)))
        else:
            self.transport.writelines((lane.ok + fields + end, body))
        self._next(head)

    def _compress(self, coding: str, invocation: Invocation, fields: bytes, body: bytes) -> None:
        """Answers once a thread has compressed the body."""

        def then(compressed: bytes, error: BaseException | None) -> None:
            if error is None:
                self.answer(invocation, fields + coding_fields(coding), compressed)
            else:
                self.fail(invocation.head, InternalError())

        try:
            invocation.route.model.on_thread(lambda: compress(coding, body), then)
        except ServingError as error:
            self.fail(invocation.head, error)

    def fail(self, head: Head, error: ServingError) -> None:
        """Implements `Reply`."""
        if self.closed:
            return
        rendered = self.lane.faces.render(head.face, error, head.name)
        fields = rendered.fields
        if head.face is Face.RUNTIME or not head.keep_alive or self.lane.draining:
            fields += self._extra_fields(head, None)
        self.transport.write(
            b"".join(
                (
                    STATUS_LINES.get(rendered.status) or b"HTTP/1.1 %d Error\r\n" % rendered.status,
                    self.lane.date,
                    fields,
                    rendered.length_field + b"\r\n",
                    b"" if head is self._bodiless else rendered.body,
                )
            )
        )
        self._next(head)

    def _extra_fields(self, head: Head, invocation: Invocation | None) -> bytes:
        fields = b"" if head.keep_alive and not self.lane.draining else _CLOSE
        if head.face is Face.RUNTIME:
            fields += b"x-amzn-requestid: %b\r\n" % self.lane.request_id()
            if invocation is not None:
                variant = invocation.route.variant.encode()
                fields += b"x-amzn-invoked-production-variant: %b\r\n" % variant
        if invocation is not None and invocation.timings is not None:
            queue_s, rows, compute_s = invocation.timings
            fields += server_timing(queue_s, rows, compute_s)
        return fields

    # ------------------------------------------------------------------ refusals and the end

    def _refuse(self, head: Head, error: ServingError) -> None:
        """Answers the message under way with an error once it has been read, so that the connection stays usable."""
        if self.expect_100_continue or self.parser.get_method() == b"HEAD":
            raise error  # the body may never come, or the answer may have none: only closing is clear
        head.keep_alive = self.parser.should_keep_alive()
        self._head = head
        self._fault = error

    def _reject(self, error: ServingError) -> None:
        """Answers with an error, in its turn, and closes: nothing more can be read from this connection."""
        if self._lingering or self.transport.is_closing():
            return
        self._lingering = True
        self._idle = False
        self._age = 0
        self._body = b""
        head = Head(face_of(self.url))
        head.keep_alive = False
        if self._head_done and self.parser.get_method() == b"HEAD":
            self._bodiless = head
        waits = self._occupied()
        if self._with_app and self._in_message:
            # The body of a request that the app already has went wrong.
            cycle: RequestResponseCycle = self.cycle
            if cycle.response_started:
                self.close_politely()
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if self._queue and self._queue[0][0] is cycle:
                self._queue.popleft()
            else:
                waits = False
        if waits:
            self._queue.appendleft((head, error))
        else:
            self._dispatch(head, error)

    def _close_after_answer(self) -> None:
        if not self._lingering:
            self.transport.close()
        elif self.transport.can_write_eof():
            # Closing with unread bytes would reset the connection and take the answer with it.
            self.transport.write_eof()

    def close_politely(self) -> None:
        """Closes once the client has had time to read; what waits is dropped."""
        self._queue.clear()
        self._lingering = self._lingering or self._in_message
        self._close_after_answer()

    def _head_too_large(self) -> ServingError:
        lane = self.lane
        return HeadersTooLarge(
            f"the request line and headers are over the limit of {lane.max_head} bytes or {lane.max_headers} headers"
        )

    def _body_too_large(self) -> ServingError:
        return TooLarge(f"HTTP content length exceeded {self.lane.max_body} bytes.")

    def _release(self, size: int) -> None:
        self.lane.in_flight_bytes -= size
        self._held -= size

    def sweep(self) -> None:
        """Called each `SWEEP_S` seconds: ends what has stood still for too long."""
        if self.closed or self.transport is None:
            return
        lane = self.lane
        if self._lingering:
            phase, limit = "lingering", 1 if lane.draining else _LINGER_SWEEPS
        elif self._stalled or self.flow.write_paused:
            phase, limit = "unread", lane.body_sweeps
        elif self._in_message and not self._head_done:
            phase, limit = "head", 1 if lane.draining else lane.head_sweeps
        elif self._in_message:
            phase, limit = "body", lane.body_sweeps
        elif self._outstanding is not None or self._app_runs():
            phase, limit = "busy", 0
        else:
            phase, limit = "idle", lane.idle_sweeps if self._served else lane.head_sweeps
        if self.flow.read_paused and phase in ("head", "body"):
            phase, limit = "busy", 0  # the rest may have come long ago: it is we who do not read
        seen = (self._served, phase, self.transport.get_write_buffer_size() if phase == "unread" else 0)
        if seen != self._last_seen:
            self._last_seen = seen
            self._age = 0
            return
        self._age += 1
        if not limit or self._age < limit:
            return
        if phase in ("head", "body"):
            self._reject(RequestTimeout(f"the {phase} of the request did not come within {self._age * SWEEP_S:g} s"))
        elif phase in ("unread", "lingering"):
            self.transport.abort()
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """The worker drains: closes now when idle, else after the answer."""
        if self._running is not None and self._app_runs():
            self._running.keep_alive = False
        elif not self._occupied() and not self._in_message:
            self.transport.close()


class _AppTransport:
    """The transport as a cycle of the app sees it: closing leaves the client time to read the answer."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, connection: Connection) -> None:
        self.close = connection.close_politely
        self.is_closing = connection.transport.is_closing
        self.write = connection.transport.write


def _check_coding(value: bytes, version: str) -> None:
    """Raises `BadRequest` for a transfer coding that would leave the end of the message in doubt (RFC 9112, 6.1)."""
    if version == "1.0":
        raise BadRequest("HTTP/1.0 has no transfer-encoding; send a content-length, or HTTP/1.1")
    if value.strip().lower() != b"chunked":
        raise BadRequest(f"the transfer-encoding '{printable(value)}' is not supported; chunked is")


def _cause(error: BaseException) -> ServingError:
    cause = error.__context__ or error.__cause__
    return cause if isinstance(cause, ServingError) else BadRequest("the request is not valid HTTP/1.1")
