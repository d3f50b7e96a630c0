"""The trace extension: who may set what, what is written of which requests, and that all workers keep to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from serving.contract import ModelConfig
from serving.errors import BadRequest, ServingError, UnknownName, Unsupported
from serving.frontends.trace_settings import trace_setting
from serving.processes.adjustments import MOST_OVERRIDES, Adjustments
from serving.processes.channel import Ask, Traced
from serving.runtime.tracing import TraceFile, TraceSetting
from serving.runtime.wiring import EndpointWiring, TargetsWiring
from serving.settings import Settings
from tests.support import onnx_models as models
from tests.support import server as support
from tests.support.clients import Caller, get, post, worker_pids
from tests.support.server import Server, wait_until

WRITTEN_WITHIN_S = 5.0
REPLACED_WITHIN_S = 15.0
OFF = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_mode": "triton",
}
MOMENTS = ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_END", "REQUEST_END"]


class Supervised:
    """The settings of a server of the models `a`, `b` and the multi-model endpoint `many`, asked without any process."""

    def __init__(self, state_dir: Path) -> None:
        self.served = {
            name: EndpointWiring(name, "AllTraffic", "onnx", name, ModelConfig(name=name)) for name in ("a", "b")
        }
        targets = TargetsWiring(prefix="")
        self.served["many"] = EndpointWiring("many", "AllTraffic", "", "", ModelConfig(name="many"), targets)
        self.adjustments = Adjustments(Settings(state_dir=state_dir), lambda: tuple(self.served.values()))
        self.file = state_dir / "traces.jsonl"

    async def setting(self, what: str, name: str | None, changes: bytes) -> bytes:
        return self.adjustments.carry_out(Ask(0, what, name, changes))[0]

    def trace(self, name: str = "", changes: dict[str, Any] | None = None) -> dict[str, Any]:
        found = asyncio.run(trace_setting(self, name, changes))
        settings = {key: {"value": [value] if isinstance(value, str) else value} for key, value in found.items()}
        ParseDict({"settings": settings}, service_pb2.TraceSettingResponse())
        assert found.pop("trace_file") == str(self.file)
        return found

    def traced(self, *names: str) -> bool:
        return self.adjustments.traced(Traced([(name, b'{"model_name":"%b"}' % name.encode()) for name in names]))

    @property
    def wanted(self) -> dict[str, TraceSetting]:
        """What workers are told."""
        return self.adjustments.message.traces


@pytest.fixture
def supervised(tmp_path: Path) -> Supervised:
    return Supervised(tmp_path)


# ---------------------------------------------------------------------- the settings


def test_nothing_is_traced_at_the_start(supervised: Supervised) -> None:
    assert supervised.trace() == supervised.trace("a") == supervised.trace("many:x") == OFF
    assert supervised.trace("a", {}) == OFF
    assert not any(setting.on for setting in supervised.wanted.values())


def test_a_model_follows_all_others_but_in_what_is_its_own(supervised: Supervised) -> None:
    every = {"trace_level": ["TIMESTAMPS"], "trace_rate": 5, "trace_count": "7"}
    changed = {**OFF, "trace_level": ["TIMESTAMPS"], "trace_rate": "5", "trace_count": "7"}
    assert supervised.trace("", every) == changed
    assert supervised.trace("a") == changed
    assert supervised.trace("a", {"trace_rate": ["2"]}) == {**changed, "trace_rate": "2"}
    assert supervised.trace("", {"trace_level": "OFF", "trace_rate": "9"}) == {
        **changed,
        "trace_level": ["OFF"],
        "trace_rate": "9",
    }
    assert supervised.trace("a") == {**changed, "trace_level": ["OFF"], "trace_rate": "2"}
    assert supervised.trace("b") == {**changed, "trace_level": ["OFF"], "trace_rate": "9"}
    assert supervised.trace("a", {"trace_rate": None}) == {**changed, "trace_level": ["OFF"], "trace_rate": "9"}
    assert set(supervised.wanted) == {""}


@pytest.mark.parametrize("clear", [None, []])
def test_null_brings_back_what_was_at_the_start(supervised: Supervised, clear: Any) -> None:
    supervised.trace("", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "3"})
    cleared = dict.fromkeys(("trace_level", "trace_rate", "trace_count", "trace_file", "trace_mode"), clear)
    assert supervised.trace("", cleared) == OFF


def test_only_a_count_that_is_given_starts_again(supervised: Supervised) -> None:
    supervised.trace("", {"trace_level": ["TIMESTAMPS"], "trace_count": "2"})
    supervised.trace("a", {"trace_count": "1"})
    supervised.trace("b", {"trace_rate": "1"})
    assert supervised.traced("", "", "a", "b")
    for name, left in (("", "0"), ("a", "0"), ("b", "1")):
        for changes in ({}, {"trace_rate": "7"}):
            assert supervised.trace(name, changes)["trace_count"] == left
    assert not supervised.adjustments.carry_out(Ask(0, "trace", "a", b"{}"))[1]
    assert supervised.trace("many:x", {"trace_rate": "3"})["trace_count"] == "0"
    supervised.trace("", {"trace_count": "5"})
    assert [supervised.trace(name)["trace_count"] for name in ("", "a", "b", "many:x")] == ["5", "0", "5", "5"]
    assert supervised.trace("a", {"trace_count": "1"})["trace_count"] == "1"


def test_a_multi_model_endpoint_is_traced_by_target(supervised: Supervised) -> None:
    with pytest.raises(BadRequest, match="name the one that is to be traced as 'many:MODEL'"):
        supervised.trace("many", {"trace_level": ["TIMESTAMPS"]})
    assert supervised.trace("many", {}) == OFF


def test_a_full_disk_is_told_of_once(supervised: Supervised, caplog: pytest.LogCaptureFixture) -> None:
    supervised.trace("", {"trace_level": ["TIMESTAMPS"]})
    for _ in range(2):
        supervised.file.mkdir()
        for _ in range(3):
            supervised.traced("")
        supervised.file.rmdir()
        supervised.traced("")
        supervised.file.unlink()
    assert caplog.text.count("traces cannot be written") == 2


def test_a_count_is_used_up(supervised: Supervised) -> None:
    supervised.trace("", {"trace_level": ["TIMESTAMPS"], "trace_count": "3"})
    supervised.trace("a", {"trace_count": "1"})
    assert not supervised.traced("", "")
    assert supervised.trace("b")["trace_count"] == "1"
    assert supervised.traced("a", "a")
    assert supervised.wanted["a"] == TraceSetting(timestamps=True, count=0)
    assert supervised.wanted[""].on
    assert supervised.traced("", "")
    assert supervised.wanted[""].count == 0
    assert not supervised.traced("", "gone")
    lines = [json.loads(line) for line in supervised.file.read_text().splitlines()]
    assert [line["id"] for line in lines] == [1, 2, 3, 4]
    assert [line["model_name"] for line in lines] == ["", "", "a", ""]
    assert stat.S_IMODE(supervised.file.stat().st_mode) == 0o600
    supervised.trace("", {"trace_count": "-1"})
    assert not supervised.traced(*[""] * 10)
    assert supervised.trace()["trace_count"] == "-1"


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"trace_level": ["MAX"]}, BadRequest, r"trace_level' is \['MAX'\]; OFF, TIMESTAMPS, TENSORS were expected"),
        ({"trace_level": 1}, BadRequest, "trace_level' is 1"),
        ({"trace_level": [["OFF"]]}, BadRequest, "trace_level"),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, BadRequest, "OFF goes with no other level"),
        ({"trace_level": ["TENSORS"]}, Unsupported, "TENSORS"),
        ({"trace_rate": "0"}, BadRequest, "trace_rate' is '0'; an integer from 1 to 2147483647 was expected"),
        ({"trace_rate": "1.5"}, BadRequest, "trace_rate"),
        ({"trace_rate": " 1"}, BadRequest, "trace_rate"),
        ({"trace_rate": "1_0"}, BadRequest, "trace_rate"),
        ({"trace_rate": "9" * 5000}, BadRequest, "trace_rate"),
        ({"trace_rate": 1.0}, BadRequest, "trace_rate"),
        ({"trace_rate": True}, BadRequest, "trace_rate"),
        ({"trace_rate": ["1", "2"]}, BadRequest, "trace_rate' has 2 values; one was expected"),
        ({"trace_count": "-2"}, BadRequest, "trace_count' is '-2'; an integer from -1"),
        ({"trace_count": {}}, BadRequest, "trace_count"),
        ({"log_frequency": "10"}, Unsupported, "log_frequency"),
        ({"log_frequency": "x"}, BadRequest, "log_frequency"),
        ({"trace_mode": "opentelemetry"}, Unsupported, "trace_mode"),
        ({"trace_file": "/tmp/elsewhere"}, Unsupported, "trace_file' cannot be changed"),
        ({"trace_files": "x"}, BadRequest, "there is no trace setting 'trace_files'; trace_level, trace_rate"),
        ({"": "x"}, BadRequest, "there is no trace setting ''"),
    ],
)
def test_what_is_refused_changes_nothing(
    supervised: Supervised, changes: dict[str, Any], kind: type[ServingError], words: str
) -> None:
    for name in ("", "a"):
        with pytest.raises(kind, match=words):
            supervised.trace(name, {"trace_level": ["TIMESTAMPS"], **changes})
        assert supervised.trace(name) == OFF


@pytest.mark.parametrize("name", ["none", "a:x", "none:x", "many2"])
def test_unknown_models(supervised: Supervised, name: str) -> None:
    for changes in (None, {"trace_rate": "1"}):
        with pytest.raises(UnknownName, match=f"Request for unknown model: '{name}' is not found"):
            supervised.trace(name, changes)


def test_models_with_settings_of_their_own_are_bounded(supervised: Supervised) -> None:
    for number in range(MOST_OVERRIDES):
        supervised.trace(f"many:{number}", {"trace_rate": "1"})
    with pytest.raises(BadRequest, match="models have trace settings of their own"):
        supervised.trace("a", {"trace_rate": "1"})
    supervised.trace("many:0", {"trace_rate": None})
    supervised.trace("a", {"trace_rate": "1"})
    del supervised.served["many"]
    supervised.trace("b", {"trace_rate": "2"})
    assert set(supervised.wanted) == {"", "a", "b"}


def test_the_file_is_bounded(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "traces.jsonl", most_bytes=100)
    for _ in range(20):
        file.write([b'{"model_name":"a"}'] * 2)
    kept = [json.loads(line)["id"] for name in (f"{file.path}.1", file.path) for line in Path(name).read_text().split()]
    assert kept == list(range(kept[0], 41))
    assert file.path.stat().st_size <= 100


# ---------------------------------------------------------------------- a server of two workers


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("models")
    for name in ("a", "b"):
        models.echo(root / name / "model.onnx", "FP32", ("N", 4))
    arguments = ("--model-repository", root, "--workers", "2")
    with support.running(*arguments, state_dir=tmp_path_factory.mktemp("traces") / "state") as running:
        wait_until(lambda: "ready\n" in running.output, 10, "both workers")
        yield running


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """Traces nothing, before and after."""
    yield shared
    for path in ("/v2", "/v2/models/a", "/v2/models/b"):
        clear = dict.fromkeys(("trace_level", "trace_rate", "trace_count"))
        assert post(shared, f"{path}/trace/setting", clear).json["trace_level"] == ["OFF"]
    (shared.state_dir / "traces.jsonl").unlink(missing_ok=True)


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as made:
        yield made


def infer(server: Server, model: str, count: int, identity: str = "") -> None:
    """So many requests, each over a connection of its own."""
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0] * 4}
    for _ in range(count):
        assert post(server, f"/v2/models/{model}/infer", {"id": identity, "inputs": [tensor]}).status == 200


def traces(server: Server) -> list[dict[str, Any]]:
    file = server.state_dir / "traces.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(condition: Callable[[], bool]) -> None:
    wait_until(condition, WRITTEN_WITHIN_S, "traces")


def test_requests_are_traced_until_the_count_is_used_up(server: Server, client: triton.InferenceServerClient) -> None:
    infer(server, "a", 3)
    wanted = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "5"}
    assert client.update_trace_settings("a", wanted) == {
        **OFF,
        **wanted,
        "trace_file": str(server.state_dir / "traces.jsonl"),
    }
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    infer(server, "b", 3)
    infer(server, "a", 12, identity="mine")
    wait_for(lambda: client.get_trace_settings("a")["trace_count"] == "0")
    infer(server, "a", 3)
    found = traces(server)
    assert len(found) == 5
    for trace in found:
        assert (trace["model_name"], trace["model_version"], trace["request_id"]) == ("a", "1", "mine")
        assert [moment["name"] for moment in trace["timestamps"]] == MOMENTS
        times = [moment["ns"] for moment in trace["timestamps"]]
        assert times == sorted(times)
        assert times[-1] - times[0] < 60e9
    assert client.get_trace_settings("a")["trace_level"] == ["TIMESTAMPS"]
    assert client.update_trace_settings("a", dict.fromkeys(wanted))["trace_level"] == ["OFF"]


def test_every_so_many_of_a_worker(server: Server, client: triton.InferenceServerClient) -> None:
    client.update_trace_settings(settings={"trace_level": "TIMESTAMPS", "trace_rate": "3"})
    client.update_trace_settings("b", {"trace_level": ["OFF"]})
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0] * 4}
    with Caller(server) as caller:
        for number in range(10):
            for model in ("a", "b"):
                assert caller.post(f"/v2/models/{model}/infer", {"id": str(number), "inputs": [tensor]}).status == 200
    wait_for(lambda: len(traces(server)) >= 3)
    assert [(trace["model_name"], trace["request_id"]) for trace in traces(server)] == [
        ("a", "2"),
        ("a", "5"),
        ("a", "8"),
    ]


def test_a_new_worker_traces_too(server: Server, client: triton.InferenceServerClient) -> None:
    client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "1000"})
    before = worker_pids(server)
    for pid in before:
        os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        try:
            pids = worker_pids(server)
        except OSError:
            return False
        return len(pids) == 2 and not pids & before

    wait_until(replaced, REPLACED_WITHIN_S, "two other workers")
    infer(server, "b", 10)
    wait_for(lambda: len(traces(server)) == 10)
    assert get(server, "/v2/trace/setting").json["trace_count"] == "990"


def test_errors_over_http(server: Server, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="unknown model: 'none' is not found"):
        client.get_trace_settings("none")
    with pytest.raises(InferenceServerException, match="trace_rate") as caught:
        client.update_trace_settings("a", {"trace_rate": "x"})
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="TENSORS") as caught:
        client.update_trace_settings(settings={"trace_level": ["TENSORS"]})
    assert caught.value.status() == "501"
    for body in (b"[]", b"{", b'"x"', b"\xff", b'{"trace_rate": 1e999}'):
        answer = post(server, "/v2/trace/setting", body)
        assert (answer.status, list(answer.json)) == (400, ["error"]), body
    assert post(server, "/v2/trace/setting", b" " * 100_000).status == 413
    assert post(server, "/v2/trace/setting", b"").json["trace_level"] == ["OFF"]
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
