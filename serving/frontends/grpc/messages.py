"""Messages from their bytes, and from the JSON form of their content. Source: Protocol Buffers, ProtoJSON."""

from __future__ import annotations

from typing import Any, Final

from serving.codecs.grpc_messages import parse
from serving.errors import TooLarge

MOST_BYTES: Final = 1024 * 1024
"""Messages that hold no tensors hold settings at most."""


def read(kind: Any, body: bytes, most: int = MOST_BYTES) -> Any:
    """A message of a generated class. Raises `TooLarge` and `MalformedBody`."""
    if len(body) > most:
        raise TooLarge(f"the message has {len(body)} bytes; at most {most} were expected")
    return parse(kind, body)


def write(kind: Any, content: dict[str, Any]) -> bytes:
    """The bytes of a message of a generated class; `content` has its fields as the .proto names them."""
    from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]

    encoded: bytes = ParseDict(content, kind()).SerializeToString()
    return encoded
