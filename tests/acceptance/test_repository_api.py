"""The model repository API, called by Triton's own client and by hand, in each mode of model control."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.conftest import StartServer
from tests.processes.test_reload import load as under_load
from tests.processes.test_reload import served, staged
from tests.support import server as support
from tests.support.clients import Answer, Caller, get, metric, post
from tests.support.server import Server, wait_until
from tests.support.versioned import adder, broken, overwrite, remove, replace, version

EXPLICIT = ("--model-control-mode", "explicit", "--workers", "2")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Models `m` (versions 1 and 2) and `n`, each adding the number of its version, and `bad`."""
    for name, numbers in (("m", (1, 2)), ("n", (1,))):
        for number in numbers:
            version(tmp_path / "repository" / name, number)
    (tmp_path / "repository" / "bad").mkdir()
    broken(tmp_path / "repository" / "bad", 1)
    return tmp_path / "repository"


@pytest.fixture
def server(repository: Path, start_server: StartServer) -> Server:
    started = start_server("--model-repository", repository, *EXPLICIT)
    wait_until(lambda: "ready\n" in started.output, 10, "both workers")
    return started


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as made:
        yield made


def infer(client: triton.InferenceServerClient, name: str = "m", version: str = "") -> float:
    """What the model adds."""
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))
    return float(client.infer(name, [tensor], model_version=version).as_numpy("y")[0, 0])


def rows(client: triton.InferenceServerClient) -> dict[tuple[str, str | None], str | None]:
    return {(row["name"], row.get("version")): row.get("state") for row in client.get_model_repository_index()}


def test_a_model_is_loaded_and_unloaded_by_tritons_client(
    server: Server, client: triton.InferenceServerClient, repository: Path
) -> None:
    assert "model_repository" in client.get_server_metadata()["extensions"]
    # Nothing was asked for at the start.
    assert rows(client) == {("m", None): None, ("n", None): None, ("bad", None): None}
    assert not client.is_model_ready("m")
    assert client.is_server_ready()
    client.load_model("m")
    assert client.is_model_ready("m")
    assert infer(client) == 2
    assert rows(client)["m", "2"] == "READY"
    # A change is not followed, and is there at the next load.
    replace(repository / "m" / "2" / "model.onnx", 20)
    version(repository / "m", 3)
    assert infer(client) == 2
    client.load_model("m")
    assert infer(client) == 3
    client.load_model("n")
    assert infer(client, "n") == 1
    client.unload_model("m")
    assert not client.is_model_ready("m")
    with pytest.raises(InferenceServerException, match="unknown model: 'm' is not found"):
        infer(client)
    assert rows(client) == {("m", "3"): "UNAVAILABLE", ("n", "1"): "READY", ("bad", None): None}
    assert [row["reason"] for row in client.get_model_repository_index() if row["name"] == "m"] == ["unloaded"]
    # Twice is no error, nor is what never was.
    client.unload_model("m", unload_dependents=True)
    client.unload_model("never-heard-of")
    client.load_model("m")
    assert infer(client) == 3
    assert len(staged(server)) == 2
    assert metric(server, "serving_model_loads_total", model="m", outcome="ok") == 3


def test_settings_come_with_a_load(client: triton.InferenceServerClient) -> None:
    """In our words and in Triton's; they hold until the next load."""
    client.load_model("m", config=json.dumps({"version_policy": {"all": True}}))
    assert client.get_model_metadata("m")["versions"] == ["1", "2"]
    assert [infer(client, version=each) for each in ("1", "2", "")] == [1, 2, 2]
    client.load_model(
        "m",
        config=json.dumps(
            {"backend": "onnxruntime", "max_batch_size": 8, "version_policy": {"specific": {"versions": [1]}}}
        ),
    )
    assert client.get_model_metadata("m")["versions"] == ["1"]
    client.load_model("m")
    assert client.get_model_metadata("m")["versions"] == ["2"]


def test_a_load_that_fails_changes_nothing(
    server: Server, client: triton.InferenceServerClient, repository: Path
) -> None:
    client.load_model("m")
    with under_load(server) as calls:
        calls.wait_for(2)
        broken(repository / "m", 3)
        with pytest.raises(
            InferenceServerException, match=r"load failed for model 'm': .*m/3/model\.onnx cannot be"
        ) as caught:
            client.load_model("m")
        assert caught.value.status() == "400"
        assert (rows(client)["m", "2"], rows(client)["m", "3"]) == ("READY", "UNAVAILABLE")
        overwrite(repository / "m" / "2" / "model.onnx", b"garbage")
        remove(repository / "m" / "3")
        with pytest.raises(InferenceServerException, match="load failed"):
            client.load_model("m")
        with pytest.raises(InferenceServerException, match=r"load failed.*backend is 'python'"):
            client.load_model("m", config='{"backend": "python"}')
        calls.wait_only(2)
        # What failed is loaded once it is well.
        replace(repository / "m" / "2" / "model.onnx", 22)
        client.load_model("m")
        calls.wait_only(22)
    assert calls.failed == []
    assert calls.broken_off == 0
    assert len(staged(server)) == 1


def test_loads_under_load_lose_nothing(server: Server, client: triton.InferenceServerClient, repository: Path) -> None:
    """A load has come into force everywhere when it is answered."""
    client.load_model("m")
    with under_load(server) as calls:
        for number in range(3, 8):
            version(repository / "m", number)
            client.load_model("m")
            seen = calls.seen.total()
            assert [infer_anew(server) for _ in range(6)] == [number] * 6
            calls.wait_for(number)
            assert calls.seen.total() > seen
    assert calls.failed == []
    assert calls.broken_off == 0
    assert set(calls.seen) == {2.0, 3.0, 4.0, 5.0, 6.0, 7.0}


def infer_anew(server: Server) -> float:
    """What the model adds, asked over a new connection."""
    return float(post(server, "/endpoints/m/invocations", [[0, 0, 0, 0]]).json[0][0])


def test_many_loads_and_unloads_at_once(server: Server) -> None:
    """Every one is answered, and the end is as the last one said."""

    def call(number: int) -> int:
        with Caller(server) as caller:
            name = "mn"[number % 2]
            status = caller.post(f"/v2/repository/models/{name}/load", b"").status
            caller.post("/v2/repository/index", b"")
            return status + caller.post(f"/v2/repository/models/{name}/unload", b"").status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(call, range(16))) == {400}
    assert get(server, "/debug/models").json == []
    assert post(server, "/v2/repository/models/m/load", {}).status == 200
    assert len({row["pid"] for row in served(server)}) == 2


def test_a_worker_that_is_killed_in_a_load(server: Server, repository: Path) -> None:
    assert post(server, "/v2/repository/models/m/load", b"").status == 200
    version(repository / "m", 3)
    victim = max(row["pid"] for row in served(server))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(post, server, "/v2/repository/models/m/load", b"")
        wait_until(lambda: "version 3 loaded" in server.output, 10, "a load")
        os.kill(victim, signal.SIGKILL)
        try:
            assert call.result().status == 200
        except OSError:
            # It was the one that was asked.
            assert post(server, "/v2/repository/models/m/load", b"").status == 200
    wait_until(lambda: len({row["pid"] for row in served(server)}) == 2, 10, "both workers")
    assert {row["version"] for row in served(server)} == {"3"}


def test_models_named_at_the_start_are_loaded(repository: Path, tmp_path: Path, start_server: StartServer) -> None:
    """Those of `--load-model`, and those that are given by path."""
    file = adder(tmp_path / "given.onnx", 5)
    server = start_server("--model-repository", repository, "--model", file, "--load-model", "n", *EXPLICIT[:2])
    ready = [row["name"] for row in post(server, "/v2/repository/index", {"ready": True}).json]
    assert ready == ["given", "n"]
    assert post(server, "/v2/repository/models/given/unload", b"").status == 200
    assert post(server, "/invocations", [[0, 0, 0, 0]]).json == [[1, 1, 1, 1]]
    assert post(server, "/v2/repository/models/given/load", b"").status == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--load-model", "m"], "load_model is set, but model_control_mode is none"),
        (["--model-control-mode", "poll", "--load-model", "m"], "model_control_mode is poll"),
        ([*EXPLICIT, "--load-model", "*", "--load-model", "m"], "* alone loads all models"),
        ([*EXPLICIT, "--load-model", "gone"], "--load-model gone is not among the models: bad, m, n"),
        ([*EXPLICIT, "--load-model", "bad"], "bad/1/model.onnx cannot be loaded"),
        ([*EXPLICIT, "--load-model", "*"], "bad/1/model.onnx cannot be loaded"),
        ([*EXPLICIT, "--default-model", "gone"], "--default-model gone is not among the models served"),
        (["--model-control-mode", "never"], "never"),
        (["--model-control-mode", "poll", "--repository-poll-s", "0"], "repository-poll-s"),
        ([], "bad/1/model.onnx cannot be loaded"),
    ],
)
def test_a_start_that_cannot_be_honoured(repository: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    server = support.start("--model-repository", repository, *arguments, state_dir=tmp_path / "state")
    try:
        assert server.process.wait(20) in (1, 2)
        assert words in server.output
    finally:
        server.end()


# ---------------------------------------------------------------------- what is refused


def call(server: Server, path: str, body: Any) -> Answer:
    return post(server, f"/v2/repository/{path}", body)


def config(text: str) -> dict[str, Any]:
    return {"parameters": {"config": text}}


LOAD = "models/m/load"
REFUSED: list[tuple[str, Any, int, str]] = [
    ("models/absent/load", b"", 400, "failed to load 'absent', failed to poll from model repository"),
    ("models/bad/load", b"", 400, "load failed for model 'bad': "),
    ("models/../load", b"", 400, "'..' cannot be the name of a model"),
    ("models/..%2fm/load", b"", 404, "there is no POST"),
    ("models/%2e%2e/load", b"", 400, "cannot be the name of a model"),
    ("models/m%00/load", b"", 400, "cannot be the name of a model"),
    ("models/%6d%20/load", b"", 400, "cannot be the name of a model"),
    ("models/" + "n" * 64 + "/load", b"", 400, "cannot be the name of a model"),
    ("models/-m/unload", b"", 400, "cannot be the name of a model"),
    ("models//load", b"", 404, "there is no POST"),
    ("models/m/reload", b"", 404, "there is no POST"),
    ("models/m/versions/1/load", b"", 404, "there is no POST"),
    ("models/m", b"", 404, "there is no POST"),
    (LOAD, b"{", 400, "failed to parse the request JSON buffer"),
    (LOAD, b"[]", 400, "Expected object, got array"),
    (LOAD, b"\xff\xfe", 400, "failed to parse the request JSON buffer"),
    (LOAD, b"[" * 50_000, 400, "failed to parse the request JSON buffer"),
    (LOAD, {"parameters": []}, 400, "Expected object, got array"),
    (LOAD, {"config": "{}"}, 400, "unknown field config"),
    (LOAD, {"parameters": {"confg": "{}"}}, 400, "there is no load parameter 'confg'"),
    (LOAD, {"parameters": {"config": {}}}, 400, "the parameter config is not a string"),
    (LOAD, {"parameters": {"config": None}}, 400, "the parameter config is not a string"),
    (LOAD, {"parameters": {"file:1/model.onnx": "AAAA"}}, 501, "put it in the repository"),
    (LOAD, config("{"), 400, "config is not JSON"),
    (LOAD, config("[]"), 400, "config is not a JSON object"),
    (LOAD, config('{"name": "n"}'), 400, "the config override is for 'n', not for 'm'"),
    (LOAD, config('{"name": "../m"}'), 400, "cannot be a model's name"),
    (LOAD, config('{"slots": 0}'), 400, "Expected int >= 1"),
    (LOAD, config('{"trust": {"allow_pickle": true}}'), 400, "trust is the operator's to say"),
    (LOAD, config('{"slots": 1025}'), 400, "Expected int <= 1024"),
    (LOAD, config('{"batching": {"priority_levels": 100000000}}'), 400, "Expected int <= 1024"),
    (LOAD, config('{"instance_group": [{"count": 2000000000}]}'), 400, "Expected int <= 1024"),
    (
        LOAD,
        config('{"batching": {"max_batch_size": 99999999999999999999}}'),
        400,
        "hold a number or a text that is none",
    ),
    (LOAD, config('{"container": "caffe"}'), 400, "there is no container kind 'caffe'"),
    (LOAD, config('{"version_policy": {"specific": [9]}}'), 400, "version_policy names 9; there is only 2, 1"),
    (LOAD, config('{"version_policy": {"specific": [-1]}}'), 400, "Expected int >= 1"),
    (LOAD, config('{"backend": "python"}'), 400, "backend is 'python'"),
    (LOAD, config('{"input": [{"name": "x", "dims": [9]}], "max_batch_size": 2}'), 400, "load failed for model 'm'"),
    (LOAD, config('{"default_model_filename": "../../n/1/model.onnx"}'), 400, "a plain file name is needed"),
    (LOAD, config('{"default_model_filename": ".."}'), 400, "a plain file name is needed"),
    (LOAD, config('{"default_model_filename": "other.onnx"}'), 400, "holds no model"),
    (LOAD, b" " * (1024 * 1024 + 1), 413, "at most 1048576 were expected"),
    ("models/m/unload", {"parameters": {"unload_dependents": 3}}, 400, "Expected bool, got int"),
    ("models/m/unload", {"parameters": {"now": True}}, 400, "unknown field now"),
    ("index", {"ready": "yes"}, 400, "Expected bool, got str"),
    ("index", b"nonsense", 400, "failed to parse the request JSON buffer"),
    ("index", {"name": "m"}, 400, "unknown field name"),
]


def test_what_is_refused(server: Server) -> None:
    """Each with its status and its reason, and nobody who calls the model meanwhile notices."""
    assert call(server, LOAD, b"").status == 200
    with under_load(server) as calls:
        for path, body, status, words in REFUSED:
            answer = call(server, path, body)
            assert (answer.status, words in answer.json["error"]) == (status, True), (path, body[:80], answer)
        calls.wait_for(2)
    assert calls.failed == []
    assert calls.broken_off == 0
    assert set(calls.seen) == {2.0}
    for method, path in (("GET", "index"), ("GET", LOAD), ("PUT", LOAD), ("DELETE", "models/m/unload")):
        with Caller(server) as caller:
            answer = caller.call(method, f"/v2/repository/{path}")
        assert (answer.status, f"answers POST, not {method}" in answer.json["error"]) == (405, True)
    with Caller(server) as caller:
        assert caller.post(f"/v2/repository/{LOAD}", b"", Origin="http://evil.example").status == 403
    assert "Traceback" not in server.output


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_only_the_explicit_mode_takes_orders(repository: Path, start_server: StartServer, mode: str) -> None:
    remove(repository / "bad")
    server = start_server("--model-repository", repository, "--model-control-mode", mode)
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as client:
        assert rows(client) == {("m", "2"): "READY", ("n", "1"): "READY"}
        for order in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed") as caught:
                order("m")
            assert caught.value.status() == "503"
        assert infer(client) == 2
