"""What a model will take of memory, by its artifact's bytes and its container's kind: learned from what loads took."""

from __future__ import annotations

from typing import Final

BASE_BYTES: Final = 256 * 1024
"""What the smallest model takes: a session, its queue, its statistics."""

PRIORS: Final = {"onnx": 1.7, "xgboost": 4.0, "lightgbm": 4.0, "sklearn": 4.0}
"""Bytes of memory for each byte of an artifact. A session of a graph of 1 MB takes 1.9 MB with its base."""

PRIOR: Final = 4.0
"""Of a kind that is not listed."""

LEAST: Final = 0.5
MOST: Final = 32.0

SMALLEST_BYTES: Final = 64 * 1024
"""Artifacts below say nothing: what loading them takes is the base, and chance."""

_TRUST: Final = 0.1
"""The share of one load in what is learned."""

_FAR: Final = 4.0
"""Growth that is so many times smaller than expected tells of freed memory that was used again, not of the model; what is
so many times larger counts as so much only, for loads side by side are measured together."""


class Footprint:
    """The factors of all kinds, each an exponential average over its loads, between `LEAST` and `MOST`."""

    def __init__(self) -> None:
        self._factors: dict[str, float] = {}

    def factor(self, kind: str) -> float:
        """Bytes of memory for each byte of an artifact of that kind, beside the base."""
        return self._factors.get(kind) or PRIORS.get(kind, PRIOR)

    def estimate(self, kind: str, artifact_bytes: int) -> int:
        """Bytes that a model of that kind will take."""
        return BASE_BYTES + int(max(artifact_bytes, 0) * self.factor(kind))

    def loaded(self, kind: str, artifact_bytes: int, grown_bytes: int) -> None:
        """Learns from one load: the process grew by so much. Passes over what says nothing: shrinking, tiny artifacts."""
        if artifact_bytes < SMALLEST_BYTES:
            return
        known = self.factor(kind)
        found = (grown_bytes - BASE_BYTES) / artifact_bytes
        if found < known / _FAR:
            return
        learned = known + _TRUST * (min(found, known * _FAR) - known)
        self._factors[kind] = min(max(learned, LEAST), MOST)
