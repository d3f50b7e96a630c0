"""The model repository extension over REST: the bodies of index, load and unload.

Source: Triton's model repository extension.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from serving.errors import BadRequest, TooLarge
from serving.frontends import repository
from serving.frontends.repository import ModelControl

MOST_BYTES: Final = 1024 * 1024
"""Bodies hold settings at most."""


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
    return await repository.index(control, ready=asked.ready)


async def load(control: ModelControl, name: str, body: bytes) -> bytes:
    """`POST /v2/repository/models/{name}/load`."""
    await repository.load(control, name, _read(body, _Load).parameters)
    return b""


async def unload(control: ModelControl, name: str, body: bytes) -> bytes:
    """`POST /v2/repository/models/{name}/unload`."""
    _read(body, _Unload)
    await repository.unload(control, name)
    return b""


def _read(body: bytes, kind: type[Any]) -> Any:
    if len(body) > MOST_BYTES:
        raise TooLarge(f"the body has {len(body)} bytes; at most {MOST_BYTES} were expected")
    if not body.strip():
        return kind()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"failed to parse the request JSON buffer: {str(error).replace('`', '')}") from error
