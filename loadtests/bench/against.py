"""Before and after: this server against another build of it, both up, interleaved, judged on server CPU per request."""

from __future__ import annotations

from loadtests.bench import servers
from loadtests.bench.compare import cpu_ratio, interleave, rate_ratio
from loadtests.bench.context import Context
from loadtests.bench.models import ENCODER, FRAUD
from loadtests.bench.protocols import INVOCATIONS
from loadtests.bench.rows import row

LOADS = ((FRAUD, 1), (FRAUD, 16), (FRAUD, 64), (ENCODER, 16), (ENCODER, 64))


def run(context: Context, other: str) -> None:
    """`other` is the path of the other build's `serving` command."""
    for model, connections in LOADS:
        case = f"against: {model.name}/c{connections}"
        cores = str(context.server_core)
        with context.ours(model) as new, servers.ours([context.path(model)], cores=cores, executable=other) as old:
            sample = context.sample(model)
            targets = {server: server.ask(INVOCATIONS, model, sample) for server in (old, new)}
            variants = {
                "other": context.load(old, targets[old], connections),
                "this": context.load(new, targets[new], connections),
            }
            loads = interleave(variants, context.rounds)
        for name, several in loads.items():
            context.row(row(case, f"{servers.OURS} ({name})", several))
        context.figure(f"{case}: CPU, this to other", cpu_ratio(loads["this"], loads["other"]))
        context.figure(f"{case}: requests/s, this to other", rate_ratio(loads["this"], loads["other"]))
