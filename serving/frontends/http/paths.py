"""What a path names: a face, an endpoint, one of its targets, a version. The same for the hot lane and the Starlette app.

A name is one segment, percent-encoded: decoded, a path could be another one, so that nothing but the bytes as they came
is looked at. Only a target may hold slashes as they are, since Triton's clients do not encode them.
Sources: SageMaker Runtime API reference, InvokeEndpoint; SageMaker's multi-model container contract; Open Inference
Protocol REST; Triton's generate and model repository extensions.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from serving.errors import BadRequest
from serving.runtime.invocation import Face

Hot = tuple[Face, str | None, str | None, str | None]
"""Face, name, version and target of an invocation."""

TARGET_CHARACTERS: Final = 1024

_NAME: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.\-]{0,62}")
_COLON: Final = re.compile(rb":|%3[Aa]")
# RFC 3986, 3.3: what a path may hold as it is.
_ENCODED: Final = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})+")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_MODELS: Final = b"/v2/models/"
_CALLS: Final = (
    (_MODELS, b"/ready", "ready"),
    (_MODELS, b"/config", "config"),
    (_MODELS, b"/stats", "stats"),
    (_MODELS, b"/trace/setting", "trace"),
    (_MODELS, b"", "metadata"),
    (b"/v2/repository/models/", b"/load", "load"),
    (b"/v2/repository/models/", b"/unload", "unload"),
    (b"/debug/models/", b"/batches", "batches"),
)
_RESERVED: Final = (
    b"/ready",
    b"/config",
    b"/stats",
    b"/trace/setting",
    b"/infer",
    b"/generate",
    b"/generate_stream",
)
"""What follows a model's name in calls of the protocol; never the end of a target that is not encoded."""


def hot_face(path: bytes) -> Hot | None:
    """Face, name, version and target of an invocation path; None for any other.

    Raises `BadRequest` for what could never be a name or a target.
    """
    if path == b"/invocations":
        return Face.CONTAINER, None, None, None
    if path.startswith(b"/endpoints/") and path.endswith(b"/invocations"):
        raw = path[len(b"/endpoints/") : -len(b"/invocations")]
        if b"/" in raw or not raw:
            return None
        return Face.RUNTIME, name_of(raw, Face.RUNTIME), None, None
    if path.startswith(_MODELS) and path.endswith(b"/infer"):
        raw = path[len(_MODELS) : -len(b"/infer")]
        if _NAME.fullmatch(raw):
            return Face.OPEN_INFERENCE, raw.decode(), None, None
        name, _, version = raw.partition(b"/versions/")
        if _NAME.fullmatch(name) and _NAME.fullmatch(version):
            return Face.OPEN_INFERENCE, name.decode(), version.decode(), None
        found = _versioned(raw)
        if found is None or b"#" in raw:
            return None  # uvicorn, which the app hears of paths from, ends them at a fragment
        version_name = None if found[1] is None else name_of(found[1], Face.OPEN_INFERENCE)
        endpoint, target = model_of(found[0])
        return Face.OPEN_INFERENCE, endpoint, version_name, target
    if path.startswith(b"/models/") and path.endswith(b"/invoke"):
        raw = path[len(b"/models/") : -len(b"/invoke")]
        if b"/" in raw or b"#" in raw or not raw:
            return None
        return Face.CONTAINER, None, None, target_of(raw)
    return None


class Call(NamedTuple):
    """A call that names a model and is no invocation: what is wanted, the model and the version as they are in the path."""

    what: str
    raw: bytes
    version: bytes | None = None

    @property
    def names_target(self) -> bool:
        """Whether it is `ENDPOINT:TARGET`."""
        return _COLON.search(self.raw) is not None


def call_of(path: bytes) -> Call | None:
    """The call of a path: what `_CALLS` says, or `container` for `/models/{name}`."""
    if path.startswith(b"/models/"):
        raw = path[len(b"/models/") :]
        return Call("container", raw) if raw and b"/" not in raw else None
    for prefix, suffix, what in _CALLS:
        if path.startswith(prefix) and path.endswith(suffix):
            found = _versioned(path[len(prefix) : len(path) - len(suffix)])
            if found is None or (found[1] is not None and (prefix is not _MODELS or what == "trace")):
                continue
            call = Call(what, *found)
            if call.names_target or b"%2f" not in call.raw.lower():
                return call
    return None


def model_of(raw: bytes) -> tuple[str, str | None]:
    """The endpoint and the target of `ENDPOINT` or `ENDPOINT:TARGET`, both percent-encoded.

    An endpoint's name has no colon, so that the first one, encoded or not, parts them. Raises `BadRequest`.
    """
    name, *target = _COLON.split(raw, 1)
    return name_of(name, Face.OPEN_INFERENCE), target_of(target[0]) if target else None


def name_of(raw: bytes, face: Face) -> str:
    """A name from a path segment, percent-decoded. Raises `BadRequest` when nothing could ever have that name."""
    name = raw if b"%" not in raw else unquote_to_bytes(raw)
    if not _NAME.fullmatch(name):
        what = "endpoint" if face is Face.RUNTIME else "model"
        raise BadRequest(
            f"'{printable(raw)}' cannot be the name of a {what}: letters, digits, '-', '_' and '.', at most 63, the first a letter or digit"
        )
    return name.decode()


def target_of(raw: bytes) -> str:
    """A target from a path, percent-decoded. Raises `BadRequest` when no model could ever have that name."""
    try:
        target = unquote(raw.decode("ascii"), errors="strict")
    except UnicodeDecodeError:
        raise _impossible(raw, "it is not UTF-8, percent-encoded") from None
    if raw and not _ENCODED.fullmatch(raw):
        raise _impossible(raw, "it is not percent-encoded: '%' and two hexadecimal digits for each byte that needs it")
    why = wrong_with(target)
    if why:
        raise _impossible(raw, why)
    return target


def wrong_with(target: str) -> str:
    """Why no model could ever have that name below an endpoint, or "". Whether it is one in the store is another matter."""
    if not target:
        return "it is empty"
    if len(target) > TARGET_CHARACTERS:
        return f"it has {len(target)} characters; at most {TARGET_CHARACTERS} are allowed"
    return "it holds control characters" if _CONTROL.search(target) else ""


def face_of(path: bytes) -> Face:
    """The face in whose words an error on this path is answered."""
    if path.startswith((b"/endpoints/", b"/endpoints?")):
        return Face.RUNTIME
    if path.startswith(b"/v2"):
        return Face.OPEN_INFERENCE
    return Face.CONTAINER


def printable(raw: bytes) -> str:
    """Bytes of a caller, fit for an error message: short and on one line."""
    text = raw[:80].decode("ascii", "backslashreplace")
    text = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
    return text + ("..." if len(raw) > 80 else "")


def _versioned(raw: bytes) -> tuple[bytes, bytes | None] | None:
    """A model and its version from what is between them and the rest of a path; None where it is neither."""
    if b"/" not in raw:
        return (raw, None) if raw else None
    version: bytes | None = None
    parts = raw.split(b"/")
    if len(parts) > 2 and parts[-2] == b"versions":
        version = parts[-1]
        raw = raw[: -len(b"/versions/") - len(version)]
        if not version:
            return None
    # Without a target there is one segment, and what follows it is another call than this one.
    if not parts[0] or (b"/" in raw and (not _COLON.search(parts[0]) or raw.endswith(_RESERVED))):
        return None
    return raw, version


def _impossible(raw: bytes, why: str) -> BadRequest:
    return BadRequest(f"'{printable(raw)}' cannot be the name of a model of a multi-model endpoint: {why}")
