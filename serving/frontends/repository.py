"""The model repository extension of the Open Inference Protocol: index, load and unload, whatever transport asks.

Source: Triton's model repository extension and model management.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from serving.errors import BadRequest, Unsupported

_SHOWN: Final = 80


class ModelControl(Protocol):
    """What the server as a whole can do with models."""

    async def repository(self, what: str, name: str | None, parameters: bytes) -> bytes:
        """`index` (parameters: `ready`, or nothing for all), `load` (parameters: settings as JSON, or nothing), `unload`.

        The index is JSON. Raises `BadRequest`, `Unavailable`, `Unsupported` or `InternalError`.
        """


async def index(control: ModelControl, *, ready: bool) -> bytes:
    """All models, or those that are ready: a JSON list of objects with name, version, state and reason."""
    return await control.repository("index", None, b"ready" if ready else b"")


async def load(control: ModelControl, name: str, parameters: Mapping[str, Any]) -> None:
    """Loads a model, with the settings of the parameter `config` where there are any: JSON in a string."""
    config = ""
    for parameter, value in parameters.items():
        if parameter.startswith("file:"):
            raise Unsupported(
                f"the parameter '{parameter[:_SHOWN]}' would replace a file of the model; put it in the repository"
            )
        if parameter != "config":
            raise BadRequest(f"there is no load parameter '{parameter[:_SHOWN]}'; config was expected")
        if not isinstance(value, str):
            raise BadRequest("the parameter config is not a string; JSON in a string was expected")
        config = value
    await control.repository("load", name, config.encode("utf-8", "replace"))


async def unload(control: ModelControl, name: str) -> None:
    """Unloads a model; no other depends on it."""
    await control.repository("unload", name, b"")
