"""Headers: too many, too large, garbled, doubled, and those whose values are read."""

from __future__ import annotations

from collections.abc import Iterator

from tests.frontends.rows.row import JSON, ROW, Row, bare, infer, inputs, invocation, tensor
from tests.support.wire import request

NOT_HTTP = "not valid HTTP/1.1"
POST = b"POST /invocations HTTP/1.1"
HOST = b"Host: localhost"
V2 = inputs(tensor(data=[1, 2, 3, 4]))


def endless(start: bytes, count: int = 10) -> Iterator[bytes]:
    """A head that begins so and goes on for megabytes, in pieces of 4 KB."""
    yield start
    for _ in range(count * 256):
        yield b"v" * 4096
    yield b"\r\n\r\n"


def with_header(name: str, line: bytes, *words: str) -> Row:
    """A header that the parser refuses: `words` besides the usual ones."""
    sent = bare(POST, HOST, line, b"Content-Length: 25", body=ROW)
    return Row(name, sent, 400, (NOT_HTTP, *words), closes=True)


def refused(name: str, *words: str, fields: tuple[str | bytes, ...], status: int = 400, v2: bool = False) -> Row:
    """A header whose value is refused; the connection stays."""
    return Row(name, infer("linear", V2, *fields) if v2 else invocation(ROW, *fields), status, words)


def hosted(name: str, host: str | None, status: int, *words: str) -> Row:
    """A request for that Host."""
    return Row(name, request("/invocations", ROW, JSON, host=host), status, words)


AMAZON = "X-Amzn-SageMaker-"

ROWS = [
    # ------------------------------------------------------------ size
    Row(
        "101 headers", invocation(ROW, *[f"X-{number}: y" for number in range(98)]), 431, ("32768", "100"), closes=True
    ),
    Row("one header of 40 KB", invocation(ROW, "X: " + "y" * 40_000), 431, ("32768",), closes=True),
    Row("a name of 40 KB", invocation(ROW, "X" * 40_000 + ": y"), 431, ("32768",), closes=True),
    Row("a path of 40 KB", request("/" + "p" * 40_000), 431, ("32768",), closes=True),
    Row(
        "many headers of 1 KB",
        invocation(ROW, *[f"X-{number}: {'y' * 1000}" for number in range(40)]),
        431,
        ("32768",),
        closes=True,
    ),
    Row("one header of 10 MB, in pieces", lambda: endless(POST + b"\r\nX: "), 431, ("32768",), closes=True),
    Row("a header's name of 10 MB, in pieces", lambda: endless(POST + b"\r\nX"), 431, ("32768",), closes=True),
    Row("a path of 10 MB, in pieces", lambda: endless(b"GET /"), 431, ("32768",), closes=True),
    Row("a method of 1 MB, in pieces", lambda: endless(b"POST", 1), 400, (NOT_HTTP,), closes=True),
    # ------------------------------------------------------------ form
    with_header("space before the colon", b"X-Length : 5"),
    with_header("tab before the colon", b"X-Length\t: 5"),
    with_header("no colon", b"X-Length"),
    with_header("empty name", b": 5"),
    with_header("space before the first name", b" X-Length: 5"),
    with_header("obs-fold", b"X: 1\r\n  Content-Length: 3"),
    with_header("obs-fold with a tab", b"X: 1\r\n\tContent-Length: 3"),
    with_header("parenthesis in a name", b"X(1): y"),
    with_header("at sign in a name", b"X@: y"),
    with_header("NUL in a header's name", b"X\x00: y"),
    with_header("NUL in a value", b"X: y\x00z"),
    with_header("escape in a value", b"X: \x1b[31m"),
    with_header("delete in a value", b"X: \x7f"),
    with_header("bell in a value", b"X: \x07"),
    with_header("not ASCII in a name", "Xé: y".encode()),
    # ------------------------------------------------------------ Host and Origin
    hosted("no Host", None, 400, "host", "missing"),
    Row("two Hosts", invocation(ROW, "Host: localhost"), 400, ("host", "twice")),
    Row("two different Hosts", invocation(ROW, "Host: evil.example"), 400, ("host", "twice")),
    hosted("a foreign Host", "evil.example", 403, "evil.example", "--allowed-host"),
    hosted("a Host that begins right", "localhost.evil.example", 403, "localhost.evil.example"),
    hosted("a Host with a user", "localhost@evil.example", 403, "evil.example"),
    hosted("an empty Host", "", 403, "host"),
    hosted("a Host in brackets", "[::2]", 403, "[::2]"),
    hosted("a Host that is only a port", ":80", 403, "host"),
    hosted("a Host with spaces", "local host", 403, "local host"),
    Row(
        "a foreign Host on a page",
        request("/", method="GET", host="evil.example", length=False),
        403,
        ("evil.example",),
    ),
    Row(
        "a foreign Host and HEAD",
        request("/ping", method="HEAD", host="evil.example", length=False),
        403,
        ("-",),
        closes=True,
        method="HEAD",
    ),
    Row(
        "a foreign Host on an endpoint",
        request("/endpoints/linear/invocations", ROW, host="evil.example"),
        403,
        ("evil.example",),
    ),
    Row("a foreign Host in v2", request("/v2/models/linear/infer", ROW, host="evil.example"), 403, ("evil.example",)),
    Row(
        "a foreign Host, waiting for 100",
        request(
            "/invocations", b"", JSON, "Content-Length: 25", "Expect: 100-continue", host="evil.example", length=False
        ),
        403,
        ("evil.example",),
        closes=True,
    ),
    refused("a foreign Origin", "origin", "http://evil.example", fields=("Origin: http://evil.example",), status=403),
    refused("the Origin of a file", "origin", "null", fields=("Origin: null",), status=403),
    refused(
        "an Origin that begins right",
        "origin",
        "localhost.evil",
        fields=("Origin: http://localhost.evil.example",),
        status=403,
    ),
    refused(
        "an Origin of another kind",
        "origin",
        "chrome-extension",
        fields=("Origin: chrome-extension://localhost",),
        status=403,
    ),
    refused(
        "an own and a foreign Origin",
        "origin",
        "evil",
        fields=("Origin: http://localhost", "Origin: http://evil.example"),
        status=403,
    ),
    # ------------------------------------------------------------ doubled
    refused("two Content-Types", "content-type", "twice", fields=("Content-Type: text/csv",)),
    refused(
        "two timeouts",
        "x-serving-timeout-ms",
        "twice",
        fields=("X-Serving-Timeout-Ms: 5", "X-Serving-Timeout-Ms: 5000"),
    ),
    refused(
        "two target models", "target-model", "twice", fields=(f"{AMAZON}Target-Model: a", f"{AMAZON}Target-Model: b")
    ),
    refused(
        "two header lengths", "inference-header", "twice", fields=("Inference-Header-Content-Length: 9",) * 2, v2=True
    ),
    # ------------------------------------------------------------ the server's own
    refused("timeout of 0", "x-serving-timeout-ms", "at least 1", fields=("X-Serving-Timeout-Ms: 0",)),
    refused("negative timeout", "x-serving-timeout-ms", "'-5'", fields=("X-Serving-Timeout-Ms: -5",)),
    refused("timeout with a fraction", "x-serving-timeout-ms", "'1.5'", fields=("X-Serving-Timeout-Ms: 1.5",)),
    refused("timeout in words", "x-serving-timeout-ms", "'soon'", fields=("X-Serving-Timeout-Ms: soon",)),
    refused("infinite timeout", "x-serving-timeout-ms", "'inf'", fields=("X-Serving-Timeout-Ms: inf",)),
    refused("empty timeout", "x-serving-timeout-ms", "whole number", fields=("X-Serving-Timeout-Ms:",)),
    refused(
        "timeout of 400 digits", "x-serving-timeout-ms", "whole number", fields=("X-Serving-Timeout-Ms: " + "9" * 400,)
    ),
    refused(
        "timeout in other digits", "x-serving-timeout-ms", "whole number", fields=("X-Serving-Timeout-Ms: ٣".encode(),)
    ),
    refused("priority that there is not", "priority 9", "1 levels", fields=("X-Serving-Priority: 9",)),
    refused("negative priority", "x-serving-priority", "'-1'", fields=("X-Serving-Priority: -1",)),
    # ------------------------------------------------------------ SageMaker's
    refused(
        "long custom attributes",
        "custom-attributes",
        "1025",
        "1024",
        fields=(f"{AMAZON}Custom-Attributes: {'a' * 1025}",),
    ),
    refused(
        "custom attributes not in ASCII",
        "custom-attributes",
        "ASCII",
        fields=(f"{AMAZON}Custom-Attributes: é".encode(),),
    ),
    refused("custom attributes with a tab", "custom-attributes", "ASCII", fields=(f"{AMAZON}Custom-Attributes: a\tb",)),
    refused("long inference id", "inference-id", "65", "64", fields=(f"{AMAZON}Inference-Id: {'a' * 65}",)),
    refused("long target variant", "target-variant", "64", "63", fields=(f"{AMAZON}Target-Variant: {'a' * 64}",)),
    refused(
        "long target container",
        "target-container-hostname",
        "64",
        "63",
        fields=(f"{AMAZON}Target-Container-Hostname: {'a' * 64}",),
    ),
    refused("long target model", "target-model", "1025", "1024", fields=(f"{AMAZON}Target-Model: {'a' * 1025}",)),
    refused("a target model", "not a multi-model endpoint", fields=(f"{AMAZON}Target-Model: other.tar.gz",)),
    refused(
        "a target model that escapes", "not a multi-model endpoint", fields=(f"{AMAZON}Target-Model: ../../etc/passwd",)
    ),
    refused("a target container", "direct mode", fields=(f"{AMAZON}Target-Container-Hostname: second",)),
    refused(
        "an unknown target variant", "Variant", "Shadow", "AllTraffic", fields=(f"{AMAZON}Target-Variant: Shadow",)
    ),
    refused("a session", "session", "not supported", fields=(f"{AMAZON}Session-Id: NEW_SESSION",), status=501),
    refused(
        "an inference component",
        "inference components",
        "not supported",
        fields=(f"{AMAZON}Inference-Component: a",),
        status=501,
    ),
    refused(
        "explanations", "explanations", "not supported", fields=(f"{AMAZON}Enable-Explanations: `true`",), status=501
    ),
    # ------------------------------------------------------------ v2's
    refused(
        "header length in words",
        "inference-header-content-length",
        "'long'",
        fields=("Inference-Header-Content-Length: long",),
        v2=True,
    ),
    refused(
        "negative header length",
        "inference-header-content-length",
        "'-1'",
        fields=("Inference-Header-Content-Length: -1",),
        v2=True,
    ),
    refused(
        "header length of 400 digits",
        "inference-header-content-length",
        fields=("Inference-Header-Content-Length: " + "9" * 400,),
        v2=True,
    ),
    refused(
        "header length past the body", "99999", "has only", fields=("Inference-Header-Content-Length: 99999",), v2=True
    ),
    refused("header length inside the JSON", "not JSON", fields=("Inference-Header-Content-Length: 20",), v2=True),
    refused("long Accept", "accept", "1200", "1024", fields=("Accept: " + "a/b," * 300,)),
]
