"""The helper that starts servers must itself notice what goes wrong; stand-in programs play the server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.server import DidNotStart, Server, free_ports, spawn, wait_until

READY = """
import http.server, signal, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/v2/health/ready" else 404)
        self.end_headers()
    def log_message(self, *args): pass
signal.signal(signal.SIGTERM, lambda *args: sys.exit(0))
print("ready", flush=True)
http.server.HTTPServer(("127.0.0.1", PORT), Ready).serve_forever()
"""
Play = Callable[[str], Server]

LEAVES_A_CHILD = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=SESSION)
"""


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    servers: list[Server] = []

    def play(program: str) -> Server:
        (port,) = free_ports(1)
        log = tmp_path / "log"
        command = [sys.executable, "-c", program.replace("PORT", str(port))]
        servers.append(Server(spawn(command, log, {}), port, tmp_path, log))
        return servers[-1]

    yield play
    for server in servers:
        for process in server.processes():
            process.kill()
        server.process.wait()


def test_a_server_that_is_ready_and_ends(play: Play) -> None:
    server = play(READY)
    server.wait_ready()
    assert server.output == "ready\n"
    server.end()
    assert server.process.returncode == 0
    assert server.processes() == []


def test_a_server_that_fails_shows_its_output(play: Play) -> None:
    server = play("raise SystemExit('no such model')")
    with pytest.raises(DidNotStart, match=r"(?s)ended with status 1.*no such model"):
        server.wait_ready()


def test_a_server_that_is_never_ready_shows_its_output(play: Play) -> None:
    server = play("import time; print('thinking', flush=True); time.sleep(60)")
    wait_until(lambda: bool(server.output), 10, "the first line")
    with pytest.raises(DidNotStart, match=r"(?s)not ready after 0\.1 s.*thinking"):
        server.wait_ready(0.1)


@pytest.mark.parametrize("session", [False, True])
def test_a_process_that_is_left_behind_is_found_and_killed(play: Play, session: bool) -> None:
    server = play(LEAVES_A_CHILD.replace("SESSION", str(session)) + READY)
    server.wait_ready()
    (child,) = server.children()
    with pytest.raises(AssertionError, match=f"did not end cleanly, it left .* {child.pid}"):
        server.end(within_s=0.2)
    wait_until(lambda: not server.processes(), 5, "the child's end")
