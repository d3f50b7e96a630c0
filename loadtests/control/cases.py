"""The cases by name and what each figure has to reach: the promises of the README as data."""

from __future__ import annotations

from loadtests.bench.cases import Target, at_most

CASES = {
    "deploy/file": "CreateEndpoint to InService, one after the other, models from file://",
    "deploy/s3": "the same with models from an S3 of one's own (SeaweedFS)",
    "pages": "describe and list beside 200 endpoints and 1,000 endpoint configs, by a raw client and by boto3",
    "many": "CPU of an invocation: 1 endpoint against 200 with 1,000 configs",
    "beside/apart/c16": "fraud-mlp, 16 connections, beside control traffic; the supervisor off the worker's core",
    "beside/apart/c64": "the same with 64 connections",
    "beside/together/c16": "16 connections, supervisor and worker on one core",
    "beside/together/c64": "the same with 64 connections",
    "startup": "start to ready and memory, without and with 200 stored endpoints",
}

SOURCES = ("file", "s3")
CLIENTS = ("raw", "boto3")
PLACES = ("apart", "together")
CONNECTIONS = (16, 64)
TRAFFIC = ("records", "endpoints")

CALLS = (
    "DescribeModel",
    "DescribeEndpointConfig",
    "DescribeEndpoint",
    "ListModels, 100",
    "ListEndpointConfigs, 100",
    "ListEndpoints, 100",
    "ListEndpointConfigs, 100, page 5",
    "ListEndpointConfigs, 100, by name",
    "ListEndpoints, 100, InService",
)
"""What is asked in the case `pages`: the operation, MaxResults, and what is special."""

TARGETS: dict[str, Target] = {
    **{f"deploy/{source}: CreateEndpoint to InService, p50 ms": at_most(300) for source in SOURCES},
    **{f"deploy/{source}: CreateEndpoint to InService, p99 ms": at_most(1000) for source in SOURCES},
    **{f"deploy/{source}: boto3's waiter, longest s": at_most(2) for source in SOURCES},
    **{
        f"pages: {call}, {client}, {part} ms": at_most(10)
        for call in CALLS
        for client in CLIENTS
        for part in ("p50", "p99")
    },
    "many: CPU of an invocation, 200 endpoints to 1": at_most(1.03),
    **{
        # Not to the load alone: on two cores the control client burns wrk's core, which moves p99 by itself.
        f"beside/{place}/c{connections}: p99 beside {kind}, to beside none": at_most(1.2)
        for place in PLACES
        for connections in CONNECTIONS
        for kind in TRAFFIC
    },
}
