"""The service over h2corn as raw HTTP/2 shows it, and what is its own beside the other transport."""

from __future__ import annotations

import gzip
import os
import random
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import msgspec
import pytest

from serving.errors import BadRequest, Unsupported
from serving.frontends.grpc.call import Call
from serving.frontends.grpc.framing import compressed, frame
from serving.frontends.grpc.servicer import Rpc
from serving.settings import Settings
from tests.frontends.http2 import hpack
from tests.frontends.http2.frames import END_STREAM, Answer, Connection, data, headers
from tests.frontends.http2.hpack import Field
from tests.support.certificates import Authority, needs_openssl
from tests.support.grpc import WITHIN_S, Carried, carried
from tests.support.server import wait_until

ECHO = "/test.Service/Echo"
EACH = "/test.Service/Each"
LIMIT = 4 * 1024 * 1024


class Echo:
    """A service that says the same, at once and in streams; `threads` are those that its methods ran on."""

    max_message_bytes = LIMIT

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()
        self._rpcs = {rpc.path: rpc for rpc in (Rpc(ECHO, self._echo), Rpc(EACH, stream=self._each))}

    @property
    def rpcs(self) -> Iterable[Rpc]:
        return self._rpcs.values()

    def find(self, path: str) -> Rpc:
        if path not in self._rpcs:
            raise Unsupported(f"the method {path} is not supported by this server")
        return self._rpcs[path]

    async def _echo(self, body: bytes, call: Call) -> bytes:
        self.threads.add(threading.current_thread())
        if body == b"fail":
            raise BadRequest("as asked")
        return body

    async def _each(self, bodies: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        self.threads.add(threading.current_thread())
        async for body in bodies:
            if body == b"fail":
                raise BadRequest("as asked")
            yield body


@pytest.fixture
def settings() -> Settings:
    return Settings(grpc_port=0, grpc_transport="h2corn", body_timeout_s=0.5)


@pytest.fixture
def service() -> Echo:
    return Echo()


@pytest.fixture
def server(service: Echo, settings: Settings) -> Iterator[Carried]:
    with carried(service, settings) as running:
        yield running


@pytest.fixture
def connection(server: Carried) -> Iterator[Connection]:
    with Connection(int(server.address.rpartition(":")[2])) as opened:
        opened.greet()
        yield opened


FIELDS: dict[str, str] = {
    ":method": "POST",
    ":scheme": "http",
    ":path": ECHO,
    ":authority": "127.0.0.1",
    "content-type": "application/grpc",
    "te": "trailers",
}


def call(connection: Connection, body: bytes, **changed: str | None) -> Answer:
    """A whole call, with fields changed or (None) left out; `_` stands for `-`."""
    fields = FIELDS | {name.replace("_", "-").replace("pseudo-", ":"): value for name, value in changed.items()}
    block: list[Field] = [(name, value) for name, value in fields.items() if value is not None]
    connection.send(headers(1, hpack.block(block)) + data(1, body, END_STREAM))
    return connection.answer(1)


def test_its_thread_does_not_cut_in(server: Carried) -> None:
    threads = {
        task.joinpath("comm").read_text().strip(): os.sched_getscheduler(int(task.name))
        for task in Path("/proc/self/task").iterdir()
    }
    assert threads.pop("tokio-rt-worker") == os.SCHED_BATCH
    assert set(threads.values()) == {os.SCHED_OTHER}


# ---------------------------------------------------------------------- one call, frame by frame


def test_an_answer(connection: Connection) -> None:
    answer = call(connection, frame(b"abc"))
    assert answer.succeeded
    assert answer.body == frame(b"abc")
    assert answer.get("content-type") == "application/grpc"


def test_a_message_in_pieces(connection: Connection) -> None:
    body = frame(bytes(range(256)))
    connection.send(headers(1, hpack.block(list(FIELDS.items()))))
    for place in range(0, len(body), 7):
        connection.send(data(1, body[place : place + 7]))
    connection.send(data(1, b"", END_STREAM))
    assert connection.answer(1).body == body


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"content_type": "application/json"}, "415"),
        ({"content_type": None}, "415"),
        ({"pseudo_method": "PUT"}, "405"),
    ],
)
def test_what_is_no_call(connection: Connection, changed: dict[str, str | None], status: str) -> None:
    answer = call(connection, frame(b"abc"), **changed)
    assert answer.get(":status") == status


@pytest.mark.parametrize(
    ("body", "changed", "status", "message"),
    [
        (frame(b"fail"), {}, "3", "as asked"),
        (frame(b"a"), {"te": None}, "13", "te: trailers"),
        (frame(b"a"), {"grpc_timeout": "soon"}, "3", "grpc-timeout is"),
        (frame(b"a"), {"grpc_encoding": "snappy"}, "12", "grpc-encoding is 'snappy'"),
        (frame(b"a"), {"pseudo_path": "/test.Service/None"}, "12", "/test.Service/None is not supported"),
        (b"", {}, "12", "takes one message, and the request has none"),
        (frame(b"a") + frame(b"b"), {}, "12", "takes one message, and the request has several"),
        (frame(b"a")[:-1], {}, "13", "ends in the middle of a message"),
        (b"\x07\0\0\0\0", {}, "13", "the flag of a message is 7"),
        (compressed("gzip", b"a"), {}, "13", "no grpc-encoding"),
        (b"\1\0\0\0\3abc", {"grpc_encoding": "gzip"}, "3", "the message is not gzip"),
        (b"\0" + (LIMIT + 1).to_bytes(4, "big"), {}, "8", f"at most {LIMIT} are taken"),
        (compressed("deflate", bytes(LIMIT + 1)), {"grpc_encoding": "deflate"}, "8", f"exceeds {LIMIT} bytes"),
    ],
)
def test_a_call_that_fails(
    connection: Connection, body: bytes, changed: dict[str, str | None], status: str, message: str
) -> None:
    answer = call(connection, body, **changed)
    assert answer.ended
    assert answer.get(":status") == "200"
    assert answer.get("grpc-status") == status
    assert message in (answer.get("grpc-message") or "")


def test_codings_that_are_read_are_told(connection: Connection) -> None:
    answer = call(connection, frame(b"a"), grpc_encoding="snappy")
    assert answer.get("grpc-accept-encoding") == "identity, deflate, gzip"


@pytest.mark.parametrize(("accepted", "packed"), [("identity, gzip", True), ("identity", False), (None, False)])
def test_an_answer_is_compressed_where_the_request_was(
    connection: Connection, accepted: str | None, packed: bool
) -> None:
    text = b"again " * 5000
    answer = call(connection, compressed("gzip", text), grpc_encoding="gzip", grpc_accept_encoding=accepted)
    assert answer.get("grpc-encoding") == ("gzip" if packed else None)
    assert answer.body[0] == packed
    assert (gzip.decompress(answer.body[5:]) if packed else answer.body[5:]) == text


def test_a_message_that_stalls(connection: Connection, server: Carried) -> None:
    connection.send(headers(1, hpack.block(list(FIELDS.items()))) + data(1, frame(b"abc")[:6]))
    answer = connection.answer(1)
    assert answer.get("grpc-status") == "4"
    assert "not received whole in 0.5 s" in (answer.get("grpc-message") or "")
    wait_until(lambda: server.calls == 0, WITHIN_S, "the end of the call")


def test_a_stream_may_wait_for_longer(connection: Connection) -> None:
    fields = FIELDS | {":path": EACH}
    connection.send(headers(1, hpack.block(list(fields.items()))) + data(1, frame(b"one")))
    # Another call takes as long as a unary call may stall.
    connection.send(headers(3, hpack.block(list(FIELDS.items()))))
    assert connection.answer(3).get("grpc-status") == "4"
    connection.send(data(1, frame(b"two"), END_STREAM))
    answer = connection.answer(1)
    assert answer.succeeded
    assert answer.body == frame(b"one") + frame(b"two")


# ---------------------------------------------------------------------- many calls


def channel_to(server: Carried) -> grpc.Channel:
    return grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])


def test_everything_runs_on_the_loops_own_thread(service: Echo, server: Carried) -> None:
    with channel_to(server) as channel:
        calls = [channel.unary_unary(ECHO).future(b"%d" % number, timeout=WITHIN_S) for number in range(50)]
        assert [one.result() for one in calls] == [b"%d" % number for number in range(50)]
        assert list(channel.stream_stream(EACH)(iter([b"a", b"b"]), timeout=WITHIN_S)) == [b"a", b"b"]
    assert len(service.threads) == 1


def test_ten_thousand_mixed_calls(server: Carried) -> None:
    """Each caller's answers are its own, whatever the others do."""

    def caller(seed: int) -> int:
        chosen = random.Random(seed)
        right = 0
        with channel_to(server) as channel:
            echo, each = channel.unary_unary(ECHO), channel.stream_stream(EACH)
            while right < 1250:
                body = b"%d:%d " % (seed, right) * chosen.choice((1, 3, 400, 20_000))
                kind = chosen.choice(("plain", "plain", "gzip", "stream", "fail", "cancel"))
                if kind == "stream":
                    assert list(each(iter([body, b"", body]), timeout=WITHIN_S)) == [body, b"", body]
                elif kind == "fail":
                    with pytest.raises(grpc.RpcError, match="as asked"):
                        echo(b"fail", timeout=WITHIN_S)
                elif kind == "cancel":
                    echo.future(body).cancel()
                else:
                    compression = grpc.Compression.Gzip if kind == "gzip" else grpc.Compression.NoCompression
                    assert echo(body, timeout=WITHIN_S, compression=compression) == body
                right += 1
        return right

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(caller, range(8))) == 10_000
    wait_until(lambda: server.calls == 0, WITHIN_S, "the end of all calls")


# ---------------------------------------------------------------------- the end, and TLS


def test_the_end_is_prompt_without_calls(server: Carried) -> None:
    with channel_to(server) as channel:
        assert channel.unary_unary(ECHO)(b"a", timeout=WITHIN_S) == b"a"
        server.stop(60).result(WITHIN_S)


@needs_openssl
def test_a_renewed_certificate(service: Echo, settings: Settings, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "keys")
    certificate = authority.sign("server")
    secured = msgspec.structs.replace(settings, tls_cert=certificate.file, tls_key=certificate.key)
    with carried(service, secured) as server:

        def answers(root: Path) -> bool:
            credentials = grpc.ssl_channel_credentials(root.read_bytes())
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.secure_channel(server.address, credentials, options) as channel:
                try:
                    return bool(channel.unary_unary(ECHO)(b"a", timeout=1) == b"a")
                except grpc.RpcError:
                    return False

        assert answers(authority.file)
        Authority(authority.file.parent, "successor").sign("server")
        successor = authority.file.parent / "successor.pem"
        wait_until(lambda: answers(successor), WITHIN_S, "the new certificate")
        assert not answers(authority.file)
