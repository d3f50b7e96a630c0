"""HTTPS with a certificate that is renewed while the server runs."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import server as support
from tests.support.certificates import Authority
from tests.support.clients import ROW
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the machine has no openssl to make keys with")

RENEWED_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate for localhost that signs itself, and its key."""

    certificate: Path
    key: Path

    def write(self, name: str) -> None:
        """Makes a new pair; the files change in place."""
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", str(self.key), "-out", str(self.certificate)],
            check=True, capture_output=True,
        )  # fmt: skip

    def context(self) -> ssl.SSLContext:
        """A client's context that trusts the certificate as it is now."""
        return ssl.create_default_context(cafile=self.certificate)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    made.write("first")
    return made


@pytest.fixture
def server(pair: Pair, echo: Path, tmp_path: Path) -> Iterator[Server]:
    arguments = ("--model", echo, "--tls-cert", pair.certificate, "--tls-key", pair.key, "--workers", "2")
    server = support.start(*arguments, state_dir=tmp_path / "state")
    try:
        wait_until(lambda: "ready\n" in server.output, 20, "the line ready")
        yield server
    finally:
        server.end()


def connect(server: Server, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("localhost", server.port, context=context, timeout=10)


def invoke(connection: http.client.HTTPSConnection, rows: list[list[float]]) -> list[list[float]]:
    connection.request("POST", "/invocations", json.dumps(rows), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200
    got: list[list[float]] = json.loads(answer.read())
    return got


def served(server: Server) -> str:
    """The certificate that a new connection is shown, in PEM."""
    return ssl.get_server_certificate((server.host, server.port), timeout=10).strip()


def test_https(server: Server, pair: Pair) -> None:
    assert f"serving on https://127.0.0.1:{server.port}" in server.output
    connection = connect(server, pair.context())
    assert invoke(connection, [ROW]) == [ROW]
    large = [[float(number), 0.5, 0.25, 0] for number in range(30_000)]
    assert invoke(connection, large) == large
    assert invoke(connection, [ROW]) == [ROW]
    connection.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_plain_http_and_old_tls_get_no_answer(server: Server, pair: Pair) -> None:
    with socket.create_connection((server.host, server.port), timeout=10) as plain:
        plain.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            answer = plain.recv(100)
        except ConnectionResetError:
            answer = b""
        assert not answer.startswith(b"HTTP/")
    old = pair.context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        connect(server, old).connect()
    connection = connect(server, pair.context())
    assert invoke(connection, [ROW]) == [ROW]
    connection.close()


def test_a_client_that_does_not_trust_the_certificate(server: Server) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(server, ssl.create_default_context()).connect()


def test_a_renewed_certificate_is_taken_without_a_restart(server: Server, pair: Pair) -> None:
    first = served(server)
    assert first == pair.certificate.read_text().strip()
    kept = connect(server, pair.context())
    assert invoke(kept, [ROW]) == [ROW]
    processes = {process.pid for process in server.processes()}
    pair.write("second")
    second = pair.certificate.read_text().strip()
    # Each worker takes it by itself: so many in a row are of both.
    wait_until(lambda: all(served(server) == second for _ in range(10)), RENEWED_WITHIN_S, "the second certificate")
    assert invoke(kept, [ROW]) == [ROW]
    kept.close()
    renewed = connect(server, pair.context())
    assert invoke(renewed, [ROW]) == [ROW]
    renewed.close()
    assert {process.pid for process in server.processes()} == processes


def test_a_broken_renewal_leaves_the_old_certificate(server: Server, pair: Pair) -> None:
    first = served(server)
    pair.certificate.write_text("half a certificate")
    wait_until(lambda: server.output.count("was not taken") >= 2, RENEWED_WITHIN_S, "a word of both workers")
    assert served(server) == first
    pair.write("third")
    third = pair.certificate.read_text().strip()
    wait_until(lambda: all(served(server) == third for _ in range(10)), RENEWED_WITHIN_S, "the third certificate")


def test_callers_without_a_certificate_of_the_authority(echo: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "keys")
    own, caller = authority.sign("server"), authority.sign("caller")
    stranger = Authority(tmp_path / "keys", "stranger").sign("other")
    arguments = ("--model", echo, "--tls-cert", own.file, "--tls-key", own.key, "--tls-client-ca", authority.file)
    server = support.start(*arguments, state_dir=tmp_path / "state")
    try:
        wait_until(lambda: "ready\n" in server.output, 20, "the line ready")
        known = ssl.create_default_context(cafile=authority.file)
        known.load_cert_chain(caller.file, caller.key)
        connection = connect(server, known)
        assert invoke(connection, [ROW]) == [ROW]
        connection.close()
        for other in (None, stranger):
            unknown = ssl.create_default_context(cafile=authority.file)
            if other is not None:
                unknown.load_cert_chain(other.file, other.key)
            connection = connect(server, unknown)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                invoke(connection, [ROW])
            connection.close()
    finally:
        server.end()
