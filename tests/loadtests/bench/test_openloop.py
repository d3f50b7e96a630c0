"""The open-loop generator against a real socket server of this test."""

import socketserver
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from loadtests.bench.openloop import CONNECTION_ERROR, OpenLoop


class Echo(socketserver.StreamRequestHandler):
    """Answers the body; "refuse" with 429, "bye" with Connection: close, "die" with a closed connection."""

    def handle(self) -> None:
        while self.rfile.readline():
            length = 0
            while line := self.rfile.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            body = self.rfile.read(length)
            if body == b"die":
                return
            status = b"429 Too Many Requests" if body == b"refuse" else b"200 OK"
            close = b"connection: close\r\n" if body == b"bye" else b""
            head = b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n" % (status, close, len(body))
            self.wfile.write(head)
            self.wfile.write(body)
            if close:
                return


@pytest.fixture
def port() -> Iterator[int]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def post(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_every_request_is_matched_with_its_own_answer(port: int) -> None:
    bodies = [b"%d" % number * 50 for number in range(7)]
    seen: dict[int, bytes] = {}

    def check(index: int, status: int, body: bytes) -> bool:
        seen[index] = body
        return status == 200 and body == bodies[index % 7] and index != 11

    moments = np.arange(100) / 2000
    found = OpenLoop(port, [post(body) for body in bodies], moments, connections=4, check=check).run()
    assert found.ok.all()
    assert sorted(seen) == list(range(100))
    assert np.flatnonzero(found.wrong).tolist() == [11]
    assert (found.sent >= found.scheduled).all()
    assert (found.finished > found.sent).all()


def test_refusals_and_errors_are_told_apart(port: int) -> None:
    kinds = [b"fine", b"refuse", b"bye", b"die"]
    found = OpenLoop(port, [post(kind) for kind in kinds], np.arange(40) / 1000).run()
    assert found.status.tolist() == [200, 429, 200, CONNECTION_ERROR] * 10
    assert len(found.answer_ms(found.status == 429)) == 10


def test_without_a_server_every_request_is_an_error() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), Echo, bind_and_activate=True) as closed:
        free = closed.server_address[1]
    found = OpenLoop(free, [post(b"x")], np.arange(5) / 1000).run()
    assert found.status.tolist() == [CONNECTION_ERROR] * 5


def test_tick_is_called_while_it_runs(port: int) -> None:
    ticks: list[float] = []
    OpenLoop(port, [post(b"x")], np.arange(20) / 100).run(every_s=0.05, tick=ticks.append)
    assert len(ticks) >= 3
    assert ticks == sorted(ticks)
