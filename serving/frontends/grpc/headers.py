"""The headers of a call over HTTP/2, and the trailers of its answer.

Source: gRPC over HTTP/2, Requests and Responses.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from serving.errors import BadRequest, ServingError
from serving.frontends.grpc.status import Status, pushback_ms, status_of

Fields = Iterable[tuple[bytes, bytes]]

_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

_OWN: Final = frozenset({b"content-type", b"te", b"content-length", b"host"})
"""Headers that are the protocol's own, as are all that begin with `grpc-`."""


def timeout_of(value: bytes) -> float:
    """Seconds of a `grpc-timeout`, such as `100m`. Raises `BadRequest`."""
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        text = value[:40].decode("latin-1")
        raise BadRequest(f"grpc-timeout is '{text}'; at most eight digits and one of H, M, S, m, u, n were expected")
    return int(found[1]) * _SECONDS[found[2]]


def is_grpc(content_type: bytes) -> bool:
    """Whether a Content-Type is gRPC's, with messages of Protocol Buffers."""
    kind = content_type.partition(b";")[0].strip().lower()
    return kind in (b"application/grpc", b"application/grpc+proto")


class Metadata(Mapping[str, str | bytes]):
    """What callers say beside the protocol's own headers, read when it is first asked for.

    Values of one key are joined by commas. What is no base64 under a key that ends in `-bin` is left out.
    """

    __slots__ = ("_fields", "_read")

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._read: dict[str, str | bytes] | None = None

    def __getitem__(self, key: str) -> str | bytes:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def _values(self) -> dict[str, str | bytes]:
        if self._read is None:
            self._read = dict(_values(self._fields))
        return self._read


def trailers_of(error: ServingError) -> list[tuple[bytes, bytes]]:
    """The trailers of a call that failed."""
    status = status_of(error)
    trailers = status_trailers(status)
    after = pushback_ms(error)
    if after is not None:
        trailers.append((b"grpc-retry-pushback-ms", b"%d" % after))
    return trailers


def status_trailers(status: Status) -> list[tuple[bytes, bytes]]:
    """A status as trailers."""
    trailers = [(b"grpc-status", b"%d" % status.code)]
    if status.message:
        trailers.append((b"grpc-message", status.encoded))
    return trailers


def _values(fields: Fields) -> Iterator[tuple[str, str | bytes]]:
    joined: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name not in _OWN and not name.startswith(b"grpc-"):
            joined.setdefault(name, []).append(value)
    for name, values in joined.items():
        key = name.decode("latin-1")
        if not name.endswith(b"-bin"):
            yield key, b",".join(values).decode("latin-1")
            continue
        try:
            # Padding may be left out.
            yield key, b64decode(values[-1] + b"=" * (-len(values[-1]) % 4), validate=True)
        except Error:
            continue
