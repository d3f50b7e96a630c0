"""Interleaved runs: every variant is measured in each round, there and back again (ABBA), so that drift cancels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from loadtests.bench.load import Load
from loadtests.bench.stats import Interval, ratio


def interleave(variants: Mapping[str, Callable[[], Load]], rounds: int) -> dict[str, list[Load]]:
    """Runs each variant 2 x `rounds` times in the order A B ... B A; the n-th loads of all variants are neighbours."""
    loads: dict[str, list[Load]] = {name: [] for name in variants}
    for turn in range(2 * rounds):
        names = list(variants) if turn % 2 == 0 else list(variants)[::-1]
        for name in names:
            loads[name].append(variants[name]())
    return loads


def rate_ratio(ours: Sequence[Load], theirs: Sequence[Load]) -> Interval:
    """Requests per second of `ours` over `theirs`."""
    return ratio([load.requests_per_s for load in ours], [load.requests_per_s for load in theirs])


def cpu_ratio(ours: Sequence[Load], theirs: Sequence[Load]) -> Interval:
    """Server CPU per request of `ours` over `theirs`."""
    return ratio([load.cpu_us_per_request for load in ours], [load.cpu_us_per_request for load in theirs])
