"""The arithmetic of the benchmark: percentiles, ratios of interleaved runs and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 5000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the two ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of `values` do not exceed. Raises ValueError when empty."""
    if not values:
        raise ValueError("percentile of no values: nothing was measured")
    ordered = sorted(values)
    return ordered[max(0, int(np.ceil(share * len(ordered))) - 1)]


def ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Interval:
    """The geometric mean of the pairs' ratios, and its 95 % interval by resampling whole pairs.

    Pairs were measured next to each other, so what slows the machine for a while cancels within a pair.
    """
    if len(numerators) != len(denominators) or not numerators:
        raise ValueError(f"pairs needed, got {len(numerators)} and {len(denominators)} values")
    logs = np.log(np.asarray(numerators, dtype=float) / np.asarray(denominators, dtype=float))
    picks = np.random.default_rng(seed).integers(0, len(logs), (RESAMPLES, len(logs)))
    low, high = np.percentile(logs[picks].mean(axis=1), [2.5, 97.5])
    return Interval(float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)))


def mean(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of repeated runs and its 95 % bootstrap interval."""
    if not values:
        raise ValueError("mean of no values: nothing was measured")
    found = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(found), (RESAMPLES, len(found)))
    low, high = np.percentile(found[picks].mean(axis=1), [2.5, 97.5])
    return Interval(float(found.mean()), float(low), float(high))
