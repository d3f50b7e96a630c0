"""What is told of a served model's configuration, against models that were loaded out of real folders."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from serving.codecs.plan import InputPlan
from serving.contract import (
    Array,
    BatchingConfig,
    ModelConfig,
    ModelSpec,
    OnnxConfig,
    TensorSpec,
    VersionPolicy,
)
from serving.errors import ConfigurationError, UnknownName
from serving.frontends.metadata import EXTENSIONS
from serving.frontends.model_config import describe, model_config
from serving.objects.archive import Archives
from serving.objects.override import read_override
from serving.objects.repository import look
from serving.runtime.costs import Costs
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Face, Head
from serving.runtime.loading import load
from serving.runtime.model import Model, Pulse
from serving.runtime.routing import Endpoint, Snapshot
from serving.runtime.statistics import VariantStatistics
from serving.settings import Settings
from tests.support import many, onnx_models, scripted
from tests.support.server import Server, free_ports, running
from tests.support.wire import ask, request

PAGE = Path(__file__).parents[2] / "docs" / "triton.md"

TRITON = """\
name: "net"
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "a" data_type: TYPE_FP32 format: FORMAT_NONE dims: 2 }, { name: "b" data_type: TYPE_INT64 dims: 2 }]
output [{ name: "sum" data_type: TYPE_FP32 dims: 2 }]
dynamic_batching {
  preferred_batch_size: [ 8, 4 ]
  max_queue_delay_microseconds: 250
  priority_levels: 3
  default_queue_policy { default_timeout_microseconds: 1500000 allow_timeout_override: true }
}
instance_group [{ kind: KIND_CPU count: 2 }]
optimization { graph { level: 1 } }
version_policy { specific { versions: [ 2, 1 ] } }
metric_tags { key: "team" value: "pay" }
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
parameters { key: "session.disable_prepacking" value { string_value: "1" } }
"""


def message_of(said: dict[str, Any]) -> Any:
    """The message that the gRPC service sends; raises where the JSON is not its JSON form."""
    return json_format.ParseDict(said, model_config_pb2.ModelConfig())


def head_of(name: str, version: str | None = None) -> Head:
    head = Head(Face.OPEN_INFERENCE, name)
    head.version = version
    return head


def told(tmp_path: Path, folder: Path, *heads: Head) -> list[dict[str, Any]]:
    """What is told of the model in a folder, which is loaded in all versions that it serves."""
    found = look(folder, None, Archives(tmp_path / "state"))
    settings = Settings(response_cache_bytes=1024)

    async def run() -> list[dict[str, Any]]:
        served = []
        for source in found.served():
            container, costs = load(source.container, source.artifact, source.config, settings)
            model = Model(container, source.config, costs, Pulse())
            plan, statistics = InputPlan(model.spec, found.name), VariantStatistics(found.name, "v1")
            served.append(Endpoint(found.name, "v1", model, plan, statistics))
        plane = DataPlane()
        plane.swap(Snapshot(1, served, None))
        try:
            return [await model_config(plane, head) for head in heads or [head_of(found.name)]]
        finally:
            for endpoint in served:
                ended = asyncio.Event()
                endpoint.model.close(ended.set)
                await ended.wait()

    return asyncio.run(run())


def triton_folder(tmp_path: Path, text: str, make: Callable[[Path], Path] = onnx_models.arithmetic) -> Path:
    folder = tmp_path / "net"
    for version in ("1", "2"):
        make(folder / version / "model.onnx")
    (folder / "config.pbtxt").write_text(text)
    return folder


# ---------------------------------------------------------------- models in folders


def test_what_a_config_pbtxt_said_and_what_holds(tmp_path: Path) -> None:
    (said,) = told(tmp_path, triton_folder(tmp_path, TRITON))
    flags = {"is_shape_tensor": False, "allow_ragged_batch": False, "optional": False}
    plain = {"label_filename": "", "is_shape_tensor": False}
    assert said == {
        "name": "net",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": [2, 1]}},
        "max_batch_size": 8,
        "input": [
            {"name": "a", "data_type": "TYPE_FP32", "dims": [2], "format": "FORMAT_NONE", **flags},
            {"name": "b", "data_type": "TYPE_INT64", "dims": [2], "format": "FORMAT_NONE", **flags},
        ],
        "output": [
            {"name": "sum", "data_type": "TYPE_FP32", "dims": [2], **plain},
            {"name": "product", "data_type": "TYPE_FP32", "dims": [2], **plain},
        ],
        "instance_group": [{"kind": "KIND_CPU", "count": 2, "gpus": []}],
        "dynamic_batching": {
            "preferred_batch_size": [4, 8],
            "max_queue_delay_microseconds": 250,
            "preserve_ordering": False,
            "priority_levels": 3,
            "default_priority_level": 2,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": 1500000,
                "allow_timeout_override": True,
                "max_queue_size": 0,
            },
        },
        "optimization": {"graph": {"level": 1}},
        "parameters": {
            "intra_op_thread_count": {"string_value": "2"},
            "inter_op_thread_count": {"string_value": "1"},
            "execution_mode": {"string_value": "0"},
            "session.disable_prepacking": {"string_value": "1"},
        },
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
    }
    message = message_of(said)
    assert message.dynamic_batching.max_queue_delay_microseconds == 250
    assert [list(tensor.dims) for tensor in message.input] == [[2], [2]]


def test_a_session_option_that_may_not_be_set_is_an_error_at_load(tmp_path: Path) -> None:
    text = 'parameters { key: "session.load_model_format" value { string_value: "ORT" } }'
    with pytest.raises(ConfigurationError, match=r"names 'session\.load_model_format', which may not be set"):
        told(tmp_path, triton_folder(tmp_path, text))


def test_nothing_said(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    onnx_models.echo(folder / "model.onnx", "BYTES")
    (said,) = told(tmp_path, folder)
    assert (said["name"], said["max_batch_size"]) == ("plain", 64)
    assert said["input"][0]["data_type"] == said["output"][0]["data_type"] == "TYPE_STRING"
    assert said["input"][0]["dims"] == [-1]
    assert said["version_policy"] == {"latest": {"num_versions": 1}}
    assert said["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] == 60_000_000
    message_of(said)


@pytest.mark.parametrize("datatype", onnx_models.ELEMENT_TYPES)
def test_every_datatype_is_one_of_the_schema(tmp_path: Path, datatype: str) -> None:
    folder = tmp_path / "echo"
    onnx_models.echo(folder / "model.onnx", datatype)
    (said,) = told(tmp_path, folder)
    kinds = model_config_pb2.DataType.DESCRIPTOR.values_by_number
    name = kinds[message_of(said).input[0].data_type].name
    assert name.removeprefix("TYPE_").replace("STRING", "BYTES") == datatype


def test_a_model_that_cannot_be_batched_tells_whole_shapes(tmp_path: Path) -> None:
    folder = tmp_path / "centred"
    onnx_models.centred(folder / "model.onnx")
    (said,) = told(tmp_path, folder)
    assert said["max_batch_size"] == 0
    assert said["input"][0]["dims"] == [-1, 4]
    assert "dynamic_batching" not in said


def test_a_model_whose_requests_are_not_merged_says_so(tmp_path: Path) -> None:
    (said,) = told(tmp_path, triton_folder(tmp_path, "max_batch_size: 8"))
    assert said["max_batch_size"] == 8
    assert said["input"][0]["dims"] == [2]
    assert "dynamic_batching" not in said


def test_a_version_is_asked_for_by_its_number(tmp_path: Path) -> None:
    folder = triton_folder(tmp_path, "max_batch_size: 4 dynamic_batching { } version_policy { all { } }")
    onnx_models.echo(folder / "1" / "model.onnx", "INT8", ("N", 5))
    newest, old = told(tmp_path, folder, head_of("net"), head_of("net", "1"))
    assert [tensor["name"] for tensor in newest["input"]] == ["a", "b"]
    assert [(tensor["name"], tensor["dims"]) for tensor in old["input"]] == [("x", [5])]
    with pytest.raises(UnknownName, match="version 3 is not found"):
        told(tmp_path, folder, head_of("net", "3"))
    with pytest.raises(UnknownName, match="unknown model: 'nett' is not found"):
        told(tmp_path, folder, head_of("nett"))


def test_a_model_that_is_not_onnx_has_no_parameters_of_its_backend(tmp_path: Path, samples: Path) -> None:
    (said,) = told(tmp_path, samples / "fraud")
    assert (said["platform"], said["backend"]) == ("xgboost", "xgboost")
    assert said["parameters"] == {}
    assert "optimization" not in said
    message_of(said)


def test_a_container_that_streams_is_decoupled(tmp_path: Path) -> None:
    said = described(ModelConfig(name="talk", container="scripted"), scripted.ScriptedContainer(tmp_path))
    assert message_of(said).model_transaction_policy.decoupled is True
    assert (said["platform"], said["backend"], said["max_batch_size"]) == ("scripted", "scripted", 0)


# ---------------------------------------------------------------- what is told can be said again


class Idle:
    """A container of a spec, which runs nothing."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return [np.zeros(0)]

    def close(self) -> None:
        """Nothing to free."""


def described(config: ModelConfig, container: Any) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        model = Model(container, config, Costs(), Pulse())
        try:
            return describe(model)
        finally:
            ended = asyncio.Event()
            model.close(ended.set)
            await ended.wait()

    return asyncio.run(run())


SPEC = ModelSpec(
    inputs=(TensorSpec("x", "FP32", (-1, 4)), TensorSpec("t", "BYTES", (-1, -1))),
    outputs=(TensorSpec("y", "BF16", (-1,)),),
    platform="onnxruntime_onnx",
    batched=True,
)

batchings = st.integers(1, 128).flatmap(
    lambda most: st.builds(
        BatchingConfig,
        max_batch_size=st.just(most),
        preferred_batch_sizes=st.lists(st.integers(1, most), max_size=3).map(tuple),
        max_queue_delay_us=st.integers(0, 10**6),
        default_timeout_s=st.integers(1, 10**9).map(lambda us: us / 1e6),
        priority_levels=st.just(7),
        default_priority=st.integers(0, 7),
    )
)
onnx_settings = st.builds(
    OnnxConfig,
    intra_op_threads=st.integers(1, 64),
    execution_mode=st.sampled_from(["sequential", "parallel"]),
    graph_optimization_level=st.sampled_from(["disabled", "basic", "extended", "all"]),
    providers=st.sampled_from([("CPUExecutionProvider",), ("CUDAExecutionProvider", "CPUExecutionProvider")]),
    session_options=st.dictionaries(st.sampled_from(["session.use_env_allocators", "mlas.use_lut_gemm"]), st.text()),
)
policies = st.sampled_from(
    [VersionPolicy(), VersionPolicy(latest=3), VersionPolicy(specific=(4, 2)), VersionPolicy(all=True)]
)


@given(
    config=st.builds(
        ModelConfig,
        name=st.just("net"),
        container=st.just("onnx"),
        version_policy=policies,
        batching=batchings,
        onnx=onnx_settings,
        slots=st.integers(1, 64),
        response_cache=st.booleans(),
    )
)
def test_what_is_told_is_an_override_that_changes_nothing(config: ModelConfig) -> None:
    said = described(config, Idle(SPEC))
    again = read_override(json.dumps(said), "net")
    assert described(again.config, Idle(SPEC)) == said
    assert again.warnings == ()


# ---------------------------------------------------------------- the page, and tritonclient


@pytest.fixture(scope="module")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, int]]:
    """A server of a repository in Triton's layout, and its gRPC port."""
    root = tmp_path_factory.mktemp("triton")
    for version in ("1", "2"):
        onnx_models.checked_echo(root / "repository" / "net" / version / "model.onnx")
    (root / "repository" / "net" / "config.pbtxt").write_text(
        "max_batch_size: 16 dynamic_batching { max_queue_delay_microseconds: 250 } "
        'version_policy { all { } } metric_tags { key: "team" value: "pay" }'
    )
    (port,) = free_ports(1)
    arguments = ("--model-repository", root / "repository", "--grpc-port", str(port))
    explicit = ("--model-control-mode", "explicit", "--load-model", "net")
    with running(*arguments, *explicit, state_dir=root / "state") as server:
        yield server, port


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("snippet", snippets(), ids=["grpc", "http"])
def test_the_snippets_of_the_page(triton_server: tuple[Server, int], snippet: str) -> None:
    server, grpc_port = triton_server
    snippet = snippet.replace("127.0.0.1:8001", f"127.0.0.1:{grpc_port}").replace("127.0.0.1:8000", server.url[7:])
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("(2, 4)\n16\n", "")


def test_grpc_and_rest_tell_the_same(triton_server: tuple[Server, int]) -> None:
    server, grpc_port = triton_server
    with (
        triton_http.InferenceServerClient(server.url[7:]) as rest,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as grpc,
    ):
        for version in ("", "1", "2"):
            said = rest.get_model_config("net", version)
            message = grpc.get_model_config("net", version).config
            assert message_of(said) == message
            as_json = grpc.get_model_config("net", version, as_json=True)["config"]
            assert json_format.ParseDict(as_json, model_config_pb2.ModelConfig()) == message
        assert message.dynamic_batching.max_queue_delay_microseconds == 250
        with pytest.raises(InferenceServerException, match="version 3 is not found"):
            rest.get_model_config("net", "3")
        with pytest.raises(InferenceServerException, match="version 3 is not found"):
            grpc.get_model_config("net", "3")


def test_what_is_told_can_be_given_back(triton_server: tuple[Server, int]) -> None:
    server, grpc_port = triton_server
    with (
        triton_http.InferenceServerClient(server.url[7:]) as rest,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as grpc,
    ):
        said = rest.get_model_config("net")
        rest.load_model("net", config=json.dumps(said))
        assert rest.get_model_config("net") == said
        as_json = grpc.get_model_config("net", as_json=True)["config"]
        grpc.load_model("net", config=json.dumps(as_json))
        assert rest.get_model_config("net", "1") == said
        slots = {**said, "instance_group": [{"kind": "KIND_CPU", "count": 3}]}
        grpc.load_model("net", config=json.dumps(slots))
        assert rest.get_model_config("net")["instance_group"][0]["count"] == 3
        grpc.load_model("net", config=json.dumps(said))


def test_a_target_tells_its_own_under_its_whole_name(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "a").mkdir(parents=True)
    many.graph(models / "a", 2.0)
    (port,) = free_ports(1)
    arguments = ("--multi-model", "--allow-path", models, "--grpc-port", str(port))
    with running(*arguments, state_dir=tmp_path / "state") as server:
        body = json.dumps({"model_name": "team/a", "url": str(models / "a")}).encode()
        added = request("/models", body, "content-type: application/json", method="POST")
        assert ask(server.port, added, "POST").status == 200
        with (
            triton_http.InferenceServerClient(server.url[7:]) as rest,
            triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as grpc,
        ):
            message = grpc.get_model_config("multi-model:team/a").config
            assert message_of(rest.get_model_config("multi-model:team/a")) == message
            assert (message.name, message.backend) == ("multi-model:team/a", "onnxruntime")
            with pytest.raises(InferenceServerException, match="name one of its models as multi-model:MODEL"):
                grpc.get_model_config("multi-model")
            with pytest.raises(InferenceServerException, match="model 'b' is not loaded"):
                rest.get_model_config("multi-model:b")


def test_what_has_no_effect_is_said_once(triton_server: tuple[Server, int]) -> None:
    server, _ = triton_server
    lines = [line for line in server.output.splitlines() if "metric_tags has no effect" in line]
    assert len(lines) == 1, "one load of the file, though it serves two versions"
    assert "net: config.pbtxt: metric_tags has no effect: metrics carry the model's name" in lines[0]


def test_the_page_lists_the_extensions_that_the_server_names() -> None:
    rows = re.findall(r"^\| `([a-z_()]+)` \| (yes|no) \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(name for name, has in rows if has == "yes" and name != "generate") == sorted(EXTENSIONS)
