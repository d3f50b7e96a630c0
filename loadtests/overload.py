"""`python -m loadtests.overload`: minutes of open-loop load on encoder at 1.5 times what the core can do.

Proves, against a real server process, that memory stays flat, that refusals come at once, that no answer is another
request's, and that kill -9 of a worker costs only what was in flight on it. Exits 1 when one of these fails.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loadtests.bench import ideal, limits, proc, servers
from loadtests.bench.models import ENCODER, samples, write
from loadtests.bench.openloop import CONNECTION_ERROR, NEVER_ANSWERED, OpenLoop, Outcomes
from loadtests.bench.protocols import INVOCATIONS, WrongAnswer
from loadtests.bench.servers import Server

OVERLOAD = 1.5
BATCH = 32
INPUTS = 256
CONNECTIONS = 16_384
REFUSED = (429, 503)
MOST_REFUSAL_MS = 5.0
MOST_GROWTH = 1.05
_BUCKET = re.compile(r'^serving_refusal_seconds_bucket\{[^}]*le="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE)
GROWTH_SLACK_BYTES = 8_000_000


@dataclass
class Watch:
    """Samples the workers while the load runs and kills one of them halfway."""

    server: Server
    kill_at_s: float
    rss: dict[int, list[int]] = field(default_factory=dict)
    killed: int | None = None
    killed_at_s: float = float("nan")
    connections_lost: int = 0

    def tick(self, elapsed: float) -> None:
        """Called about once a second."""
        alive = [process for process in self.server.usage() if process.pid != self.server.process.pid]
        for process in alive:
            self.rss.setdefault(process.pid, []).append(process.rss_bytes)
        if self.killed is None and elapsed >= self.kill_at_s and alive:
            victim = max(alive, key=lambda process: process.rss_bytes)
            self.connections_lost = sockets(victim.pid)
            self.killed, self.killed_at_s = victim.pid, elapsed
            os.kill(victim.pid, signal.SIGKILL)

    def growth(self) -> float:
        """The worst growth of a worker that lived long enough: the end of its life against its settled start."""
        worst = 0.0
        for values in self.rss.values():
            if len(values) >= 10:
                settled = np.median(values[len(values) // 5 : len(values) // 2])
                end = np.median(values[-len(values) // 5 :])
                worst = max(worst, float((end - GROWTH_SLACK_BYTES) / settled))
        return worst


def sockets(pid: int) -> int:
    """How many sockets a process holds."""
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise, what was seen, and whether it was kept."""

    promise: str
    seen: str
    kept: bool


def refusal_ms(metrics: str, part: float) -> float:
    """A percentile of what refusals took inside the server, from the last byte read to the answer written.

    The upper bound of the histogram's bucket in which it lies: never less than the truth.
    """
    buckets = [(float(bound), int(float(count))) for bound, count in _BUCKET.findall(metrics)]
    most = max((count for _, count in buckets), default=0)
    return (
        1e3 * min((bound for bound, count in buckets if count >= part * most), default=float("nan"))
        if most
        else float("nan")
    )


def judge(found: Outcomes, watch: Watch, still_right: bool, metrics: str) -> list[Verdict]:
    """Every promise held against what happened; `metrics` is what /metrics said afterwards, "" where it did not."""
    status = found.status
    refused = np.isin(status, REFUSED)
    errors = status == CONNECTION_ERROR
    strange = ~(found.ok | refused | errors | (status == NEVER_ANSWERED))
    inside_ms = refusal_ms(metrics, 0.99)
    growth = watch.growth()
    silent = int((status == NEVER_ANSWERED).sum())
    others = np.unique(status[strange]).tolist()
    real = bool(refused.any() and found.ok.any())
    flat = f"workers' memory flat (end to settled start at most {MOST_GROWTH:g})"
    at_once = f"refusals within {MOST_REFUSAL_MS:g} ms (last byte read to answer written, p99)"
    verdicts = [
        Verdict("overload was real: some refused, some answered", f"{refused.sum()} / {found.ok.sum()}", real),
        Verdict("no wrong answer", f"{found.wrong.sum()} wrong of {found.ok.sum()}", not found.wrong.any()),
        Verdict(at_once, f"{inside_ms:g} ms", inside_ms <= MOST_REFUSAL_MS),
        Verdict("every request got an answer or an error", f"{silent} without", silent == 0),
        Verdict("only 200, 429 and 503", f"{strange.sum()} others {others}", not strange.any()),
        Verdict(flat, f"{growth:.3f}", 0 < growth <= MOST_GROWTH),
        Verdict("the server answers rightly afterwards", str(still_right), still_right),
        Verdict("/metrics answers", str(bool(metrics)), bool(metrics)),
    ]
    if watch.killed is None:
        return [*verdicts, Verdict("no connection error", f"{errors.sum()}", not errors.any())]
    # Every error belongs to a request that was under way when the worker died, one at most per connection it had.
    early = errors & (found.scheduled < watch.killed_at_s + 1.0) & (found.finished >= watch.killed_at_s - 0.1)
    kept = bool((errors == early).all()) and int(errors.sum()) <= watch.connections_lost
    seen = f"{errors.sum()} errors, {watch.connections_lost} connections, {(errors & ~early).sum()} at other times"
    return [*verdicts, Verdict("kill -9 of a worker costs only what was in flight on it", seen, kept)]


def load(server: Server, path: Path, rate: float, seconds: float, kill: bool) -> tuple[Outcomes, Watch]:
    """The load itself, on the cores of this process."""
    known = samples(ENCODER, path, INPUTS)
    requests = [INVOCATIONS.request(ENCODER, sample).wire("127.0.0.1") for sample in known]

    def right(index: int, status: int, body: bytes) -> bool:
        if status != 200:
            return True
        try:
            INVOCATIONS.check(body, known[index % INPUTS].answer)
        except WrongAnswer:
            return False
        return True

    watch = Watch(server, seconds / 2 if kill else float("inf"))
    moments = ideal.poisson(rate, int(rate * seconds), seed=4)
    return OpenLoop(server.port, requests, moments, CONNECTIONS, right).run(tick=watch.tick), watch


def main() -> int:
    """Runs it and prints the verdicts."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.overload", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2, help="with more than one, one is killed halfway (default 2)")
    parser.add_argument("--server-cores", default="0", help="a taskset list (default 0)")
    parser.add_argument("--load-core", type=int, default=1)
    parser.add_argument("--rate", type=float, help="requests/s (default: 1.5 times the batch-32 rate measured first)")
    parser.add_argument("--kill", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--executable", metavar="PATH", help="the `serving` command to load (default: our own)")
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {options.load_core})
    path = write(ENCODER, options.folder / "models").resolve()
    rate = options.rate or OVERLOAD * limits.measure(path, ENCODER.name, (BATCH,)).rows_per_s(BATCH)
    print(
        f"{options.minutes:g} min at {rate:.0f} requests/s, {options.workers} worker(s) on cores {options.server_cores}"
    )
    # A worker stops accepting at its connection limit; here the queue's own bound is to be met first.
    room = {"SERVING_MAX_CONNECTIONS": str(CONNECTIONS)}
    with servers.ours([path], options.workers, options.server_cores, options.executable, room) as server:
        sample = samples(ENCODER, path, 1)[0]
        server.ask(INVOCATIONS, ENCODER, sample)
        kill = options.kill and options.workers > 1
        found, watch = load(server, path, rate, options.minutes * 60, kill)
        still_right = True
        try:
            server.ask(INVOCATIONS, ENCODER, sample)
        except (WrongAnswer, OSError):
            still_right = False
        metrics_status, raw = servers.get(server.port, "/metrics")
        metrics = raw.decode() if metrics_status == 200 else ""
        workers = [process for process in proc.tree(server.process.pid) if process.pid != server.process.pid]
    lag, answered = found.lag_ms(), found.latency_ms()
    rate = len(answered) / (options.minutes * 60)
    print(f"answered 200: {len(answered)} ({rate:.0f}/s); {len(workers)} workers at the end")
    if len(answered):
        print(f"their latency p50 {np.percentile(answered, 50):.1f} ms, p99 {np.percentile(answered, 99):.1f} ms")
    print(f"the generator sent p50 {np.percentile(lag, 50):.3f} ms, p99 {np.percentile(lag, 99):.3f} ms late")
    refused = found.answer_ms(np.isin(found.status, REFUSED))
    if len(refused):
        p50, p90, p99 = np.percentile(refused, (50, 90, 99))
        print(f"refusals at the client p50 {p50:.2f} ms, p90 {p90:.2f} ms, p99 {p99:.2f} ms")
        inside = (refusal_ms(metrics, part) for part in (0.5, 0.9, 0.99))
        print("refusals in the server p50 {:g} ms, p90 {:g} ms, p99 {:g} ms".format(*inside))
    for line in metrics.splitlines():
        if line.startswith("serving_queue_") and "_total" in line:
            print(f"/metrics: {line}")
    for pid, values in watch.rss.items():
        first, largest, last = (value / 1e6 for value in (values[0], max(values), values[-1]))
        print(f"worker {pid}: RSS first {first:.0f}, largest {largest:.0f}, last {last:.0f} MB")
    verdicts = judge(found, watch, still_right, metrics)
    for verdict in verdicts:
        print(f"{'kept  ' if verdict.kept else 'BROKEN'}  {verdict.promise}: {verdict.seen}")
    return 0 if all(verdict.kept for verdict in verdicts) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except servers.CannotStart as error:
        sys.exit(str(error))
