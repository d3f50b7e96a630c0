"""Two workers over two cores against one: rows per second of encoder, CPU per request of fraud-mlp.

The load shares the second core here; encoder's needs little of it, and fraud-mlp is judged on server CPU alone.
"""

from __future__ import annotations

from loadtests.bench.compare import cpu_ratio, interleave, rate_ratio
from loadtests.bench.context import Context
from loadtests.bench.models import ENCODER, FRAUD, BenchModel
from loadtests.bench.protocols import INVOCATIONS
from loadtests.bench.rows import row
from loadtests.bench.servers import OURS

CONNECTIONS = 128


def run(context: Context) -> None:
    """Both server sizes stay up and take turns; an idle server costs nothing."""
    for model in (ENCODER, FRAUD):
        _compare(context, model)


def _compare(context: Context, model: BenchModel) -> None:
    cores = f"{context.server_core},{context.load_core}"
    with context.ours(model) as one, context.ours(model, workers=2, cores=cores) as two:
        targets = {server: server.ask(INVOCATIONS, model, context.sample(model)) for server in (one, two)}
        loads = interleave(
            {
                "1 worker": context.load(one, targets[one], CONNECTIONS),
                "2 workers": context.load(two, targets[two], CONNECTIONS),
            },
            context.rounds,
        )
    for name, several in loads.items():
        context.row(row(f"workers: {model.name} c{CONNECTIONS}", f"{OURS} {name}", several))
    label = f"workers: {model.name} c{CONNECTIONS}"
    if model is ENCODER:
        context.figure(f"{label} rows/s, two workers to one", rate_ratio(loads["2 workers"], loads["1 worker"]))
    else:
        context.figure(f"{label} CPU, two workers to one", cpu_ratio(loads["2 workers"], loads["1 worker"]))
