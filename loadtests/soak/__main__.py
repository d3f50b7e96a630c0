"""`python -m loadtests.soak`: minutes of mixed traffic with bad clients and killed workers; what grows is a leak.

First half: all protocols over two models, beside clients that dribble or vanish; workers' memory, descriptors and
threads must stay flat. Second half: the same while workers are killed at random; the supervisor must stay flat, the
workers come back, and every answer is still its own request's. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from loadtests.bench import servers
from loadtests.bench.models import ENCODER, FRAUD, BenchModel, Sample, samples, write
from loadtests.bench.proc import Usage
from loadtests.bench.protocols import ENDPOINT, V2_BINARY, V2_JSON, Protocol, WrongAnswer
from loadtests.bench.servers import Server

CALLERS = 8
INPUTS = 64
WORKERS = 2
KILL_EVERY_S = 5.0
VANISH_EVERY_S = 0.02
BACK_LIMIT_S = 20.0
SLACK = {"rss_bytes": 16_000_000, "descriptors": 8, "threads": 2}
GROWTH = {"rss_bytes": 1.10, "descriptors": 1.0, "threads": 1.0}

Known = list[tuple[BenchModel, list[Sample]]]


class Traffic:
    """Callers and bad clients on one server; counts what they saw."""

    def __init__(self, server: Server, known: Known, seed: int) -> None:
        self.server = server
        self.known = known
        self.seed = seed
        self.seen: Counter[str] = Counter()
        self.examples: list[str] = []
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """All clients at work inside the block."""
        threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]
        threads.append(threading.Thread(target=self._misbehave))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    def _note(self, what: str, example: str = "") -> None:
        with self._lock:
            self.seen[what] += 1
            if example and len(self.examples) < 5:
                self.examples.append(example)

    def _question(self, choose: random.Random) -> tuple[Protocol, BenchModel, Sample]:
        model, several = choose.choice(self.known)
        return choose.choice((ENDPOINT, V2_JSON, V2_BINARY)), model, choose.choice(several)

    def _call(self, number: int) -> None:
        choose = random.Random(self.seed + number)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        while not self.stopped.is_set():
            protocol, model, sample = self._question(choose)
            request = protocol.request(model, sample)
            try:
                connection.request("POST", request.path, request.body, dict(request.headers))
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    self._note(f"status {answer.status}", body[:300].decode(errors="replace"))
                    continue
                protocol.check(body, sample.answer)
                self._note("right")
            except WrongAnswer as error:
                self._note("wrong", str(error))
            except (OSError, http.client.HTTPException):
                self._note("connection error")
                connection.close()
        connection.close()

    def _misbehave(self) -> None:
        """Clients that leave before the answer, in the middle of the body, or after a few bytes of the head."""
        choose = random.Random(self.seed - 1)
        lingering: list[socket.socket] = []
        while not self.stopped.wait(VANISH_EVERY_S):
            protocol, model, sample = self._question(choose)
            wire = protocol.request(model, sample).wire("127.0.0.1")
            with contextlib.suppress(OSError):
                client = socket.create_connection(("127.0.0.1", self.server.port), timeout=5)
                client.sendall(wire[: choose.choice((len(wire), len(wire) - 5, 20))])
                lingering.append(client)
                self._note("bad client")
            # The slow ones stay for a while with their request half sent.
            if len(lingering) > CALLERS:
                lingering.pop(choose.randrange(len(lingering))).close()
        for client in lingering:
            client.close()


def watch(server: Server, seconds: float, kills: random.Random | None) -> tuple[dict[int, list[Usage]], int]:
    """Samples every process twice a second; with `kills` ends a random worker now and then. Gives samples and kills."""
    series: dict[int, list[Usage]] = {}
    killed = 0
    began = time.monotonic()
    next_kill = began + KILL_EVERY_S
    while (now := time.monotonic()) < began + seconds:
        processes = server.usage()
        for process in processes:
            series.setdefault(process.pid, []).append(process)
        workers = [process.pid for process in processes if process.parent == server.process.pid]
        if kills is not None and now >= next_kill and len(workers) >= WORKERS:
            with contextlib.suppress(ProcessLookupError):
                os.kill(kills.choice(workers), signal.SIGKILL)
                killed += 1
            next_kill = now + KILL_EVERY_S
        time.sleep(0.5)
    return series, killed


def grown(values: list[Usage]) -> list[str]:
    """What of one process is larger at the end of its samples than a fifth into them, beyond the slack."""
    if len(values) < 10:
        return []
    found = []
    for name, slack in SLACK.items():
        several = [getattr(value, name) for value in values]
        settled = max(several[len(several) // 5 : len(several) // 2])
        end = min(several[-len(several) // 5 :])
        if end > settled * GROWTH[name] + slack:
            found.append(f"process {values[0].pid}: {name} grew from {settled} to {end}")
    return found


def faults(traffic: Traffic, kills: int) -> list[str]:
    """What no client should have seen: at most one lost request per caller and kill, and the same refused."""
    allowed = kills * CALLERS
    found = [f"{count} x {what}" for what, count in traffic.seen.items() if what == "wrong"]
    for what, count in traffic.seen.items():
        if (what.startswith("status") or what == "connection error") and count > allowed:
            found.append(f"{count} x {what}, at most {allowed} expected")
    if not traffic.seen["right"]:
        found.append("no right answer at all")
    return found + (traffic.examples if found else [])


def main() -> int:
    """Runs both halves and prints what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--executable", metavar="PATH", help="the `serving` command (default: our own)")
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    paths = {model.name: write(model, options.folder / "models").resolve() for model in (FRAUD, ENCODER)}
    known: Known = [(model, samples(model, paths[model.name], INPUTS)) for model in (FRAUD, ENCODER)]
    problems: list[str] = []
    with servers.ours(list(paths.values()), WORKERS, "0-1", options.executable) as server:
        for half, kills in enumerate((None, random.Random(options.seed))):
            traffic = Traffic(server, known, options.seed + 1000 * half)
            with traffic.running():
                series, killed = watch(server, options.minutes * 30, kills)
            judged = series.values() if kills is None else [series[server.process.pid]]
            problems += [problem for values in judged for problem in grown(values)] + faults(traffic, killed)
            print(f"half {half + 1}: {dict(traffic.seen)}, {killed} workers killed", flush=True)
        limit = time.monotonic() + BACK_LIMIT_S
        while (alive := len(server.usage()) - 1) < WORKERS and time.monotonic() < limit:
            time.sleep(0.1)
        if alive < WORKERS:
            problems.append(f"{alive} of {WORKERS} workers are alive {BACK_LIMIT_S:g} s after the last kill")
        for model, several in known:
            server.ask(ENDPOINT, model, several[0])
    for problem in problems:
        print(f"BROKEN  {problem}")
    print("soak failed" if problems else "soak passed: answers right, nothing grew")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except servers.CannotStart as error:
        sys.exit(str(error))
