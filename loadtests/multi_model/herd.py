"""A thousand callers at once on one cold model: one load, an answer for each, and hits of another model beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Final

from loadtests.bench.stats import percentile
from loadtests.multi_model.calling import ClosedLoop, Lane
from loadtests.multi_model.context import Context, events, is_right, request
from loadtests.multi_model.shelf import target

ROUNDS: Final = 5
BESIDE: Final = 4
"""Connections that ask for another model all the while."""

ALONE: Final = 400
"""Requests of each of them without the herd."""


def run(context: Context) -> None:
    """Each round has a cold model of its own; the other model is number 0."""
    callers = context.amounts.callers
    context.shelf.fill_wide(ROUNDS + 1)
    last, loads, failed = list[float](), list[int](), 0
    alone, beside, waits = list[float](), list[float](), list[float]()
    hit = request(0)
    with context.many() as server:
        for number in range(1, ROUNDS + 1):
            quiet = Lane([(0, hit)] * (ALONE * BESIDE), BESIDE, is_right)
            ClosedLoop(server.port, [quiet]).run()
            herd = Lane([(number, request(number))] * callers, callers, is_right)
            other = Lane(cycle([(0, hit)]), BESIDE, is_right, endless=True)
            ClosedLoop(server.port, [other, herd]).run()
            failed += _failed([quiet, herd, other])
            last.append(max(found.finished for found in herd.answers))
            waits += [found.seconds for found in herd.answers]
            loads.append(sum(event["target"] == target(number) for event in events(server.port, "loaded")))
            alone += [found.seconds for found in quiet.answers[BESIDE * 10 :]]
            beside += [found.seconds for found in other.answers]
    context.times("herd", f"{callers} callers on one cold model", waits)
    context.times("herd", "the last answer of each herd", last, f"{ROUNDS} herds")
    context.times("herd", f"hits of another model, {BESIDE} connections, without the herd", alone)
    context.times("herd", f"hits of another model, {BESIDE} connections, beside the herd", beside)
    context.figure("herd: failed requests", failed)
    context.figure("herd: loads", max(loads))
    context.figure("herd: p99 ms of hits beside it", percentile(beside, 0.99) * 1e3)


def _failed(lanes: Sequence[Lane]) -> int:
    return sum(not found.right for lane in lanes for found in lane.answers)
