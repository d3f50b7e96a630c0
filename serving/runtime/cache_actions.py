"""What the model cache has its loop do. Keys K, waiters W, loaded models H and located artifacts L are the loop's own."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from serving.errors import ServingError

K = TypeVar("K", bound=Hashable)
W = TypeVar("W", bound=Hashable)
H = TypeVar("H")
L = TypeVar("L")


class Locate(NamedTuple, Generic[K]):
    """Find the artifact, unless it still is of this revision (""; there is none yet).

    Answered by `located`, `unchanged` or `failed`, whatever becomes of the key meanwhile.
    """

    key: K
    revision: str


class Drop(NamedTuple, Generic[K, L]):
    """What was located will not be loaded: let go of it. Needs no answer."""

    key: K
    located: L


class Load(NamedTuple, Generic[K, L]):
    """Load it; there is room. Answered by `loaded` or `failed`, whatever becomes of the key meanwhile."""

    key: K
    located: L


class Unload(NamedTuple, Generic[K, H]):
    """Close it; nobody uses it and nobody will find it any more. Answered by `unloaded`, until when its bytes count."""

    key: K
    handle: H
    reason: str


class Serve(NamedTuple, Generic[K, W, H]):
    """Hand it to the one who waits, who must have it in use (or be done with it) when the cache is polled next."""

    key: K
    waiter: W
    handle: H


class Refuse(NamedTuple, Generic[K, W]):
    """Tell the one who waits that there will be no model; the error is nobody else's."""

    key: K
    waiter: W
    error: ServingError


Action: TypeAlias = Locate[K] | Drop[K, L] | Load[K, L] | Unload[K, H] | Serve[K, W, H] | Refuse[K, W]
