"""Open-loop arrivals on encoder, held against the ideal batcher at the same moments and the batch times measured here.

Run as a program (`python -m loadtests.bench.poisson ...`) it is the load generator, pinned by its caller.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.bench import ideal
from loadtests.bench.cases import POISSON_BATCH, POISSON_SHARES
from loadtests.bench.context import Context, say
from loadtests.bench.load import LoadFailed
from loadtests.bench.models import ENCODER, MODELS, Array, BenchModel, samples
from loadtests.bench.openloop import OpenLoop
from loadtests.bench.protocols import INVOCATIONS, WrongAnswer
from loadtests.bench.report import Row
from loadtests.bench.servers import OURS, Server, get

BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
INPUTS = 64
MOST_LAG_MS = 0.2
MOST_REQUESTS = 200_000


@dataclass(frozen=True, slots=True)
class Arrived:
    """Latencies in ms of one open-loop run, and the moments at which its requests were due."""

    moments: Array
    latencies_ms: Array


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
        context.row(_row("encoder lone request", lone))
        few = _load(context, server, ideal.poisson(tenth, max(20, int(tenth * seconds)), seed=1))
        context.row(_row("encoder/poisson 10 % of b1", few))
        over = float(np.median(few.latencies_ms)) - alone_ms
        context.figure("encoder/poisson 10 % of batch 1: p50 ms over a lone request", over)
        for share in POISSON_SHARES:
            _share(context, server, share, share * first.rows_per_s(POISSON_BATCH), seconds)


def _share(context: Context, server: Server, share: float, rate: float, seconds: float) -> None:
    count = min(MOST_REQUESTS, max(100, int(rate * seconds)))
    moments = ideal.poisson(rate, count, seed=int(share * 100))
    arrived, limit = context.between_limits(ENCODER, BATCHES, lambda: _load(context, server, moments))
    simulated = 1e3 * ideal.simulate(moments, ideal.batch_time(limit.seconds), _largest_batch(server))
    name = f"{share:.0%}".replace("%", " %")
    context.row(_row(f"encoder/poisson {name} of b32", arrived))
    context.row(_row(f"encoder/poisson {name} of b32", Arrived(moments, simulated), "ideal batcher"))
    for kind, part in (("p50", 50), ("p99", 99)):
        value = float(np.percentile(arrived.latencies_ms, part) / np.percentile(simulated, part))
        context.figure(f"encoder/poisson {name} of batch 32: {kind} to ideal", value)


def _largest_batch(server: Server) -> int:
    """The most rows that the server merges: the ideal must not be allowed more, nor held to fewer."""
    (served,) = json.loads(get(server.port, "/debug/models")[1])
    return min(int(served["max_batch_rows"]), BATCHES[-1])


def _row(case: str, arrived: Arrived, system: str = f"{OURS} {INVOCATIONS.name}") -> Row:
    rate = len(arrived.moments) / float(arrived.moments[-1])
    p50, p99 = (float(np.percentile(arrived.latencies_ms, part)) for part in (50, 99))
    return Row(case, system, rate, p50, p99, note="open loop")


def _load(context: Context, server: Server, moments: Array) -> Arrived:
    """One run of the generator on the load core. Raises `LoadFailed`, `WrongAnswer`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        source, result = Path(folder) / "moments.npy", Path(folder) / "outcomes.npz"
        np.save(source, moments)
        command = ["taskset", "-c", str(context.load_core), sys.executable, "-m", "loadtests.bench.poisson"]
        command += [str(server.port), ENCODER.name, str(context.path(ENCODER)), str(source), str(result)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120 + float(moments[-1]))
        if done.returncode:
            raise LoadFailed(f"the open-loop generator failed: {done.stderr.strip()[-500:]}")
        with np.load(result) as found:
            status, wrong, latencies, lag = (found[name] for name in ("status", "wrong", "latency_ms", "lag_ms"))
    if wrong.any():
        raise WrongAnswer(f"{int(wrong.sum())} of {len(moments)} answers under open-loop load were wrong")
    if (status != 200).any():
        kinds = {int(kind): int((status == kind).sum()) for kind in np.unique(status)}
        raise LoadFailed(f"open-loop load below the limit should always be answered with 200, got {kinds}")
    late = float(np.percentile(lag, 99))
    if late > MOST_LAG_MS:
        say(f"  the generator itself was up to {late:.2f} ms late (p99): figures are too high by as much")
    return Arrived(moments, latencies)


def generate(port: int, model: BenchModel, path: Path, source: Path, result: Path) -> None:
    """Sends distinct inputs at the given moments, compares each answer with its own input's right one."""
    known = samples(model, path, INPUTS)
    requests = [INVOCATIONS.request(model, sample).wire("127.0.0.1") for sample in known]

    def right(index: int, status: int, body: bytes) -> bool:
        if status != 200:
            return True
        try:
            INVOCATIONS.check(body, known[index % INPUTS].answer)
        except WrongAnswer:
            return False
        return True

    found = OpenLoop(port, requests, np.load(source), check=right).run()
    np.savez(result, status=found.status, wrong=found.wrong, latency_ms=found.latency_ms(), lag_ms=found.lag_ms())


if __name__ == "__main__":
    generate(int(sys.argv[1]), MODELS[sys.argv[2]], Path(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
