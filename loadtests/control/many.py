"""The CPU of an invocation with one endpoint and with many: two servers on one core, in turns, the same model asked."""

from __future__ import annotations

import contextlib

from loadtests.bench.compare import cpu_ratio, interleave, rate_ratio
from loadtests.bench.protocols import ENDPOINT
from loadtests.bench.servers import Server
from loadtests.bench.stats import mean
from loadtests.control.context import Context, endpoint_name, populate

CONNECTIONS = 16


def run(context: Context) -> None:
    """All processes of a server count, the supervisor included; an idle server costs the other nothing."""
    first = context.archives(1)[0]
    several = context.populated
    with contextlib.ExitStack() as stack:
        one: Server = stack.enter_context(context.server())
        populate(one.port, [first], 1)
        many: Server = stack.enter_context(context.server(several))
        name = endpoint_name(first)
        model, sample = first.model(name), first.sample()
        variants = {}
        for label, server in (("one", one), ("many", many)):
            target = server.ask(ENDPOINT, model, sample)
            variants[label] = lambda server=server, target=target: server.load(
                target, CONNECTIONS, context.seconds, context.load_core
            )
        loads = interleave(variants, context.rounds)
    for label, found in loads.items():
        count = 1 if label == "one" else context.sizes.endpoints
        context.figure(
            f"many: CPU us of an invocation, {count} endpoints", mean([load.cpu_us_per_request for load in found])
        )
        context.figure(f"many: p99 ms, {count} endpoints", mean([load.p99_ms for load in found]))
    context.figure("many: requests/s, 200 endpoints to 1", rate_ratio(loads["many"], loads["one"]))
    context.figure("many: CPU of an invocation, 200 endpoints to 1", cpu_ratio(loads["many"], loads["one"]))
