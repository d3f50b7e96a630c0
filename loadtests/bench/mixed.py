"""A fast and a slow model on one server core at once, and a fast model beside a caller of very large bodies."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loadtests.bench.context import Context
from loadtests.bench.load import Load, LoadFailed, Wrk
from loadtests.bench.models import BULK, ENCODER, FRAUD
from loadtests.bench.protocols import ENDPOINT, V2_BINARY, V2_JSON, Protocol
from loadtests.bench.rows import row
from loadtests.bench.servers import OURS, Server, post
from loadtests.bench.stats import mean

FRAUD_CONNECTIONS = 4
ENCODER_CONNECTIONS = 16


def run(context: Context) -> None:
    """Both cases against one server that serves all three models."""
    with context.ours(FRAUD, ENCODER, BULK) as server:
        _both(context, server)
        for protocol, name in ((V2_BINARY, "v2 binary"), (V2_JSON, "JSON")):
            _beside_bulk(context, server, protocol, name)


def _both(context: Context, server: Server) -> None:
    fast = server.ask(ENDPOINT, FRAUD, context.sample(FRAUD))
    slow = server.ask(ENDPOINT, ENCODER, context.sample(ENCODER))
    pairs: list[tuple[Load, Load]] = []
    for seconds, check in [(1.0, True)] + [(context.seconds, False)] * 2 * context.rounds:
        with (
            Wrk(fast, FRAUD_CONNECTIONS, seconds, context.load_core, check) as first,
            Wrk(slow, ENCODER_CONNECTIONS, seconds, context.load_core, check) as second,
        ):
            both = first.result(), second.result()
        if both[0].errors or both[1].errors:
            raise LoadFailed(f"errors with both models at once: {both[0].errors} fraud-mlp, {both[1].errors} encoder")
        if not check:
            pairs.append(both)
    fraud, encoder = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for name, loads in (("fraud-mlp c4", fraud), ("encoder c16", encoder)):
        found = row(f"mixed: {name}", f"{OURS} {ENDPOINT.name}", loads)
        context.row(dataclasses.replace(found, cpu_us=None))  # the process serves both
    context.figure("mixed: fraud-mlp c4 requests/s beside encoder c16", mean([x.requests_per_s for x in fraud]))
    context.figure("mixed: fraud-mlp c4 p99 ms beside encoder c16", mean([x.p99_ms for x in fraud]))
    context.figure("mixed: encoder c16 rows/s beside fraud-mlp c4", mean([x.requests_per_s for x in encoder]))


def _beside_bulk(context: Context, server: Server, protocol: Protocol, name: str) -> None:
    target = server.ask(ENDPOINT, FRAUD, context.sample(FRAUD))
    with _bulk_caller(context, server, protocol) as answered:
        measure = context.load(server, target, FRAUD_CONNECTIONS)
        loads = [measure() for _ in range(2 * context.rounds)]
        count = answered()
    found = row(f"fraud-mlp c4 beside 20 MB {name}", f"{OURS} {ENDPOINT.name}", loads)
    # CPU per request would count the large bodies' too.
    context.row(dataclasses.replace(found, cpu_us=None, note=f"{count} large bodies"))
    context.figure(f"mixed: fraud-mlp p99 ms beside 20 MB {name} bodies", mean([load.p99_ms for load in loads]))


@contextmanager
def _bulk_caller(context: Context, server: Server, protocol: Protocol) -> Iterator[Callable[[], int]]:
    """Posts 20 MB bodies one after the other until the block ends; gives the count of right answers so far."""
    sample = context.sample(BULK)
    request = protocol.request(BULK, sample)
    stopped = threading.Event()
    failure: list[Exception] = []
    count = 0

    def call() -> None:
        nonlocal count
        os.sched_setaffinity(0, {context.load_core})  # of this thread
        while not stopped.is_set():
            try:
                status, body = post(server.port, request.path, request.headers, request.body)
                if status != 200:
                    raise LoadFailed(f"a body of {len(request.body)} bytes was answered {status}: {body[:300]!r}")
                protocol.check(body, sample.answer)
                count += 1
            except Exception as error:  # handed to the main thread below
                failure.append(error)
                return

    thread = threading.Thread(target=call, name="bulk-caller")
    thread.start()
    try:
        yield lambda: count
    finally:
        stopped.set()
        thread.join()
    if failure:
        raise LoadFailed(f"the caller of large bodies failed: {failure[0]}") from failure[0]
    if not count:
        raise LoadFailed("no large body was answered while the load ran: the figure would mean nothing")
