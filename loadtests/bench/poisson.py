"""Open-loop arrivals on encoder, held against the ideal batcher at the same moments and the batch times measured here.

Twice: with the batch times of a hot loop, and with those that the server's own runs took. Between these lie the caches
and the processor that went to sleep between requests, from which no scheduling can save a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from loadtests.bench import arrivals, ideal
from loadtests.bench.arrivals import Arrived
from loadtests.bench.cases import POISSON_BATCH, POISSON_SHARES
from loadtests.bench.context import Context
from loadtests.bench.models import ENCODER, Array
from loadtests.bench.protocols import INVOCATIONS
from loadtests.bench.servers import OURS, Server, get

BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
SYSTEM = f"{OURS} {INVOCATIONS.name}"
MOST_REQUESTS = 200_000


def run(context: Context) -> None:
    """A lone request first, then 10 % of the batch-1 rate, then shares of the batch-32 rate."""
    seconds = 3.0 if context.quick else 4 * context.seconds
    first = context.limits(ENCODER, BATCHES)
    with context.ours(ENCODER) as server:
        server.ask(INVOCATIONS, ENCODER, context.sample(ENCODER))
        tenth = 0.1 * first.rows_per_s(1)
        # Evenly spaced at the same rate: the machine is as rested as with Poisson arrivals, but nobody ever meets.
        lone = _load(context, server, np.arange(1, max(20, int(tenth * seconds))) / tenth)
        alone_ms = float(np.median(lone.latencies_ms))
        context.row(lone.row("encoder lone request", SYSTEM))
        few = _load(context, server, ideal.poisson(tenth, max(20, int(tenth * seconds)), seed=1))
        context.row(few.row("encoder/poisson 10 % of b1", SYSTEM))
        over = float(np.median(few.latencies_ms)) - alone_ms
        context.figure("encoder/poisson 10 % of batch 1: p50 ms over a lone request", over)
        for share in POISSON_SHARES:
            _share(context, server, share, share * first.rows_per_s(POISSON_BATCH), seconds)


def _share(context: Context, server: Server, share: float, rate: float, seconds: float) -> None:
    count = min(MOST_REQUESTS, max(100, int(rate * seconds)))
    moments = ideal.poisson(rate, count, seed=int(share * 100))
    arrived, limit = context.between_limits(ENCODER, BATCHES, lambda: _load(context, server, moments))
    hot = ideal.batch_time(limit.seconds)
    slower = _slower_in_service(server, hot)
    largest = _largest_batch(server)
    name = f"{share:.0%}".replace("%", " %")
    context.row(arrived.row(f"encoder/poisson {name} of b32", SYSTEM))
    for system, times in (("ideal", hot), ("ideal in service", lambda rows: slower * hot(rows))):
        simulated = 1e3 * ideal.simulate(moments, times, largest)
        best = Arrived(moments, simulated, np.zeros(len(moments)))
        context.row(best.row(f"encoder/poisson {name} of b32", f"{system} batcher"))
        for kind, part in (("p50", 50), ("p99", 99)):
            value = float(np.percentile(arrived.latencies_ms, part) / np.percentile(simulated, part))
            context.figure(f"encoder/poisson {name} of batch 32: {kind} to {system}", value)


def _slower_in_service(server: Server, hot: Callable[[int], float]) -> float:
    """How many times as long the server's last batches took to run as in a hot loop (median)."""
    batches = json.loads(get(server.port, f"/debug/models/{ENCODER.name}/batches")[1])
    return float(
        np.median([1e-6 * batch["compute_us"] / hot(batch["rows"] + batch["padding_rows"]) for batch in batches])
    )


def _largest_batch(server: Server) -> int:
    """The most rows that the server merges: the ideal must not be allowed more, nor held to fewer."""
    (served,) = json.loads(get(server.port, "/debug/models")[1])
    return min(int(served["max_batch_rows"]), BATCHES[-1])


def _load(context: Context, server: Server, moments: Array) -> Arrived:
    return arrivals.run(context, server, INVOCATIONS, ENCODER, moments)
