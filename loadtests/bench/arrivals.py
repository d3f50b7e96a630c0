"""Open-loop load on a server: distinct inputs at given moments, every answer compared with its own input's right one.

Run as a program (`python -m loadtests.bench.arrivals ...`) it is the load generator, pinned by its caller.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.bench.context import Context
from loadtests.bench.load import LoadFailed
from loadtests.bench.models import MODELS, Array, BenchModel, samples
from loadtests.bench.openloop import OpenLoop
from loadtests.bench.protocols import PROTOCOLS, Protocol, WrongAnswer
from loadtests.bench.rows import Row
from loadtests.bench.servers import Server

INPUTS = 64
MOST_LAG_MS = 0.2


@dataclass(frozen=True, slots=True)
class Arrived:
    """Latencies in ms of one open-loop run, the moments at which its requests were due, and how late they left."""

    moments: Array
    latencies_ms: Array
    lag_ms: Array

    @property
    def requests_per_s(self) -> float:
        """The rate at which requests were due."""
        return len(self.moments) / float(self.moments[-1])

    def row(self, case: str, system: str, note: str = "open loop") -> Row:
        """The run as a line of the report, with the generator's own lateness where it counts."""
        p50, p99 = (float(np.percentile(self.latencies_ms, part)) for part in (50, 99))
        late = float(np.percentile(self.lag_ms, 99))
        if late > MOST_LAG_MS:
            note += f"; the generator was {late:.2f} ms late at p99, so the latencies are too high by as much"
        return Row(case, system, self.requests_per_s, p50, p99, note=note)


def run(
    context: Context, server: Server, protocol: Protocol, model: BenchModel, moments: Array, check: bool = True
) -> Arrived:
    """One run of the generator on the load core. Raises `LoadFailed`, `WrongAnswer`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        source, result = Path(folder) / "moments.npy", Path(folder) / "outcomes.npz"
        np.save(source, moments)
        command = ["taskset", "-c", str(context.load_core), sys.executable, "-m", "loadtests.bench.arrivals"]
        command += [str(server.port), protocol.name, model.name, str(context.path(model)), str(source), str(result)]
        command += ["checked"] * check
        limit_s = 120 + float(moments[-1])
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"the open-loop generator did not end within {limit_s:.0f} s") from None
        if done.returncode:
            raise LoadFailed(f"the open-loop generator failed: {done.stderr.strip()[-500:]}")
        with np.load(result) as found:
            status, wrong, latencies, lag = (found[name] for name in ("status", "wrong", "latency_ms", "lag_ms"))
    if wrong.any():
        raise WrongAnswer(f"{int(wrong.sum())} of {len(moments)} answers under open-loop load were wrong")
    if (status != 200).any():
        kinds = {int(kind): int((status == kind).sum()) for kind in np.unique(status)}
        raise LoadFailed(f"open-loop load below the limit should always be answered with 200, got {kinds}")
    return Arrived(moments, latencies, lag)


def generate(
    port: int, protocol: Protocol, model: BenchModel, path: Path, source: Path, result: Path, check: bool
) -> None:
    """Sends distinct inputs at the given moments and, with `check`, compares each answer with its own right one."""
    known = samples(model, path, INPUTS)
    requests = [protocol.request(model, sample).wire("127.0.0.1") for sample in known]
    # A body that was right for its input once needs no second look; reading numbers would make the generator late.
    right_bodies: list[set[bytes]] = [set() for _ in known]

    def right(index: int, status: int, body: bytes) -> bool:
        slot = index % INPUTS
        if status != 200 or body in right_bodies[slot]:
            return True
        try:
            protocol.check(body, known[slot].answer)
        except WrongAnswer:
            return False
        right_bodies[slot].add(body)
        return True

    found = OpenLoop(port, requests, np.load(source), check=right if check else None).run()
    np.savez(result, status=found.status, wrong=found.wrong, latency_ms=found.latency_ms(), lag_ms=found.lag_ms())


if __name__ == "__main__":
    generate(
        int(sys.argv[1]),
        PROTOCOLS[sys.argv[2]],
        MODELS[sys.argv[3]],
        Path(sys.argv[4]),
        Path(sys.argv[5]),
        Path(sys.argv[6]),
        check=sys.argv[7:] == ["checked"],
    )
