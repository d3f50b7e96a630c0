"""The memory of the model cache: what estimates say, and what they are worth by what is measured.

All sums are of estimates. Their scale is what was measured over what was estimated, so that the scaled sum is what the
process really takes; the budget in estimated bytes is the budget over the scale.
"""

from __future__ import annotations

from math import ceil
from typing import Final

LEAST_SCALE: Final = 0.25
MOST_SCALE: Final = 8.0

_TRUST: Final = 0.5
"""The share of a new measurement in the scale."""

_PRIOR_SHARE: Final = 1 / 32
_PRIOR_BYTES: Final = (8 * 1024 * 1024, 32 * 1024 * 1024)
"""Estimates are believed as if so much (of the budget; at least and at most so many bytes) had been measured that was right.

Without it, what the process takes for other things, some megabytes now and then, would be taken for that of small models.
"""


class CacheBudget:
    """`bytes` may be held; `loaded` (all but what is being unloaded), `unloading` and `loading` are sums of estimates."""

    __slots__ = ("bytes", "loaded", "loading", "measured", "scale", "unloading")

    def __init__(self, bytes_: int) -> None:
        self.bytes = bytes_
        self.scale = 1.0
        self.loaded = 0
        self.unloading = 0
        self.loading = 0
        self.measured: int | None = None

    @property
    def capacity(self) -> int:
        """Estimated bytes that fit."""
        return int(self.bytes / self.scale)

    @property
    def taken(self) -> int:
        """Estimated bytes that are taken, or will be by what loads."""
        return self.loaded + self.unloading + self.loading

    @property
    def held(self) -> int:
        """Bytes that are taken, by all that is known."""
        return self.scaled(self.taken)

    @property
    def residual(self) -> int:
        """Bytes by which the last measurement differs from `held`; 0 without one."""
        return 0 if self.measured is None else self.measured - self.held

    def scaled(self, estimate: int) -> int:
        """What an estimate stands for."""
        return ceil(estimate * self.scale)

    def measure(self, bytes_: int) -> None:
        """Takes what all models really take; what loads is half there. Without any it says nothing of estimates, but a scale
        that makes them larger ends: one that lets none in would never be measured again."""
        self.measured = bytes_
        estimated = self.loaded + self.unloading + self.loading // 2
        if estimated == 0:
            self.scale = min(self.scale, 1.0)
            return
        least, most = _PRIOR_BYTES
        prior = min(max(self.bytes * _PRIOR_SHARE, least), most)
        found = (bytes_ + prior) / (estimated + prior)
        self.scale += _TRUST * (min(max(found, LEAST_SCALE), MOST_SCALE) - self.scale)
