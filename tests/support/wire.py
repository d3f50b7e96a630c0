"""HTTP byte for byte: sends what no client library would send, and reads answers so strictly that a stray byte fails."""

from __future__ import annotations

import contextlib
import re
import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import orjson

TIMEOUT_S = 10.0

_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9a-z-]+): ?([ -~]*)")


class Closed(AssertionError):
    """The server closed the connection where an answer was expected; carries what came of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    @property
    def message(self) -> str:
        """The text of an error, on whichever face."""
        fields = self.json()
        return str(fields.get("message") or fields.get("error") or fields.get("OriginalMessage") or fields["Message"])


class Wire:
    """One connection. Everything that it reads must be well-formed HTTP/1.1."""

    def __init__(self, port: int, timeout_s: float = TIMEOUT_S, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(timeout_s)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Sends all of it."""
        self.socket.sendall(data)

    def offer(self, pieces: Iterable[bytes]) -> None:
        """Sends piece by piece until the server has had enough."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def end(self) -> None:
        """Says that nothing more will be sent, where the server has not closed already."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def answer(self, method: str = "POST") -> Answer:
        """The next answer, to a request of that method; interim ones (1xx) count. Raises `Closed`."""
        head = self._until(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        status_line = _STATUS.fullmatch(first)
        assert status_line, f"not a status line: {first[:200]!r}"
        status = int(status_line[1])
        headers: dict[str, str] = {}
        for line in lines:
            field = _FIELD.fullmatch(line)
            assert field, f"not a header: {line[:200]!r}"
            name = field[1].decode()
            assert name not in headers, f"header {name} came twice"
            headers[name] = field[2].decode()
        if status < 200 or status == 204 or method == "HEAD":
            return Answer(status, headers, b"")
        assert "content-length" in headers, "an answer without a length"
        return Answer(status, headers, self._exactly(int(headers["content-length"])))

    def answers(self, count: int) -> list[Answer]:
        """The next `count` answers."""
        return [self.answer() for _ in range(count)]

    def arrived(self, within_s: float) -> list[Answer]:
        """The whole answers that have come, to requests other than HEAD, once there is one or the time is over."""
        select.select([self.socket], [], [], within_s)
        self.socket.setblocking(False)
        try:
            while data := self._receive():
                self._unread += data
        except BlockingIOError:
            pass
        found: list[Answer] = []
        kept = self._unread
        try:
            while kept:
                found.append(self.answer())
                kept = self._unread
        except (BlockingIOError, Closed):
            self._unread = kept
        return found

    def is_closed(self) -> bool:
        """Waits for the server to close; True when it does so and says nothing more before."""
        return not self._unread and not self._receive()

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(1 << 16)
        except ConnectionResetError:
            return b""

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._unread:
            self._more()
        head, _, self._unread = self._unread.partition(mark)
        return head + mark

    def _exactly(self, count: int) -> bytes:
        parts = [self._unread]
        have = len(self._unread)
        while have < count:
            self._unread = b""
            self._more()
            parts.append(self._unread)
            have += len(self._unread)
        whole = b"".join(parts)
        self._unread = whole[count:]
        return whole[:count]

    def _more(self) -> None:
        data = self._receive()
        if not data:
            raise Closed(f"the server closed after {self._unread[:500]!r}")
        self._unread += data


def request(
    path: str | bytes,
    body: bytes = b"",
    *fields: str | bytes,
    method: str = "POST",
    version: str = "1.1",
    host: str | None = "localhost",
    length: bool = True,
) -> bytes:
    """A request as bytes: `fields` are whole header lines without their ends."""
    lines = [f"{method} ".encode() + (path if isinstance(path, bytes) else path.encode()) + f" HTTP/{version}".encode()]
    if host is not None:
        lines.append(f"Host: {host}".encode())
    lines += [field if isinstance(field, bytes) else field.encode("latin-1") for field in fields]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int = 1 << 16) -> bytes:
    """A body in chunks, the last one included."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def ask(port: int, sent: bytes, method: str = "POST") -> Answer:
    """One request on a connection of its own."""
    with Wire(port) as wire:
        wire.send(sent)
        return wire.answer(method)
