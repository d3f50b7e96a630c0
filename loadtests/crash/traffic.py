"""Callers of the control API, each with resources of its own, and callers of the endpoints, who know what may answer.

A call that got no answer may still be carried out later: its resource is left alone until everything was looked at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from loadtests.control import calls
from loadtests.control.archives import IMAGE
from loadtests.control.calls import BUSY
from loadtests.crash import marked
from loadtests.crash.ledger import Change, Fact, Ledger, Resource, Tags, create, delete, update
from loadtests.crash.marked import Marked

ENDPOINTS, CONFIGS, MODELS = 3, 4, 3
"""Names of each kind that one caller has."""
CALL_S = 15.0
IDLE_S = 20.0
KEYS = ("team", "stage", "owner")
JSON = {"Content-Type": "application/json"}


class Gate:
    """Lets the threads of a run go on, or keeps them between two calls."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._open = False
        self._ended = False
        self._busy = 0

    def enter(self) -> bool:
        """Waits until the gate is open; False once the run has ended."""
        with self._state:
            self._state.wait_for(lambda: self._open or self._ended)
            if self._ended:
                return False
            self._busy += 1
            return True

    def leave(self) -> None:
        """The call is over."""
        with self._state:
            self._busy -= 1
            self._state.notify_all()

    def open(self) -> None:
        """Lets all go on."""
        with self._state:
            self._open = True
            self._state.notify_all()

    def close(self, within_s: float = IDLE_S) -> None:
        """Keeps all, and waits for the calls under way. Raises TimeoutError."""
        with self._state:
            self._open = False
            if not self._state.wait_for(lambda: self._busy == 0, within_s):
                raise TimeoutError(f"{self._busy} calls were not over after {within_s:g} s")

    def end(self) -> None:
        """Lets the threads end."""
        with self._state:
            self._ended = True
            self._state.notify_all()


class Watch:
    """Tells when a call of an operation is sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._operation = ""
        self._seen = threading.Event()

    def arm(self, operation: str) -> threading.Event:
        """What is set by the next call of that operation; of any where it is ""."""
        with self._lock:
            self._operation, self._seen = operation, threading.Event()
            return self._seen

    def sent(self, operation: str) -> None:
        """A call is being sent."""
        with self._lock:
            if self._operation in ("", operation):
                self._seen.set()


class Caller:
    """One caller of the control API: makes, changes and removes what is its own, in an order drawn from its seed."""

    def __init__(
        self, number: int, client: Any, ledger: Ledger, watch: Watch, data: Sequence[Marked], seed: int
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._watch = watch
        self._data = data
        self._choose = random.Random(seed)
        self._models = [ledger.resource("model", f"m-{number}-{n}") for n in range(MODELS)]
        self._configs = [ledger.resource("endpoint-config", f"c-{number}-{n}") for n in range(CONFIGS)]
        self._endpoints = [ledger.resource("endpoint", f"e-{number}-{n}") for n in range(ENDPOINTS)]

    def step(self) -> None:
        """One call, or a few that belong together."""
        do = self._choose.choices((self._endpoint, self._config, self._model), (6, 3, 2))[0]
        do()

    # ------------------------------------------------------------------ what is done

    def _model(self) -> None:
        model = self._choose.choice(self._models)
        if not model.certain:
            return
        if model.fact is None:
            data = self._choose.choice(self._data)
            fact = Fact(data.url, data, self._tags())
            made = {**calls.model(model.name, IMAGE, data.url), "Tags": _listed(fact.tags)}
            self._do(model, create("CreateModel", fact), self._client.create_model, **made)
        elif self._choose.random() < 0.5:
            self._do(model, delete("DeleteModel"), self._client.delete_model, ModelName=model.name)
        else:
            self._tag(model)

    def _config(self) -> None:
        config = self._choose.choice(self._configs)
        if not config.certain:
            return
        if config.fact is None:
            there = [model for model in self._models if model.fact is not None]
            if not there:
                self._model()
                return
            model = self._choose.choice(there)
            assert model.fact is not None
            fact = Fact(model.name, model.fact.data, self._tags())
            made = {**calls.config(config.name, model.name), "Tags": _listed(fact.tags)}
            self._do(config, create("CreateEndpointConfig", fact), self._client.create_endpoint_config, **made)
        elif self._choose.random() < 0.5:
            gone = delete("DeleteEndpointConfig")
            self._do(config, gone, self._client.delete_endpoint_config, EndpointConfigName=config.name)
        else:
            self._tag(config)

    def _endpoint(self) -> None:
        endpoint = self._choose.choice(self._endpoints)
        if not endpoint.certain:
            return
        if endpoint.settling and self._choose.random() < 0.8:
            self.look(endpoint)
        elif endpoint.fact is None:
            self._create(endpoint)
        else:
            do = self._choose.choices((self._update, self._delete, self._tag, self.look), (5, 2, 1, 1))[0]
            do(endpoint)

    def _create(self, endpoint: Resource) -> None:
        config, data = self._some_config()
        if config is None or data is None:
            return
        fact = Fact(config.name, data, self._tags())
        made = {"EndpointName": endpoint.name, "EndpointConfigName": config.name, "Tags": _listed(fact.tags)}
        self._do(endpoint, create("CreateEndpoint", fact), self._client.create_endpoint, **made)

    def _update(self, endpoint: Resource) -> None:
        config, data = self._some_config()
        if config is None or data is None or endpoint.fact is None or config.name == endpoint.fact.names:
            return
        names = config.name

        def changed(fact: Fact) -> Fact:
            # Where the new cannot be served, the old goes on.
            return fact if data.number is None else dataclasses.replace(fact, names=names, data=data)

        change = update("UpdateEndpoint", changed)
        given = {"EndpointName": endpoint.name, "EndpointConfigName": config.name}
        self._do(endpoint, change, self._client.update_endpoint, **given)

    def _delete(self, endpoint: Resource) -> None:
        self._do(endpoint, delete("DeleteEndpoint"), self._client.delete_endpoint, EndpointName=endpoint.name)

    def _tag(self, resource: Resource) -> None:
        arn, key = arn_of(resource), self._choose.choice(KEYS)
        if self._choose.random() < 0.3:
            change = update("DeleteTags", lambda fact: dataclasses.replace(fact, tags=_without(fact.tags, key)))
            self._do(resource, change, self._client.delete_tags, ResourceArn=arn, TagKeys=[key])
            return
        value = str(self._choose.randrange(1000))
        change = update(
            "AddTags", lambda fact: dataclasses.replace(fact, tags=_without(fact.tags, key) | {(key, value)})
        )
        self._do(resource, change, self._client.add_tags, ResourceArn=arn, Tags=[{"Key": key, "Value": value}])

    def look(self, endpoint: Resource) -> None:
        """Describes an endpoint, and holds what it says against what was acknowledged where it is at rest."""
        self._watch.sent("DescribeEndpoint")
        try:
            found = self._client.describe_endpoint(EndpointName=endpoint.name)
        except ClientError as error:
            if "could not find" in _message(error).lower():
                self._ledger.seen(endpoint, lambda state: state is None, "could not be found")
                self._ledger.settled(endpoint, in_service=False)
            return
        except (BotoCoreError, OSError):
            return
        if "EndpointStatus" not in found and _is_cut_short(found):
            return
        status = found["EndpointStatus"]
        if status in BUSY:
            return
        name = found["EndpointConfigName"]
        self._ledger.seen(endpoint, lambda state: state is not None and state.names == name, f"is {status} on {name}")
        self._ledger.settled(endpoint, in_service=status == "InService")

    # ------------------------------------------------------------------ how it is done

    def _do(self, resource: Resource, change: Change, call: Callable[..., Any], **parameters: Any) -> None:
        before = self._ledger.begin(resource, change)
        self._watch.sent(change.operation)
        try:
            call(**parameters)
        except ClientError as error:
            status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
            # An answer that a kill cut short has a status and no error in it.
            if status >= 500 or code in ("ThrottlingException", str(status)):
                self._ledger.lost(resource, change)
            else:
                self._ledger.refused(resource, change, before, _message(error))
        except EndpointConnectionError:
            self._ledger.unsent(resource, change, before)
        except (BotoCoreError, OSError):
            self._ledger.lost(resource, change)
        else:
            self._ledger.acknowledged(resource, change, before)

    def _some_config(self) -> tuple[Resource, Marked] | tuple[None, None]:
        """A config that an endpoint can be made with, and the model data that its model names by now."""
        models = {model.name: model.fact.data for model in self._models if model.fact is not None}
        there = [config for config in self._configs if config.fact is not None and config.fact.names in models]
        if not there:
            self._config()
            return None, None
        config = self._choose.choice(there)
        assert config.fact is not None
        return config, models[config.fact.names]

    def _tags(self) -> Tags:
        keys = self._choose.sample(KEYS, self._choose.randint(0, 2))
        return frozenset((key, str(self._choose.randrange(1000))) for key in keys)


class Invoker:
    """Asks endpoints that are in service, and compares each answer with the models that may answer then."""

    def __init__(self, port: int, ledger: Ledger, seed: int) -> None:
        self._port = port
        self._ledger = ledger
        self._choose = random.Random(seed)
        self._connection: http.client.HTTPConnection | None = None
        self.seen: Counter[str] = Counter()

    def step(self) -> None:
        """One invocation."""
        endpoints = [endpoint for endpoint in self._ledger.of("endpoint") if endpoint.in_service]
        if not endpoints:
            threading.Event().wait(0.01)
            return
        endpoint = self._choose.choice(endpoints)
        before = endpoint.answers
        try:
            status, body = self._ask(endpoint.name)
        except (OSError, http.client.HTTPException):
            self.seen["connection error"] += 1
            self.close()
            return
        if status != 200:
            # One that is being deleted may be gone; any other has to answer.
            if endpoint.in_service:
                self._ledger.violation(f"{endpoint.name} is in service, but answered {status}: {body[:300]!r}")
            self.seen[f"status {status}"] += 1
            return
        try:
            number = marked.read(body)
        except ValueError as error:
            self._ledger.violation(f"{endpoint.name}: {error}")
            return
        allowed = before | endpoint.answers
        if endpoint.in_service and number not in allowed:
            self._ledger.violation(f"{endpoint.name} was answered by model {number}, not by one of {sorted(allowed)}")
            self.seen["wrong"] += 1
            return
        self.seen["right"] += 1

    def close(self) -> None:
        """Leaves the server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, name: str) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CALL_S)
        self._connection.request("POST", f"/endpoints/{name}/invocations", marked.BODY, JSON)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


@contextlib.contextmanager
def running(gate: Gate, steps: Sequence[Callable[[], None]], ledger: Ledger) -> Iterator[None]:
    """A thread for each step, which does it again and again while the gate is open."""

    def loop(step: Callable[[], None]) -> None:
        while gate.enter():
            try:
                step()
            except Exception as error:  # a thread that ends would make the run prove less than it says
                ledger.violation(f"a caller failed: {error!r}")
            finally:
                gate.leave()

    threads = [threading.Thread(target=loop, args=(step,), daemon=True) for step in steps]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        gate.end()
        for thread in threads:
            thread.join(IDLE_S)


def arn_of(resource: Resource) -> str:
    """The ARN of a resource of this run."""
    return f"arn:aws:sagemaker:{calls.REGION}:{calls.ACCOUNT}:{resource.kind}/{resource.name}"


def _listed(tags: Tags) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags)]


def _without(tags: Tags, key: str) -> Tags:
    return frozenset(tag for tag in tags if tag[0] != key)


def _is_cut_short(found: Any) -> bool:
    """Whether an answer of which nothing came had more: a kill parted its head from its body, and botocore does not look."""
    return int(found["ResponseMetadata"]["HTTPHeaders"].get("content-length", 0)) > len("{}")


def _message(error: ClientError) -> str:
    return f"{error.response['Error'].get('Code')}: {error.response['Error'].get('Message')}"
