"""Calls to a real server that tests of several rooms make."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Thread
from typing import Any, Self

import boto3
from botocore.config import Config

from tests.support.server import Server

ROW = [1.0, 2.0, 3.0, 4.0]


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers by lower-case name, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)


class Caller:
    """One connection to a server, opened at the first call and kept; used in a `with` block, it is closed after."""

    def __init__(self, server: Server, timeout_s: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; `_` in a header's name stands for `-`. A body that is not bytes is sent as JSON."""
        self._request(method, path, body, headers)
        answer = self._connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        """`call` with POST."""
        return self.call("POST", path, body, **headers)

    def send(self, path: str, body: Any, **headers: str) -> None:
        """A POST whose answer nobody waits for."""
        self._request("POST", path, body, headers)

    def _request(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> None:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            fields.setdefault("Content-Type", "application/json")
        self._connection.request(method, path, body, fields)

    def hang_up(self) -> None:
        """Closes the connection, whatever is outstanding."""
        self._connection.close()


class Background:
    """One request on a connection and a thread of its own; `answer` waits for what came of it."""

    def __init__(self, server: Server, path: str, body: Any, **headers: str) -> None:
        self._outcome: Answer | Exception | None = None
        self._thread = Thread(target=self._run, args=(server, path, body, headers))
        self._thread.start()

    def _run(self, server: Server, path: str, body: Any, headers: dict[str, str]) -> None:
        try:
            with Caller(server) as caller:
                self._outcome = caller.post(path, body, **headers)
        except Exception as error:
            self._outcome = error

    @property
    def done(self) -> bool:
        """Whether it has an answer or has failed."""
        return not self._thread.is_alive()

    def outcome(self) -> Answer | Exception:
        """The answer, or why there is none."""
        self._thread.join()
        assert self._outcome is not None
        return self._outcome

    def answer(self) -> Answer:
        """The answer. Raises what went wrong."""
        outcome = self.outcome()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def post(server: Server, path: str, body: Any, **headers: str) -> Answer:
    """One POST on a connection of its own."""
    with Caller(server) as caller:
        return caller.post(path, body, **headers)


def get(server: Server, path: str) -> Answer:
    """One GET on a connection of its own."""
    with Caller(server) as caller:
        return caller.call("GET", path)


def worker_pids(server: Server) -> set[int]:
    """The processes that serve a model now."""
    return {summary["pid"] for summary in get(server, "/debug/models").json if "pid" in summary}


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels; 0 where there is none."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = [
        line for line in lines if line.split("{")[0].split(" ")[0] == name and all(each in line for each in wanted)
    ]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def runtime_of(server: Server, attempts: int = 1) -> Any:
    """boto3's client for the server, which tries each call so many times."""
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(retries={"mode": "standard", "total_max_attempts": attempts}),
    )
