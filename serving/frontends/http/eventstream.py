"""Amazon's event-stream framing, the way SageMaker Runtime uses it: `PayloadPart` events and modelled exceptions.

A message is: total length u32, length of the headers u32, CRC-32 of these 8 bytes, headers, payload, CRC-32 of all that
comes before; big-endian. A header is: length of its name u8, name, type u8 (7: text), length u16, value.
Source: AWS SDK documentation, event stream encoding; SageMaker Runtime API reference, ResponseStream.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final
from zlib import crc32

import orjson

from serving.errors import DeadlineExceeded, InternalError, ServingError

MEDIA_TYPE: Final = "application/vnd.amazon.eventstream"

MOST_PAYLOAD: Final = 1024 * 1024
"""Bytes of a part's longest piece; botocore refuses payloads over 24 MiB, and parts may be split."""

_TEXT: Final = 7
_PRELUDE: Final = Struct(">II")
_CRC: Final = Struct(">I")
_OVERHEAD: Final = 16
"""Bytes of a message around its headers and payload."""


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message with text headers."""
    return _framed(_headers(headers), payload)


def _headers(headers: Mapping[str, str]) -> bytes:
    pieces = []
    for name, value in headers.items():
        raw_name, raw = name.encode(), value.encode()
        pieces.append(b"%c%b%c%b%b" % (len(raw_name), raw_name, _TEXT, len(raw).to_bytes(2, "big"), raw))
    return b"".join(pieces)


def _framed(headers: bytes, payload: bytes) -> bytes:
    prelude = _PRELUDE.pack(_OVERHEAD + len(headers) + len(payload), len(headers))
    start = prelude + _CRC.pack(crc32(prelude)) + headers
    return b"".join((start, payload, _CRC.pack(crc32(payload, crc32(start)))))


_PART: Final = _headers(
    {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}
)


def part(body: bytes) -> bytes:
    """A part of the answer as `PayloadPart` messages: one, unless it is very long; none where it is empty."""
    if 0 < len(body) <= MOST_PAYLOAD:
        return _framed(_PART, body)
    return b"".join(_framed(_PART, body[at : at + MOST_PAYLOAD]) for at in range(0, len(body), MOST_PAYLOAD))


def fault(error: ServingError) -> bytes:
    """What ended the answer early: `InternalStreamFailure` for a fault of the server, else `ModelStreamError`."""
    headers = {":message-type": "exception", ":content-type": "application/json"}
    if isinstance(error, InternalError):
        return message(
            {**headers, ":exception-type": "InternalStreamFailure"}, orjson.dumps({"Message": error.message})
        )
    code = "ModelInvocationTimeExceeded" if isinstance(error, DeadlineExceeded) else "StreamBroken"
    body = orjson.dumps({"Message": error.message, "ErrorCode": code})
    return message({**headers, ":exception-type": "ModelStreamError"}, body)
