"""Endpoint configurations: what is echoed, which shapes of variants there are, and when one can be deleted."""

from __future__ import annotations

from typing import Any

import pytest

from serving.control.store import Store
from serving.errors import ControlFault
from tests.control.caller import ONE_DATABASE, ROLE, Caller, arn, variant

SERVERLESS = {"MemorySizeInMB": 2048, "MaxConcurrency": 5}
CAPTURE = {
    "InitialSamplingPercentage": 50,
    "DestinationS3Uri": "s3://bucket/capture",
    "CaptureOptions": [{"CaptureMode": "Input"}],
}
ASYNC = {"OutputConfig": {"S3OutputPath": "s3://bucket/out"}}
CROSS = {"MaxInvocationsPerSecondPerInstance": 5, "MaxCrossRegionPercentPerEndpoint": 5}


def less(given: dict[str, Any], *members: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in members}


@pytest.fixture
def call(store: Store) -> Caller:
    caller = Caller(store)
    caller.model("m")
    return caller


def test_a_config_is_described_as_it_was_given(call: Caller) -> None:
    assert call.config("My-Config") == {"EndpointConfigArn": arn("endpoint-config", "my-config")}
    assert call("DescribeEndpointConfig", EndpointConfigName="My-Config") == {
        "EndpointConfigName": "My-Config",
        "EndpointConfigArn": arn("endpoint-config", "my-config"),
        "CreationTime": call.now,
        "ProductionVariants": [{**variant(), "InitialVariantWeight": 1.0}],
    }


def test_everything_that_a_caller_sets_comes_back(call: Caller) -> None:
    given: dict[str, Any] = {
        "ProductionVariants": [
            variant(
                InitialVariantWeight=0.25,
                VolumeSizeInGB=30,
                ModelDataDownloadTimeoutInSeconds=60,
                RoutingConfig={"RoutingStrategy": "RANDOM"},
                ManagedInstanceScaling={"Status": "ENABLED", "MinInstanceCount": 1, "MaxInstanceCount": 1},
            )
        ],
        "ShadowProductionVariants": [variant(name="Shadow", InitialVariantWeight=0.5)],
        "DataCaptureConfig": CAPTURE | {"EnableCapture": True},
        "KmsKeyId": "alias/key",
        "ExecutionRoleArn": ROLE,
        "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
        "EnableNetworkIsolation": False,
        "CrossRegionTrafficConfig": CROSS,
    }
    call("CreateEndpointConfig", EndpointConfigName="c", Tags=[{"Key": "k", "Value": ""}], **given)
    described = call("DescribeEndpointConfig", EndpointConfigName="c")
    assert less(described, "EndpointConfigName", "EndpointConfigArn", "CreationTime") == given


@ONE_DATABASE
@pytest.mark.parametrize(
    "given",
    [
        {
            "ProductionVariants": [
                less(variant(), "InstanceType", "InitialInstanceCount") | {"ServerlessConfig": SERVERLESS}
            ]
        },
        {"ProductionVariants": [variant(), variant(name="B", InitialVariantWeight=0.0)]},
        {"ProductionVariants": [less(variant(), "ModelName")], "ExecutionRoleArn": ROLE},
        {"ProductionVariants": [less(variant(), "ModelName", "InitialInstanceCount")], "ExecutionRoleArn": ROLE},
        {
            "ProductionVariants": [
                less(variant(), "InstanceType")
                | {
                    "InstancePools": [
                        {"InstanceType": "ml.m5.large", "Priority": 1},
                        {"InstanceType": "ml.m5.xlarge", "Priority": 1, "ModelNameOverride": "m"},
                    ]
                }
            ]
        },
        {"ProductionVariants": [variant()], "AsyncInferenceConfig": ASYNC},
    ],
)
def test_shapes_that_are_possible(call: Caller, given: dict[str, Any]) -> None:
    call("CreateEndpointConfig", EndpointConfigName="c", **given)
    described = call("DescribeEndpointConfig", EndpointConfigName="c")
    assert described["ProductionVariants"] == [
        {"InitialVariantWeight": 1.0, **one} for one in given["ProductionVariants"]
    ]


@ONE_DATABASE
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ProductionVariants": [variant("none")]}, f'^Could not find model "{arn("model", "none")}".$'),
        ({"ProductionVariants": [variant(), variant()]}, "VariantName must be unique"),
        ({"ProductionVariants": [variant(name="a"), variant(name="A")]}, "VariantName must be unique"),
        ({"ProductionVariants": [variant()], "ShadowProductionVariants": [variant()]}, "VariantName must be unique"),
        ({"ProductionVariants": [less(variant(), "InstanceType")]}, "has none of them; one of ServerlessConfig"),
        ({"ProductionVariants": [variant(ServerlessConfig=SERVERLESS)]}, "has ServerlessConfig and InstanceType"),
        (
            {"ProductionVariants": [less(variant(), "InitialInstanceCount")]},
            "InstanceType without InitialInstanceCount",
        ),
        ({"ProductionVariants": [less(variant(), "ModelName")]}, "inference components.*ExecutionRoleArn"),
        (
            {"ProductionVariants": [less(variant(), "InstanceType") | {"ServerlessConfig": SERVERLESS}]},
            "InitialInstanceCount, which is of no use with ServerlessConfig",
        ),
        (
            {"ProductionVariants": [{"VariantName": "v", "ServerlessConfig": SERVERLESS}]},
            "ServerlessConfig without ModelName",
        ),
        (
            {
                "ProductionVariants": [
                    {"VariantName": "v", "ModelName": "m", "ServerlessConfig": SERVERLESS | {"MemorySizeInMB": 1500}}
                ]
            },
            "MemorySizeInMB of 1500; a multiple of 1024",
        ),
        (
            {
                "ProductionVariants": [
                    {
                        "VariantName": "v",
                        "ModelName": "m",
                        "ServerlessConfig": SERVERLESS | {"ProvisionedConcurrency": 6},
                    }
                ]
            },
            "ProvisionedConcurrency of 6, above its MaxConcurrency of 5",
        ),
        (
            {"ProductionVariants": [{"VariantName": "v", "ModelName": "m", "ServerlessConfig": SERVERLESS}, variant()]},
            "ServerlessConfig must be the only one",
        ),
        (
            {
                "ProductionVariants": [
                    {"VariantName": "v", "InstancePools": [{"InstanceType": "ml.m5.large", "Priority": 1}]}
                ]
            },
            "InstancePools without ModelNameOverride",
        ),
        (
            {
                "ProductionVariants": [
                    {
                        "VariantName": "v",
                        "ModelName": "m",
                        "InstancePools": [{"InstanceType": "ml.m5.large", "Priority": 1}] * 2,
                    }
                ]
            },
            "InstancePools with the same InstanceType",
        ),
        (
            {"ProductionVariants": [variant(ManagedInstanceScaling={"MinInstanceCount": 3, "MaxInstanceCount": 2})]},
            "MinInstanceCount above its MaxInstanceCount",
        ),
        (
            {"ProductionVariants": [variant(), variant(name="B")], "ShadowProductionVariants": [variant(name="C")]},
            "given were 2 and 1",
        ),
        (
            {"ProductionVariants": [variant()], "ShadowProductionVariants": [variant(name="B"), variant(name="C")]},
            "given were 1 and 2",
        ),
        (
            {
                "ProductionVariants": [variant()],
                "ShadowProductionVariants": [variant(name="B")],
                "AsyncInferenceConfig": ASYNC,
            },
            "AsyncInferenceConfig and ShadowProductionVariants",
        ),
        (
            {
                "ProductionVariants": [{"VariantName": "v", "ModelName": "m", "ServerlessConfig": SERVERLESS}],
                "DataCaptureConfig": CAPTURE,
            },
            "DataCaptureConfig and ServerlessConfig",
        ),
        (
            {"ProductionVariants": [variant()], "AsyncInferenceConfig": ASYNC, "CrossRegionTrafficConfig": CROSS},
            "CrossRegionTrafficConfig and AsyncInferenceConfig",
        ),
    ],
)
def test_a_contradiction_is_refused_and_leaves_nothing(call: Caller, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlFault, match=message):
        call("CreateEndpointConfig", EndpointConfigName="c", **given)
    with pytest.raises(ControlFault, match="Could not find endpoint configuration"):
        call("DescribeEndpointConfig", EndpointConfigName="c")


def test_a_name_is_taken_until_it_is_deleted(call: Caller) -> None:
    call.config()
    message = f'^Cannot create already existing endpoint configuration "{arn("endpoint-config", "c")}".$'
    with pytest.raises(ControlFault, match=message):
        call.config()
    call("DeleteEndpointConfig", EndpointConfigName="c")
    for operation in ("DescribeEndpointConfig", "DeleteEndpointConfig"):
        with pytest.raises(
            ControlFault, match=f'^Could not find endpoint configuration "{arn("endpoint-config", "c")}".$'
        ):
            call(operation, EndpointConfigName="c")


def test_models_may_go_before_their_config(call: Caller) -> None:
    call.config()
    call("DeleteModel", ModelName="m")
    assert call("DescribeEndpointConfig", EndpointConfigName="c")["ProductionVariants"][0]["ModelName"] == "m"


def test_a_config_cannot_be_deleted_while_an_endpoint_is_on_its_way_to_it(call: Caller) -> None:
    call.config("one")
    call.config("two")
    call.endpoint("e", "one")
    with pytest.raises(ControlFault, match="is Creating and uses it"):
        call("DeleteEndpointConfig", EndpointConfigName="ONE")
    call.settle("e", "InService")
    call("UpdateEndpoint", EndpointName="e", EndpointConfigName="two")
    for name in ("one", "two"):
        with pytest.raises(ControlFault, match="is Updating and uses it"):
            call("DeleteEndpointConfig", EndpointConfigName=name)
    call.settle("e", "InService")
    for name in ("one", "two"):
        call("DeleteEndpointConfig", EndpointConfigName=name)
    assert call("DescribeEndpoint", EndpointName="e")["EndpointConfigName"] == "two"
