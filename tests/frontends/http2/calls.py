"""Calls of ModelInfer over a raw connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from serving.codecs.grpc_messages import messages
from serving.frontends.grpc import protocol
from tests.frontends.http2 import hpack
from tests.frontends.http2.frames import END_STREAM, Connection, headers, message, pieces
from tests.frontends.http2.hpack import Field

INFER: Final = f"{protocol.PREFIX}ModelInfer"

FIELDS: Final[list[Field]] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", INFER),
    (":authority", "127.0.0.1"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
"""What a gRPC client sends."""

MODEL: Final = "echo"


def block(*extra: Field) -> bytes:
    """The header block of a call, with further fields."""
    return hpack.block([*FIELDS, *extra])


def body(row: bytes, rows: int = 1) -> bytes:
    """A message that asks `echo` for UINT8[rows, len(row)]; the answer holds `row` so many times."""
    pb: Any = messages()
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[row * rows])
    request.inputs.add(name="x", datatype="UINT8", shape=[rows, len(row)])
    return message(request.SerializeToString())


def call(stream: int, message: bytes, extra: Iterable[Field] = ()) -> bytes:
    """The frames of a whole call."""
    return headers(stream, block(*extra)) + pieces(stream, message, END_STREAM)


def ask(connection: Connection, stream: int, row: bytes = b"ours") -> str | None:
    """Calls on this connection: None where the right answer came, else what came. Raises `TimeoutError`."""
    connection.send(call(stream, body(row)))
    answer = connection.answer(stream)
    return None if answer.succeeded and row in answer.body else str(answer)
