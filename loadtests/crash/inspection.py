"""The look at everything after a kill: what the store says, what the workers serve, what lies on disk, and the ledger."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from loadtests.bench import servers
from loadtests.control.calls import BUSY, Raw, Refused
from loadtests.crash import marked
from loadtests.crash.instance import Instance
from loadtests.crash.ledger import Fact, Kind, Ledger, Resource, State
from loadtests.crash.traffic import JSON, arn_of

SETTLES_S = 10.0
REMOVED_S = 10.0
POLL_S = 0.01
ARTIFACTS, FACTS = "artifacts", "artifact.json"
"""How the server keeps model data: a folder for each, with its facts beside it."""

LISTS: tuple[tuple[Kind, str, str, str], ...] = (
    ("endpoint", "ListEndpoints", "Endpoints", "EndpointName"),
    ("endpoint-config", "ListEndpointConfigs", "EndpointConfigs", "EndpointConfigName"),
    ("model", "ListModels", "Models", "ModelName"),
)


class Inspection:
    """One look. What must not be is a violation in the ledger; what was in doubt is decided by what is seen."""

    def __init__(self, instance: Instance, ledger: Ledger, raw: Raw) -> None:
        self._instance = instance
        self._ledger = ledger
        self._raw = raw
        self.last_on_its_way: list[str] = []
        """What came to rest last, with its status."""

    def run(self) -> float:
        """Looks at everything; gives the seconds until nothing was on its way any more."""
        settled_s = self._settle()
        for kind, operation, members, name in LISTS:
            self._listed(kind, {found[name]: found for found in self._pages(operation, members)})
        for endpoint in self._ledger.of("endpoint"):
            self._endpoint(endpoint)
        for config in self._ledger.of("endpoint-config"):
            self._described(config, "DescribeEndpointConfig", "EndpointConfigName", _model_of_config)
        for model in self._ledger.of("model"):
            self._described(model, "DescribeModel", "ModelName", _url_of_model)
        for resource in (one for kind, *_ in LISTS for one in self._ledger.of(kind)):
            self._tags(resource)
        self._workers()
        self._disk()
        return settled_s

    # ------------------------------------------------------------------ the store

    def _settle(self) -> float:
        began = time.monotonic()
        while busy := [
            f"{found['EndpointName']} {found['EndpointStatus']}"
            for found in self._pages("ListEndpoints", "Endpoints")
            if found["EndpointStatus"] in BUSY
        ]:
            if time.monotonic() - began > SETTLES_S:
                self._ledger.violation(f"after {SETTLES_S:g} s still: {', '.join(busy)}")
                break
            self.last_on_its_way = busy
            time.sleep(POLL_S)
        return time.monotonic() - began

    def _pages(self, operation: str, members: str) -> list[Any]:
        found: list[Any] = []
        token: dict[str, str] = {}
        while True:
            page = self._raw.call(operation, MaxResults=100, **token)
            found += page[members]
            if "NextToken" not in page:
                return found
            token = {"NextToken": page["NextToken"]}

    def _listed(self, kind: Kind, there: dict[str, Any]) -> None:
        for resource in self._ledger.of(kind):
            if resource.name in there:
                self._ledger.seen(resource, lambda state: state is not None, "is listed")
            elif not self._ledger.seen(resource, lambda state: state is None, "is not listed"):
                self._ledger.gone(resource)
        known = {resource.name for resource in self._ledger.of(kind)}
        for name in there.keys() - known:
            self._ledger.violation(f"{kind} {name} is listed, but nobody made it")

    def _described(self, resource: Resource, operation: str, key: str, names: Any) -> None:
        try:
            found = names(self._raw.call(operation, **{key: resource.name}))
        except Refused as error:
            self._ledger.seen(resource, lambda state: state is None, f"is not described ({error.message})")
            return
        self._ledger.seen(resource, lambda state: _fits(state, lambda fact: fact.names == found), f"names {found}")

    def _tags(self, resource: Resource) -> None:
        if resource.absent:
            return
        found = self._raw.call("ListTags", ResourceArn=arn_of(resource))["Tags"]
        tags = frozenset((tag["Key"], tag["Value"]) for tag in found)
        self._ledger.seen(
            resource, lambda state: _fits(state, lambda fact: fact.tags == tags), f"has the tags {sorted(tags)}"
        )

    def _endpoint(self, endpoint: Resource) -> None:
        try:
            found = self._raw.call("DescribeEndpoint", EndpointName=endpoint.name)
        except Refused as error:
            self._ledger.seen(endpoint, lambda state: state is None, f"is not described ({error.message})")
            self._ledger.settled(endpoint, in_service=False)
            self._no_answer(endpoint)
            return
        status, config = found["EndpointStatus"], found["EndpointConfigName"]
        why = found.get("FailureReason", "")
        self._ledger.seen(
            endpoint, lambda state: _fits(state, lambda fact: fact.names == config), f"is {status} on {config} {why}"
        )
        # A config's name may have been given twice, with another model: the answer tells which it was.
        served = status == "InService"
        known = f"is {status} on {config} {why}"
        self._ledger.seen(endpoint, lambda state: _fits(state, lambda fact: (fact.number is not None) == served), known)
        if not served and not why:
            self._ledger.violation(f"{endpoint.name} is {status} without a FailureReason")
        if served:
            self._answer(endpoint)
        self._ledger.settled(endpoint, in_service=served)

    # ------------------------------------------------------------------ the workers

    def _ask(self, endpoint: Resource) -> tuple[int, bytes]:
        return servers.post(self._instance.port, f"/endpoints/{endpoint.name}/invocations", JSON, marked.BODY)

    def _answer(self, endpoint: Resource) -> None:
        try:
            status, body = self._ask(endpoint)
            number = marked.read(body) if status == 200 else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._ledger.violation(f"{endpoint.name} is InService, but does not answer: {error!r}")
            return
        if number is None:
            self._ledger.violation(f"{endpoint.name} is InService, but answers {status}: {body[:300]!r}")
            return
        self._ledger.seen(
            endpoint, lambda state: _fits(state, lambda fact: fact.number == number), f"is answered by model {number}"
        )

    def _no_answer(self, endpoint: Resource) -> None:
        try:
            status, _ = self._ask(endpoint)
        except (OSError, http.client.HTTPException) as error:
            self._ledger.violation(f"{endpoint.name} is not there, and asking it failed otherwise: {error!r}")
            return
        if status < 400:
            self._ledger.violation(f"{endpoint.name} is not there, but it is served: {status}")

    def _workers(self) -> None:
        """Every worker holds exactly what is in service."""
        wanted = {endpoint.name for endpoint in self._ledger.of("endpoint") if endpoint.in_service}
        status, body = servers.get(self._instance.port, "/debug/models")
        held: dict[int, set[str]] = {pid: set() for pid in self._instance.worker_pids()}
        for row in json.loads(body) if status == 200 else ():
            held.setdefault(row.get("pid", 0), set()).add(row["name"])
        if len(held) != self._instance.workers:
            self._ledger.violation(f"{len(held)} workers hold models, {self._instance.workers} were expected")
        for pid, names in held.items():
            if names != wanted:
                self._ledger.violation(f"worker {pid} holds {sorted(names)}, in service is {sorted(wanted)}")

    # ------------------------------------------------------------------ the disk

    def _disk(self) -> None:
        """Model data of endpoints that are gone goes, and what was half fetched."""
        facts = [state for endpoint in self._ledger.of("endpoint") for state in endpoint.possible if state is not None]
        urls = {fact.data.url for fact in facts}
        limit = time.monotonic() + REMOVED_S
        while left := left_over(self._instance.state_dir / ARTIFACTS, urls):
            if time.monotonic() > limit:
                self._ledger.violation(f"after {REMOVED_S:g} s still on disk: {', '.join(left[:10])}")
                return
            time.sleep(POLL_S)


def left_over(folder: Path, urls: Collection[str]) -> list[str]:
    """What lies in the folder of model data and is neither whole nor of one of these URLs."""
    left = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            source = json.loads((path / FACTS).read_bytes())["source"]["url"]
        except (OSError, ValueError, KeyError):
            left.append(path.name)
            continue
        if path.name.startswith(".") or source not in urls:
            left.append(f"{path.name} ({source})")
    return left


def _fits(state: State, matching: Callable[[Fact], bool]) -> bool:
    return state is not None and matching(state)


def _model_of_config(found: Any) -> str:
    return str(found["ProductionVariants"][0]["ModelName"])


def _url_of_model(found: Any) -> str:
    return str(found["PrimaryContainer"]["ModelDataUrl"])
