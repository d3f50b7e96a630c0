"""The headers of an invocation to its `Head`: the same for the hot lane and the Starlette app.

Only invocations have a head; every other path belongs to the app alone.
Sources: SageMaker Runtime API reference, InvokeEndpoint; Open Inference Protocol REST; Triton's binary data extension.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from serving.errors import BadRequest, Forbidden, ServingError, Unsupported
from serving.frontends.http.coding import accepted
from serving.frontends.http.paths import TARGET_CHARACTERS, hot_face, printable
from serving.runtime.invocation import Face, Head

Headers = Sequence[tuple[bytes, bytes]]
"""Lower-case names and values, in order of arrival."""

_ONE_LINE: Final = re.compile(r"[\x20-\x7e]+")
_DIGITS: Final = re.compile(r"[0-9]{1,15}")
_MEDIA_TYPE_CHARACTERS: Final = 1024

_SINGLE: Final = frozenset(
    {
        b"content-type",
        b"content-length",
        b"host",
        b"inference-header-content-length",
        b"x-serving-timeout-ms",
        b"x-serving-priority",
        b"x-serving-timing",
        b"x-amzn-sagemaker-custom-attributes",
        b"x-amzn-sagemaker-target-model",
        b"x-amzn-sagemaker-target-variant",
        b"x-amzn-sagemaker-target-container-hostname",
        b"x-amzn-sagemaker-inference-id",
        b"x-amzn-sagemaker-inference-component",
        b"x-amzn-sagemaker-session-id",
        b"x-amzn-sagemaker-enable-explanations",
    }
)

_LIMITS: Final = {
    b"x-amzn-sagemaker-custom-attributes": 1024,
    b"x-amzn-sagemaker-target-model": TARGET_CHARACTERS,
    b"x-amzn-sagemaker-target-variant": 63,
    b"x-amzn-sagemaker-target-container-hostname": 63,
    b"x-amzn-sagemaker-inference-id": 64,
}

_BESIDE: Final = {
    b"/invocations-response-stream": b"/invocations",
    b"/generate": b"/infer",
    b"/generate_stream": b"/infer",
}
"""Paths whose answers may come in parts, and the ones that they are beside."""

_PART_HEADERS: Final = {b"x-amzn-sagemaker-accept": b"accept"}

_UNBUILT: Final = {
    b"x-amzn-sagemaker-inference-component": "inference components are",
    b"x-amzn-sagemaker-session-id": "stateful sessions are",
    b"x-amzn-sagemaker-enable-explanations": "explanations are",
}


def stream_head(path: bytes, headers: Headers) -> Head | None:
    """The head of a call of `invocations-response-stream`, `generate` or `generate_stream`; None for any other path.

    Raises as `hot_face` and `parse_head` do.
    """
    for suffix, hot in _BESIDE.items():
        if not path.endswith(suffix) or path == suffix:
            continue
        found = hot_face(path.removesuffix(suffix) + hot)
        if found is None:
            return None
        if found[0] is Face.RUNTIME:
            # Accept speaks of the framing here; what the parts are is in a header of its own.
            headers = [(_PART_HEADERS.get(key, key), value) for key, value in headers if key != b"accept"]
        head = parse_head(*found, headers)
        head.generate = found[0] is Face.OPEN_INFERENCE
        head.streamed = suffix != b"/generate"
        return head
    return None


def parse_head(face: Face, name: str | None, version: str | None, target: str | None, headers: Headers) -> Head:
    """The head of an invocation of what its path names. Raises `BadRequest` or `Unsupported` naming the header."""
    head = Head(face, name)
    head.version = version
    head.target_model = target
    seen: set[bytes] = set()
    accepts: list[bytes] = []
    for key, value in headers:
        if key in _SINGLE:
            if key in seen:
                raise BadRequest(f"the header {key.decode()} came twice; send it once")
            seen.add(key)
        if key == b"content-type":
            head.content_type = _media_type(key, value)
        elif key == b"accept":
            accepts.append(value)
        elif key == b"accept-encoding":
            head.coding = accepted(value)
        elif key == b"inference-header-content-length":
            if face is Face.OPEN_INFERENCE:
                head.json_length = _number(key, value)
        elif key == b"x-serving-timeout-ms":
            head.timeout_s = _number(key, value) / 1e3
            if not head.timeout_s:
                raise BadRequest("the header x-serving-timeout-ms is 0; give milliseconds of at least 1")
        elif key == b"x-serving-priority":
            head.priority = _number(key, value)
        elif key == b"x-serving-timing":
            head.timing = value.lower() in (b"1", b"true", b"yes")
        elif key.startswith(b"x-amzn-sagemaker-"):
            _amazon(head, key, value)
    if accepts:
        head.accept = _media_type(b"accept", b", ".join(accepts))
    return head


class Guard:
    """Which Host and Origin may call a server without authentication.

    A page in a browser can make requests to loopback, by DNS rebinding even with readable answers; it can forge
    neither header. So an unknown Host is refused, and so is any Origin but the one under which the server was called.
    """

    def __init__(self, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower().encode() for host in hosts)
        self._origins = frozenset(origin.lower().encode() for origin in origins)
        self._any_host = b"*" in self._hosts
        self._any_origin = b"*" in self._origins

    def check(self, headers: Headers, http_version: str) -> ServingError | None:
        """The error to answer with, or None."""
        host: bytes | None = None
        origins: list[bytes] = []
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    return BadRequest("the header host came twice; send it once")
                host = value.strip().lower()
            elif name == b"origin":
                origins.append(value.strip().lower())
        if host is None and http_version != "1.0":
            return BadRequest("the header host is missing; HTTP/1.1 requires it")
        if host is not None and not self._any_host and _without_port(host) not in self._hosts:
            return Forbidden(
                f"the host '{printable(host)}' is not one that this server knows; the operator can allow it with --allowed-host"
            )
        if not self._any_origin:
            for origin in origins:
                if origin not in self._origins and (
                    host is None or origin not in (b"http://" + host, b"https://" + host)
                ):
                    return Forbidden(
                        f"requests from the origin '{printable(origin)}' are not allowed; the operator can allow it with --allowed-origin"
                    )
        return None


def _without_port(host: bytes) -> bytes:
    if host.startswith(b"["):
        return host[: host.find(b"]") + 1]
    return host.partition(b":")[0]


def _amazon(head: Head, key: bytes, value: bytes) -> None:
    if not value:
        return
    if key in _UNBUILT:
        raise Unsupported(f"{_UNBUILT[key]} not supported by this server (header {key.decode()})")
    limit = _LIMITS.get(key)
    if limit is None:
        return
    text = _text(key, value, limit)
    if key == b"x-amzn-sagemaker-custom-attributes":
        head.attributes = text
    elif key == b"x-amzn-sagemaker-target-model":
        if head.target_model not in (None, text):
            raise BadRequest(
                f"the header {key.decode()} names the model '{printable(value)}', and the path another; name one of them"
            )
        head.target_model = text
    elif key == b"x-amzn-sagemaker-target-variant":
        head.target_variant = text
    elif key == b"x-amzn-sagemaker-target-container-hostname":
        head.target_container = text
    else:
        head.inference_id = text


def _text(key: bytes, value: bytes, limit: int) -> str:
    text = value.decode("latin-1")
    if len(text) > limit:
        raise BadRequest(f"the header {key.decode()} has {len(text)} characters; at most {limit} are allowed")
    if not _ONE_LINE.fullmatch(text):
        raise BadRequest(f"the header {key.decode()} holds characters other than printable ASCII")
    return text


def _media_type(key: bytes, value: bytes) -> str:
    return _text(key, value, _MEDIA_TYPE_CHARACTERS) if value.strip() else ""


def _number(key: bytes, value: bytes) -> int:
    text = value.decode("latin-1").strip()
    if not _DIGITS.fullmatch(text):
        raise BadRequest(f"the header {key.decode()} is '{printable(value)}'; a whole number was expected")
    return int(text)
