"""Suspects: targets whose load a worker process did not survive, or did not come to the end of.

A worker that ends may do so for reasons that lie elsewhere: each target that it loaded then is a suspect, to be loaded
with nothing beside it. One that ends a worker so is refused for a while, and so is one whose load does not end. A load
that ends, well or not, clears its target, and so does another artifact under its name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from serving.errors import LoadFailed
from serving.runtime.wiring import ENDED

Key = tuple[str, str]
"""An endpoint and a target."""

FIRST_S: Final = 60.0
"""How long a target is refused the first time."""

MOST_S: Final = 3600.0
"""How long at most: each time is twice as long as the one before."""

FORGET_S: Final = 3600.0
"""What was not heard of for so long, and may be loaded, is forgotten."""

ENDLESS: Final = "its load took longer than {:g} s (model_load_limit_s), and its worker process was replaced"


@dataclass(slots=True)
class _Suspect:
    revision: str
    times: int = 0
    why: str = ""
    until: float = 0.0
    """It is refused until then."""


class Suspects:
    """Which targets are loaded alone, and which not at all. Times are in seconds of any one clock."""

    def __init__(self) -> None:
        self._known: dict[Key, _Suspect] = {}

    def ended(self, loading: Collection[tuple[Key, str]], now: float) -> None:
        """A worker has ended while it loaded these, each in a revision."""
        self._forget(now)
        for key, revision in loading:
            known = self._known.get(key)
            if known is None or known.revision != revision:
                self._known[key] = _Suspect(revision, until=now)
            elif len(loading) == 1:
                self._refuse(known, ENDED, now)
            else:
                known.until = max(known.until, now)

    def endless(self, key: Key, revision: str, limit_s: float, now: float) -> None:
        """A load did not come to its end within its limit; its worker is replaced."""
        self._forget(now)
        known = self._known.get(key)
        if known is None or known.revision != revision:
            known = self._known[key] = _Suspect(revision)
        self._refuse(known, ENDLESS.format(limit_s), now)

    def cleared(self, key: Key, revision: str) -> None:
        """A load has ended, and the worker has not."""
        if self.alone(key, revision):
            del self._known[key]

    def alone(self, key: Key, revision: str) -> bool:
        """Whether a target is to be loaded with nothing beside it."""
        known = self._known.get(key)
        return known is not None and known.revision == revision

    def refused(self, key: Key, revision: str, now: float) -> LoadFailed | None:
        """The error of a target that may not be loaded now; `retry_after_s` says for how long."""
        known = self._known.get(key)
        if known is None or known.revision != revision or known.until <= now:
            return None
        left_s = known.until - now
        return LoadFailed(
            f"model '{key[1]}' cannot be loaded: {known.why}; it is tried again in {left_s:.0f} s, or once its artifact "
            "is another",
            retry_after_s=left_s,
        )

    def refusals(self, now: float) -> list[tuple[Key, LoadFailed]]:
        """All that may not be loaded now."""
        found = [(key, self.refused(key, known.revision, now)) for key, known in self._known.items()]
        return [(key, error) for key, error in found if error is not None]

    def __len__(self) -> int:
        return len(self._known)

    def _refuse(self, suspect: _Suspect, why: str, now: float) -> None:
        if suspect.until > now:
            return  # another worker loaded it as well: that is one time
        suspect.why = why
        suspect.until = now + min(FIRST_S * 2.0 ** min(suspect.times, 30), MOST_S)
        suspect.times += 1

    def _forget(self, now: float) -> None:
        for key in [key for key, suspect in self._known.items() if suspect.until + FORGET_S <= now]:
            del self._known[key]
