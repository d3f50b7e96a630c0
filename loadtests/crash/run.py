"""One crash run from the first start to the clean end: traffic, a kill, recovery, a look at everything, and again."""

from __future__ import annotations

import contextlib
import http.client
import json
import sqlite3
import subprocess
import time
from collections import Counter
from typing import Any

from loadtests.bench import servers
from loadtests.bench.context import say
from loadtests.bench.stats import percentile
from loadtests.control import calls
from loadtests.control.calls import Raw, Refused
from loadtests.crash import marked
from loadtests.crash.inspection import Inspection
from loadtests.crash.instance import Instance
from loadtests.crash.ledger import Ledger
from loadtests.crash.marked import Marked
from loadtests.crash.plan import Kill, draw
from loadtests.crash.traffic import Caller, Gate, Invoker, Watch, running

CALLERS, INVOKERS = 4, 2
MODELS = 12
BUCKET = "models"
ON_CALL_S = 3.0
BACK_S = 20.0
POLL_S = 0.01
SETTLED = "back to settled"
MOST_VIOLATIONS = 20
MOST_TOLD = 50


class Run:
    """What a run does and what it found; `ledger` holds the violations."""

    def __init__(self, instance: Instance, kills: int, seed: int, limit_s: float) -> None:
        self.ledger = Ledger()
        self._instance = instance
        self._kills = list(draw(kills, seed))
        self._seed = seed
        self._limit_s = limit_s
        self._began = time.monotonic()
        self._took_s = 0.0
        self._killed: Counter[str] = Counter()
        self._moments: Counter[str] = Counter()
        self._seconds: dict[str, list[float]] = {}
        self._invoked: Counter[str] = Counter()
        self._slowest = ""

    def run(self) -> None:
        """Everything. Raises `CannotStart`, TimeoutError."""
        self._instance.start()
        self._instance.wait_ready()
        gate, watch = Gate(), Watch()
        client = calls.client("sagemaker", self._instance.port, connections=2 * CALLERS)
        data = self._data()
        callers = [
            Caller(number, client, self.ledger, watch, data, self._seed * 1000 + number) for number in range(CALLERS)
        ]
        invokers = [Invoker(self._instance.port, self.ledger, self._seed * 2000 + n) for n in range(INVOKERS)]
        steps = [*(caller.step for caller in callers), *(invoker.step for invoker in invokers)]
        try:
            with running(gate, steps, self.ledger):
                for number, kill in enumerate(self._kills):
                    if time.monotonic() - self._began > self._limit_s:
                        self.ledger.violation(f"only {self.killed} kills within {self._limit_s:g} s")
                        break
                    before = len(self.ledger.violations)
                    self._cycle(kill, gate, watch)
                    for violation in list(self.ledger.violations)[before:][:5]:
                        say(f"BROKEN  after kill {number} ({kill.victim}): {violation}")
                    if len(self.ledger.violations) > MOST_VIOLATIONS:
                        break
                    if number % 10 == 9:
                        say(f"{self.killed} kills in {time.monotonic() - self._began:.0f} s")
        finally:
            for invoker in invokers:
                invoker.close()
                self._invoked += invoker.seen
            self._took_s = time.monotonic() - self._began
        self._clean_end()

    @property
    def killed(self) -> int:
        """Processes of the server that were killed until now; all workers at once count as one."""
        return sum(self._killed.values())

    # ------------------------------------------------------------------ one kill

    def _cycle(self, kill: Kill, gate: Gate, watch: Watch) -> None:
        sent = watch.arm(kill.on_call)
        gate.open()
        if kill.on_call:
            sent.wait(ON_CALL_S)
        time.sleep(kill.after_s)
        if kill.victim == "supervisor":
            self._supervisor(gate)
            self._restart(kill)
        else:
            self._workers(kill)
            self._time("worker killed to replaced", self._until_back())
            time.sleep(kill.goes_on_s)
            gate.close()
        self._look()

    def _supervisor(self, gate: Gate) -> None:
        self._note("supervisor")
        began = time.monotonic()
        self._instance.kill(self._instance.pid)
        gate.close()
        for told in self._instance.wait_gone():
            self.ledger.violation(f"the supervisor was killed and a process is left: {told}")
        self._time("supervisor killed to no process left", time.monotonic() - began)

    def _restart(self, kill: Kill) -> None:
        for after_s in kill.starting_s:
            self._instance.start()
            time.sleep(after_s)
            self._killed["supervisor while starting"] += 1
            self._moments["start"] += 1
            self._instance.kill(self._instance.pid)
            for told in self._instance.wait_gone():
                self.ledger.violation(f"the supervisor was killed while starting and a process is left: {told}")
        began = time.monotonic()
        self._instance.start()
        self._instance.wait_ready()
        self._time("start to ready", time.monotonic() - began)

    def _workers(self, kill: Kill) -> None:
        pids = self._instance.worker_pids()
        victims = pids if kill.victim == "all workers" or not pids else [pids[kill.which % len(pids)]]
        self._note(kill.victim)
        for pid in victims:
            self._instance.kill(pid)

    def _note(self, victim: str) -> None:
        self._killed[victim] += 1
        under_way = self.ledger.under_way()
        self._moments.update(set(under_way))
        if not under_way:
            self._moments["between calls"] += 1

    def _until_back(self) -> float:
        """Waits until all workers are there and answer; gives the seconds."""
        began = time.monotonic()
        while not self._all_answer():
            if time.monotonic() - began > BACK_S:
                raise TimeoutError(f"not all workers were back after {BACK_S:g} s: {self._instance.tail()}")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def _all_answer(self) -> bool:
        pids = self._instance.worker_pids()
        if len(pids) != self._instance.workers or not self._instance.is_ready():
            return False
        wanted = {endpoint.name for endpoint in self.ledger.of("endpoint") if endpoint.in_service}
        try:
            status, body = servers.get(self._instance.port, "/debug/models")
        except (OSError, http.client.HTTPException):
            return False
        held = {row.get("pid", 0) for row in json.loads(body)} if status == 200 else set()
        return not wanted or held >= set(pids)

    def _look(self) -> None:
        began = time.monotonic()
        with Raw(self._instance.port) as raw:
            inspection = Inspection(self._instance, self.ledger, raw)
            try:
                settled_s = inspection.run()
            except (Refused, OSError, http.client.HTTPException) as error:
                self.ledger.violation(f"the server could not be looked at: {error!r}")
                return
        if settled_s > max(self._seconds.get(SETTLED, [0.0])):
            self._slowest = ", ".join(inspection.last_on_its_way)
        self._time(SETTLED, settled_s)
        self._time("look at everything", time.monotonic() - began)

    # ------------------------------------------------------------------ begin and end

    def _data(self) -> list[Marked]:
        """Model data from both sources, most of it good."""
        folder = self._instance.models
        files = [marked.write(folder, number) for number in range(1, MODELS + 1)]
        damaged = folder / "damaged.tar.gz"
        damaged.write_bytes(files[0].read_bytes()[:50])
        found = [Marked(path.as_uri(), number) for number, path in enumerate(files, 1)]
        if self._instance.with_s3:
            s3: Any = calls.client("s3", self._instance.s3_port)
            s3.create_bucket(Bucket=BUCKET)
            for number, path in enumerate(files[: MODELS // 2], 1):
                s3.put_object(Bucket=BUCKET, Key=path.name, Body=path.read_bytes())
                found[number - 1] = Marked(f"s3://{BUCKET}/{path.name}", number)
            found.append(Marked(f"s3://{BUCKET}/absent.tar.gz", None))
        return [*found, Marked(damaged.as_uri(), None)]

    def _clean_end(self) -> None:
        """SIGTERM, after which nothing is left and the database is whole."""
        began = time.monotonic()
        try:
            status = self._instance.stop()
        except subprocess.TimeoutExpired:
            self.ledger.violation("the server did not end within its time after SIGTERM")
            return
        if status != 0:
            self.ledger.violation(f"the server ended with {status} after SIGTERM: {self._instance.tail()}")
        for told in self._instance.wait_gone(1.0):
            self.ledger.violation(f"the server ended and a process is left: {told}")
        self._time("SIGTERM to end", time.monotonic() - began)
        for path in self._instance.state_dir.rglob("*"):
            if path.name == "server.json" or path.name.startswith((".part-", ".gone-")):
                self.ledger.violation(f"the server ended and {path.relative_to(self._instance.state_dir)} is left")
        database = self._instance.state_dir / "control.db"
        if database.exists():
            with contextlib.closing(sqlite3.connect(database)) as connection:
                found = connection.execute("PRAGMA integrity_check").fetchall()
            if found != [("ok",)]:
                self.ledger.violation(f"the database is damaged: {found[:3]}")

    # ------------------------------------------------------------------ the report

    def _time(self, what: str, seconds: float) -> None:
        self._seconds.setdefault(what, []).append(seconds)

    def report(self) -> list[str]:
        """What was done and seen, as Markdown."""
        acknowledged: Counter[str] = Counter()
        others: Counter[str] = Counter()
        for (operation, how), count in self.ledger.calls.items():
            if how == "acknowledged":
                acknowledged[operation] += count
            else:
                others[how] += count
        kept = "kept" if not self.ledger.violations else "BROKEN"
        callers = f"{CALLERS} callers of the control API, {INVOKERS} of the endpoints"
        lines = [
            f"- seed {self._seed}, {self._instance.workers} workers, {callers}, {self._took_s:.0f} s: every promise {kept}",
            f"- killed: {_counted(self._killed)}",
            f"- under way at that moment: {_counted(self._moments)}",
            f"- acknowledged: {_counted(acknowledged)}",
            f"- not: {_counted(others)}",
            f"- invocations: {_counted(self._invoked)}",
            f"- what took longest to settle: {self._slowest or 'nothing'}",
            "",
            "| seconds | count | p50 | p99 | longest |",
            "|--|--|--|--|--|",
        ]
        for what, seconds in self._seconds.items():
            numbers = (percentile(seconds, 0.5), percentile(seconds, 0.99), max(seconds))
            lines.append(f"| {what} | {len(seconds)} | {' | '.join(f'{number:.2f}' for number in numbers)} |")
        found = list(self.ledger.violations.items())[:MOST_TOLD]
        if found:
            lines += ["", *(f"- BROKEN: {what} ({count} times)" for what, count in found)]
        return lines


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{what} {count:,}" for what, count in found.most_common()) or "none"
