"""Clients of the soak: those that ask and compare, those that vanish, and those that send or read slowly."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

from loadtests.bench.servers import Server
from loadtests.soak.questions import Source

CALLERS = 8
VANISH_EVERY_S = 0.02
LINGERING = 16
DRIP_S = 0.05

Weighted = Sequence[tuple[int, Source]]


class Traffic:
    """All clients of one server; counts what they saw."""

    def __init__(self, server: Server, sources: Weighted, seed: int) -> None:
        self.server = server
        self.seed = seed
        self.seen: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.examples: list[str] = []
        self.stopped = threading.Event()
        self._weights = [weight for weight, _ in sources]
        self._sources = [source for _, source in sources]
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """All clients at work inside the block."""
        threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]
        threads += [threading.Thread(target=self._vanish), threading.Thread(target=self._read_slowly)]
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

    def _source(self, choose: random.Random) -> Source:
        return choose.choices(self._sources, self._weights)[0]

    def _call(self, number: int) -> None:
        choose = random.Random(self.seed + number)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        while not self.stopped.is_set():
            question = self._source(choose)(choose)
            request = question.request
            try:
                connection.request("POST", request.path, request.body, dict(request.headers))
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                self._note("connection error")
                connection.close()
                continue
            if answer.status != 200:
                self._note(f"status {answer.status}", f"{question.kind}: {body[:300].decode(errors='replace')}")
            elif question.right(body):
                self._note("right")
                with self._lock:
                    self.kinds[question.kind] += 1
            else:
                self._note("wrong", f"{question.kind}: {body[:300]!r}")
        connection.close()

    def _vanish(self) -> None:
        """Clients that leave before the answer, in the middle of the body, or after a few bytes of the head."""
        choose = random.Random(self.seed - 1)
        lingering: list[socket.socket] = []
        while not self.stopped.wait(VANISH_EVERY_S):
            wire = self._source(choose)(choose).request.wire("127.0.0.1")
            with contextlib.suppress(OSError):
                client = socket.create_connection(("127.0.0.1", self.server.port), timeout=5)
                client.sendall(wire[: choose.choice((len(wire), len(wire) - 5, 20))])
                lingering.append(client)
                self._note("vanished")
            # The slow senders stay for a while with their request half sent.
            if len(lingering) > LINGERING:
                lingering.pop(choose.randrange(len(lingering))).close()
        for client in lingering:
            client.close()

    def _read_slowly(self) -> None:
        """One client after the other that asks many times at once and takes the answers byte by byte."""
        choose = random.Random(self.seed - 2)
        while not self.stopped.is_set():
            wire = b"".join(self._source(choose)(choose).request.wire("127.0.0.1") for _ in range(20))
            with contextlib.suppress(OSError), socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.settimeout(5)
                client.connect(("127.0.0.1", self.server.port))
                client.sendall(wire)
                for _ in range(40):
                    if self.stopped.wait(DRIP_S) or not client.recv(64):
                        break
                self._note("slow reader")
