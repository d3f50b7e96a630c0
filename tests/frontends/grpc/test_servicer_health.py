"""The health service and server reflection, called as a transport calls them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2 as health
from grpc_reflection.v1alpha import reflection_pb2 as reflection

from serving.errors import MalformedBody, Unavailable, UnknownName
from serving.frontends.grpc import protocol
from serving.frontends.grpc.call import Call
from serving.frontends.grpc.health import CHECK, WATCH
from serving.frontends.grpc.reflection import PATHS
from serving.frontends.grpc.status import status_of
from tests.frontends.grpc.worker import Gated, Stream, Worker
from tests.runtime.test_targets import Worker as TargetsWorker

SERVING = health.HealthCheckResponse.SERVING
NOT_SERVING = health.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health.HealthCheckResponse.SERVICE_UNKNOWN


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


async def check(worker: Worker, service: str) -> Any:
    unary = worker.servicer.find(CHECK).unary
    assert unary is not None
    body = await unary(health.HealthCheckRequest(service=service).SerializeToString(), Call())
    return health.HealthCheckResponse.FromString(body).status


def watch(worker: Worker, service: str) -> Stream:
    stream = worker.stream(WATCH)
    stream.send(health.HealthCheckRequest(service=service))
    return stream


async def told(stream: Stream) -> Any:
    body = await stream.read()
    assert body is not None
    return health.HealthCheckResponse.FromString(body).status


# ---------------------------------------------------------------- health


@pytest.mark.parametrize("service", ["", protocol.SERVICE, "m"])
def test_what_is_served_is_healthy_until_the_server_drains(tmp_path: Path, service: str) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated())
        assert await check(worker, service) == SERVING
        worker.lane.draining = True
        assert await check(worker, service) == NOT_SERVING
        await worker.close()

    run(test())


@pytest.mark.parametrize("service", ["nobody", "m:target", "m:", "inference", "/", "é"])
def test_a_service_that_is_none(tmp_path: Path, service: str) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated())
        with pytest.raises(UnknownName, match="there is no service") as unknown:
            await check(worker, service)
        assert status_of(unknown.value).code == 5
        await worker.close()

    run(test())


def test_a_target_is_healthy_once_it_is_loaded(tmp_path: Path) -> None:
    async def test() -> None:
        targets = TargetsWorker(tmp_path / "models", Worker(tmp_path).settings)
        targets.disk.put("three", 3)
        worker = Worker(tmp_path, targets.plane)
        assert await check(worker, "many") == SERVING
        assert await check(worker, "many:three") == NOT_SERVING
        stream = watch(worker, "many:three")
        assert await told(stream) == NOT_SERVING
        await targets.ask("three")
        assert await told(stream) == SERVING
        assert await check(worker, "many:three") == SERVING
        await stream.leave()

    run(test())


def test_a_watcher_is_told_of_each_change(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        stream, other = watch(worker, "m"), watch(worker, "")
        assert (await told(stream), await told(other)) == (SERVICE_UNKNOWN, SERVING)
        worker.serve("m", Gated())
        assert await told(stream) == SERVING
        worker.lane.draining = True
        for each in (stream, other):
            assert await told(each) == NOT_SERVING
            with pytest.raises(Unavailable, match="stopping"):
                await each.read()
        await worker.close()

    run(test())


def test_a_watch_without_a_request(tmp_path: Path) -> None:
    async def test() -> None:
        stream = Worker(tmp_path).stream(WATCH)
        stream.half_close()
        with pytest.raises(MalformedBody, match="HealthCheckRequest was expected"):
            await stream.read()
        stream = Worker(tmp_path).stream(WATCH)
        stream.send(b"\xff")
        with pytest.raises(MalformedBody, match="is no HealthCheckRequest"):
            await stream.read()

    run(test())


# ---------------------------------------------------------------- reflection


async def reflected(worker: Worker, path: str, *requests: Any) -> list[Any]:
    stream = worker.stream(path)
    stream.send(*requests)
    stream.half_close()
    found = []
    while (body := await stream.read()) is not None:
        found.append(reflection.ServerReflectionResponse.FromString(body))
    return found


@pytest.mark.parametrize("path", PATHS)
def test_services_and_their_messages_are_told(tmp_path: Path, path: str) -> None:
    async def test() -> None:
        listed, found, by_name, missing, empty = await reflected(
            Worker(tmp_path),
            path,
            reflection.ServerReflectionRequest(list_services=""),
            reflection.ServerReflectionRequest(file_containing_symbol=protocol.SERVICE),
            reflection.ServerReflectionRequest(file_by_filename="model_config.proto"),
            reflection.ServerReflectionRequest(file_containing_symbol="nobody.Knows"),
            reflection.ServerReflectionRequest(),
        )
        assert [one.name for one in listed.list_services_response.service] == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            protocol.SERVICE,
        ]
        files = [FileDescriptorProto.FromString(one) for one in found.file_descriptor_response.file_descriptor_proto]
        methods = {method.name for file in files for service in file.service for method in service.method}
        assert methods == set(protocol.methods())
        assert by_name.file_descriptor_response.file_descriptor_proto
        assert (missing.error_response.error_code, empty.error_response.error_code) == (5, 3)
        assert missing.original_request.file_containing_symbol == "nobody.Knows"

    run(test())


@pytest.mark.parametrize("service", ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"])
def test_what_is_listed_is_described(tmp_path: Path, service: str) -> None:
    async def test() -> None:
        asked = reflection.ServerReflectionRequest(file_containing_symbol=service)
        (answer,) = await reflected(Worker(tmp_path), PATHS[0], asked)
        assert answer.file_descriptor_response.file_descriptor_proto

    run(test())


def test_a_request_of_reflection_that_is_none(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(MalformedBody, match="is no ServerReflectionRequest"):
            await reflected(Worker(tmp_path), PATHS[0], b"\xff")

    run(test())
