"""Answers in parts over HTTP: what each face wraps a part in, and the ASGI answer that sends parts as they come.

SageMaker Runtime has event-stream messages, v2 `generate_stream` server-sent events; the container contract has none,
its parts are what a chunked body holds. Sources: SageMaker Runtime API reference (InvokeEndpointWithResponseStream),
SageMaker's container contract, Triton's generate extension, the HTML standard (server-sent events).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serving.errors import ServingError
from serving.frontends.http import eventstream
from serving.frontends.http.lane_state import LaneState
from serving.runtime.invocation import Face, Head

log = logging.getLogger("serving.streaming")


@dataclass(frozen=True, slots=True)
class Framing:
    """How parts travel on one face.

    `fields`: header lines, from those of the first part. `part`: one part as bytes of the body, made on a thread. `fault`: what says that
    the answer ended early; None where only a broken connection can.
    """

    fields: Callable[[bytes], bytes]
    part: Callable[[bytes], bytes]
    fault: Callable[[ServingError], bytes] | None


def _event_stream_fields(fields: bytes) -> bytes:
    return b"content-type: %b\r\n" % eventstream.MEDIA_TYPE.encode() + fields.replace(
        b"content-type:", b"x-amzn-sagemaker-content-type:", 1
    )


def _event(body: bytes) -> bytes:
    return b"data: %b\n\n" % body


EVENT_STREAM: Final = Framing(_event_stream_fields, eventstream.part, eventstream.fault)

SERVER_SENT_EVENTS: Final = Framing(
    lambda _: b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n",
    _event,
    lambda error: _event(orjson.dumps({"error": error.message})),
)

CHUNKS: Final = Framing(lambda fields: fields, lambda body: body, None)

FRAMINGS: Final = {
    Face.RUNTIME: EVENT_STREAM,
    Face.OPEN_INFERENCE: SERVER_SENT_EVENTS,
    Face.CONTAINER: CHUNKS,
}


class Streamed(Response):
    """The answer of a model that streams: opened when it is to be sent, left when the caller leaves.

    `more` are the header lines of the face; `refused` renders an error that came before the first part.
    """

    def __init__(
        self,
        lane: LaneState,
        head: Head,
        body: bytes,
        more: Callable[[str], bytes],
        refused: Callable[[ServingError], Response],
    ) -> None:
        super().__init__()
        self._lane = lane
        self._head = head
        self._body = body
        self._more = more
        self._refused = refused
        self._framing = FRAMINGS[head.face]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Implements ASGI."""
        lane = self._lane
        held = len(self._body)
        lane.in_flight_bytes += held
        # Nothing more is to be received, so whatever comes is the end of the connection.
        left = asyncio.ensure_future(receive())
        try:
            await self._send(scope, receive, send, left)
        finally:
            left.cancel()
            lane.in_flight_bytes -= held

    async def _send(self, scope: Scope, receive: Receive, send: Send, left: asyncio.Future[Message]) -> None:
        framing = self._framing
        try:
            stream = await self._lane.plane.stream(self._head, self._body, framing.part)
        except ServingError as error:
            await self._refused(error)(scope, receive, send)
            return
        left.add_done_callback(lambda _: stream.leave())
        try:
            try:
                parts = await stream.next()
            except ServingError as error:
                await self._refused(error)(scope, receive, send)
                return
            fields = framing.fields(stream.fields) + self._more(stream.variant)
            await send({"type": "http.response.start", "status": 200, "headers": header_list(fields)})
            try:
                while parts is not None:
                    joined = parts[0] if len(parts) == 1 else b"".join(parts)
                    await send({"type": "http.response.body", "body": joined, "more_body": True})
                    parts = await stream.next()
                last = b""
            except ServingError as error:
                about = {"endpoint": stream.name, "variant": stream.variant}
                log.warning("a stream of %s broke: %s", stream.name, error.message, extra=about)
                if framing.fault is None:
                    return  # without the last chunk: the server closes, and the caller knows that something is missing
                last = framing.fault(error)
            await send({"type": "http.response.body", "body": last, "more_body": False})
        finally:
            stream.leave()


def whole(head: Head, fields: bytes, body: bytes) -> tuple[bytes, bytes]:
    """A one-shot model's answer as a stream of one part: header lines and body."""
    framing = FRAMINGS[head.face]
    return framing.fields(fields), framing.part(body)


def header_list(fields: bytes) -> list[tuple[bytes, bytes]]:
    """Header lines, each ended by CRLF, as ASGI takes them."""
    return [
        (name, value.strip()) for name, _, value in (line.partition(b":") for line in fields.split(b"\r\n") if line)
    ]
