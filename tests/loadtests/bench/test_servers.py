"""Systems under test: what is started is ended, with everything that it started itself."""

import os
import sys
from pathlib import Path

import pytest

from loadtests.bench.servers import CannotStart, Launch, free_port, running

# Serves GET with 200 and POST as told, after starting a child in a session of its own that ignores SIGTERM.
PROGRAM = """
import http.server, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); "
     "time.sleep(60)"], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
open(sys.argv[2], "w").write(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.send_response(200 if self.path == "/load" else 409)
        self.end_headers()
        self.wfile.write(b"no such model")
        print("asked for", self.path, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    return [sys.executable, str(tmp_path / "program.py")]


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def cores() -> str:
    return str(min(os.sched_getaffinity(0)))


def test_descendants_in_sessions_of_their_own_are_ended_too(program: list[str], tmp_path: Path) -> None:
    port = free_port()
    launch = Launch([*program, str(port), str(tmp_path / "child")], "/", register_path="/load")
    with running("program", launch, port, cores()) as server:
        child = int((tmp_path / "child").read_text())
        assert [process.pid for process in server.usage()] == [server.process.pid, child]
        assert "asked for /load" in server.log.read_text()
    assert gone(child)
    assert gone(server.process.pid)


def test_a_model_that_cannot_be_loaded_is_told_and_nothing_stays(program: list[str], tmp_path: Path) -> None:
    port = free_port()
    launch = Launch([*program, str(port), str(tmp_path / "child")], "/", register_path="/other")
    with (
        pytest.raises(CannotStart, match="program answered 409 to /other: b'no such model'"),
        running("program", launch, port, cores()),
    ):
        pass
    assert gone(int((tmp_path / "child").read_text()))
