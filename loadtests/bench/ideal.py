"""The ideal work-conserving batcher, simulated: when free it takes all that has queued, up to its largest batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from loadtests.bench.models import Array


def batch_time(seconds: Mapping[int, float]) -> Callable[[int], float]:
    """Seconds of a run by its rows, linear between the measured batch sizes."""
    sizes = sorted(seconds)
    times = [seconds[size] for size in sizes]
    return lambda rows: float(np.interp(rows, sizes, times))


def simulate(arrivals: Sequence[float] | Array, seconds: Callable[[int], float], largest: int) -> Array:
    """The latency of each request (seconds, in order of arrival) when one server runs them and costs nothing else.

    `arrivals` are moments in seconds, ascending.
    """
    cost = [0.0, *(seconds(rows) for rows in range(1, largest + 1))]
    moments = [float(moment) for moment in arrivals]
    latencies = np.empty(len(moments))
    free = 0.0
    first = 0
    while first < len(moments):
        start = max(free, moments[first])
        last = first
        while last < len(moments) and last - first < largest and moments[last] <= start:
            last += 1
        free = start + cost[last - first]
        for index in range(first, last):
            latencies[index] = free - moments[index]
        first = last
    return latencies


def poisson(rate: float, count: int, seed: int) -> Array:
    """`count` moments of a Poisson process with `rate` per second, from 0 on."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))
