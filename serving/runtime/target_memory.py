"""What the targets of one worker take of memory: told by the growth of its process, which is all that can be measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serving.runtime.footprint import Footprint
from serving.runtime.memory import Freed, give_back
from serving.runtime.process_memory import resident

_TRUST: Final = 0.25
"""The share of the last time in what the allocator is believed to keep."""


class TargetMemory:
    """Bytes that models will take, and those that all take. Lives on one event loop.

    `beside`: bytes that this process takes for something else, as far as is known; `given` is called once memory that
    models left was given back to the system.
    """

    def __init__(self, beside: Callable[[], int], given: Callable[[], None]) -> None:
        self._beside = beside
        self._footprint = Footprint()
        self._freed = Freed(give_back=self._give_back, given=given)
        self._kept = 0.0
        """What the allocator keeps of what models left by the time that it is given back."""
        self._kinds: set[str] = set()
        """Container kinds that were loaded here."""
        self._baseline = 0

    def estimate(self, kind: str, artifact_bytes: int) -> int:
        """What a model of that kind will take."""
        return self._footprint.estimate(kind, artifact_bytes)

    def taken(self) -> int:
        """What this process takes, but for what is known to be no target's."""
        taken = resident() - self._beside()
        if not self._baseline:
            self._baseline = taken
        return taken

    def loaded(self, kind: str, artifact_bytes: int, before: int) -> None:
        """A model was loaded, before which so much was `taken`; the first one of a kind brings its libraries along."""
        grown = self.taken() - before
        if kind in self._kinds:
            if not self._freed.pending:
                self._footprint.loaded(kind, artifact_bytes, grown)
        else:
            self._kinds.add(kind)
            self._baseline += max(grown - self._footprint.estimate(kind, artifact_bytes), 0)

    def failed(self, kind: str, before: int) -> None:
        """A model could not be loaded, which may have brought libraries along all the same."""
        if kind not in self._kinds:
            self._baseline += max(self.taken() - before, 0)

    def freed(self, bytes_: int) -> None:
        """A model of so many bytes is gone."""
        self._freed.add(bytes_)

    def _give_back(self) -> None:
        """On a thread."""
        before = resident()
        give_back()
        self._kept += _TRUST * (max(before - resident(), 0) - self._kept)

    def measure(self, *, none_there: bool) -> int | None:
        """What all models take, with what they leave to the allocator; None while that cannot be told. `none_there`: no model
        is there or on its way.

        The allocator keeps what was freed. Whoever takes all of that for the models' own believes that few of them fit, unloads
        more, and has yet more of it: it is what is kept from one time to the next that counts.
        """
        if self._freed.pending:
            return None
        if none_there:
            # Whatever there is, is none's.
            self._baseline = self.taken()
            self._kept = 0.0
        return max(self.taken() - self._baseline + int(self._kept), 0)
