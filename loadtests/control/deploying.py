"""CreateEndpoint to InService: one endpoint after the other, each with a model of its own, its answer checked."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from loadtests.bench.servers import Server, free_port
from loadtests.control import calls
from loadtests.control.archives import IMAGE, Archive
from loadtests.control.calls import Raw
from loadtests.control.context import Context, check, in_service

BUCKET = "models"


def run(context: Context, source: str) -> None:
    """`source` is `file` or `s3`."""
    sizes = context.sizes
    several = context.archives(sizes.deployed + sizes.waits)
    s3_port = free_port() if source == "s3" else None
    with context.server(with_s3=s3_port) as server:
        urls = [archive.url for archive in several] if s3_port is None else upload(s3_port, several)
        sagemaker = calls.client("sagemaker", server.port)
        for archive, url in zip(several, urls, strict=True):
            name = f"e-{archive.number}"
            sagemaker.create_model(**calls.model(name, IMAGE, url))
            sagemaker.create_endpoint_config(**calls.config(name, name))
        _created(context, source, server, several[: sizes.deployed])
        _waited(context, source, server, sagemaker, several[sizes.deployed :])
        _updated(context, source, server, several[: sizes.deployed])
        _deleted(context, source, server, several[: sizes.deployed])


def upload(port: int, several: list[Archive]) -> list[str]:
    """Puts the archives into a bucket of the local S3; gives their URLs."""
    s3: Any = calls.client("s3", port)
    s3.create_bucket(Bucket=BUCKET)
    urls = []
    for archive in several:
        s3.put_object(Bucket=BUCKET, Key=archive.path.name, Body=archive.path.read_bytes())
        urls.append(f"s3://{BUCKET}/{archive.path.name}")
    return urls


def _created(context: Context, source: str, server: Server, several: list[Archive]) -> None:
    took = []
    returned = []
    with Raw(server.port) as raw:
        for archive in several:
            name = f"e-{archive.number}"
            began = perf_counter()
            raw.call("CreateEndpoint", EndpointName=name, EndpointConfigName=name)
            returned.append(perf_counter() - began)
            in_service(raw, name)
            took.append(perf_counter() - began)
            check(server, archive, name)
    case = f"deploy/{source}"
    context.times(case, "CreateEndpoint, the call", returned)
    found = context.times(case, "CreateEndpoint to InService", took, "each model another, fetched, proved and warm")
    context.figure(f"{case}: CreateEndpoint to InService, p50 ms", found.p50_ms)
    context.figure(f"{case}: CreateEndpoint to InService, p99 ms", found.p99_ms)


def _waited(context: Context, source: str, server: Server, sagemaker: Any, several: list[Archive]) -> None:
    """boto3's own waiter, as it comes: it polls every 30 s."""
    took = []
    for archive in several:
        name = f"e-{archive.number}"
        began = perf_counter()
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name)
        took.append(perf_counter() - began)
        check(server, archive, name)
    context.times(f"deploy/{source}", "create_endpoint and its stock waiter, boto3", took)
    context.figure(f"deploy/{source}: boto3's waiter, longest s", max(took))


def _updated(context: Context, source: str, server: Server, several: list[Archive]) -> None:
    """Each endpoint gets its neighbour's config."""
    took = []
    with Raw(server.port) as raw:
        for archive, other in zip(several, [*several[1:], several[0]], strict=True):
            name = f"e-{archive.number}"
            began = perf_counter()
            raw.call("UpdateEndpoint", EndpointName=name, EndpointConfigName=f"e-{other.number}")
            in_service(raw, name)
            took.append(perf_counter() - began)
            check(server, other, name)
    context.times(f"deploy/{source}", "UpdateEndpoint to InService", took, "model data fetched before")


def _deleted(context: Context, source: str, server: Server, several: list[Archive]) -> None:
    took = []
    with Raw(server.port) as raw:
        for archive in several:
            name = f"e-{archive.number}"
            began = perf_counter()
            raw.call("DeleteEndpoint", EndpointName=name)
            raw.gone(name)
            took.append(perf_counter() - began)
    context.times(f"deploy/{source}", "DeleteEndpoint to gone", took)
