"""HTTP/2 frame by frame over a plain socket: sends what no client library would send, and reads whatever comes back."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.frontends.http2 import hpack
from tests.frontends.http2.hpack import Field

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

TIMEOUT_S: Final = 5.0

MOST_WINDOW: Final = 2**31 - 1

_HEAD: Final = 9


class Kind(IntEnum):
    """Frame types (RFC 9113, 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20


class Setting(IntEnum):
    """Identifiers of settings (RFC 9113, 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Error codes (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Frame(NamedTuple):
    """One frame, as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM and GOAWAY."""
        return int(struct.unpack_from(">I", self.payload, 4 if self.kind == Kind.GOAWAY else 0)[0])


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", length: int | None = None) -> bytes:
    """A frame; `length` is a false one. A stream from 2**31 on sets the reserved bit."""
    size = len(payload) if length is None else length
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def headers(stream: int, block: bytes, flags: int = END_HEADERS) -> bytes:
    """HEADERS that end the block and leave the stream open."""
    return frame(Kind.HEADERS, flags, stream, block)


def continuation(stream: int, block: bytes = b"", flags: int = 0) -> bytes:
    """CONTINUATION that leaves the block open."""
    return frame(Kind.CONTINUATION, flags, stream, block)


def data(stream: int, body: bytes = b"", flags: int = 0) -> bytes:
    """DATA that leaves the stream open."""
    return frame(Kind.DATA, flags, stream, body)


def settings(*pairs: tuple[int, int]) -> bytes:
    """SETTINGS."""
    return frame(Kind.SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


def ping(payload: bytes = bytes(8)) -> bytes:
    """PING."""
    return frame(Kind.PING, payload=payload)


def reset(stream: int, code: int = Code.CANCEL) -> bytes:
    """RST_STREAM."""
    return frame(Kind.RST_STREAM, stream=stream, payload=struct.pack(">I", code))


def window(stream: int, by: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(Kind.WINDOW_UPDATE, stream=stream, payload=struct.pack(">I", by))


def priority(stream: int, on: int, weight: int = 15) -> bytes:
    """PRIORITY."""
    return frame(Kind.PRIORITY, stream=stream, payload=struct.pack(">IB", on, weight))


def message(body: bytes) -> bytes:
    """A gRPC message, not compressed."""
    return struct.pack(">BI", 0, len(body)) + body


def pieces(stream: int, body: bytes, flags: int = END_STREAM, size: int = 16_384) -> bytes:
    """DATA frames of at most `size` bytes; the last carries `flags`."""
    starts = range(0, max(len(body), 1), size)
    return b"".join(
        data(stream, body[start : start + size], flags if start + size >= len(body) else 0) for start in starts
    )


@dataclass(slots=True)
class Answer:
    """What came on one stream."""

    headers: list[Field] = field(default_factory=list)
    """Headers and trailers, one after the other."""

    body: bytes = b""
    ended: bool = False
    reset: int | None = None
    """The code of the first RST_STREAM."""

    def get(self, name: str) -> str | None:
        """The last field of that name."""
        return next((value for key, value in reversed(self.headers) if key == name), None)

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.ended or self.reset is not None

    @property
    def succeeded(self) -> bool:
        """Whether it is a whole answer to a gRPC call that went well."""
        return self.ended and self.get(":status") == "200" and self.get("grpc-status") == "0"

    def __str__(self) -> str:
        if self.reset is not None:
            return f"RST_STREAM {name_of(self.reset)}"
        status, message = self.get("grpc-status"), self.get("grpc-message")
        told = f"grpc-status {status} ({message})" if status else f"HTTP {self.get(':status')}"
        return told if self.ended else f"{told}, not ended" if self.headers else "nothing"


def name_of(code: int) -> str:
    """An error code in words."""
    return Code(code).name if code in Code._value2member_map_ else str(code)


class Connection:
    """One connection. It reads only when asked; then it acknowledges SETTINGS and PINGs and keeps what came per stream."""

    def __init__(self, port: int, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers: dict[int, Answer] = {}
        self.settings: dict[int, int] = {}
        self.goaway: int | None = None
        """The code of the last GOAWAY."""
        self.closed = False
        """Whether the server has closed the connection."""
        self.pongs: set[bytes] = set()
        self.pushed_bytes = 0
        """What `push` has sent."""
        self._room = {0: 65_535}
        """How much the server takes, by stream; 0 is the connection."""
        self._decoder = hpack.Decoder()
        self._unread = bytearray()
        self._block = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    # ------------------------------------------------------------------ sending

    def send(self, data: bytes) -> None:
        """Sends all of it, but for what a server that has closed will not take. Raises `TimeoutError`."""
        try:
            self.socket.settimeout(TIMEOUT_S)
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True

    def push(self, data: bytes, until: float) -> bool:
        """Sends it by `until` (monotonic), whatever comes back; whether the server took all of it."""
        view = memoryview(data)
        while view:
            left = until - time.monotonic()
            if left <= 0:
                return False
            self.socket.settimeout(left)
            try:
                sent = self.socket.send(view)
                self.pushed_bytes += sent
                view = view[sent:]
            except TimeoutError:
                return False
            except OSError:
                self.closed = True
                return False
        return True

    def upload(self, stream: int, head: bytes, body: bytes, until: float) -> bool:
        """Sends HEADERS and then a body as fast as the server's windows allow; whether it went out whole by `until`."""
        if not self.push(head, until):
            return False
        room = self._room
        room.setdefault(stream, self.settings.get(Setting.INITIAL_WINDOW_SIZE, 65_535))
        at = 0
        while at < len(body):
            self.drain(0)
            size = min(room[0], room[stream], 16_384, len(body) - at)
            if size <= 0:
                try:
                    if self.read(until) is None:
                        return False
                except TimeoutError:
                    return False
                continue
            flags = END_STREAM if at + size == len(body) else 0
            if self.goaway or not self.push(data(stream, body[at : at + size], flags), until):
                return False
            at += size
            room[0] -= size
            room[stream] -= size
        return True

    def greet(self, *pairs: tuple[int, int], connection_window: int = 2**30) -> None:
        """The preface, SETTINGS and wide windows; returns when the server's SETTINGS have come."""
        wide = settings((Setting.INITIAL_WINDOW_SIZE, 2**24), *pairs)
        self.send(PREFACE + wide + (window(0, connection_window) if connection_window else b""))
        deadline = time.monotonic() + TIMEOUT_S
        while not self.settings and not self.closed:
            self.read(deadline)

    # ------------------------------------------------------------------ reading

    def read(self, deadline: float) -> Frame | None:
        """The next frame; None where the server has closed. Raises `TimeoutError`."""
        head = self._take(_HEAD, deadline)
        if head is None:
            return None
        high, low, kind, flags, stream = struct.unpack(">BHBBI", head)
        payload = self._take(high << 16 | low, deadline)
        if payload is None:
            return None
        got = Frame(kind, flags, stream & MOST_WINDOW, payload)
        self._note(got)
        return got

    def _take(self, size: int, deadline: float) -> bytes | None:
        while len(self._unread) < size:
            left = deadline - time.monotonic()
            if self.closed:
                return None
            if not select.select([self.socket], [], [], max(left, 0))[0]:
                raise TimeoutError(f"{size} bytes were expected, and {len(self._unread)} came")
            try:
                piece = self.socket.recv(1 << 18)
            except (ConnectionResetError, BrokenPipeError):
                piece = b""
            self.closed = not piece
            self._unread += piece
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    def _note(self, got: Frame) -> None:
        match got.kind:
            case Kind.SETTINGS if not got.flags & ACK:
                self.settings.update(dict(struct.iter_unpack(">HI", got.payload)) or {0: 0})
                self.send(frame(Kind.SETTINGS, ACK))
            case Kind.PING if got.flags & ACK:
                self.pongs.add(got.payload)
            case Kind.PING:
                self.send(frame(Kind.PING, ACK, payload=got.payload))
            case Kind.GOAWAY:
                self.goaway = got.code
            case Kind.WINDOW_UPDATE:
                by = int.from_bytes(got.payload, "big")
                self._room[got.stream] = by + self._room.get(
                    got.stream, self.settings.get(Setting.INITIAL_WINDOW_SIZE, 65_535)
                )
            case Kind.HEADERS | Kind.CONTINUATION:
                self._block += _bare(got) if got.kind == Kind.HEADERS else got.payload
                if got.flags & END_HEADERS:
                    self._answer(got).headers += self._decoder.decode(self._block)
                    self._block = b""
            case Kind.DATA:
                self._answer(got).body += _bare(got)
            case Kind.RST_STREAM:
                answer = self._answer(got)
                answer.reset = got.code if answer.reset is None else answer.reset
        if got.kind in (Kind.HEADERS, Kind.DATA) and got.flags & END_STREAM:
            self._answer(got).ended = True

    def _answer(self, got: Frame) -> Answer:
        return self.answers.setdefault(got.stream, Answer())

    def answer(self, stream: int, within_s: float = TIMEOUT_S) -> Answer:
        """What comes on a stream until it ends, or the connection does. Raises `TimeoutError`."""
        deadline = time.monotonic() + within_s
        while not (stream in self.answers and self.answers[stream].over):
            if self.read(deadline) is None:
                break
        return self.answers.pop(stream, Answer())

    def drain(self, for_s: float = 0.001) -> None:
        """Reads what has come by now, and comes within a moment."""
        with contextlib.suppress(TimeoutError):
            while self.read(time.monotonic() + for_s) is not None:
                pass


def _bare(got: Frame) -> bytes:
    """The payload of DATA or HEADERS without padding and priority."""
    payload = got.payload
    if got.flags & PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if got.kind == Kind.HEADERS and got.flags & PRIORITISED else payload
