"""The model repository extension of the Open Inference Protocol: index, load and unload.

Source: Triton's model repository extension and model management.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from serving.errors import BadRequest, TooLarge, Unsupported

MOST_BYTES: Final = 1024 * 1024
"""Bodies hold settings at most."""


class ModelControl(Protocol):
    """What the server as a whole can do with models."""

    async def repository(self, what: str, name: str | None, parameters: bytes) -> bytes:
        """`index` (parameters: `ready`, or nothing for all), `load` (parameters: settings as JSON, or nothing), `unload`.

        The index is JSON. Raises `BadRequest`, `Unavailable`, `Unsupported` or `InternalError`.
        """


class _Index(msgspec.Struct, forbid_unknown_fields=True):
    ready: bool = False


class _Unloading(msgspec.Struct, forbid_unknown_fields=True):
    unload_dependents: bool = False


class _Unload(msgspec.Struct, forbid_unknown_fields=True):
    parameters: _Unloading = msgspec.field(default_factory=_Unloading)


class _Load(msgspec.Struct, forbid_unknown_fields=True):
    parameters: dict[str, Any] = {}


async def index(control: ModelControl, body: bytes) -> bytes:
    """`POST /v2/repository/index`."""
    asked = _read(body, _Index)
    return await control.repository("index", None, b"ready" if asked.ready else b"")


async def load(control: ModelControl, name: str, body: bytes) -> bytes:
    """`POST /v2/repository/models/{name}/load`."""
    config = ""
    for parameter, value in _read(body, _Load).parameters.items():
        if parameter.startswith("file:"):
            raise Unsupported(
                f"the parameter '{parameter[:80]}' would replace a file of the model; put it in the repository"
            )
        if parameter != "config":
            raise BadRequest(f"there is no load parameter '{parameter[:80]}'; config was expected")
        if not isinstance(value, str):
            raise BadRequest("the parameter config is not a string; JSON in a string was expected")
        config = value
    return await control.repository("load", name, config.encode("utf-8", "replace"))


async def unload(control: ModelControl, name: str, body: bytes) -> bytes:
    """`POST /v2/repository/models/{name}/unload`."""
    _read(body, _Unload)
    return await control.repository("unload", name, b"")


def _read(body: bytes, kind: type[Any]) -> Any:
    if len(body) > MOST_BYTES:
        raise TooLarge(f"the body has {len(body)} bytes; at most {MOST_BYTES} were expected")
    if not body.strip():
        return kind()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"failed to parse the request JSON buffer: {str(error).replace('`', '')}") from error
