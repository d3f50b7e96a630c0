"""What the model cache knows of one key: who waits for it, what is loaded, and what is being fetched."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

from serving.runtime.cache_waiters import Waiting

K = TypeVar("K", bound=Hashable)
W = TypeVar("W", bound=Hashable)
H = TypeVar("H")
L = TypeVar("L")


class Stage(Enum):
    """How far a fetch has come; the values are what `/debug/models` shows."""

    QUEUED = "waits to be located"
    LOCATING = "locating"
    LOCATED = "waits to be loaded"
    LOADING = "loading"


class Resident(Generic[K, H]):
    """A loaded model. `bytes` as estimated; `cause` and `reason` say why it goes, once it does, and `ends` since when."""

    __slots__ = ("bytes", "cause", "ends", "handle", "key", "reason", "revision", "since")

    def __init__(self, key: K, handle: H, bytes_: int, revision: str, since: float) -> None:
        self.key = key
        self.handle = handle
        self.bytes = bytes_
        self.revision = revision
        self.since = since
        self.cause = ""
        self.reason = ""
        self.ends = 0.0


class Fetch(Generic[K, L]):
    """One flight of a key: located, then loaded.

    `reason` is why it is fetched. `refresh`: to see whether what is loaded changed; it is of `revision`. `void`: it was
    discarded under way, for this reason, and what comes of it goes at once. `stuck_since`: from when on there was no room;
    `holds`: nobody passes it until `turn_ends`. `located` is there while it waits to be loaded.
    """

    __slots__ = (
        "began",
        "bytes",
        "found_revision",
        "holds",
        "key",
        "located",
        "located_at",
        "locating_s",
        "reason",
        "refresh",
        "revision",
        "since",
        "stage",
        "stuck_since",
        "turn_ends",
        "void",
    )

    located: L

    def __init__(self, key: K, reason: str, since: float, revision: str = "", *, refresh: bool = False) -> None:
        self.key = key
        self.revision = revision
        self.refresh = refresh
        self.reason = reason
        self.since = since
        self.stage = Stage.QUEUED
        self.void = ""
        self.began = since
        self.located_at = since
        self.locating_s = 0.0
        self.bytes = 0
        self.found_revision = ""
        self.stuck_since: float | None = None
        self.turn_ends = 0.0
        self.holds = False


class Entry(Generic[K, W, H, L]):
    """A key that is loaded, being fetched, waited for, or not quite gone.

    `asked`: it is to be loaded though nobody waits. `going` counts loaded models of it that were taken out, `unloading`
    those of them that are being unloaded. `check_at`: from when on a use has the store asked whether it changed.
    `served`: what is loaded was of use to somebody.
    """

    __slots__ = ("asked", "check_at", "fetch", "going", "keep", "key", "resident", "served", "unloading", "waiters")

    def __init__(self, key: K) -> None:
        self.key = key
        self.keep = True
        self.asked = False
        self.served = False
        self.resident: Resident[K, H] | None = None
        self.fetch: Fetch[K, L] | None = None
        self.waiters: dict[W, Waiting[K, W]] = {}
        self.going = 0
        self.unloading = 0
        self.check_at = 0.0

    @property
    def bytes(self) -> int:
        """What is loaded takes, as estimated."""
        return self.resident.bytes if self.resident is not None else 0

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it, or asked for it."""
        return bool(self.waiters) or self.asked

    def waited_s(self, now: float) -> float:
        """How long the first of those who wait has; 0 where nobody does."""
        first = next(iter(self.waiters.values()), None)
        return now - first.since if first is not None else 0.0


class EntryView(NamedTuple, Generic[K]):
    """A key as `/debug/models` shows it; bytes as they count against the budget, times of the loop's clock.

    `state`: loaded, or what is done about it (a `Stage`'s value, "in use" for what goes after its last use, "unloading"),
    "refused" for what is known to be broken, or "missing". `doing` is what is done beside about a loaded one. `reason`: why it goes, or
    what went wrong last, which is believed until `until`.
    """

    key: K
    state: str
    loaded: bool
    bytes: int = 0
    revision: str = ""
    since: float = 0.0
    pinned: bool = False
    in_use: bool = False
    waiting: int = 0
    doing: str = ""
    reason: str = ""
    until: float = 0.0
    refused: int = 0
