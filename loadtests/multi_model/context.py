"""What every case of one run shares: the object store, servers with multi-model endpoints, and what they say of themselves."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from loadtests.bench.protocols import Request
from loadtests.bench.servers import Server, get, post
from loadtests.control import calls
from loadtests.control import context as control
from loadtests.control.archives import IMAGE
from loadtests.control.calls import Raw
from loadtests.control.context import in_service
from loadtests.multi_model import shelf, wide
from loadtests.multi_model.shelf import WIDE, Shelf, target

NAME: Final = "many"
"""What the multi-model endpoint is called."""

TARGET_HEADER: Final = "X-Amzn-SageMaker-Target-Model"
HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much a run does. `budget` in bytes of memory."""

    disk_hits: int = 200
    misses: int = 100
    warming: int = 10
    models: int = 5_000
    requests: int = 24_000
    warming_requests: int = 10_000
    budget: int = 1_000_000_000
    known: int = 10_000
    warming_known: int = 3_000
    cycles: int = 20_000
    callers: int = 1_000


QUICK: Final = Amounts(
    disk_hits=4,
    misses=3,
    warming=1,
    models=100,
    requests=600,
    warming_requests=200,
    budget=130_000_000,
    known=50,
    warming_known=20,
    cycles=20,
    callers=50,
)


@dataclass
class Context(control.Context):
    """One run; beside what `loadtests.control` has of it, the amounts and the store."""

    amounts: Amounts = field(default_factory=Amounts)

    @functools.cached_property
    def shelf(self) -> Shelf:
        """The store on the load core, started when first asked for; it runs until the context is closed."""
        started = shelf.running(self.server, self.folder / "multi-model" / "store", self.load_core)
        return self._stack.enter_context(started)

    @contextlib.contextmanager
    def many(self, folder: str = WIDE, *, budget: int = 0, **settings: object) -> Iterator[Server]:
        """A new server with a multi-model endpoint, whose models lie in a folder of the store; none is on its disk."""
        settings["model_cache_bytes"] = budget or self.amounts.budget
        given = {f"SERVING_{name.upper()}": str(value) for name, value in settings.items()}
        with self.server(environment=self.shelf.environment | given) as server:
            deploy(server.port, self.shelf.prefix(folder))
            yield server


def deploy(port: int, prefix: str) -> None:
    """Makes the multi-model endpoint; returns once it is InService. Raises `Refused`, `NotServed`."""
    with Raw(port) as raw:
        container = {"Image": IMAGE, "Mode": "MultiModel", "ModelDataUrl": prefix}
        raw.call("CreateModel", ModelName=NAME, PrimaryContainer=container, ExecutionRoleArn=calls.ROLE)
        raw.call("CreateEndpointConfig", **calls.config(NAME, NAME))
        raw.call("CreateEndpoint", EndpointName=NAME, EndpointConfigName=NAME)
        in_service(raw, NAME)


def request(number: int) -> bytes:
    """The question for one of the models of 1 MB, as it goes over the wire."""
    headers = {"Content-Type": wide.CONTENT_TYPE, TARGET_HEADER: target(number)}
    return Request(f"/endpoints/{NAME}/invocations", headers, wide.BODY).wire(HOST)


def is_right(number: int, status: int, body: bytes) -> bool:
    """Whether an answer is that model's."""
    try:
        return status == 200 and wide.said(body) == number
    except (ValueError, KeyError, IndexError, TypeError):
        return False


def unload(port: int, number: int) -> None:
    """Takes a target out of memory. Raises RuntimeError."""
    status, body = post(port, f"/v2/repository/models/{NAME}:{target(number)}/unload", {}, b"")
    if status != 200:
        raise RuntimeError(f"unload of {target(number)} was answered {status} {body[:300]!r}")


def debug(port: int) -> dict[str, Any]:
    """What the worker says of the multi-model endpoint. Raises RuntimeError."""
    status, body = get(port, "/debug/models", 30)
    found = [one for one in json.loads(body) if one.get("multi_model")] if status == 200 else []
    if len(found) != 1:
        raise RuntimeError(f"/debug/models was answered {status} with {len(found)} multi-model endpoints")
    summary: dict[str, Any] = found[0]
    return summary


def events(port: int, what: str) -> list[dict[str, Any]]:
    """What happened last of that kind, the newest first."""
    return [event for event in debug(port)["events"] if event["what"] == what]


def metric(port: int, name: str) -> float:
    """The sum of a metric over its labels."""
    _status, body = get(port, "/metrics", 30)
    lines = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", body.decode(), re.MULTILINE)
    return sum(map(float, lines))
