"""The multi-model container contract on real servers: models come, go, end their worker or hang, and others are served."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from serving.processes.control import MULTI_MODEL
from serving.runtime.placement import home
from tests.support import server as support
from tests.support import stubborn
from tests.support.clients import metric, worker_pids
from tests.support.server import Server, wait_until
from tests.support.stubborn import Stubborn

WITHIN_S = 20.0
ROW = [1.0, 2.0, 3.0, 4.0]


class Shelf:
    """A folder of models, and servers to which they are added."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self._folder = folder
        self._environment = stubborn.install(folder / "installed") | {"SERVING_MULTI_MODEL": "true"}

    def model(self, name: str, number: float = 1.0) -> Stubborn:
        return Stubborn(self.models / name, number)

    @contextmanager
    def running(self, *arguments: str | Path, **settings: object) -> Iterator[Server]:
        self.models.mkdir(exist_ok=True)
        environment = self._environment | {f"SERVING_{name.upper()}": str(value) for name, value in settings.items()}
        given = ("--allow-path", self.models, *arguments)
        with support.running(*given, state_dir=self._folder / "state", env=environment) as server:
            wait_until(lambda: "ready\n" in server.output, WITHIN_S, "all workers")
            yield server


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def large(model: Stubborn, bytes_: int) -> Stubborn:
    """The model with a larger file."""
    with model.file.open("ab") as file:
        file.write(b" " * bytes_)
    return model


def call(server: Server, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of an answer, over a connection of its own."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=WITHIN_S)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json", "Accept": "application/json"})
        answer = connection.getresponse()
        content_read = answer.read()
        return answer.status, json.loads(content_read) if content_read else None
    finally:
        connection.close()


def add(server: Server, name: str, model: Stubborn) -> tuple[int, Any]:
    return call(server, "POST", "/models", {"model_name": name, "url": str(model.file)})


def added(server: Server, name: str, model: Stubborn) -> tuple[int, Any]:
    """The answer of a worker that lives to give it, and not while the model is still being loaded."""
    answers: list[tuple[int, Any]] = []

    def is_settled() -> bool:
        with suppress(ConnectionError, http.client.HTTPException):
            answers.append(add(server, name, model))
        return bool(answers) and "being loaded" not in str(answers[-1])

    wait_until(is_settled, WITHIN_S, f"an end of the load of {name}")
    return answers[-1]


def invoke(server: Server, name: str) -> tuple[int, Any]:
    return call(server, "POST", f"/models/{name}/invoke", {"instances": [ROW]})


def listed(server: Server) -> list[str]:
    status, body = call(server, "GET", "/models")
    assert status == 200
    return [model["modelName"] for model in body["models"]]


def answer(number: float) -> tuple[int, Any]:
    return 200, {"predictions": [[value + number for value in ROW]]}


def test_models_come_and_go_and_outlive_the_worker(shelf: Shelf) -> None:
    a, b = shelf.model("a", 1.0), shelf.model("b", 2.0)
    with shelf.running() as server:
        assert call(server, "GET", "/ping") == (200, None)
        assert listed(server) == []
        # A platform asks, is told that it is not there, and adds it at once.
        assert invoke(server, "a")[0] == 404
        assert add(server, "a", a)[0] == 200
        assert add(server, "a", a)[0] == 409
        assert add(server, "b", b)[0] == 200
        assert listed(server) == ["a", "b"]
        assert call(server, "GET", "/models/a") == (200, {"modelName": "a", "modelUrl": str(a.file)})
        assert invoke(server, "a") == answer(1.0)
        assert invoke(server, "b") == answer(2.0)

        (before,) = worker_pids(server)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: before not in worker_pids(server), WITHIN_S, "another worker")
        assert listed(server) == ["a", "b"]
        assert invoke(server, "a") == answer(1.0)
        assert (a.loads, b.loads) == (2, 1)

        assert call(server, "DELETE", "/models/a")[0] == 200
        assert call(server, "DELETE", "/models/a")[0] == 404
        assert invoke(server, "a")[0] == 404
        assert call(server, "GET", "/models/a")[0] == 404
        assert listed(server) == ["b"]
        assert add(server, "a", a)[0] == 200
        assert invoke(server, "a") == answer(1.0)


def test_one_that_ends_its_worker_costs_it_twice_and_is_then_refused(shelf: Shelf) -> None:
    bad, good = shelf.model("bad"), shelf.model("good", 3.0)
    bad.will("kill")
    with shelf.running() as server:
        status, body = added(server, "bad", bad)
        assert status == 500
        assert "the worker process that loaded it ended" in body["message"]
        assert bad.loads == 2
        assert add(server, "bad", bad)[0] == 500
        assert bad.loads == 2
        assert metric(server, "serving_target_refused") == 1
        assert listed(server) == []
        assert add(server, "good", good)[0] == 200
        assert invoke(server, "good") == answer(3.0)
        # Another artifact under the name is another model.
        bad.will_not("kill")
        bad.file.write_text(f"4.0 {bad.file.parent} \n")
        assert add(server, "bad", bad)[0] == 200
        assert invoke(server, "bad") == answer(4.0)


def test_those_that_loaded_beside_one_that_ends_the_worker_are_loaded_again(shelf: Shelf) -> None:
    bad, good = shelf.model("bad"), shelf.model("good", 3.0)
    bad.will("hang")
    good.will("hang")
    with shelf.running() as server, ThreadPoolExecutor(2) as pool:
        adding = {name: pool.submit(added, server, name, model) for name, model in (("bad", bad), ("good", good))}
        wait_until(lambda: bad.loads == good.loads == 1, WITHIN_S, "both loads")
        bad.will("kill")
        (pid,) = worker_pids(server)
        os.kill(pid, signal.SIGKILL)
        good.will_not("hang")
        # It was loaded for a caller who has gone with the worker: to the next one it is there.
        assert adding["good"].result()[0] in (200, 409)
        assert adding["bad"].result()[0] == 500
        assert bad.loads == 2
        assert invoke(server, "good") == answer(3.0)


def test_a_load_that_does_not_end_goes_with_its_worker(shelf: Shelf) -> None:
    slow, good = shelf.model("slow"), shelf.model("good", 3.0)
    slow.will("hang")
    with shelf.running(model_load_limit_s=0.5, drain_timeout_s=0) as server:
        assert add(server, "good", good)[0] == 200
        status, body = added(server, "slow", slow)
        assert status == 500
        assert "longer than 0.5 s (model_load_limit_s)" in body["message"]
        assert slow.loads == 1
        assert invoke(server, "good") == answer(3.0)


def test_several_workers_share_names_and_memory(shelf: Shelf) -> None:
    names = [f"m{number}" for number in range(40)]
    here = [name for name in names if home((MULTI_MODEL.name, name), 2) == 0][:8]
    there = next(name for name in names if home((MULTI_MODEL.name, name), 2) == 1)
    models = {name: large(shelf.model(name, float(name[1:])), 12 << 20) for name in here}
    models[there] = shelf.model(there)
    with shelf.running("--workers", "2", model_cache_bytes=120 << 20) as server:

        def lease(worker: int) -> float:
            return metric(server, "serving_target_lease_bytes", worker=str(worker))

        assert lease(0) == lease(1) == 60 << 20
        for name in here:
            assert add(server, name, models[name])[0] == 200
            # What its caller has not loaded since may be evicted.
            call(server, "POST", f"/v2/repository/models/multi-model:{name}/unload", {})
        assert all(model.loads == (name != there) for name, model in models.items())

        def grows() -> bool:
            assert [invoke(server, name) for name in here] == [answer(float(name[1:])) for name in here]
            assert lease(0) + lease(1) <= 120 << 20
            return lease(0) > 90 << 20

        wait_until(grows, WITHIN_S, "a larger lease of the worker where all models are")
        assert add(server, there, models[there])[0] == 200
        rows = call(server, "POST", "/v2/repository/index", {"ready": True})[1]
        assert (f"multi-model:{there}", "READY") in [(row["name"], row["state"]) for row in rows]
        assert call(server, "DELETE", f"/models/{here[0]}")[0] == 200
        # Over connections to both workers, most likely.
        assert [invoke(server, here[0])[0] for _ in range(4)] == [404] * 4


def test_what_does_not_fit_is_a_507_and_nothing_else_goes_for_it(shelf: Shelf) -> None:
    small, big = shelf.model("small", 5.0), large(shelf.model("big"), 40 << 20)
    with shelf.running(model_cache_bytes=64 << 20) as server:
        assert add(server, "small", small)[0] == 200
        assert add(server, "big", big)[0] == 507
        assert listed(server) == ["small"]
        more = {f"m{number}": large(shelf.model(f"m{number}", 1.0), 10 << 20) for number in range(10)}
        full = next(name for name, model in more.items() if add(server, name, model)[0] != 200)
        assert add(server, full, more[full])[0] == 507
        assert full > "m0"
        assert invoke(server, "small") == answer(5.0)
        assert invoke(server, "m0") == answer(1.0)
        assert small.loads == more["m0"].loads == 1
        # The platform unloads what it can best do without, and tries again.
        for name in listed(server)[:2]:
            assert call(server, "DELETE", f"/models/{name}")[0] == 200
        assert add(server, full, more[full])[0] == 200
