"""The servicer as an ASGI application over HTTP/2 with trailers (`http.response.trailers`).

A ModelInfer whose message comes in one piece is taken and answered without a task's help: it is handed to the data plane in the
very call that brings it, and what the data plane then answers goes out of its callback. The rest is ordinary: a coroutine per call.
Sources: gRPC over HTTP/2; ASGI, HTTP and the trailers extension; gRPC's status codes and their use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Final

from serving.errors import (
    BadRequest,
    DeadlineExceeded,
    InternalError,
    RequestTimeout,
    ServingError,
    Unavailable,
    Unsupported,
)
from serving.frontends.grpc import framing, protocol
from serving.frontends.grpc.call import Call
from serving.frontends.grpc.framing import Frames
from serving.frontends.grpc.headers import Metadata, is_grpc, timeout_of, trailers_of
from serving.frontends.grpc.servicer import Rpc, Servicer
from serving.frontends.grpc.transport import Service
from serving.runtime.invocation import Head, Invocation
from serving.settings import Settings

log = logging.getLogger("serving.grpc")

Message = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Message], Any]
Headers = list[tuple[bytes, bytes]]

_INFER: Final = protocol.PREFIX + "ModelInfer"
_TYPE: Final = (b"content-type", b"application/grpc")
_START: Final[Message] = {"type": "http.response.start", "status": 200, "headers": [_TYPE], "trailers": True}
_OK: Final[Message] = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_EMPTY: Final[Message] = {"type": "http.response.body", "body": b""}
_ON_LOOP_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 1024 * 1024


class Application:
    """All calls of one worker; an ASGI application without lifespan. Lives on the worker's loop.

    `calls`: how many are in flight; `requests`: how many there were.
    """

    def __init__(self, settings: Settings, service: Service) -> None:
        self.calls = 0
        self.requests = 0
        self.body_timeout_s = settings.body_timeout_s
        self.most = service.max_message_bytes
        self.service = service
        self._servicer = service if isinstance(service, Servicer) else None
        self.loop = asyncio.get_running_loop()
        self.stopping = False
        self._running: dict[asyncio.Task[Any], _Exchange] = {}
        self.waiting: set[_Answer] = set()

    def __call__(self, scope: Message, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Begins a call; what it returns ends with it."""
        self.requests += 1
        servicer = self._servicer
        if servicer is None or scope["path"] != _INFER:
            return self._run(scope, receive, send, None)
        fields = scope["headers"]
        timeout_s = None
        plain = False
        for name, value in fields:
            if name == b"content-type":
                plain = value == b"application/grpc"
            elif name == b"grpc-timeout":
                try:
                    timeout_s = timeout_of(value)
                except BadRequest:
                    plain = False
                    break
            elif name == b"grpc-encoding" and value != b"identity":
                plain = False
                break
        if not plain or scope["method"] != "POST" or "http.response.trailers" not in scope["extensions"]:
            return self._run(scope, receive, send, None)
        # What has come already is had without a task.
        waiting = receive()
        try:
            waiting.send(None)
        except StopIteration as had:
            first = had.value
            body = first.get("body", b"")
            size = len(body) - framing.PREFIX_BYTES
            if size < 0 or body[0] or int.from_bytes(body[1:5], "big") != size or size > self.most:
                return self._run(scope, receive, send, first)
        except OSError:
            return _nothing()
        else:
            return self._run(scope, receive, send, waiting)
        answer = _Answer(self, receive, send, fields, timeout_s, size)
        try:
            servicer.lane.hold(size)
            servicer.infer(body[framing.PREFIX_BYTES :], answer)
        except ServingError as error:
            answer.fail(None, error)
        except Exception:
            log.exception("a call of %s failed", _INFER)
            answer.fail(None, InternalError())
        return answer.settled()

    def hold(self, size: int) -> None:
        """Counts bytes of requests that are kept. Raises `Unavailable` over the limit, and counts them all the same."""
        if self._servicer is not None:
            self._servicer.lane.hold(size)

    def keep(self, size: int) -> None:
        """Counts bytes of answers that their callers do not take yet; over the limit, further requests are refused."""
        if self._servicer is not None:
            self._servicer.lane.in_flight_bytes += size

    def release(self, size: int) -> None:
        """Counts what is kept no longer."""
        if self._servicer is not None:
            self._servicer.lane.in_flight_bytes -= size

    def stop(self) -> None:
        """Streams end where they wait for their callers."""
        self.stopping = True
        for exchange in tuple(self._running.values()):
            exchange.leave()

    def cut(self) -> None:
        """Ends what is still in flight: its callers are told that the server stops."""
        for answer in tuple(self.waiting):
            answer.fail(None, Unavailable("the server is stopping", retry_after_s=1))
            answer.hang_up()
        for task in tuple(self._running):
            task.cancel()

    async def _run(self, scope: Message, receive: Receive, send: Send, first: Any) -> None:
        """Any call. `first`: the first event where it has come, or what is to be awaited for it."""
        task = asyncio.current_task()
        assert task is not None
        exchange = self._running[task] = _Exchange(self, scope, receive, send, first)
        self.calls += 1
        try:
            await exchange.run()
        except (asyncio.CancelledError, OSError, _HungUp):
            # The caller has left, or is told by the end of its stream.
            return
        except Exception:
            log.exception("a call of %s failed", scope["path"])
        finally:
            del self._running[task]
            self.calls -= 1


class _HungUp(Exception):
    """The caller left."""


class _Answer(Call):
    """A call of ModelInfer, which sends its answer from the data plane's callback."""

    __slots__ = ("_application", "_blocked", "_held", "_kept", "_open", "_receive", "_send", "_waiter")

    def __init__(
        self,
        application: Application,
        receive: Receive,
        send: Send,
        fields: Headers,
        timeout_s: float | None,
        held: int,
    ) -> None:
        # Not the base's, which makes a future.
        self.timeout_s = timeout_s
        self.metadata = Metadata(fields)
        self.invocation = None
        self.closed = False
        self._application = application
        self._receive = receive
        self._send = send
        self._held = held
        self._kept = 0
        self._open = True
        self._waiter: asyncio.Future[None] | None = None
        self._blocked: Awaitable[None] | None = None
        application.calls += 1

    def answer(self, invocation: Invocation, fields: bytes, body: bytes) -> None:
        """Implements `Reply`."""
        if not self._open:
            return
        send = self._send
        with suppress(OSError):  # the caller left
            # Each takes its message before it returns, and what it returns is to be awaited only where that says to wait: the
            # first never does, and all that do not wait return the same.
            done = send(_START)
            told = send({"type": "http.response.body", "body": framing.frame(body)})
            if told is done:
                send(_OK)
            else:
                self._blocked = told
            if told is not done or len(body) > _ON_LOOP_BYTES:
                self._kept = len(body)
                self._application.keep(self._kept)
        self._end()

    def fail(self, head: Head | None, error: ServingError) -> None:
        """Implements `Reply`."""
        if not self._open:
            return
        with suppress(OSError):
            _refuse(self._send, error)
        self._end()

    def hang_up(self) -> None:
        """The caller left, or is told that its deadline passed."""
        super().hang_up()
        self._end()

    async def settled(self) -> None:
        """Returns when all is sent."""
        application = self._application
        timer = None
        try:
            if self._open:
                self._waiter = application.loop.create_future()
                application.waiting.add(self)
                if self.timeout_s is not None:
                    timer = application.loop.call_later(self.timeout_s, self._late)
                await self._waiter
            if self._kept:
                if self._blocked is not None:
                    await self._blocked
                    self._send(_OK)
                await _taken(self._receive, application.body_timeout_s)
        except asyncio.CancelledError:
            self.hang_up()
        except OSError:
            return
        finally:
            application.waiting.discard(self)
            if timer is not None:
                timer.cancel()
            if self._kept:
                application.release(self._kept)
                self._kept = 0
            # Each holds the other: left so, all of a call would wait for the collector.
            self.invocation = None

    def _late(self) -> None:
        self.fail(None, DeadlineExceeded(f"the deadline of {self.timeout_s:g} s passed before the answer was ready"))
        self.hang_up()

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._application.release(self._held)
            self._application.calls -= 1
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)


class _Exchange:
    """Any call, as a coroutine: its messages in, its answers out."""

    def __init__(self, application: Application, scope: Message, receive: Receive, send: Send, first: Any) -> None:
        self._application = application
        self._path: str = scope["path"]
        self._method: str = scope["method"]
        self._fields: Headers = scope["headers"]
        self._trailers = "http.response.trailers" in scope["extensions"]
        self._receive = receive
        self._send = send
        self._first = first
        self._frames = Frames(application.most)
        self._held = 0
        self._kept = 0
        self._whole = False
        self._coding: str | None = None
        self._answered: str | None = None
        """The coding of the answers."""
        self._started = False
        self._leaving = application.stopping
        self._waiting: Any = None

    def leave(self) -> None:
        """The server stops: what has come is answered, and nothing else is waited for."""
        self._leaving = True
        # Messages have been told of where it is a future.
        cancel = getattr(self._waiting, "cancel", None)
        if cancel is not None:
            cancel()

    async def run(self) -> None:
        """Answers it, unless the caller leaves."""
        named = dict(self._fields)
        if self._method != "POST":
            await self._http(405, [(b"allow", b"POST")])
            return
        if not is_grpc(named.get(b"content-type", b"")):
            await self._http(415, [(b"accept-post", b"application/grpc")])
            return
        call: Call | None = None
        try:
            timeout_s = timeout_of(named[b"grpc-timeout"]) if b"grpc-timeout" in named else None
            call = Call(timeout_s, Metadata(self._fields))
            try:
                async with asyncio.timeout(timeout_s):
                    await self._serve(named, call)
            except TimeoutError as error:
                raise DeadlineExceeded(f"the deadline of {timeout_s:g} s passed before the answer was ready") from error
            await self._finish([(b"grpc-status", b"0")])
            if self._kept:
                await _taken(self._receive, None)
        except ServingError as error:
            if call is not None:
                call.hang_up()
            await self._finish(trailers_of(error))
        except (asyncio.CancelledError, OSError, _HungUp):
            if call is not None:
                call.hang_up()
            if self._application.stopping:
                # It is we who leave.
                with suppress(OSError):
                    await self._finish(trailers_of(Unavailable("the server is stopping", retry_after_s=1)))
            raise
        except Exception as error:
            log.error("a call of %s failed", self._path, exc_info=error)
            if call is not None:
                call.hang_up()
            await self._finish(trailers_of(InternalError()))
        finally:
            self._release()
            self._application.release(self._kept)

    async def _serve(self, named: dict[bytes, bytes], call: Call) -> None:
        if not self._trailers:
            raise InternalError("the request lacks the header `te: trailers`, so its status could not be told")
        rpc = self._application.service.find(self._path)
        self._choose(named)
        if rpc.unary is not None:
            await self._unary(rpc, call)
        elif rpc.stream is not None:
            async with aclosing(rpc.stream(self._messages(), call)) as answers:  # type: ignore[type-var]
                async for answer in answers:
                    await self._answer(answer)
                    del answer  # not kept while the next is waited for
            if self._application.stopping and not self._whole:
                raise Unavailable("the server is stopping", retry_after_s=1)

    async def _unary(self, rpc: Rpc, call: Call) -> None:
        assert rpc.unary is not None
        try:
            async with asyncio.timeout(self._application.body_timeout_s):
                body = await self._message()
                if body is not None and await self._message() is not None:
                    raise Unsupported(f"{self._path} takes one message, and the request has several")
        except TimeoutError as error:
            raise RequestTimeout(
                f"the message was not received whole in {self._application.body_timeout_s:g} s"
            ) from error
        if body is None:
            raise Unsupported(f"{self._path} takes one message, and the request has none")
        self._release()
        answer = await rpc.unary(body, call)
        del body
        if len(answer) > _ON_LOOP_BYTES:
            self._kept = len(answer)
            self._application.keep(self._kept)
        await self._answer(answer)

    # ------------------------------------------------------------------ what comes

    def _choose(self, named: dict[bytes, bytes]) -> None:
        """The codings of both sides. Raises `Unsupported`."""
        coding = named.get(b"grpc-encoding", b"identity").decode("latin-1").strip().lower()
        if coding == "identity":
            return
        if coding not in framing.CODINGS:
            raise Unsupported(f"grpc-encoding is '{coding[:40]}'; identity, gzip and deflate are read")
        self._coding = coding
        accepted = named.get(b"grpc-accept-encoding", b"").decode("latin-1").lower().split(",")
        if coding in [each.strip() for each in accepted]:
            self._answered = coding

    async def _messages(self) -> AsyncIterator[bytes]:
        """Those of a stream, until its end or the server's."""
        while (message := await self._message()) is not None:
            self._release(self._frames.held)
            yield message
            del message

    async def _message(self) -> bytes | None:
        """The next message, or None at the end. Raises `_HungUp` when the caller left."""
        frames = self._frames
        while True:
            found = frames.next()
            if found is not None:
                packed, message = found
                return await self._inflate(message) if packed else message
            if self._whole:
                frames.finish()
                return None
            event = await self._event()
            if event is None:
                return None
            if event["type"] != "http.request":
                raise _HungUp
            chunk = event.get("body", b"")
            self._held += len(chunk)
            self._application.hold(len(chunk))
            frames.feed(chunk)
            self._whole = not event.get("more_body", False)

    async def _event(self) -> Message | None:
        """What comes next, or None where the server stops before it comes."""
        first, self._first = self._first, None
        if isinstance(first, dict):
            return first
        self._waiting = self._receive() if first is None else first
        try:
            event: Message = await self._waiting
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._leaving or (task is not None and task.cancelling()):
                raise
            return None
        finally:
            self._waiting = None
        return event

    async def _inflate(self, packed: bytes) -> bytes:
        coding = self._coding
        if coding is None:
            raise InternalError("a message is flagged as compressed, and the request has no grpc-encoding")
        most = self._application.most
        if len(packed) > _ON_LOOP_BYTES:
            message = await asyncio.to_thread(framing.inflated, coding, packed, most)
        else:
            message = framing.inflated(coding, packed, most)
        self._held += len(message)
        self._application.hold(len(message))
        return message

    def _release(self, left: int = 0) -> None:
        """What was received goes on to whoever counts it from here, but for what is left of the next messages."""
        self._application.release(self._held - left)
        self._held = left

    # ------------------------------------------------------------------ what goes

    async def _answer(self, message: bytes) -> None:
        coding = self._answered
        if not self._started:
            self._started = True
            headers = [_TYPE] if coding is None else [_TYPE, (b"grpc-encoding", coding.encode())]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
        if coding is None or len(message) < framing.COMPRESS_BYTES:
            prefix, rest = framing.prefix(0, len(message)), message
        elif len(message) > _ON_LOOP_BYTES:
            prefix, rest = b"", await asyncio.to_thread(framing.compressed, coding, message)
        else:
            prefix, rest = b"", framing.compressed(coding, message)
        del message
        held = 0 if self._kept else len(rest)
        self._application.keep(held)
        try:
            # In pieces: h2corn takes one that is larger than all that it keeps of a connection, and says nothing.
            for at in range(0, len(rest) or 1, _PIECE_BYTES):
                piece = prefix + rest[at : at + _PIECE_BYTES]
                prefix = b""
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            self._application.release(held)

    async def _finish(self, trailers: Headers) -> None:
        if not self._started:
            self._started = True
            await self._http(200, [_TYPE, *trailers, (b"grpc-accept-encoding", framing.ACCEPTED)])
            return
        await self._send(_EMPTY)
        await self._send({"type": "http.response.trailers", "headers": trailers})

    async def _http(self, status: int, headers: Headers) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send(_EMPTY)


def _refuse(send: Send, error: ServingError) -> None:
    """Sends an answer of headers alone (gRPC over HTTP/2, Trailers-Only)."""
    send({"type": "http.response.start", "status": 200, "headers": [_TYPE, *trailers_of(error)]})
    send(_EMPTY)


async def _taken(receive: Receive, whole_within_s: float | None) -> None:
    """Returns once the answer was written to the caller, or the caller left.

    h2corn tells so only where the request is whole: one whose end has not come is waited for so long.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(whole_within_s) as limit:
            while (event := await receive())["type"] == "http.request":
                if not event.get("more_body", False):
                    limit.reschedule(None)


async def _nothing() -> None:
    """The end of a call whose caller has left."""
