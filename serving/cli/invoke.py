"""`serving invoke`: a small client, for a look at what a model answers."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import click
import msgspec

CONTENT_TYPES: Final = {
    ".csv": "text/csv",
    ".npy": "application/x-npy",
    ".bin": "application/octet-stream",
}
"""What a file's suffix says of its content; anything else is taken for JSON."""

JSON: Final = "application/json"


class Answer(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    reason: str
    media_type: str
    body: bytes


@click.command()
@click.argument("name")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The server.")
@click.option("--data", default="-", show_default=True, help="The body: text, @FILE, or - for standard input.")
@click.option("--content-type", help="The body's media type.  [default: by the file's suffix, or application/json]")
@click.option("--accept", help="The media type that the answer should have.")
@click.option("--v2", is_flag=True, help="Call /v2/models/NAME/infer instead of /endpoints/NAME/invocations.")
@click.option("--timeout", default=70.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds.")
def invoke(
    name: str, url: str, data: str, content_type: str | None, accept: str | None, v2: bool, timeout: float
) -> None:
    """Sends one request to the model NAME and prints its answer.

    \b
    serving invoke fraud --data '{"instances": [[950, 3, 0.9, 12]]}'
    serving invoke fraud --data @rows.csv --accept text/csv
    """
    body = _body(data)
    media_type = content_type or (CONTENT_TYPES.get(Path(data[1:]).suffix.lower(), JSON) if data[:1] == "@" else JSON)
    path = f"/v2/models/{quote(name, safe='')}/infer" if v2 else f"/endpoints/{quote(name, safe='')}/invocations"
    headers = {"Content-Type": media_type} | ({"Accept": accept} if accept else {})
    answer = _post(url, path, body, headers, timeout)
    if answer.status >= 400:
        raise click.ClickException(f"{answer.status} {answer.reason}: {_message(answer)}")
    sys.stdout.buffer.write(answer.body)
    if answer.media_type.startswith(("text/", JSON)) and not answer.body.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _body(data: str) -> bytes:
    if data == "-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return data.encode()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{data[1:]} cannot be read: {error.strerror}") from error


def _post(url: str, path: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Answer:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise click.ClickException(f"{url} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.ClickException(f"{url} is not a URL such as http://127.0.0.1:8080")
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname, port, timeout=timeout)
    try:
        connection.request("POST", parts.path.rstrip("/") + path, body, dict(headers))
        response = connection.getresponse()
        return Answer(
            status=response.status,
            reason=response.reason,
            media_type=response.headers.get("Content-Type", ""),
            body=response.read(),
        )
    except TimeoutError as error:
        raise click.ClickException(f"{url} gave no answer within {timeout:g} s") from error
    except ConnectionRefusedError as error:
        raise click.ClickException(f"nothing listens at {url}; is `serving up` running there?") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise click.ClickException(f"{url} cannot be asked: {error}") from error
    finally:
        connection.close()


def _message(answer: Answer) -> str:
    """What an error's body says, on one line: the message of any of the server's faces, or the body itself."""
    return " ".join(_innermost(answer.body.decode(errors="replace")).split())[:1000] or "no body"


def _innermost(text: str) -> str:
    """The message in a body; SageMaker's face wraps the container's body into its own."""
    try:
        document: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    for key in ("OriginalMessage", "Message", "message", "error"):
        if isinstance(document, dict) and isinstance(document.get(key), str):
            return _innermost(document[key])
    return text
