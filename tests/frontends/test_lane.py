"""The hot lane: order, framing, memory of heads, limits of time and space, and callers who leave."""

from __future__ import annotations

import gzip
import itertools
import random
import re
import select
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from tests.frontends.rows.row import JSON, MEBIBYTE, infer, inputs, invocation, tensor, to_model
from tests.support import server as support
from tests.support.frontend_models import WIDE
from tests.support.server import Server, wait_until
from tests.support.wire import Answer, Wire, ask, chunked, request

A_MOMENT = 20_000
"""Turns of `slow` that take some tens of milliseconds."""

LONG = 400_000
"""Turns of `slow` that take the better part of a second."""


def rows(*firsts: float) -> bytes:
    """A body for `linear` that is told from others by the first feature of each row."""
    return orjson.dumps({"instances": [[first, 0, 0, 1] for first in firsts]})


def answered(*firsts: float) -> dict[str, list[list[float]]]:
    """What `linear` answers to `rows`."""
    return {"predictions": [[6.0, first + 7.0] for first in firsts]}


def get(path: str) -> bytes:
    """A GET."""
    return request(path, method="GET", length=False)


def in_chunks(body: bytes, *fields: str | bytes, size: int = 7, path: str = "/invocations") -> bytes:
    """A request with a chunked body, which the app takes."""
    return request(path, b"", JSON, "Transfer-Encoding: chunked", *fields, length=False) + chunked(body, size)


def slow(spins: int = A_MOMENT, *fields: str) -> bytes:
    """A request to `slow`."""
    return to_model("slow", {"instances": [spins]}, *fields)


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of a metric over the labels that are not said."""
    text = ask(server.port, get("/metrics"), "GET").body.decode()
    total = 0.0
    for found in re.finditer(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE):
        if all(f'{label}="{value}"' in (found[1] or "") for label, value in labels.items()):
            total += float(found[2])
    return total


def queued(server: Server, model: str = "slow") -> int:
    """Requests that wait for the model."""
    models = ask(server.port, get("/debug/models"), "GET").json()
    return int(next(each["queued_requests"] for each in models if each["name"] == model))


def idle(server: Server) -> bool:
    """Whether nothing runs, waits or is held."""
    return not queued(server) and metric(server, "serving_in_flight_bytes") == 0


# ---------------------------------------------------------------- order and framing

Check = Callable[[Answer], bool]


def mixture(seed: int, count: int) -> list[tuple[bytes, Check]]:
    """Requests of all sorts, each with what its own answer must be."""
    chance = random.Random(seed)
    found: list[tuple[bytes, Check]] = []
    for number in range(count):
        mark = float(seed * 1000 + number)
        ok: Check = lambda answer, mark=mark: answer.json() == answered(mark)  # type: ignore[misc] # noqa: E731
        v2 = inputs(tensor(data=[mark, 0, 0, 1]), id=f"id-{mark}")
        kinds: list[tuple[bytes, Check]] = [
            (invocation(rows(mark)), ok),
            (to_model("linear", rows(mark)), ok),
            (infer("linear", v2), lambda answer, mark=mark: answer.json()["id"] == f"id-{mark}"),  # type: ignore[misc]
            (in_chunks(rows(mark)), ok),
            (invocation(gzip.compress(rows(mark)), "Content-Encoding: gzip"), ok),
            (invocation(zlib.compress(rows(mark)), "Content-Encoding: deflate"), ok),
            (slow(), lambda answer: answer.status == 200 and len(answer.json()["predictions"]) == 8),
            (get("/v2"), lambda answer: answer.json()["name"] == "serving"),
            (get("/ping"), lambda answer: (answer.status, answer.body) == (200, b"")),
            (get(f"/{mark}"), lambda answer, mark=mark: str(mark) in answer.message),  # type: ignore[misc]
            (invocation(b"{"), lambda answer: answer.status == 400 and "not JSON" in answer.message),
            (
                request(f"/v2/models/m{number}/infer", b"{}"),
                lambda answer, number=number: f"'m{number}'" in answer.message,  # type: ignore[misc]
            ),
            (
                invocation(rows(mark), "Host: again"),
                lambda answer: answer.status == 400 and "twice" in answer.message,
            ),
            (
                to_model("index", {"instances": [99]}),
                lambda answer: answer.status == 424 and answer.json()["OriginalStatusCode"] == 500,
            ),
        ]
        found.append(chance.choice(kinds))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_answers_keep_the_order_of_the_requests(server: Server, seed: int) -> None:
    asked = mixture(seed, 40)
    stream = b"".join(sent for sent, _ in asked)
    chance = random.Random(seed)
    with Wire(server.port) as wire:
        at = 0
        while at < len(stream):
            step = chance.choice((1, 10, 100, 1000, len(stream)))
            wire.send(stream[at : at + step])
            at += step
        for sent, check in asked:
            answer = wire.answer()
            assert check(answer), (sent, answer)


def test_many_requests_in_one_segment(server: Server) -> None:
    with Wire(server.port) as wire:
        wire.send(b"".join(invocation(rows(number)) for number in range(200)))
        assert [answer.json() for answer in wire.answers(200)] == [answered(number) for number in range(200)]


def test_byte_by_byte(server: Server) -> None:
    with Wire(server.port) as wire:
        for sent in (invocation(rows(5)), in_chunks(rows(5)), to_model("linear", rows(5))):
            for place in range(len(sent)):
                wire.send(sent[place : place + 1])
            assert wire.answer().json() == answered(5)


@pytest.mark.parametrize("place", ["head", "end of the head", "body"])
def test_a_request_in_two_halves(server: Server, place: str) -> None:
    sent = invocation(rows(5))
    end = sent.index(b"\r\n\r\n") + 4
    with Wire(server.port) as wire, Wire(server.port) as other:
        for _ in range(3):
            cut = {"head": end // 2, "end of the head": end, "body": end + 5}[place]
            wire.send(sent[:cut])
            # An answer on another connection proves that the first half was seen.
            other.send(invocation(rows(6)))
            assert other.answer().json() == answered(6)
            wire.send(sent[cut:])
            assert wire.answer().json() == answered(5)


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_chunked(server: Server, size: int) -> None:
    body = rows(*range(500))
    assert ask(server.port, in_chunks(body, size=size)).json() == answered(*range(500))


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(rows(5))),
        ("x-gzip", gzip.compress(rows(5))),
        ("GZIP", gzip.compress(rows(5))),
        ("deflate", zlib.compress(rows(5))),
        ("deflate", zlib.compress(rows(5), wbits=-15)),
        ("identity", rows(5)),
        ("identity, gzip", gzip.compress(rows(5))),
    ],
)
def test_content_codings(server: Server, coding: str, body: bytes) -> None:
    assert ask(server.port, invocation(body, f"Content-Encoding: {coding}")).json() == answered(5)
    assert ask(server.port, in_chunks(body, f"Content-Encoding: {coding}")).json() == answered(5)


def test_trailers_are_not_headers(server: Server) -> None:
    trailers = b"Content-Type: text/csv\r\nX-Amzn-SageMaker-Target-Model: other\r\nHost: evil.example\r\n\r\n"
    with Wire(server.port) as wire:
        wire.send(in_chunks(rows(5)).removesuffix(b"\r\n") + trailers + invocation(rows(6)))
        assert [answer.json() for answer in wire.answers(2)] == [answered(5), answered(6)]


def test_keep_alive(server: Server) -> None:
    with Wire(server.port) as wire:
        for number in range(300):
            wire.send(invocation(rows(number)) if number % 3 else in_chunks(rows(number)))
            answer = wire.answer()
            assert answer.json() == answered(number)
            assert "connection" not in answer.headers


@pytest.mark.parametrize("make", [invocation, in_chunks], ids=["lane", "app"])
def test_connection_close(server: Server, make: Callable[..., bytes]) -> None:
    with Wire(server.port) as wire:
        wire.send(make(rows(5), "Connection: close"))
        answer = wire.answer()
        assert answer.json() == answered(5)
        assert answer.headers["connection"] == "close"
        assert wire.is_closed()


def test_nothing_runs_after_connection_close(server: Server) -> None:
    before = metric(server, "sagemaker_invocations_total", endpoint_name="cube")
    cube = to_model("cube", {"instances": [[[1, 2, 3], [4, 5, 6]]]})
    for first in (invocation(rows(5), "Connection: close"), invocation(b"{", "Connection: close")):
        with Wire(server.port) as wire:
            wire.send(first + cube)
            wire.answer()
            assert wire.is_closed()
    assert metric(server, "sagemaker_invocations_total", endpoint_name="cube") == before


def test_http_1_0(server: Server) -> None:
    with Wire(server.port) as wire:
        wire.send(request("/invocations", rows(5), JSON, version="1.0", host=None))
        assert wire.answer().json() == answered(5)
        assert wire.is_closed()


@pytest.mark.parametrize("make", [invocation, to_model], ids=["container", "runtime"])
def test_expect(server: Server, make: Callable[..., bytes]) -> None:
    sent = (
        make(rows(5), "Expect: 100-continue") if make is invocation else make("linear", rows(5), "Expect: 100-Continue")
    )
    head, _, body = sent.partition(b"\r\n\r\n")
    with Wire(server.port) as wire:
        for _ in range(2):
            wire.send(head + b"\r\n\r\n")
            assert wire.answer().status == 100
            wire.send(body)
            assert wire.answer().json() == answered(5)


def test_expect_is_not_asked_where_the_answer_is_known(server: Server) -> None:
    with Wire(server.port) as wire:
        wire.send(request("/nothing", b"", "Expect: 100-continue", "Content-Length: 5", length=False))
        assert wire.answer().status == 404
        # Whether those five bytes still come nobody knows, so that nothing more can be read.
        assert wire.is_closed()


def test_an_offer_to_upgrade_is_not_taken(server: Server) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
    with Wire(server.port) as wire:
        for _ in range(2):
            wire.send(invocation(rows(5), *offer) + get("/v2") + invocation(rows(6), *offer) + invocation(rows(7)))
            first, second, *rest = wire.answers(4)
            assert first.json() == answered(5)
            assert second.json()["name"] == "serving"
            assert [answer.json() for answer in rest] == [answered(6), answered(7)]


def test_an_absolute_target(server: Server) -> None:
    sent = request(f"http://localhost:{server.port}/invocations", rows(5), JSON)
    assert ask(server.port, sent).json() == answered(5)


def test_head(server: Server) -> None:
    with Wire(server.port) as wire:
        for path in ("/ping", "/v2", "/metrics", "/"):
            wire.send(request(path, method="HEAD", length=False) + invocation(rows(5)))
            assert wire.answer("HEAD").status == 200
            assert wire.answer().json() == answered(5)


# ---------------------------------------------------------------- heads seen before


def test_a_repeated_head_with_other_bodies(server: Server) -> None:
    with Wire(server.port) as wire:
        for number in range(100, 400):
            wire.send(invocation(rows(number)))
            assert wire.answer().json() == answered(number)
        # Of the same length, but wrong.
        wire.send(invocation(b"x" * len(rows(100))) + invocation(rows(100)))
        first, second = wire.answers(2)
        assert (first.status, second.json()) == (400, answered(100))


def test_a_changed_header_is_seen(server: Server) -> None:
    with Wire(server.port) as wire:
        for _ in range(3):
            wire.send(invocation(rows(5)))
            assert wire.answer().json() == answered(5)
            wire.send(invocation(rows(5), "Accept: text/csv"))
            assert wire.answer().body == b"6.0,12.0\n"
            wire.send(invocation(rows(5), "Accept: text/xml"))
            assert wire.answer().status == 406
            wire.send(invocation(rows(5)).replace(b"Host: localhost", b"Host: evilhost1"))
            assert wire.answer().status == 403
            wire.send(invocation(rows(5)).replace(b"/invocations", b"/Invocations"))
            assert wire.answer().status == 404
            wire.send(invocation(rows(5), "X-Amzn-SageMaker-Target-Model: a"))
            assert wire.answer().status == 400


@pytest.mark.parametrize("seed", range(4))
def test_repeated_heads_however_they_are_cut(server: Server, seed: int) -> None:
    chance = random.Random(seed)
    with Wire(server.port) as wire:
        for _ in range(100):
            count = chance.randrange(1, 5)
            marks = [chance.randrange(100, 1000) for _ in range(count)]
            stream = b"".join(invocation(rows(mark)) for mark in marks)
            cuts = sorted(chance.randrange(len(stream)) for _ in range(chance.randrange(3)))
            for start, end in itertools.pairwise([0, *cuts, len(stream)]):
                wire.send(stream[start:end])
            assert [answer.json() for answer in wire.answers(count)] == [answered(mark) for mark in marks]


def test_more_heads_than_are_remembered(server: Server) -> None:
    with Wire(server.port) as wire:
        for number in itertools.chain(range(1500), range(1500)):
            wire.send(invocation(rows(5), f"X-Number: {number}"))
            assert wire.answer().json() == answered(5)


# ---------------------------------------------------------------- what comes back in headers


@pytest.mark.parametrize("make", [to_model, None], ids=["lane", "app"])
def test_sagemaker_headers(server: Server, make: Callable[..., bytes] | None) -> None:
    sent = make("linear", rows(5)) if make else in_chunks(rows(5), path="/endpoints/linear/invocations")
    ids = set()
    for _ in range(3):
        answer = ask(server.port, sent)
        assert answer.headers["x-amzn-invoked-production-variant"] == "AllTraffic"
        ids.add(answer.headers["x-amzn-requestid"])
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", each) for each in ids)
    assert "x-amzn-requestid" not in ask(server.port, invocation(rows(5))).headers


@pytest.mark.parametrize("make", [invocation, in_chunks], ids=["lane", "app"])
def test_server_timing_on_request(server: Server, make: Callable[..., bytes]) -> None:
    assert "server-timing" not in ask(server.port, make(rows(5, 6))).headers
    timing = ask(server.port, make(rows(5, 6), "X-Serving-Timing: 1")).headers["server-timing"]
    form = r'queue;dur=\d+\.\d+, batch;desc="2 rows", compute;dur=\d+\.\d+'
    assert re.fullmatch(form, timing), timing


# ---------------------------------------------------------------- callers who leave, or do not read


@pytest.mark.parametrize("make", ["lane", "app"])
def test_a_caller_who_hangs_up_while_queued_costs_no_run(server: Server, make: str) -> None:
    wait_until(lambda: idle(server), 20, "an idle server")
    ran = metric(server, "serving_batch_rows_count", model="slow")
    cancelled = metric(server, "serving_queue_cancelled_total", model="slow")
    body = orjson.dumps({"instances": [1]})
    sent = slow(1) if make == "lane" else in_chunks(body, path="/endpoints/slow/invocations")
    with ExitStack() as stack:
        running = stack.enter_context(Wire(server.port))
        running.send(slow(LONG))
        leavers = [Wire(server.port) for _ in range(5)]
        for leaver in leavers:
            leaver.send(sent)
        wait_until(lambda: queued(server) == 5, 10, "five in the queue")
        for leaver in leavers:
            leaver.socket.close()
        wait_until(lambda: queued(server) == 0, 10, "an empty queue")
        assert running.answer().status == 200
    assert metric(server, "serving_batch_rows_count", model="slow") == ran + 1
    assert metric(server, "serving_queue_cancelled_total", model="slow") == cancelled + 5


def test_a_caller_who_hangs_up_on_several_requests(server: Server) -> None:
    wait_until(lambda: idle(server), 20, "an idle server")
    ran = metric(server, "serving_batch_rows_count", model="slow")
    sent = in_chunks(orjson.dumps({"instances": [1]}), path="/endpoints/slow/invocations")
    with Wire(server.port) as running:
        running.send(slow(LONG))
        with Wire(server.port) as leaver:
            leaver.send(3 * sent)
            wait_until(lambda: queued(server) == 1, 10, "the first in the queue")
        wait_until(lambda: queued(server) == 0, 10, "an empty queue")
        assert running.answer().status == 200
    assert metric(server, "serving_batch_rows_count", model="slow") == ran + 1
    assert server.unexpected() == []


@pytest.mark.parametrize("kind", ["lane", "app"])
def test_a_client_that_does_not_read_costs_no_memory(server: Server, kind: str) -> None:
    (worker,) = [process for process in server.children() if "serving.processes.worker" in process.cmdline()]
    count = 600
    if kind == "lane":
        asked = [to_model("wide", {"instances": [[number]]}) for number in range(count)]
    else:
        asked = [
            in_chunks(b'{"instances":[[%d]]}' % number, path="/endpoints/wide/invocations") for number in range(count)
        ]
    stream = b"".join(asked)
    before = worker.memory_info().rss
    ran = metric(server, "sagemaker_invocations_total", endpoint_name="wide")
    with Wire(server.port, receive_bytes=1 << 14) as wire:
        wire.socket.setblocking(False)
        sent = 0
        # Until the server takes no more, or has taken all.
        while sent < len(stream) and select.select([], [wire.socket], [], 0.5)[1]:
            sent += wire.socket.send(stream[sent : sent + 4096])
        assert metric(server, "sagemaker_invocations_total", endpoint_name="wide") < ran + count
        assert worker.memory_info().rss - before < 20 * MEBIBYTE
        wire.socket.settimeout(10)
        for number in range(count):
            while sent < len(stream) and select.select([], [wire.socket], [], 0)[1]:
                sent += wire.socket.send(stream[sent : sent + 4096])
            answer = wire.answer()
            assert len(answer.body) > WIDE
            assert orjson.loads(answer.body)["predictions"][0][0] == number / 8


def test_bodies_are_counted_until_they_are_answered(server: Server) -> None:
    wait_until(lambda: idle(server), 20, "an idle server")
    padded = orjson.dumps({"instances": [LONG]}) + b" " * 100_000
    second = slow(1).partition(b"\r\n\r\n")[2] + b" " * 200_000
    head = request("/endpoints/slow/invocations", second, JSON).removesuffix(second)
    with Wire(server.port) as wire:
        # The first piece ends inside the body: the rest is read bit by bit, and counted.
        whole = to_model("slow", padded) + head
        wire.send(whole[:1000])
        wait_until(lambda: metric(server, "serving_in_flight_bytes") > 0, 10, "bytes of the first body")
        wire.send(whole[1000:])
        wait_until(lambda: metric(server, "serving_in_flight_bytes") >= len(padded), 10, "the first body")
        wire.send(second[:150_000])
        assert wire.answer().status == 200
        wait_until(lambda: 0 < metric(server, "serving_in_flight_bytes") <= 150_000, 10, "the second body alone")
        wire.send(second[150_000:])
        assert wire.answer().status == 200
    wait_until(lambda: metric(server, "serving_in_flight_bytes") == 0, 10, "no byte in flight")


# ---------------------------------------------------------------- limits of time and space


@pytest.fixture(scope="module")
def strict(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with limits of a second and a megabyte, from a file and from the environment."""
    place = tmp_path_factory.mktemp("strict")
    config = place / "serving.yaml"
    config.write_text("header_timeout_s: 1\nbody_timeout_s: 1\nkeep_alive_timeout_s: 1\nmax_body_bytes: 1000000\n")
    models = [f"--model={name}={repository / name}" for name in ("linear", "slow", "wide")]
    arguments = [*models, "--default-model", "linear", "--config", config]
    env = {"SERVING_MAX_IN_FLIGHT_BYTES": "1500000", "SERVING_MAX_HEADERS": "10"}
    with support.running(*arguments, state_dir=place / "state", env=env) as running:
        yield running


def trickle(wire: Wire, byte: bytes) -> None:
    """A byte now and then, until there is something to read."""
    while not select.select([wire.socket], [], [], 0.05)[0]:
        wire.send(byte)


@pytest.mark.parametrize(
    ("begun", "byte", "phase"),
    [
        (b"P", b"", "head"),
        (b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nX: ", b"", "head"),
        (b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nX: ", b"y", "head"),
        (request("/invocations", rows(5), JSON)[:-1], b"", "body"),
        (request("/invocations", b"", JSON, "Content-Length: 5000", length=False), b" ", "body"),
        (in_chunks(rows(5))[:-7], b"", "body"),
        (in_chunks(b"")[:-5] + b"ff\r\n", b" ", "body"),
    ],
    ids=["one byte", "a head", "a trickled head", "a body", "a trickled body", "chunks", "trickled chunks"],
)
def test_what_comes_too_slowly_is_cut_off(strict: Server, begun: bytes, byte: bytes, phase: str) -> None:
    with Wire(strict.port) as wire:
        wire.send(begun)
        if byte:
            trickle(wire, byte)
        answer = wire.answer()
        assert answer.status == 408
        assert f"the {phase} of the request did not come within 1 s" in answer.message
        assert answer.headers["connection"] == "close"
        assert wire.is_closed()


def test_an_idle_connection_is_closed(strict: Server) -> None:
    with Wire(strict.port) as never, Wire(strict.port) as used:
        used.send(invocation(rows(5)))
        used.answer()
        assert never.is_closed()
        assert used.is_closed()


def test_waiting_for_a_slow_answer_is_not_idling(strict: Server) -> None:
    with Wire(strict.port, timeout_s=30) as wire, Wire(strict.port) as idling:
        wire.send(slow(3 * LONG) + invocation(rows(5)))
        assert idling.is_closed()
        assert [answer.status for answer in wire.answers(2)] == [200, 200]


def test_a_client_that_never_reads_is_cut_off(strict: Server) -> None:
    wide = b"".join(to_model("wide", {"instances": [[number]]}) for number in range(300))
    with Wire(strict.port, receive_bytes=1 << 12) as wire:
        wire.offer((wide,))
        wait_until(lambda: metric(strict, "serving_connections") == 1, 10, "its end")


def test_bytes_in_flight_are_limited(strict: Server) -> None:
    body = b" " * 900_000 + rows(5)
    sent = invocation(body)
    with Wire(strict.port) as first:
        first.send(sent[:-1])
        wait_until(lambda: metric(strict, "serving_in_flight_bytes") > 800_000, 1, "the first body")
        with Wire(strict.port) as second:
            second.offer((sent,))
            refused = second.answer()
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
            assert "as many bytes of requests as it may" in refused.message
        with Wire(strict.port) as third:
            third.offer((in_chunks(body, size=1 << 16),))
            assert third.answer().status == 503
        first.send(sent[-1:])
        assert first.answer().json() == answered(5)
    wait_until(lambda: metric(strict, "serving_in_flight_bytes") == 0, 10, "no byte in flight")
    assert ask(strict.port, sent).json() == answered(5)


def test_settings_are_in_force(strict: Server) -> None:
    assert ask(strict.port, invocation(rows(5), *[f"X-{number}: y" for number in range(8)])).status == 431
    assert ask(strict.port, invocation(b" " * 1_000_001)).status == 413
