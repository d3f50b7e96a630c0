"""What a model costs that is known and not in memory: in the cache alone, and in a server that was asked for thousands."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Final

from loadtests.bench.protocols import ENDPOINT, Request, WrongAnswer
from loadtests.bench.servers import Server
from loadtests.control.context import split
from loadtests.multi_model.calling import ClosedLoop, Lane
from loadtests.multi_model.context import HOST, NAME, TARGET_HEADER, Context
from loadtests.multi_model.shelf import SMALL, target
from serving.errors import TargetMissing
from serving.runtime.cache_actions import Load, Locate, Unload
from serving.runtime.eviction import policy
from serving.runtime.model_cache import ModelCache
from serving.settings import Settings

CONNECTIONS: Final = 16
BUDGET: Final = 40_000_000
"""Bytes of memory that hold some hundred of the small models."""

Cache = ModelCache[tuple[str, str], object, str, str]


def run(context: Context) -> None:
    """The cache by tracemalloc, the server by its resident memory."""
    count = context.amounts.known
    context.figure("known: bytes of a missing target in the cache", _traced(count, _missing))
    context.figure("known: bytes of a target that was evicted in the cache", _traced(count, _evicted))
    _server(context, "missing target", absent=True)
    _server(context, "target that was evicted", absent=False)


def _traced(count: int, drive: Callable[[Cache, tuple[str, str], float], None]) -> float:
    """Bytes by key of a cache that was driven through so many; its log of events is full before."""
    cache = Cache(10, policy(Settings.__struct_defaults__[_place("model_eviction")]), lambda _handle: False)
    for number in range(1_100):
        drive(cache, (NAME, f"before/{number}"), float(number))
    gc.collect()
    tracemalloc.start()
    for number in range(count):
        drive(cache, (NAME, target(number)), 1e4 + number * 1e-3)
    gc.collect()
    taken, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / count


def _place(name: str) -> int:
    fields = Settings.__struct_fields__
    return fields.index(name) - (len(fields) - len(Settings.__struct_defaults__))


def _missing(cache: Cache, key: tuple[str, str], now: float) -> None:
    cache.want(key, object(), now + 60.0, now)
    while (action := cache.poll(now)) is not None:
        if isinstance(action, Locate):
            cache.failed(action.key, TargetMissing(f"there is no {action.key[1]}"), 3600.0, now)


def _evicted(cache: Cache, key: tuple[str, str], now: float) -> None:
    cache.want(key, object(), now + 60.0, now)
    while (action := cache.poll(now)) is not None:
        if isinstance(action, Locate):
            cache.located(action.key, "located", 5, "revision", now)
        elif isinstance(action, Load):
            cache.loaded(action.key, "handle", 0.01, now)
        elif isinstance(action, Unload):
            cache.unloaded(action.key, action.handle, now)


def _server(context: Context, what: str, *, absent: bool) -> None:
    """Growth of supervisor and worker together, after as many others as it takes until pools and logs are full."""
    amounts = context.amounts
    archive = context.archives(1)[0]
    several = amounts.warming_known + amounts.known
    if not absent:
        context.shelf.fill(SMALL, several, lambda _number: archive.path.read_bytes())
    asked = ENDPOINT.request(archive.model(NAME), archive.sample())

    def request(number: int) -> bytes:
        headers = {**asked.headers, TARGET_HEADER: ("absent/" if absent else "") + target(number)}
        return Request(asked.path, headers, asked.body).wire(HOST)

    with context.many(SMALL, budget=BUDGET) as server:
        sizes = []
        for numbers in (range(amounts.warming_known), range(amounts.warming_known, several)):
            _ask(server, [(number, request(number)) for number in numbers], 400 if absent else 200)
            supervisor, workers = split(server)
            sizes.append((supervisor.rss_bytes, sum(worker.rss_bytes for worker in workers)))
    (supervisor_before, worker_before), (supervisor_after, worker_after) = sizes
    growth = (supervisor_after - supervisor_before) + (worker_after - worker_before)
    context.report.notes.append(
        f"known: {amounts.known:,} of a {what}: the supervisor from {supervisor_before / 1e6:.1f} to "
        f"{supervisor_after / 1e6:.1f} MB, the worker from {worker_before / 1e6:.1f} to {worker_after / 1e6:.1f} MB"
    )
    context.figure(f"known: RSS of the server by each {what}, bytes", growth / amounts.known)


def _ask(server: Server, requests: list[tuple[int, bytes]], status: int) -> None:
    lane = Lane(requests, CONNECTIONS, lambda _key, found, _body: found == status)
    ClosedLoop(server.port, [lane]).run()
    if lane.wrong:
        raise WrongAnswer(f"{status} was expected, and not: {lane.wrong[0]}")
