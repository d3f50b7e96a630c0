"""ModelStreamInfer: requests that come one by one on a stream, run beside each other, answered in their order.

A request has one answer, or one for each part where its model answers in parts. Each answer has the parameter
`triton_final_response`; a part cannot know that it is the last, so that it is true on an empty answer after the parts, for
those who asked for one with `triton_enable_empty_final_response`. An error is an answer, too, unless the call's metadata
have `triton_grpc_error: true`: then the first one ends the stream.
Sources: Triton's gRPC service (ModelStreamInfer), decoupled models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from serving.codecs.grpc_messages import messages
from serving.errors import InternalError, ServingError, TooLarge, Unavailable
from serving.frontends.grpc.call import Call
from serving.runtime.invocation import Face, Head
from serving.runtime.model import BULK_BYTES
from serving.runtime.routing import Absent
from serving.runtime.streaming import PartStream

if TYPE_CHECKING:
    from serving.frontends.http.lane_state import LaneState

log = logging.getLogger("serving.streaming")

OUTSTANDING: Final = 64
"""Requests of one stream that are not answered; those after them are not read. A large one counts for several."""

_SHARE_BYTES: Final = 1024 * 1024

LOOK_S: Final = 0.5
"""How often an open stream looks whether the server drains."""

_FINAL: Final = "triton_final_response"
_WANTS_FINAL: Final = "triton_enable_empty_final_response"
_STRICT: Final = "triton_grpc_error"


class Inference(Protocol):
    """What runs the requests: the servicer."""

    lane: LaneState
    max_message_bytes: int

    def head(self, body: bytes) -> Head:
        """What a `ModelInferRequest` names. Raises `ServingError`s."""

    def infer(self, body: bytes, call: Call) -> None:
        """Takes a `ModelInferRequest`; the call's outcome is set once it is answered."""


def _parameter(*, final: bool) -> bytes:
    """The parameter `triton_final_response` as a field of `ModelInferResponse`: an entry of the map in its field 4."""
    entry = b"\x0a%c%b\x12\x02\x08%c" % (len(_FINAL), _FINAL.encode(), final)
    return b"\x22%c%b" % (len(entry), entry)


LAST: Final = _parameter(final=True)
MORE: Final = _parameter(final=False)


def answer(parameter: bytes, response: bytes) -> bytes:
    """The bytes of a `ModelInferResponse` with one more parameter, as the `infer_response` of a stream's message."""
    size = len(response) + len(parameter)
    prefix = bytearray(b"\x12")
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return b"".join((prefix, response, parameter))


class _Request:
    """One request, from when it was read to its last answer.

    `opening`: its model answers in parts, or may do so. `asked`: its message, as far as anybody needed it. `shares`: as how
    many requests it counts.
    """

    __slots__ = ("asked", "body", "call", "held", "opening", "shares")

    def __init__(self, body: bytes, call: Call) -> None:
        self.body = body
        self.call = call
        self.held = len(body)
        self.shares = 1 + min(len(body) // _SHARE_BYTES, OUTSTANDING - 1)
        self.opening: asyncio.Task[PartStream | None] | None = None
        self.asked: Any = None


class InferStream:
    """One call of ModelStreamInfer."""

    def __init__(self, inference: Inference, call: Call) -> None:
        self._inference = inference
        self._lane = inference.lane
        self._plane = inference.lane.plane
        self._call = call
        self._strict = call.metadata.get(_STRICT) == "true"
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._room = asyncio.Semaphore(OUTSTANDING)
        self._waiting: asyncio.Queue[_Request | None] = asyncio.Queue()
        self._current: _Request | None = None
        self._ended: ServingError | None = None
        self._broken: Exception | None = None
        self._timer: asyncio.TimerHandle

    async def answers(self, bodies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The answers to the requests of `bodies`. Raises the `ServingError` that ends the stream, in its place after them.

        Whoever has no more use for them closes this generator, which cancels what is outstanding; so does any other
        exception that `bodies` raises, which comes out of here.
        """
        reader = self._loop.create_task(self._read(bodies))
        reader.add_done_callback(lambda _: self._waiting.put_nowait(None))
        self._look(reader)
        try:
            while (request := await self._waiting.get()) is not None:
                self._current = request
                try:
                    stream = None if request.opening is None else await request.opening
                    if stream is None:
                        outcome = await request.call.outcome
                        if isinstance(outcome, ServingError):
                            raise outcome
                        yield answer(LAST, outcome)
                        del outcome
                    else:
                        while (parts := await stream.next()) is not None:
                            for part in parts:
                                yield part
                        if self._broken is None and _asked(request).parameters[_WANTS_FINAL].bool_param:
                            yield _empty(request)
                except (ServingError, asyncio.CancelledError) as error:
                    if self._broken is not None:
                        raise self._broken from None
                    if self._strict or not isinstance(error, ServingError):
                        raise
                    yield _told(request, error)
                self._end(request)
                for _ in range(request.shares):
                    self._room.release()
                # Nothing of it is kept while the next is waited for.
                self._current = None
                del request
            ended = self._broken or self._ended
            if ended is not None:
                raise ended
        finally:
            self._timer.cancel()
            reader.cancel()
            self._leave()

    # ------------------------------------------------------------------ requests

    async def _read(self, bodies: AsyncIterator[bytes]) -> None:
        """Takes requests, as many as may be outstanding, until the caller has no more."""
        try:
            while True:
                await self._room.acquire()
                body = await anext(bodies, None)
                if body is None:
                    return
                for _ in range(self._take(body).shares - 1):
                    await self._room.acquire()
                del body
        except ServingError as error:
            self._ended = error
        except Exception as error:
            self._broken = error
            self._leave()

    def _take(self, body: bytes) -> _Request:
        call = Call(self._left_s(), self._call.metadata)
        request = _Request(body, call)
        self._waiting.put_nowait(request)
        head = Head(Face.OPEN_INFERENCE)
        try:
            self._lane.hold(request.held)
            if request.held > self._inference.max_message_bytes:
                raise TooLarge(
                    f"the request has {request.held} bytes; at most {self._inference.max_message_bytes} were expected"
                )
            head = self._inference.head(body)
        except ServingError as error:
            self._plane.platform_errors += 1
            call.fail(head, error)
            # It is refused, and nothing but its id is wanted of it any more.
            self._release(request)
            return request
        if self._may_stream(head):
            request.opening = self._loop.create_task(self._open(request, head))
        else:
            self._inference.infer(body, call)
        return request

    def _may_stream(self, head: Head) -> bool:
        try:
            return self._plane.snapshot.find(head).model.spec.streams
        except Absent:
            return True  # it has to be loaded to know
        except ServingError:
            return False

    async def _open(self, request: _Request, head: Head) -> PartStream | None:
        """The parts of an answer that comes in parts. Else None, and the request's call has the outcome."""
        call = request.call
        try:
            if call.timeout_s is not None:
                head = head.timed(call.timeout_s)
            if not (await self._plane.settled(head)).model.spec.streams:
                self._inference.infer(request.body, call)
                return None
            if len(request.body) > BULK_BYTES:
                request.asked = await asyncio.to_thread(_parsed, request.body)
            return await self._plane.stream(head, request.body, partial(answer, MORE))
        except ServingError as error:
            call.fail(head, error)
        except Exception:
            log.exception("a request of a stream could not be taken")
            call.fail(head, InternalError())
        return None

    def _left_s(self) -> float | None:
        """What the deadline of the stream leaves."""
        timeout_s = self._call.timeout_s
        return None if timeout_s is None else max(timeout_s - (self._loop.time() - self._began), 0.0)

    def _look(self, reader: asyncio.Task[None]) -> None:
        """Reads no more once the server drains; what was read is answered."""
        if self._lane.draining and not reader.done():
            self._ended = Unavailable("the server is stopping")
            reader.cancel()
        self._timer = self._loop.call_later(LOOK_S, self._look, reader)

    def _end(self, request: _Request) -> None:
        """It is answered, or nobody waits for it any more."""
        opening = request.opening
        if opening is not None:
            if not opening.done():
                opening.cancel()
            elif not opening.cancelled() and (stream := opening.result()) is not None:
                stream.leave()
        outcome = request.call.outcome
        # Whoever stops waiting for it cancels it.
        if not outcome.done() or outcome.cancelled():
            request.call.hang_up()
        self._release(request)
        request.body = b""

    def _leave(self) -> None:
        """Nobody waits for any answer any more."""
        while not self._waiting.empty():
            request = self._waiting.get_nowait()
            if request is not None:
                self._end(request)
        if self._current is not None:
            self._end(self._current)
            self._current.call.fail(Head(Face.OPEN_INFERENCE), Unavailable("the caller left"))

    def _release(self, request: _Request) -> None:
        self._lane.in_flight_bytes -= request.held
        request.held = 0


# ---------------------------------------------------------------- answers that no model gives


def _parsed(body: bytes) -> Any:
    """The message of a request, empty where it is none; without its tensors' bytes."""
    message = messages().ModelInferRequest()
    try:
        message.ParseFromString(body)
    except Exception:
        message.Clear()
    message.ClearField("raw_input_contents")
    return message


def _asked(request: _Request) -> Any:
    if request.asked is None:
        request.asked = _parsed(request.body if len(request.body) <= BULK_BYTES else b"")
    return request.asked


def _empty(request: _Request) -> bytes:
    """The answer that says that there are no more."""
    asked = _asked(request)
    response = messages().ModelInferResponse(
        model_name=asked.model_name, model_version=asked.model_version, id=asked.id
    )
    return answer(LAST, response.SerializeToString())


def _told(request: _Request, error: ServingError) -> bytes:
    """An error as an answer, whose id tells which request failed."""
    message = messages().ModelStreamInferResponse(error_message=error.message)
    encoded: bytes = message.SerializeToString()
    return encoded + _empty(request)
