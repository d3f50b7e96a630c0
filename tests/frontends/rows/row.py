"""A malformed request and its answer, and the requests that the rows are made of."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from tests.support.wire import request

MEBIBYTE: Final = 1024 * 1024

ROW: Final = b'{"instances":[[1,2,3,4]]}'
"""What the model `linear` answers with [[40, 50]]."""

JSON: Final = "Content-Type: application/json"


@dataclass(frozen=True, slots=True)
class Row:
    """What is sent on a connection of its own, and the answer: its status and words of its message.

    `sent` are the bytes, in pieces where they are many. `status` None: the connection is closed without an answer.
    `then`: the statuses of the answers after it, in order. `closes`: the server ends the connection afterwards.
    `ends`: the client ends its side after it has sent. `method`: the request's, which says how the answer is read.
    """

    name: str
    sent: bytes | Callable[[], Iterable[bytes]]
    status: int | None
    words: tuple[str, ...] = ()
    then: tuple[int, ...] = ()
    closes: bool = False
    ends: bool = False
    method: str = "POST"

    def pieces(self) -> Iterable[bytes]:
        """What is sent."""
        return (self.sent,) if isinstance(self.sent, bytes) else self.sent()


def invocation(body: bytes = ROW, *fields: str | bytes, content_type: str = "application/json") -> bytes:
    """`POST /invocations`, which asks `linear`."""
    return request("/invocations", body, f"Content-Type: {content_type}", *fields)


def bare(*lines: bytes, body: bytes = b"") -> bytes:
    """A head of exactly these lines, and a body."""
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def to_model(model: str, document: Any, *fields: str | bytes) -> bytes:
    """`POST /endpoints/{model}/invocations` with a JSON document, or bytes as they are."""
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return request(f"/endpoints/{model}/invocations", body, JSON, *fields)


def infer(model: str, document: Any, *fields: str | bytes) -> bytes:
    """`POST /v2/models/{model}/infer` with a JSON document, or bytes as they are."""
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return request(f"/v2/models/{model}/infer", body, *fields)


def infer_binary(model: str, document: Any, tail: bytes, *fields: str, length: int | str | None = None) -> bytes:
    """The same with a binary tail; `length` instead of the JSON part's own."""
    head = orjson.dumps(document)
    said = len(head) if length is None else length
    return request(f"/v2/models/{model}/infer", head + tail, f"Inference-Header-Content-Length: {said}", *fields)


def tensor(name: str = "x", datatype: str = "FP32", shape: Any = (1, 4), **rest: Any) -> dict[str, Any]:
    """An input of a v2 document."""
    return {"name": name, "datatype": datatype, "shape": list(shape) if isinstance(shape, tuple) else shape, **rest}


def inputs(*tensors: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """A v2 document."""
    return {"inputs": list(tensors), **rest}


def zipped(body: bytes = ROW) -> bytes:
    """gzip of a body."""
    return gzip.compress(body, mtime=0)
