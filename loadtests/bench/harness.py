"""The harness' own limits, measured: what wrk can do, and how late the open-loop generator is, against a constant."""

from __future__ import annotations

import resource

import numpy as np

from loadtests.bench import arrivals, ideal, proc, servers
from loadtests.bench.arrivals import MOST_LAG_MS
from loadtests.bench.context import Context
from loadtests.bench.load import Target, Wrk
from loadtests.bench.models import FRAUD
from loadtests.bench.protocols import INVOCATIONS
from loadtests.bench.rows import Row
from loadtests.bench.servers import Server

CONNECTIONS = (1, 16, 64)
RATES = (1_000, 2_000, 5_000, 10_000, 15_000, 20_000)
CONSTANT = "asyncio.Protocol, constant answer"


def run(context: Context) -> None:
    """wrk at each concurrency, then Poisson arrivals at rising rates, of which the generator keeps to the last."""
    with servers.constant(str(context.server_core)) as server:
        target = server.ask(INVOCATIONS, FRAUD, context.sample(FRAUD), check=False)
        for connections in CONNECTIONS:
            context.row(_wrk(context, server, target, connections))
        # A moment's disturbance may make it late at a low rate only, so the highest one decides.
        on_time = [rate for rate in RATES if _on_time(context, server, rate)]
        context.open_loop_rate = float(max(on_time, default=RATES[0]))


def _wrk(context: Context, server: Server, target: Target, connections: int) -> Row:
    """One load, with the share of its core that either side used: the side that used all of its own is the limit."""
    own, theirs = _children_s(), proc.cpu_seconds(server.process.pid)
    with Wrk(target, connections, context.seconds, context.load_core) as wrk:
        load = wrk.result()
    own, theirs = _children_s() - own, proc.cpu_seconds(server.process.pid) - theirs
    note = f"wrk: {own * 1e6 / load.requests:.1f} us of CPU a request, {own / load.seconds:.0%} of its core; "
    note += f"server: {theirs / load.seconds:.0%} of its own"
    cpu_us = theirs * 1e6 / load.requests
    return Row(
        f"harness: wrk c{connections}", CONSTANT, load.requests_per_s, load.p50_ms, load.p99_ms, cpu_us, note=note
    )


def _children_s() -> float:
    """CPU seconds of the ended child processes: around a load, of the one wrk that ended in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _on_time(context: Context, server: Server, rate: int) -> bool:
    """Whether the generator keeps to its moments at this rate."""
    moments = ideal.poisson(rate, max(100, int(rate * context.seconds)), seed=rate)
    arrived = arrivals.run(context, server, INVOCATIONS, FRAUD, moments, check=False)
    p50, p99 = (float(np.percentile(arrived.lag_ms, part)) for part in (50, 99))
    case = f"harness: open loop {rate:,}/s"
    context.row(Row(case, "generator, lateness", arrived.requests_per_s, p50, p99, note="how late requests left"))
    context.row(arrived.row(case, CONSTANT))
    return p99 <= MOST_LAG_MS
