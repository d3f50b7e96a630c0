"""Request lines, lengths, chunks, and one request hidden in another."""

from __future__ import annotations

from collections.abc import Iterator

from tests.frontends.rows.row import MEBIBYTE, ROW, Row, bare, invocation
from tests.support.wire import chunked, request

POST = b"POST /invocations HTTP/1.1"
HOST = b"Host: localhost"
CHUNKED = b"Transfer-Encoding: chunked"
GET = b"GET /ping HTTP/1.1"
HIDDEN = request("/v2", method="GET", length=False)
"""What a smuggler wants answered: if it is, the answers are one too many."""

LIMIT = 25 * MEBIBYTE


def head(*fields: bytes, body: bytes = b"") -> bytes:
    """A `POST /invocations` with these fields after Host."""
    return bare(POST, HOST, *fields, body=body)


def line(first: bytes) -> bytes:
    """A request of this request line."""
    return bare(first, HOST)


def in_chunks(body: bytes) -> bytes:
    """A chunked `POST /invocations`, its body as it is."""
    return head(b"Content-Type: application/json", CHUNKED, body=body)


def too_much(headers: bytes) -> Iterator[bytes]:
    """A head, and one byte more than the largest body."""
    yield headers
    for _ in range(25):
        yield b"x" * MEBIBYTE
    yield b"x"


def too_much_in_chunks() -> Iterator[bytes]:
    """The same in chunks, and their end."""
    yield in_chunks(b"")
    for _ in range(27):
        yield b"100000\r\n" + b"x" * MEBIBYTE + b"\r\n"
    yield b"0\r\n\r\n"


def endless_extension() -> Iterator[bytes]:
    """A chunk whose extension is 8 MB."""
    yield in_chunks(b"4;")
    for _ in range(8):
        yield b"e" * MEBIBYTE
    yield b"\r\nabcd\r\n0\r\n\r\n"


def crumbs() -> Iterator[bytes]:
    """A body of which every byte comes in a chunk with a long extension."""
    yield in_chunks(b"")
    crumb = b"1;" + b"e" * 1000 + b"\r\n \r\n"
    for _ in range(40):
        yield crumb * 100
    yield b"0\r\n\r\n"


NOT_HTTP = "not valid HTTP/1.1"

ROWS = [
    # ------------------------------------------------------------ request lines
    Row("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), 400, (NOT_HTTP,), closes=True),
    Row("no method", line(b"/invocations HTTP/1.1"), 400, (NOT_HTTP,), closes=True),
    Row("unknown method", line(b"FETCH /invocations HTTP/1.1"), 400, (NOT_HTTP, "method"), closes=True),
    Row("lower-case method", line(b"post /invocations HTTP/1.1"), 400, (NOT_HTTP, "method"), closes=True),
    Row("no path", line(b"POST HTTP/1.1"), 400, (NOT_HTTP,), closes=True),
    Row("no version", line(b"POST /invocations"), 400, ("HTTP/0.9",), closes=True),
    Row("HTTP/0.9", b"GET /ping\r\n\r\n", 400, ("HTTP/0.9",), closes=True),
    Row("HTTP/2.0", line(b"POST /invocations HTTP/2.0"), 400, ("2.0",), closes=True),
    Row("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, ("HTTP/1.1",), closes=True),
    Row("HTTP/1.2", line(b"POST /invocations HTTP/1.2"), 400, ("version",), closes=True),
    Row("HTTP/11", line(b"POST /invocations HTTP/11"), 400, (NOT_HTTP,), closes=True),
    Row("another protocol", line(b"POST /invocations ICE/1.1"), 400, (NOT_HTTP,), closes=True),
    Row("space in the path", line(b"POST /invo cations HTTP/1.1"), 400, (NOT_HTTP,), closes=True),
    Row("NUL in the path", line(b"POST /invo\x00cations HTTP/1.1"), 400, (NOT_HTTP,), closes=True),
    Row("newline in the path", line(b"POST /invo\ncations HTTP/1.1"), 400, (NOT_HTTP,), closes=True),
    Row("asterisk", bare(b"POST * HTTP/1.1", HOST, b"Content-Length: 0"), 404, ("no POST",)),
    Row("not ASCII in the path", line("GET /pïng HTTP/1.1".encode()), 400, (NOT_HTTP,), closes=True),
    Row("CONNECT", bare(b"CONNECT localhost:22 HTTP/1.1", HOST), 405, ("CONNECT",), closes=True),
    # ------------------------------------------------------------ line ends
    Row(
        "bare LF after the request line",
        b"POST /invocations HTTP/1.1\nHost: localhost\r\n\r\n",
        400,
        (NOT_HTTP,),
        closes=True,
    ),
    Row("bare LF after a header", bare(POST, b"Host: localhost\nContent-Length: 0"), 400, (NOT_HTTP,), closes=True),
    Row("bare LF at the end of the head", POST + b"\r\nHost: localhost\r\n\n" + HIDDEN, 400, (NOT_HTTP,), closes=True),
    Row("bare CR in a header", bare(POST, b"Host: localhost\rX: y"), 400, (NOT_HTTP,), closes=True),
    Row("bare CR after the request line", POST + b"\rHost: localhost\r\n\r\n", 400, (NOT_HTTP,), closes=True),
    # ------------------------------------------------------------ lengths
    Row(
        "two lengths",
        head(b"Content-Length: 25", b"Content-Length: 25", body=ROW),
        400,
        ("Content-Length",),
        closes=True,
    ),
    Row(
        "two different lengths",
        head(b"Content-Length: 25", b"Content-Length: 5", body=ROW),
        400,
        ("Content-Length",),
        closes=True,
    ),
    Row("a list of lengths", head(b"Content-Length: 25, 25", body=ROW), 400, ("Content-Length",), closes=True),
    Row("negative length", head(b"Content-Length: -1"), 400, ("Content-Length",), closes=True),
    Row("plus sign", head(b"Content-Length: +25", body=ROW), 400, ("Content-Length",), closes=True),
    Row("hexadecimal length", head(b"Content-Length: 0x19", body=ROW), 400, ("Content-Length",), closes=True),
    Row("length with an underscore", head(b"Content-Length: 2_5", body=ROW), 400, ("Content-Length",), closes=True),
    Row("length with a fraction", head(b"Content-Length: 25.0", body=ROW), 400, ("Content-Length",), closes=True),
    Row("empty length", head(b"Content-Length:", body=ROW), 400, ("Content-Length",), closes=True),
    Row(
        "length past 64 bits",
        head(b"Content-Length: 18446744073709551641", body=ROW),
        400,
        ("Content-Length",),
        closes=True,
    ),
    Row("length of 2^63", head(b"Content-Length: 9223372036854775808"), 413, ("26214400",), closes=True),
    Row(
        "one byte over the limit, not sent", head(b"Content-Length: %d" % (LIMIT + 1)), 413, ("26214400",), closes=True
    ),
    Row(
        "one byte over the limit, sent",
        lambda: too_much(head(b"Content-Length: %d" % (LIMIT + 1))),
        413,
        ("26214400",),
        closes=True,
    ),
    Row(
        "over the limit after Expect",
        head(b"Content-Length: %d" % (LIMIT + 1), b"Expect: 100-continue"),
        413,
        ("26214400",),
        closes=True,
    ),
    Row("over the limit in chunks", too_much_in_chunks, 413, ("26214400",), closes=True),
    Row("body cut short", head(b"Content-Length: 26", body=ROW), None, closes=True, ends=True),
    Row("head cut short", b"POST /invocations HTTP/1.1\r\nHost: loc", None, closes=True, ends=True),
    Row("more than was said", invocation() + b"]}", 200, ("40.0",), then=(400,), closes=True),
    Row(
        "less than was said hides a request",
        head(b"Content-Length: 5", body=ROW) + HIDDEN,
        400,
        ("not JSON",),
        then=(400,),
        closes=True,
    ),
    # ------------------------------------------------------------ transfer codings
    Row(
        "length and chunks",
        head(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\n" + HIDDEN),
        400,
        (NOT_HTTP,),
        closes=True,
    ),
    Row(
        "chunks and length",
        head(CHUNKED, b"Content-Length: 6", body=b"0\r\n\r\n" + HIDDEN),
        400,
        (NOT_HTTP,),
        closes=True,
    ),
    Row("chunked twice", head(CHUNKED, CHUNKED, body=b"0\r\n\r\n" + HIDDEN), 400, ("ransfer-",), closes=True),
    Row(
        "chunked, chunked",
        head(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n" + HIDDEN),
        400,
        ("ransfer-",),
        closes=True,
    ),
    Row("identity", head(b"Transfer-Encoding: identity", body=ROW), 400, ("ransfer-",), closes=True),
    Row(
        "chunked, identity",
        head(b"Transfer-Encoding: chunked, identity", body=chunked(ROW)),
        400,
        ("ransfer-",),
        closes=True,
    ),
    Row("gzip as transfer coding", head(b"Transfer-Encoding: gzip", body=ROW), 400, ("ransfer-",), closes=True),
    Row(
        "gzip, chunked",
        head(b"Transfer-Encoding: gzip, chunked", body=chunked(ROW)),
        400,
        ("transfer-encoding", "gzip"),
        closes=True,
    ),
    Row("xchunked", head(b"Transfer-Encoding: xchunked", body=chunked(ROW)), 400, ("ransfer-",), closes=True),
    Row(
        "chunked with a vertical tab",
        head(b"Transfer-Encoding: \x0bchunked", body=chunked(ROW)),
        400,
        (NOT_HTTP,),
        closes=True,
    ),
    Row("quoted chunked", head(b'Transfer-Encoding: "chunked"', body=chunked(ROW)), 400, ("ransfer-",), closes=True),
    Row("empty transfer coding", head(b"Transfer-Encoding:", body=chunked(ROW)), 400, ("ransfer-",), closes=True),
    Row(
        "chunked in HTTP/1.0",
        bare(b"POST /invocations HTTP/1.0", HOST, CHUNKED, body=chunked(ROW) + HIDDEN),
        400,
        ("HTTP/1.0",),
        closes=True,
    ),
    # ------------------------------------------------------------ chunks
    Row("chunk size is a word", in_chunks(b"zz\r\nabcd\r\n0\r\n\r\n"), 400, (NOT_HTTP, "chunk size"), closes=True),
    Row("negative chunk size", in_chunks(b"-4\r\nabcd\r\n0\r\n\r\n"), 400, (NOT_HTTP, "chunk size"), closes=True),
    Row("chunk size with 0x", in_chunks(b"0x4\r\nabcd\r\n0\r\n\r\n"), 400, (NOT_HTTP, "chunk size"), closes=True),
    Row(
        "chunk size with a space before",
        in_chunks(b" 4\r\nabcd\r\n0\r\n\r\n"),
        400,
        (NOT_HTTP, "chunk size"),
        closes=True,
    ),
    Row(
        "chunk size with a space after",
        in_chunks(b"4 \r\nabcd\r\n0\r\n\r\n"),
        400,
        (NOT_HTTP, "chunk size"),
        closes=True,
    ),
    Row("empty chunk size", in_chunks(b"\r\nabcd\r\n0\r\n\r\n"), 400, (NOT_HTTP, "chunk size"), closes=True),
    Row(
        "chunk size past 64 bits",
        in_chunks(b"10000000000000004\r\nabcd\r\n0\r\n\r\n"),
        400,
        ("hunk size",),
        closes=True,
    ),
    Row("largest chunk size", in_chunks(b"ffffffffffffffff\r\nabcd"), None, closes=True, ends=True),
    Row("bare LF after a chunk size", in_chunks(b"4\nabcd\r\n0\r\n\r\n"), 400, (NOT_HTTP,), closes=True),
    Row("no line end after a chunk", in_chunks(b"4\r\nabcd0\r\n\r\n"), 400, (NOT_HTTP,), closes=True),
    Row("chunk longer than it says", in_chunks(b"3\r\nabcd\r\n0\r\n\r\n"), 400, (NOT_HTTP,), closes=True),
    Row(
        "chunk shorter than it says hides a request",
        in_chunks(b"5\r\nabcd\r\n0\r\n\r\n" + HIDDEN),
        400,
        (NOT_HTTP,),
        closes=True,
    ),
    Row(
        "bad chunk after good ones",
        in_chunks(b"4\r\nabcd\r\n4\r\nabcd\r\nq\r\n" + HIDDEN),
        400,
        (NOT_HTTP, "chunk size"),
        closes=True,
    ),
    Row(
        "bare LF in a chunk extension",
        in_chunks(b"4;a\nb\r\nabcd\r\n0\r\n\r\n" + HIDDEN),
        400,
        (NOT_HTTP,),
        closes=True,
    ),
    Row("endless chunk extension", endless_extension, 400, ("chunk",), closes=True),
    Row("crumbs with long extensions", crumbs, 400, ("chunk",), closes=True),
    Row("chunks without an end", in_chunks(b"4\r\nabcd\r\n"), None, closes=True, ends=True),
    Row("malformed trailer", in_chunks(b"0\r\nno colon\r\n\r\n" + HIDDEN), 400, (NOT_HTTP,), closes=True),
    Row("endless trailers", in_chunks(b"0\r\n" + b"a: b\r\n" * 20_000 + b"\r\n"), 431, ("headers",), closes=True),
    # ------------------------------------------------------------ after the end
    Row(
        "a request after Connection: close", invocation(ROW, "Connection: close") + HIDDEN, 200, ("40.0",), closes=True
    ),
    Row(
        "a request after a refused one that closes",
        invocation(b"{", "Connection: close") + HIDDEN,
        400,
        ("not JSON",),
        closes=True,
    ),
    Row("a request after HTTP/1.0", bare(b"GET /v2 HTTP/1.0", HOST) + HIDDEN, 200, ("serving",), closes=True),
    Row(
        "in chunks, then too large",
        in_chunks(chunked(ROW)) + head(b"Content-Length: %d" % (LIMIT + 1)),
        200,
        ("40.0",),
        then=(413,),
        closes=True,
    ),
    Row(
        "in chunks, then a bad chunk",
        in_chunks(chunked(ROW)) + in_chunks(b"4\r\nabcd\r\nq\r\n" + HIDDEN),
        200,
        ("40.0",),
        then=(400,),
        closes=True,
    ),
    Row(
        "good, then bad",
        invocation() + invocation() + line(b"FETCH / HTTP/1.1") + HIDDEN,
        200,
        ("40.0",),
        then=(200, 400),
        closes=True,
    ),
]
