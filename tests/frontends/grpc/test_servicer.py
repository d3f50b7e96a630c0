"""The service's methods that have one answer, called as a transport calls them."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

import serving
from serving.contract import BatchingConfig
from serving.errors import (
    BadRequest,
    DeadlineExceeded,
    LoadFailed,
    MalformedBody,
    ModelFailure,
    ServingError,
    TooLarge,
    Unavailable,
    UnknownName,
    Unsupported,
)
from serving.frontends.grpc import protocol, shared_memory
from serving.frontends.grpc.asgi import Application
from serving.frontends.grpc.call import Call
from serving.frontends.grpc.framing import frame
from serving.frontends.grpc.messages import MOST_BYTES
from serving.frontends.grpc.servicer import SLACK_BYTES
from serving.frontends.grpc.status import status_of
from serving.runtime.invocation import Invocation
from tests.frontends.grpc.worker import Counting, Gated, Worker, counting, numbers, request, until
from tests.runtime.test_targets import Worker as TargetsWorker
from tests.support import many, onnx_models

INT64 = "int64"


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@pytest.fixture(autouse=True, scope="module")
def logs() -> Iterator[None]:
    """Puts the logs of this process back to what they were."""
    root = logging.getLogger()
    level, filters = root.level, [(handler, handler.filters[:]) for handler in root.handlers]
    yield
    root.setLevel(level)
    for handler, before in filters:
        handler.filters[:] = before


def two_versions(worker: Worker) -> None:
    worker.serve("m", Gated(), version="1")
    worker.serve("m", Gated(), version="2")


# ---------------------------------------------------------------- the server


def test_every_method_of_the_service_is_there(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        paths = {rpc.path for rpc in worker.servicer.rpcs}
        assert {protocol.PREFIX + name for name in protocol.methods()} <= paths
        for name, method in protocol.methods().items():
            found = worker.servicer.find(protocol.PREFIX + name)
            assert (found.stream is not None, found.unary is not None) == (method.streams, not method.streams)

    run(test())


@pytest.mark.parametrize("path", ["", "/", "/inference.GRPCInferenceService/", "/inference.GRPCInferenceService/Infer"])
def test_a_path_that_is_no_method(tmp_path: Path, path: str) -> None:
    async def test() -> None:
        with pytest.raises(Unsupported, match="is not supported by this server") as caught:
            Worker(tmp_path).servicer.find(path)
        assert status_of(caught.value).code == 12

    run(test())


def test_the_server_lives_and_is_ready_until_it_drains(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        assert (await worker.ask("ServerLive")).live
        assert (await worker.ask("ServerReady")).ready
        worker.lane.draining = True
        assert (await worker.ask("ServerLive")).live
        assert not (await worker.ask("ServerReady")).ready

    run(test())


def test_the_server_tells_its_name_and_extensions(tmp_path: Path) -> None:
    async def test() -> None:
        told = await Worker(tmp_path).ask("ServerMetadata")
        assert (told.name, told.version) == ("serving", serving.__version__)
        assert {"statistics", "trace", "logging", "model_configuration", "model_repository"} <= set(told.extensions)

    run(test())


# ---------------------------------------------------------------- models


def test_a_model_is_described(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        file = onnx_models.arithmetic(tmp_path / "sums" / "model.onnx")
        worker.serve_onnx("sums", file)
        told = await worker.ask("ModelMetadata", name="sums")
        assert (told.name, told.platform, list(told.versions)) == ("sums", "onnxruntime_onnx", ["1"])
        tensors = [(one.name, one.datatype, list(one.shape)) for one in (*told.inputs, *told.outputs)]
        assert tensors == [
            ("a", "FP32", [-1, 2]),
            ("b", "INT64", [-1, 2]),
            ("sum", "FP32", [-1, 2]),
            ("product", "FP32", [-1, 2]),
        ]
        config = (await worker.ask("ModelConfig", name="sums")).config
        assert (config.name, [one.name for one in config.input]) == ("sums", ["a", "b"])
        await worker.close()

    run(test())


def test_versions_are_models_of_their_own(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        two_versions(worker)
        assert list((await worker.ask("ModelMetadata", name="m")).versions) == ["1", "2"]
        assert list((await worker.ask("ModelMetadata", name="m", version="1")).versions) == ["1"]
        for version, ready in (("", True), ("1", True), ("2", True), ("3", False), ("one/two", False)):
            assert (await worker.ask("ModelReady", name="m", version=version)).ready == ready
        for version in ("", "1", "2"):
            answer = await worker.ask("ModelInfer", request("m", model_version=version))
            assert answer.model_version == (version or "2")
        await worker.close()

    run(test())


def test_a_target_is_loaded_to_be_described_and_not_to_be_ready(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        targets = TargetsWorker(tmp_path / "models", worker.settings)
        targets.disk.put("three", 3)
        worker = Worker(tmp_path, targets.plane)
        assert (await worker.ask("ModelReady", name="many")).ready
        assert not (await worker.ask("ModelReady", name="many:three")).ready
        assert targets.disk.located == []
        told = await worker.ask("ModelMetadata", name="many:three")
        assert (told.name, [one.name for one in told.inputs]) == ("many:three", ["x"])
        assert (await worker.ask("ModelReady", name="many:three")).ready
        assert (await worker.ask("ModelReady", name="many:three", version="1")).ready
        assert not (await worker.ask("ModelReady", name="many:three", version="2")).ready
        assert (await worker.ask("ModelConfig", name="many:three")).config.name == "many:three"
        asked = pb.ModelInferRequest(model_name="many:three")
        asked.inputs.add(name="x", datatype="FP32", shape=[2, 4])
        asked.raw_input_contents.append(many_rows())
        expected = [value for row in many.answer(3) for value in row]
        for _ in range(2):
            assert numbers(await worker.ask("ModelInfer", asked)) == expected
        with pytest.raises(BadRequest, match="many:MODEL"):
            await worker.ask("ModelMetadata", name="many")

    run(test())


def many_rows() -> bytes:
    return np.array(many.ROWS, np.float32).tobytes()


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelInfer"])
@pytest.mark.parametrize(
    ("name", "version", "error", "words"),
    [
        ("", "", BadRequest, "names no model"),
        ("nobody", "", UnknownName, "unknown model: 'nobody' is not found"),
        ("no/body", "", UnknownName, "is not found"),
        ("x" * 100_000, "", UnknownName, "is not found"),
        ("é", "", UnknownName, "unknown model: '%C3%A9' is not found"),
        ("m", "7", UnknownName, "'m' version 7 is not found"),
        ("m", "7/8", UnknownName, "is not found"),
        ("m:target", "", BadRequest, "not a multi-model endpoint"),
        ("m:", "", BadRequest, "it is empty"),
        ("m:a\0b", "", BadRequest, "control characters"),
        (f"m:{'x' * 2000}", "", BadRequest, "at most 1024 are allowed"),
        (":target", "", BadRequest, "cannot be the name"),
    ],
)
def test_names_that_name_nothing(
    tmp_path: Path, method: str, name: str, version: str, error: type[ServingError], words: str
) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated())
        if method == "ModelInfer":
            asked = request(name, model_version=version)
        else:
            asked = protocol.methods()[method].request(name=name, version=version)
        with pytest.raises(error) as caught:
            await worker.ask(method, asked)
        assert words in caught.value.message
        assert len(caught.value.message) < 500
        if name:
            assert not (await worker.ask("ModelReady", name=name, version=version)).ready
        await worker.close()

    run(test())


def test_readiness_of_no_name(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(BadRequest, match="names no model"):
            await Worker(tmp_path).ask("ModelReady")

    run(test())


# ---------------------------------------------------------------- inference


def test_an_inference(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        statistics = worker.serve("m", Gated())
        for i in range(5):
            answer = await worker.ask("ModelInfer", request("m", i, id=f"id {i % 2}" if i else ""))
            assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", f"id {i % 2}" if i else "")
            assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [("y", "FP32", [1, 1])]
            assert numbers(answer) == [2.0 * i]
            assert not answer.parameters
        assert statistics.invocations == 5
        await worker.close()

    run(test())


def test_a_remembered_head_follows_the_wiring(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated(), version="1")
        assert (await worker.ask("ModelInfer", request("m"))).model_version == "1"
        worker.serve("m", Gated(), version="2")
        assert (await worker.ask("ModelInfer", request("m"))).model_version == "2"
        first, second = worker.served
        worker.served.clear()
        worker.wire()
        with pytest.raises(UnknownName):
            await worker.ask("ModelInfer", request("m"))
        worker.served.append(second)
        worker.wire()
        assert (await worker.ask("ModelInfer", request("m"))).model_version == "1"
        worker.served.append(first)
        await worker.close()

    run(test())


def test_a_name_between_raw_contents_is_no_part_of_what_is_remembered(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated())
        worker.serve("eight-ch", Gated())
        first = request("m", 1.0).SerializeToString()
        usual = first + b"\x3a\x08" + b"raw data"
        other = first + b"\x0a\x08" + b"eight-ch"
        assert len(usual) == len(other)
        for _ in range(2):
            with pytest.raises(ServingError, match="contents"):
                await worker.ask("ModelInfer", pb.ModelInferRequest.FromString(usual))
            # As bytes: a message would be written in the order of its fields.
            infer = worker.servicer.find(protocol.PREFIX + "ModelInfer").unary
            assert infer is not None
            answer = pb.ModelInferResponse.FromString(await infer(other, Call()))
            assert answer.model_name == "eight-ch"
        await worker.close()

    run(test())


def test_a_model_that_streams_is_answered_whole(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("counting", Counting())
        assert numbers(await worker.ask("ModelInfer", counting("counting", 3)), INT64) == [0, 1, 2]
        await worker.close()

    run(test())


def test_inferences_that_fail(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path, max_body_bytes=1000)
        worker.serve("m", Gated())
        with pytest.raises(ModelFailure) as failed:
            await worker.ask("ModelInfer", request("m", 13))
        assert status_of(failed.value).code == 13
        unary = worker.servicer.find(f"{protocol.PREFIX}ModelInfer").unary
        assert unary is not None
        with pytest.raises(TooLarge, match="at most 66536 were expected") as large:
            await unary(bytes(1001 + SLACK_BYTES), Call())
        assert status_of(large.value).code == 8
        for body in (b"\xff", b"\x0a\x7f", b"\x0a\x02\xff\xff"):
            with pytest.raises(MalformedBody) as malformed:
                await unary(body, Call())
            assert status_of(malformed.value).code == 3
        assert numbers(await worker.ask("ModelInfer", request("m", 2))) == [4.0]
        await worker.close()

    run(test())


def test_a_deadline_that_passes(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        slow = Gated()
        worker.serve("slow", slow, batching=BatchingConfig(inline_below_us=0, max_batch_size=1, max_queue_wait_s=1000))
        slow.gate.clear()
        first = asyncio.ensure_future(worker.ask("ModelInfer", request("slow")))
        await until(lambda: slow.runs == 1)
        with pytest.raises(DeadlineExceeded) as passed:
            await worker.ask("ModelInfer", request("slow"), timeout_s=0.02)
        assert status_of(passed.value).code == 4
        slow.gate.set()
        assert numbers(await first) == [2.0]
        # A deadline is that of its call alone.
        assert numbers(await worker.ask("ModelInfer", request("slow"))) == [2.0]
        await worker.close()

    run(test())


def test_a_caller_that_leaves_takes_its_request_along(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        slow = Gated()
        worker.serve("slow", slow, batching=BatchingConfig(inline_below_us=0, max_batch_size=1, max_queue_wait_s=1000))
        slow.gate.clear()
        size = request("slow").ByteSize()
        calls = [asyncio.ensure_future(worker.ask("ModelInfer", request("slow", i))) for i in range(3)]
        await until(lambda: slow.runs == 1 and worker.lane.in_flight_bytes == 3 * size)
        calls[1].cancel()
        await until(lambda: worker.lane.in_flight_bytes == 2 * size)
        slow.gate.set()
        first, second, third = await asyncio.gather(*calls, return_exceptions=True)
        assert (numbers(first), numbers(third)) == ([0.0], [4.0])
        assert isinstance(second, asyncio.CancelledError)
        assert slow.runs == 2
        await worker.close()

    run(test())


def test_bytes_in_flight_are_bounded(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path, max_in_flight_bytes=10)
        worker.serve("m", Gated())
        with pytest.raises(Unavailable) as refused:
            await worker.ask("ModelInfer", request("m"))
        assert status_of(refused.value).code == 14
        await worker.close()

    run(test())


# ---------------------------------------------------------------- the model repository


def test_the_repository_is_listed(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        told = await worker.ask("RepositoryIndex")
        assert [(one.name, one.version, one.state, one.reason) for one in told.models] == [
            ("m", "2", "READY", ""),
            ("n", "", "", ""),
        ]
        await worker.ask("RepositoryIndex", ready=True)
        assert worker.admin.asked == [("index", None, b""), ("index", None, b"ready")]

    run(test())


def test_models_are_loaded_and_unloaded(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        config = json.dumps({"max_batch_size": 8})
        loading = pb.RepositoryModelLoadRequest(model_name="m")
        loading.parameters["config"].string_param = config
        await worker.ask("RepositoryModelLoad", loading)
        await worker.ask("RepositoryModelLoad", model_name="many:team/é")
        unloading = pb.RepositoryModelUnloadRequest(model_name="m")
        unloading.parameters["unload_dependents"].bool_param = True
        await worker.ask("RepositoryModelUnload", unloading)
        await worker.ask("RepositoryModelUnload", model_name="many:team/é")
        assert worker.admin.asked == [
            ("load", "m", config.encode()),
            ("load", "many:team/é", b""),
            ("unload", "m", b""),
            ("unload", "many:team/é", b""),
        ]

    run(test())


def test_what_the_repository_says_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        for error in (LoadFailed("no graph"), BadRequest("not in this mode"), Unavailable()):
            worker.admin.error = error
            for method, fields in (
                ("RepositoryIndex", {}),
                ("RepositoryModelLoad", {"model_name": "m"}),
                ("RepositoryModelUnload", {"model_name": "m"}),
            ):
                with pytest.raises(type(error)) as caught:
                    await worker.ask(method, **fields)
                assert caught.value is error

    run(test())


@pytest.mark.parametrize(
    ("key", "kind", "value", "error", "words"),
    [
        ("config", "bool_param", True, BadRequest, "the parameter config is not a string"),
        ("config", "bytes_param", b"{}", BadRequest, "the parameter config is not a string"),
        ("file:1/model.onnx", "bytes_param", b"x", Unsupported, "put it in the repository"),
        ("other", "string_param", "x", BadRequest, "there is no load parameter 'other'"),
    ],
)
def test_parameters_of_a_load_that_are_refused(
    tmp_path: Path, key: str, kind: str, value: Any, error: type[ServingError], words: str
) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        loading = pb.RepositoryModelLoadRequest(model_name="m")
        setattr(loading.parameters[key], kind, value)
        with pytest.raises(error, match=words):
            await worker.ask("RepositoryModelLoad", loading)
        assert worker.admin.asked == []

    run(test())


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_repository_calls_that_are_refused(tmp_path: Path, method: str) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        kind = protocol.methods()[method].request
        for name, words in (("", "names no model"), ("a b", "cannot be the name"), ("m:", "it is empty")):
            with pytest.raises(BadRequest, match=words):
                await worker.ask(method, model_name=name)
        with pytest.raises(Unsupported, match="repository_name has to be empty"):
            await worker.ask(method, model_name="m", repository_name="elsewhere")
        with pytest.raises(Unsupported, match="repository_name has to be empty"):
            await worker.ask("RepositoryIndex", repository_name="elsewhere")
        empty = kind(model_name="m")
        empty.parameters["config" if method == "RepositoryModelLoad" else "unload_dependents"].SetInParent()
        with pytest.raises(BadRequest, match="expected"):
            await worker.ask(method, empty)
        other = kind(model_name="m")
        other.parameters["other"].bool_param = True
        with pytest.raises(BadRequest, match="load parameter 'other'"):
            await worker.ask(method, other)
        assert worker.admin.asked == []

    run(test())


# ---------------------------------------------------------------- what operators ask


def test_models_are_counted(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        two_versions(worker)
        worker.serve("other", Gated())
        for value in (1, 2, 13):
            with suppress(ModelFailure):
                await worker.ask("ModelInfer", request("m", value))
        await worker.ask("ModelInfer", request("m", model_version="1"))

        async def counts(**fields: Any) -> dict[tuple[str, str], tuple[int, int, int]]:
            told = await worker.ask("ModelStatistics", **fields)
            return {
                (one.name, one.version): (
                    one.inference_count,
                    one.inference_stats.success.count,
                    one.inference_stats.fail.count,
                )
                for one in told.model_stats
            }

        both = {("m", "2"): (2, 2, 1), ("m", "1"): (1, 1, 0)}
        assert await counts() == {**both, ("other", "1"): (0, 0, 0)}
        assert await counts(name="m") == both
        assert await counts(name="m", version="1") == {("m", "1"): (1, 1, 0)}
        told = (await worker.ask("ModelStatistics", name="m", version="2")).model_stats[0]
        assert told.inference_stats.compute_infer.ns > 0
        assert [one.batch_size for one in told.batch_stats] == [1]
        for fields, error in (
            ({"name": "nobody"}, UnknownName),
            ({"name": "m", "version": "7"}, UnknownName),
            ({"name": "a b"}, BadRequest),
            ({"version": "x" * 100}, BadRequest),
        ):
            with pytest.raises(error):
                await worker.ask("ModelStatistics", **fields)
        await worker.close()

    run(test())


def test_traces_are_set_for_all_models_and_for_one(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated())

        async def setting(model: str = "", **changes: list[str]) -> dict[str, list[str]]:
            asked = pb.TraceSettingRequest(model_name=model)
            for name, values in changes.items():
                asked.settings[name].value.extend(values)
                asked.settings[name].SetInParent()
            told = await worker.ask("TraceSetting", asked)
            return {name: list(value.value) for name, value in told.settings.items()}

        before = await setting()
        assert (before["trace_level"], before["trace_rate"], before["trace_count"]) == (["OFF"], ["1000"], ["-1"])
        assert await setting("m") == before
        changed = await setting("m", trace_level=["TIMESTAMPS"], trace_rate=["10"])
        assert (changed["trace_level"], changed["trace_rate"]) == (["TIMESTAMPS"], ["10"])
        assert await setting("m") == changed
        assert await setting() == before
        cleared = await setting("m", trace_level=[])
        assert (cleared["trace_level"], cleared["trace_rate"]) == (["OFF"], ["10"])
        for model, changes, error in (
            ("nobody", {}, UnknownName),
            ("m:", {}, BadRequest),
            ("m", {"trace_rate": ["x"]}, BadRequest),
            ("m", {"other": ["x"]}, BadRequest),
            ("", {"trace_file": ["/tmp/x"]}, Unsupported),
        ):
            with pytest.raises(error):
                await setting(model, **changes)
        assert await setting("m") == cleared
        await worker.close()

    run(test())


def test_logs_are_set(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)

        async def settings(**changes: Any) -> dict[str, Any]:
            asked = pb.LogSettingsRequest()
            for name, (kind, value) in changes.items():
                setattr(asked.settings[name], kind, value)
            told = await worker.ask("LogSettings", asked)
            return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in told.settings.items()}

        before = await settings()
        assert (before["log_info"], before["log_verbose_level"], before["log_format"]) == (True, 0, "default")
        changed = await settings(
            log_info=("bool_param", False),
            log_verbose_level=("uint32_param", 2),
            log_format=("string_param", "ISO8601"),
        )
        assert (changed["log_info"], changed["log_verbose_level"], changed["log_format"]) == (False, 2, "ISO8601")
        assert await settings() == changed
        for name, kind, value, error in (
            ("log_info", "string_param", "no", BadRequest),
            ("log_verbose_level", "bool_param", True, BadRequest),
            ("log_format", "string_param", "other", BadRequest),
            ("log_file", "string_param", "/tmp/x", Unsupported),
            ("other", "bool_param", True, BadRequest),
        ):
            with pytest.raises(error):
                await settings(**{name: (kind, value)})
        empty = pb.LogSettingsRequest()
        empty.settings["log_info"].SetInParent()
        with pytest.raises(BadRequest):
            await worker.ask("LogSettings", empty)
        assert await settings() == changed

    run(test())


# ---------------------------------------------------------------- what is not built, and what is no message


@pytest.mark.parametrize("method", shared_memory.METHODS)
def test_shared_memory_is_refused_with_what_to_do_instead(tmp_path: Path, method: str) -> None:
    async def test() -> None:
        with pytest.raises(Unsupported, match="send tensors as raw_input_contents"):
            await Worker(tmp_path).ask(method)

    run(test())


@given(body=st.binary(max_size=200))
def test_any_bytes_are_answered_or_refused(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    async def test() -> None:
        worker = Worker(tmp_path_factory.getbasetemp())
        for rpc in worker.servicer.rpcs:
            if rpc.unary is not None:
                outcome: bytes | ServingError
                try:
                    outcome = await rpc.unary(body, Call())
                except ServingError as error:
                    outcome = error
                assert isinstance(outcome, bytes) or status_of(outcome).code != 13, (rpc.path, outcome)

    run(test())


@pytest.mark.parametrize("name", ["ServerLive", "ModelReady", "ModelMetadata", "RepositoryModelLoad"])
def test_messages_that_are_none(tmp_path: Path, name: str) -> None:
    async def test() -> None:
        unary = Worker(tmp_path).servicer.find(protocol.PREFIX + name).unary
        assert unary is not None
        with pytest.raises(MalformedBody, match=f"the message is no {name}Request"):
            await unary(b"\xff", Call())
        with pytest.raises(TooLarge, match=f"at most {MOST_BYTES} were expected"):
            await unary(bytes(MOST_BYTES + 1), Call())

    run(test())


# ---------------------------------------------------------------- what a call leaves


@contextmanager
def uncollected() -> Iterator[None]:
    """The collector takes nothing meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def kept() -> int:
    """Requests that are still in memory while nothing is collected."""
    return sum(type(each) is Invocation for each in gc.get_objects())


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_is_gone_with_its_answer(tmp_path: Path, *, streamed: bool) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated())
        stream = worker.stream()
        with uncollected():
            for number in range(20, 70):
                if streamed:
                    stream.send(request("m", number))
                    assert numbers((await stream.next()).infer_response) == [2.0 * number]
                else:
                    assert numbers(await worker.ask("ModelInfer", request("m", number))) == [2.0 * number]
            assert kept() < 5
        await stream.leave()
        await worker.close()

    run(test())


def test_a_call_that_was_given_up_is_gone(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        gated = Gated()
        worker.serve("m", gated, batching=BatchingConfig(inline_below_us=0, max_batch_size=1))
        gated.gate.clear()
        body = request("m", 4.0).SerializeToString()
        running = Call()
        worker.servicer.infer(body, running)
        await until(lambda: gated.runs == 1)
        with uncollected():
            for _ in range(50):
                call = Call()
                worker.servicer.infer(body, call)
                call.hang_up()
            del call
            gated.gate.set()
            await running.outcome
            await until(lambda: kept() < 5)
        await worker.close()

    run(test())


def test_a_call_by_asgi_is_gone_with_its_answer(tmp_path: Path) -> None:
    sent: list[Any] = []

    class Ready:
        """What is returned where nothing is to be awaited."""

        def __await__(self) -> Iterator[None]:
            return iter(())

    def send(message: Any, ready: Ready = Ready()) -> Ready:  # noqa: B008
        sent.append(message)
        return ready

    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated())
        application = Application(worker.settings, worker.servicer)
        headers = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        scope = {
            "path": f"{protocol.PREFIX}ModelInfer",
            "method": "POST",
            "headers": headers,
            "extensions": {"http.response.trailers": {}},
        }
        body = frame(request("m", 4.0).SerializeToString())

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        with uncollected():
            for _ in range(50):
                await application(scope, receive, send)
            assert kept() < 5
        assert len(sent) == 150
        assert sent[-1]["headers"] == [(b"grpc-status", b"0")]
        assert numbers(pb.ModelInferResponse.FromString(sent[-2]["body"][5:])) == [8.0]
        await worker.close()

    run(test())
