"""What an attack does to a server and to its other callers."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.frontends.http2.attacks import Attack
from tests.frontends.http2.calls import ask
from tests.frontends.http2.frames import Connection
from tests.frontends.http2.targets import MEBIBYTE, Target
from tests.support.server import wait_until

PATIENCE_S: Final = 5.0
"""How long another caller may wait for an answer, and the server take to be at rest afterwards."""

BUSY: Final = 0.3
"""Of one core: what a server at rest stays below."""

LOGGED_MIB: Final = 1.0
"""How much a server may log in an attack of a few seconds."""

_WINDOW_S: Final = 0.1
_PAUSE_S: Final = 0.01
_CALLS_PER_CONNECTION: Final = 20


class Victim:
    """Another caller, in a thread of its own: asks all the time, now and then on a new connection."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._thread = threading.Thread(target=self._run)
        self._stop = threading.Event()
        self.calls = 0
        self.slowest_s = 0.0
        self.refused: list[str] = []
        self.most_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                with Connection(self._target.port) as connection:
                    connection.greet()
                    for stream in range(1, 2 * _CALLS_PER_CONNECTION, 2):
                        wrong = ask(connection, stream, b"the victim's")
                        if wrong is not None:
                            self.refused.append(wrong)
                            break
                        self.calls += 1
                        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                        self.most_bytes = max(self.most_bytes, self._target.resident_bytes)
                        if self._stop.wait(_PAUSE_S):
                            return
                        began = time.monotonic()
            except OSError as error:
                self.refused.append(repr(error))
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self._stop.wait(_PAUSE_S)


class Harm(NamedTuple):
    """`grown_mib`: the most that the server held during the attack, above what it held before."""

    alive: bool
    serves: bool
    grown_mib: float
    kept_mib: float
    calls: int
    slowest_s: float
    refused: list[str]
    rest_after_s: float | None
    """How long it went on being busy; None where longer than `PATIENCE_S`."""
    connections_left: int
    logged_mib: float
    lasted_s: float

    def faults(self, attack: Attack) -> list[str]:
        """What the server may not do; empty where it withstood."""
        found = []
        if not self.alive:
            found.append("the server ended")
        elif not self.serves:
            found.append("the server answers no more")
        if self.grown_mib > attack.grows_mib:
            found.append(f"memory grew by {self.grown_mib:.0f} MiB, {attack.grows_mib} are allowed")
        if self.refused:
            found.append(
                f"{len(self.refused)} of another caller's {self.calls} calls failed, the first: {self.refused[0]}"
            )
        if not self.calls:
            found.append("no call of another caller was answered")
        if self.slowest_s > PATIENCE_S:
            found.append(f"another caller waited {self.slowest_s:.1f} s")
        if self.rest_after_s is None:
            found.append(f"the server was still busy after {PATIENCE_S} s")
        if self.connections_left:
            found.append(f"{self.connections_left} connections were left open")
        if self.logged_mib > LOGGED_MIB:
            found.append(f"{self.logged_mib:.1f} MiB were logged")
        return found


def inflict(attack: Attack, target: Target, seconds: float) -> Harm:
    """Runs an attack for so long beside another caller, and waits until the server is at rest."""
    before = target.resident_bytes
    logged = target.logged_bytes
    began = time.monotonic()
    with Victim(target) as victim:
        attack.run(target.port, time.monotonic() + seconds)
        if target.alive:
            victim.most_bytes = max(victim.most_bytes, target.resident_bytes)
    lasted_s = time.monotonic() - began
    if not target.alive:
        return Harm(False, False, 0.0, 0.0, victim.calls, victim.slowest_s, victim.refused, None, 0, 0.0, lasted_s)
    rest_after_s = _rest(target)
    serves = target.serves()
    with suppress(AssertionError):
        wait_until(lambda: not target.connections, PATIENCE_S, "the end of its connections")
    after = target.resident_bytes
    return Harm(
        target.alive,
        serves,
        (max(victim.most_bytes, after) - before) / MEBIBYTE,
        (after - before) / MEBIBYTE,
        victim.calls,
        victim.slowest_s,
        victim.refused,
        rest_after_s,
        target.connections,
        (target.logged_bytes - logged) / MEBIBYTE,
        lasted_s,
    )


def _rest(target: Target) -> float | None:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        used, since = target.cpu_s, time.monotonic()
        time.sleep(_WINDOW_S)
        if (target.cpu_s - used) / (time.monotonic() - since) < BUSY:
            return since - began
    return None
