"""What callers of the model cache are told when it is the cache that has no model for them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from serving.errors import InsufficientMemory, ModelLoading, ServingError
from serving.runtime.cache_entry import Fetch, Stage


def shown(key: Hashable) -> str:
    """A key in a message."""
    return ":".join(map(str, key)) if isinstance(key, tuple) else str(key)


def too_late(key: Hashable, fetch: Fetch[Any, Any] | None, waited_s: float) -> tuple[str, ModelLoading]:
    """Somebody waited in vain: the cause, and the error."""
    if fetch is not None and fetch.stage is Stage.LOCATED and fetch.stuck_since is not None:
        cause, why = "no room", "waits for memory that models in use take"
    else:
        cause, why = "deadline", "is still being loaded"
    text = f"model '{shown(key)}' {why}, after {waited_s:.3g} s; try again"
    return cause, ModelLoading(text, retry_after_s=1.0)


def too_large(key: Hashable, needed: int, most: int, pinned: int) -> InsufficientMemory:
    """A model that can never fit; all in bytes, `pinned` those of pinned models."""
    beside = f", {pinned} of which pinned models take" if pinned else ""
    text = f"model '{shown(key)}' needs about {needed} bytes of memory, and models may take {most}{beside}"
    return InsufficientMemory(text)


def is_too_large(key: Hashable, error: ServingError) -> bool:
    """Whether a refusal is to be forgotten once there is more room."""
    return isinstance(error, InsufficientMemory)
