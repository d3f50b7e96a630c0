"""Benchmarks of single tricks of the hot path, without a network: `python -m loadtests.bench.micro`.

Each prints microseconds with the trick and without; a trick stays only while it pays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Counter
from prometheus_client import Histogram as PrometheusHistogram
from uvicorn.config import Config
from uvicorn.server import ServerState

from serving.codecs.base import Buffer
from serving.frontends.http.faces import Faces
from serving.frontends.http.head import Guard
from serving.frontends.http.lane import Connection
from serving.frontends.http.lane_state import LaneState
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Head, Reply
from serving.settings import Settings
from serving.telemetry.accumulators import Histogram

BODY = b'{"instances":[[' + b",".join(b"0.1234" for _ in range(30)) + b"]]}"
REQUEST = (
    b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\nAccept: */*\r\n"
    b"User-Agent: benchmark\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY


class _Sink(asyncio.Transport):
    """A transport that throws away what is written."""

    def write(self, data: Any) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False


class _Echo(DataPlane):
    """A data plane that answers at once, so that only the lane is measured."""

    def invoke(self, head: Head, body: Buffer, reply: Reply, arrived: float = 0.0) -> None:
        connection: Any = reply
        connection._next(head)


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    """The app behind the lane, which is never called."""


def microseconds(work: Callable[[], object], runs: int = 20_000, rounds: int = 7) -> float:
    """Best of some rounds, for one call."""
    best = float("inf")
    for _ in range(rounds):
        started = perf_counter()
        for _ in range(runs):
            work()
        best = min(best, perf_counter() - started)
    return best / runs * 1e6


async def head_memo() -> tuple[float, float]:
    """Reading one request: with its head in the memo, and parsed."""
    plane = _Echo()
    settings = Settings()
    lane = LaneState(plane, Faces(settings.region, settings.account_id), Guard(["127.0.0.1"], []), settings)
    config = Config(_nobody, http=Connection, log_config=None, lifespan="off", loop="none", ws="none")
    connection = Connection(config, ServerState(), {"lane": lane}, asyncio.get_running_loop())
    connection.connection_made(_Sink())
    end = REQUEST.index(b"\r\n\r\n") + 4
    parsed = microseconds(lambda: connection.data_received(REQUEST))
    # The echo answers before the lane could keep the head; real answers come a turn later.
    head = connection._head
    assert head is not None
    lane.remember(REQUEST[:end], head)
    return microseconds(lambda: connection.data_received(REQUEST)), parsed


def accumulators() -> tuple[float, float]:
    """Counting one request and its latency: own accumulators, and prometheus_client with bound labels."""
    histogram = Histogram()
    registry = CollectorRegistry()
    counter = Counter("requests", "requests", ["endpoint"], registry=registry).labels("a")
    observed = PrometheusHistogram(
        "latency", "latency", ["endpoint"], registry=registry, buckets=histogram.bounds
    ).labels("a")
    counts = [0]

    def own() -> None:
        counts[0] += 1
        histogram.observe(0.00123)

    def library() -> None:
        counter.inc()
        observed.observe(0.00123)

    return microseconds(own), microseconds(library)


def main() -> None:
    """Prints the table."""
    rows = [
        ("head memo, against parsing the head", asyncio.run(head_memo())),
        ("own accumulators, against prometheus_client", accumulators()),
    ]
    print(f"{'trick':<48}{'with, us':>10}{'without, us':>13}{'saves':>8}")
    for name, (with_it, without) in rows:
        print(f"{name:<48}{with_it:>10.2f}{without:>13.2f}{1 - with_it / without:>8.0%}")


if __name__ == "__main__":
    main()
