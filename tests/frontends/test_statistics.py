"""The statistics extension over REST: what Triton's clients read of the requests of all workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import orjson
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from serving.contract import ModelConfig
from serving.processes.channel import Collected, Wire
from serving.processes.supervisor import Supervisor
from serving.runtime.wiring import EndpointWiring
from tests.conftest import StartServer
from tests.support import many
from tests.support import onnx_models as models
from tests.support import server as support
from tests.support.clients import Answer, get, post, worker_pids
from tests.support.server import Server, wait_until
from tests.support.versioned import version

REPLACED_WITHIN_S = 15.0
DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`echo` and `cached`, the same with its answers kept, `table`, which fails outside its ten rows, and `m` 1 and 2."""
    root = tmp_path_factory.mktemp("models")
    for name in ("echo", "cached"):
        models.echo(root / name / "model.onnx", "FP32", ("N", 4))
    (root / "cached" / "model.yaml").write_text("response_cache: true\n")
    models.table(root / "table" / "model.onnx")
    for number in (1, 2):
        version(root / "m", number)
    (root / "m" / "model.yaml").write_text("version_policy: {latest: 2}\n")
    return root


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers that serve it."""
    state_dir = tmp_path_factory.mktemp("statistics") / "state"
    arguments = ("--model-repository", repository, "--workers", "2", "--response-cache-bytes", "1000000")
    with support.running(*arguments, state_dir=state_dir) as running:
        wait_until(lambda: "ready\n" in running.output, 10, "both workers")
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as made:
        yield made


def ask(server: Server, path: str, rows: int = 1, value: float = 1.0) -> Answer:
    """One request over a connection of its own, so that each worker has some."""
    tensor = {"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": [value] * 4 * rows}
    return post(server, f"/v2/models/{path}/infer", {"inputs": [tensor]})


def stats(server: Server, path: str) -> dict[str, Any]:
    """The only row of a path."""
    answer = get(server, f"/v2/models/{path}/stats")
    assert answer.status == 200, answer
    (row,) = answer.json["model_stats"]
    assert ParseDict(row, service_pb2.ModelStatistics()).name == row["name"]
    assert set(row["inference_stats"]) == set(DURATIONS)
    return dict(row)


def test_what_all_workers_answered_is_counted(server: Server) -> None:
    before = stats(server, "echo")
    began = time.time() * 1e3
    for number in range(20):
        assert ask(server, "echo", rows=1 + number % 3).status == 200
    row = stats(server, "echo")
    assert (row["name"], row["version"], row["response_stats"]) == ("echo", "1", {})
    assert began - 1000 <= row["last_inference"] <= time.time() * 1e3 + 1000
    assert row["inference_count"] - before["inference_count"] == sum(1 + number % 3 for number in range(20))
    assert row["execution_count"] - before["execution_count"] == 20
    timed = row["inference_stats"]
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert timed[name]["count"] - before["inference_stats"][name]["count"] == 20, name
        assert timed[name]["ns"] > before["inference_stats"][name]["ns"], name
    parts = sum(timed[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert parts == pytest.approx(timed["success"]["ns"], rel=1e-6)
    batches = {batch["batch_size"]: batch["compute_infer"] for batch in row["batch_stats"]}
    assert set(batches) == {1, 2, 3}
    assert sum(size * batch["count"] for size, batch in batches.items()) == row["inference_count"]
    assert sum(batch["count"] for batch in batches.values()) == row["execution_count"]
    assert all(batch["ns"] > 0 for batch in batches.values())
    assert [(usage["type"], usage["id"]) for usage in row["memory_usage"]] in ([], [("CPU", 0)])


def test_failures_are_no_inferences(server: Server) -> None:
    before = stats(server, "table")
    index = {"name": "index", "shape": [1, 1], "datatype": "INT64", "data": [3]}
    for data, status in (([3], 200), ([10], 500), (["x"], 400)):
        assert post(server, "/v2/models/table/infer", {"inputs": [{**index, "data": data}]}).status == status
    row = stats(server, "table")
    found, known = row["inference_stats"], before["inference_stats"]
    assert found["success"]["count"] == known["success"]["count"] + 1
    assert found["fail"]["count"] == known["fail"]["count"] + 2
    assert found["fail"]["ns"] > known["fail"]["ns"]
    assert row["inference_count"] == before["inference_count"] + 1
    assert row["execution_count"] == before["execution_count"] + 1
    assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in row["batch_stats"]] == [
        (1, row["execution_count"])
    ]


def test_answers_from_the_cache(server: Server) -> None:
    for _ in range(12):
        assert ask(server, "cached", value=7.0).status == 200
    row = stats(server, "cached")
    timed = row["inference_stats"]
    assert timed["success"]["count"] == 12
    assert timed["cache_hit"]["count"] + timed["cache_miss"]["count"] == 12
    # Each worker has a cache of its own.
    assert 1 <= timed["cache_miss"]["count"] <= 2
    assert row["inference_count"] == row["execution_count"] == timed["cache_miss"]["count"]
    assert timed["compute_infer"]["count"] == timed["cache_miss"]["count"]


def test_each_version_by_itself(server: Server, client: triton.InferenceServerClient) -> None:
    for path, times in (("m/versions/1", 2), ("m/versions/2", 3), ("m", 1)):
        for _ in range(times):
            assert ask(server, path).status == 200
    found = client.get_inference_statistics("m")["model_stats"]
    assert {row["version"]: row["inference_stats"]["success"]["count"] for row in found} == {"1": 2, "2": 4}
    (only,) = client.get_inference_statistics("m", "1")["model_stats"]
    assert (only["version"], only["inference_count"]) == ("1", 2)
    with pytest.raises(InferenceServerException, match="unknown model: 'm' version 3 is not found; it serves version"):
        client.get_inference_statistics("m", "3")


def test_all_models_at_once(server: Server, client: triton.InferenceServerClient) -> None:
    every = client.get_inference_statistics()
    names = sorted((row["name"], row["version"]) for row in every["model_stats"])
    assert names == [("cached", "1"), ("echo", "1"), ("m", "1"), ("m", "2"), ("table", "1")]
    ParseDict(every, service_pb2.ModelStatisticsResponse())

    async def ask_too() -> Any:
        async with triton_aio.InferenceServerClient(f"{server.host}:{server.port}") as made:
            return await made.get_inference_statistics()

    assert [row["name"] for row in asyncio.run(ask_too())["model_stats"]] == [
        row["name"] for row in every["model_stats"]
    ]


def test_the_configuration(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("m", "2")
    assert config["name"] == "m"
    assert [each["name"] for each in config["input"]] == ["x"]
    with pytest.raises(InferenceServerException, match="unknown model: 'none' is not found"):
        client.get_model_config("none")


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v2/models/none/stats", 404, "unknown model: 'none' is not found"),
        ("GET", "/v2/models/echo:a/stats", 404, "unknown model: 'echo:a' is not found"),
        ("GET", "/v2/models/-/stats", 400, "cannot be the name of a model"),
        ("GET", "/v2/models/echo/versions/-/stats", 400, "cannot be the name of a model"),
        ("POST", "/v2/models/echo/stats", 405, "answers GET, not POST"),
        ("POST", "/v2/models/stats", 405, "answers GET, not POST"),
        ("POST", "/v2/models/echo/config", 405, "answers GET, not POST"),
    ],
)
def test_what_cannot_be_told(server: Server, method: str, path: str, status: int, words: str) -> None:
    answer = post(server, path, {}) if method == "POST" else get(server, path)
    assert answer.status == status
    assert words in answer.json["error"]


def test_targets_of_a_multi_model_endpoint(tmp_path: Path, start_server: StartServer) -> None:
    (tmp_path / "models").mkdir()
    many.graph(tmp_path / "models", 2.0)
    env = {"SERVING_MULTI_MODEL": "true", "SERVING_ALLOW_PATHS": str(tmp_path)}
    server = start_server(env=env)
    assert get(server, "/v2/models/stats").json == {"model_stats": []}
    assert post(server, "/models", {"model_name": "a/b", "url": str(tmp_path / "models")}).status == 200
    for _ in range(3):
        assert ask(server, "multi-model:a%2Fb", rows=2).status == 200
    for path in ("multi-model:a%2Fb", "multi-model:a/b", "multi-model", "multi-model:a%2Fb/versions/1"):
        row = stats(server, path)
        assert (row["name"], row["inference_count"], row["execution_count"]) == ("multi-model:a/b", 6, 3)
        timed = row["inference_stats"]
        assert timed["success"]["count"] == timed["queue"]["count"] == timed["compute_infer"]["count"] == 3
        assert timed["success"]["ns"] >= timed["compute_infer"]["ns"] > 0
        assert row["batch_stats"][0]["batch_size"] == 2
        assert row["memory_usage"][0]["byte_size"] > 0
    # A request that runs in pieces is one.
    assert ask(server, "multi-model:a%2Fb", rows=4000).status == 200
    row = stats(server, "multi-model")
    assert (row["inference_count"], row["inference_stats"]["success"]["count"]) == (4006, 4)
    assert row["inference_stats"]["compute_infer"]["count"] == 4 < row["execution_count"]
    answer = get(server, "/v2/models/multi-model:c/stats")
    assert (answer.status, answer.json["error"]) == (
        404,
        "Request for unknown model: 'multi-model:c' is not found; targets are counted while they are in memory",
    )


def test_a_version_that_comes_back_counts_on(tmp_path: Path, start_server: StartServer) -> None:
    version(tmp_path / "m", 1)
    server = start_server("--model-repository", tmp_path, "--model-control-mode", "explicit", "--load-model", "m")
    wait_until(lambda: "ready\n" in server.output, 10, "the worker")
    version(tmp_path / "m", 2)
    counts = []
    for served in (1, 2, 1):
        config = {"version_policy": {"specific": {"versions": [served]}}}
        load = {"parameters": {"config": json.dumps(config)}}
        assert post(server, "/v2/repository/models/m/load", load).status == 200
        for _ in range(3):
            assert ask(server, "m").status == 200
        row = stats(server, "m")
        counts.append((row["version"], row["inference_stats"]["success"]["count"], row["inference_count"]))
    assert counts == [("1", 3, 3), ("2", 3, 3), ("1", 6, 6)]


def test_a_worker_that_ends_takes_nothing_with_it(repository: Path, start_server: StartServer) -> None:
    server = start_server("--model", f"echo={repository / 'echo'}", "--workers", "2")
    wait_until(lambda: "ready\n" in server.output, 10, "both workers")
    for _ in range(20):
        assert ask(server, "echo").status == 200
    assert stats(server, "echo")["inference_count"] == 20
    killed = worker_pids(server)
    os.kill(next(iter(killed)), signal.SIGKILL)
    wait_until(
        lambda: len(worker_pids(server) - killed) == 1 and len(worker_pids(server)) == 2, REPLACED_WITHIN_S, "a worker"
    )
    assert stats(server, "echo")["inference_count"] == 20
    assert ask(server, "echo").status == 200
    row = stats(server, "echo")
    assert row["inference_stats"]["success"]["count"] == row["inference_count"] == 21


def test_a_worker_that_is_silent_or_gone_counts_once() -> None:
    """Of three workers one answers, one does not, and one ends once it has answered."""

    def row(count: int) -> dict[str, Any]:
        return {"name": "m", "version": "1", "inference_count": count}

    supervisor = object.__new__(Supervisor)
    workers = {number: Mock(counts={("m", "1"): row(number)}) for number in (1, 2, 3)}
    wiring = EndpointWiring("m", "AllTraffic", "onnx", "m", ModelConfig(name="m", version="1"))

    async def collect(worker: Any, what: str, name: str | None) -> Collected | None:
        if worker is workers[2]:
            del supervisor._workers[3]
            supervisor._retired_counts[("m", "1")] = row(30)
            return None
        return Collected(0, [], orjson.dumps([row(worker.counts["m", "1"]["inference_count"] * 10)]))

    vars(supervisor).update(
        _workers=dict(workers), _retired_counts={}, _wire=Wire(1, (wiring,), None), _collect=collect
    )
    for name in (None, "m"):
        supervisor._workers[3] = workers[3]
        told = asyncio.run(supervisor._counts(name))
        assert [each["inference_count"] for each in told] == [10, 2, 30]
    assert supervisor._current({("m", "1"): row(1), ("gone", "1"): row(1)}) == {("m", "1"): row(1)}
