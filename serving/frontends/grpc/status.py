"""Errors as gRPC statuses: the code from the error tree, and the message. Source: the gRPC list of status codes."""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple
from urllib.parse import quote

from serving.errors import ServingError

OK: Final = 0
CANCELLED: Final = 1
INTERNAL: Final = 13

MOST_BYTES: Final = 4096
"""Trailers hold the message, and clients take 8 KiB of them."""

_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Status(NamedTuple):
    """A code and its message."""

    code: int
    message: str = ""

    @property
    def encoded(self) -> bytes:
        """The message as the field `grpc-message` carries it, percent-encoded (gRPC over HTTP/2)."""
        encoded = quote(self.message, safe=_PLAIN)[:MOST_BYTES]
        escape = encoded.rfind("%", -2)
        return (encoded if escape < 0 else encoded[:escape]).encode()


def pushback_ms(error: ServingError) -> int | None:
    """When to try again (gRFC A6, `grpc-retry-pushback-ms`), None where nobody can tell; 0 would be at once."""
    return None if error.retry_after_s is None else max(1, ceil(error.retry_after_s * 1000))


def status_of(error: ServingError) -> Status:
    """What an error is to a caller of the gRPC service."""
    return Status(type(error).grpc_code, error.message)
