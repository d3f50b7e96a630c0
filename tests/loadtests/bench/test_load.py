"""What wrk is told and what is read from it."""

import http.server
import os
import shutil
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from loadtests.bench.load import LoadFailed, Target, Wrk, parse, quote, script
from loadtests.bench.models import FRAUD
from loadtests.bench.protocols import INVOCATIONS, V2_BINARY, WrongAnswer

OUTPUT = """Running 1s test @ http://127.0.0.1:1/invocations
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   367.91us   67.48us   1.94ms   88.14%
  42933 requests in 1.00s, 5.69MB read
Requests/sec:  42887.26
RESULT {"requests":42933,"duration_us":1001066,"p50_us":361.000000,"p99_us":648.000000,"max_us":1940.000000,\
"status":1,"connect":2,"read":3,"write":4,"timeout":5,"wrong":6}
"""


def test_reads_the_result_line() -> None:
    load = parse(OUTPUT)
    assert load.requests == 42933
    assert load.requests_per_s == pytest.approx(42887.28, abs=0.1)
    assert (load.p50_ms, load.p99_ms) == (0.361, 0.648)
    assert (load.errors, load.wrong) == (15, 6)


def test_no_result_line_shows_what_wrk_said() -> None:
    with pytest.raises(LoadFailed, match=r"unable to connect to .* Connection refused"):
        parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_any_bytes_survive_as_a_lua_string() -> None:
    assert quote(b'a"\\\n\x00\xff1') == '"\\097\\034\\092\\010\\000\\255\\049"'


def test_only_the_checked_script_looks_at_answers() -> None:
    request = INVOCATIONS.build(FRAUD, FRAUD.rows(1))
    target = Target(1, request, INVOCATIONS, np.array([0.25, 0.75], np.float32))
    checked, plain = script(target, check=True), script(target, check=False)
    assert "function response" in checked
    assert "{0.25,0.75}" in checked
    assert "function response" not in plain
    assert quote(request.body) in plain


def test_binary_answers_are_compared_as_float32() -> None:
    target = Target(1, V2_BINARY.build(FRAUD, FRAUD.rows(1)), V2_BINARY, np.array([0.5], np.float32))
    assert "local marker = nil" in script(target, check=True)


class Constant(http.server.BaseHTTPRequestHandler):
    """Answers every POST with the same prediction over kept-alive connections."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = b'{"predictions":[[0.25,7.5e-1]]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Constant) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_checked_load_passes_right_answers_and_stops_at_wrong_ones(port: int) -> None:
    request = INVOCATIONS.build(FRAUD, FRAUD.rows(1))
    core = max(os.sched_getaffinity(0))
    with Wrk(Target(port, request, INVOCATIONS, np.array([0.25, 0.75], np.float32)), 2, 1, core, check=True) as wrk:
        load = wrk.result()
    assert load.requests > 0
    assert (load.errors, load.wrong) == (0, 0)
    swapped = Target(port, request, INVOCATIONS, np.array([0.75, 0.25], np.float32))
    with Wrk(swapped, 2, 1, core, check=True) as wrk, pytest.raises(WrongAnswer, match=r"such as: 200 \{\"predictions"):
        wrk.result()
