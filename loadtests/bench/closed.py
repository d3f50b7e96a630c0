"""The closed-loop cases: fraud-mlp beside the floor, encoder beside the no-server limit."""

from __future__ import annotations

from loadtests.bench import servers
from loadtests.bench.cases import ENCODER_RUNS
from loadtests.bench.compare import cpu_ratio, rate_ratio
from loadtests.bench.context import Context
from loadtests.bench.load import Load, Target
from loadtests.bench.models import ENCODER, FRAUD
from loadtests.bench.protocols import INVOCATIONS
from loadtests.bench.rows import FLOOR, row
from loadtests.bench.servers import OUR_PROTOCOLS, Server
from loadtests.bench.stats import mean, ratio

WATCHED_BATCHES = (1, 16, 32)


def fraud(context: Context, connections: int) -> None:
    """Each protocol of this server and the floor, interleaved."""
    case = f"fraud-mlp/c{connections}"
    sample = context.sample(FRAUD)
    with servers.floor(str(context.server_core)) as floor, context.ours(FRAUD) as ours:
        variants = {"floor": context.load(floor, floor.ask(INVOCATIONS, FRAUD, sample, check=False), connections)}
        for protocol in OUR_PROTOCOLS:
            variants[protocol.name] = context.load(ours, ours.ask(protocol, FRAUD, sample), connections)
        loads = context.interleaved(FRAUD, WATCHED_BATCHES, variants)
    for name, several in loads.items():
        system = FLOOR if name == "floor" else f"{servers.OURS} {name}"
        context.row(row(case, system, several, rate_ratio(several, loads["floor"])))
    ours_json, base = loads[INVOCATIONS.name], loads["floor"]
    context.figure(f"{case} invocations: requests/s to floor", rate_ratio(ours_json, base))
    context.figure(f"{case} invocations: p50 to floor", ratio([x.p50_ms for x in ours_json], [x.p50_ms for x in base]))
    context.figure(f"{case} invocations: p99 ms", mean([x.p99_ms for x in ours_json]))
    for protocol in OUR_PROTOCOLS[1:]:
        context.figure(f"{case} {protocol.name}: CPU to invocations", cpu_ratio(loads[protocol.name], ours_json))


def encoder(context: Context, connections: int, batch: int) -> None:
    """Single runs, each against the limit measured right before and after it; the worst of them decides."""
    case = f"encoder/c{connections}"
    with context.ours(ENCODER) as ours:
        target = ours.ask(INVOCATIONS, ENCODER, context.sample(ENCODER))
        runs = 1 if context.quick else ENCODER_RUNS
        loads, shares = _shares(context, ours, target, connections, batch, runs)
    middle = sorted(shares)[len(shares) // 2]
    context.row(row(case, f"{servers.OURS} {INVOCATIONS.name}", loads, to_limit=middle))
    context.figure(f"{case}: rows/s to session.run at batch {batch}", middle, min(shares))
    context.figure(f"{case}: p99 ms", mean([load.p99_ms for load in loads]))


def _shares(
    context: Context, server: Server, target: Target, connections: int, batch: int, runs: int
) -> tuple[list[Load], list[float]]:
    """Runs of encoder, each with its share of the no-server limit measured right before and after it."""
    loads, shares = [], []
    for _ in range(runs):
        load, limit = context.between_limits(ENCODER, (16, 32), context.load(server, target, connections))
        loads.append(load)
        shares.append(load.requests_per_s / limit.rows_per_s(batch))
    return loads, shares
