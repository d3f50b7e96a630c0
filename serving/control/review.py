"""One look at one document: what is wrong with it, and how long patterns may take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from serving.control.patterns import compiled
from serving.errors import ControlFault

MOST_FAULTS: Final = 64
"""More are not collected: the document is wrong enough."""
MOST_ECHOED: Final = 1024
"""Characters of a value that an error repeats."""


class TooSlow(Exception):
    """A pattern took longer on a value than there was time."""


class Fault(NamedTuple):
    """What is wrong with a document, and where."""

    path: str
    text: str


class Review:
    """One look at one document: what was wrong so far, and how long patterns may still take.

    `budget_s` None leaves patterns out. `yields`: other threads may run while a pattern is matched, which costs time where
    there are any, so that it is for documents that may take long.
    """

    __slots__ = ("_yields", "budget_s", "depth", "faults")

    def __init__(self, budget_s: float | None, *, yields: bool = False) -> None:
        self.faults: list[Fault] = []
        self.budget_s = budget_s
        self.depth = 0
        self._yields = yields

    @property
    def full(self) -> bool:
        """Whether no further faults are collected."""
        return len(self.faults) >= MOST_FAULTS

    def fault(self, value: object, path: str, constraint: str, *, secret: bool = False) -> None:
        """Notes a constraint that a value does not satisfy."""
        if not self.full:
            echo = "" if secret else " null" if value is None else f" '{shown(value)}'"
            self.faults.append(Fault(path, f"Value{echo} at '{path}' failed to satisfy constraint: {constraint}"))

    def matches(self, pattern: str, text: str) -> bool:
        """Whether the text matches the pattern as a whole. Raises `TooSlow`."""
        if self.budget_s is None:
            return True
        begun = time.monotonic()
        try:
            left = max(self.budget_s, 0.001)
            return compiled(pattern).fullmatch(text, timeout=left, concurrent=self._yields) is not None
        except TimeoutError:
            raise TooSlow(pattern) from None
        finally:
            self.budget_s -= time.monotonic() - begun

    def settle(self) -> None:
        """Raises the `ControlFault` of all that was noted."""
        if self.faults:
            errors = "error" if len(self.faults) == 1 else "errors"
            texts = "; ".join(fault.text for fault in self.faults)
            raise ControlFault(f"{len(self.faults)} validation {errors} detected: {texts}")


def shown(value: object, most: int = MOST_ECHOED) -> str:
    """A value as AWS's texts show it (Java's `toString`), at most so many characters of it."""
    parts: list[str] = []
    _show(value, parts, most)
    text = "".join(parts)
    return text if len(text) <= most else f"{text[:most]}..."


def _show(value: object, parts: list[str], most: int) -> None:
    # Each part is one character at least, so that a huge value costs no more than what is shown of it.
    if len(parts) > most:
        return
    if isinstance(value, Mapping):
        parts.append("{")
        for at, (key, one) in enumerate(value.items()):
            if len(parts) > most:
                return
            parts.append(f"{', ' if at else ''}{key}"[:most] + "=")
            _show(one, parts, most)
        parts.append("}")
    elif isinstance(value, list):
        parts.append("[")
        for at, one in enumerate(value):
            if len(parts) > most:
                return
            parts.append(", " if at else "")
            _show(one, parts, most)
        parts.append("]")
    elif isinstance(value, bool):
        parts.append("true" if value else "false")
    else:
        parts.append("null" if value is None else str(value)[: most + 1])
