"""What the model name and version of a message name: `ENDPOINT` or `ENDPOINT:TARGET`, and a version or nothing.

They are what a path of REST names, so the same rules hold and the same is said of those that cannot be.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from serving.errors import BadRequest, UnknownName
from serving.frontends.http.paths import model_of, name_of, printable
from serving.runtime.invocation import Face, Head

_MOST_CHARACTERS: Final = 4096
"""More than any name has: what is longer is none, however much of it is looked at."""


def head_of(name: str, version: str) -> Head:
    """The head of a call that names a model. Raises `BadRequest` for no name or an impossible target, and `UnknownName`."""
    if not name:
        raise BadRequest("the request names no model; its name was expected")
    raw = _encoded(name)
    try:
        endpoint, target = model_of(raw)
        asked = version_of(version) or None
    except BadRequest as error:
        if ":" in name:
            raise
        raise UnknownName(f"Request for unknown model: '{printable(raw)}' is not found") from error
    head = Head(Face.OPEN_INFERENCE, endpoint)
    head.grpc = True
    head.version = asked
    head.target_model = target
    return head


def full(name: str) -> str:
    """A name, checked, for those who ask the whole server of it. Raises `BadRequest`."""
    if not name:
        raise BadRequest("the request names no model; its name was expected")
    model_of(_encoded(name))
    return name


def version_of(version: str) -> str:
    """A version, or "" for any, checked. Raises `BadRequest`."""
    return version and name_of(_encoded(version), Face.OPEN_INFERENCE)


def _encoded(text: str) -> bytes:
    return quote(text[:_MOST_CHARACTERS], safe="", errors="replace").encode()
