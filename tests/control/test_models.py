"""Models: created, described, listed and deleted, and the contradictions that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from serving.control.store import Store
from serving.errors import ControlFault
from tests.control.caller import ONE_DATABASE, ROLE, Caller, arn

CONTAINER = {"Image": "onnx", "ModelDataUrl": "s3://bucket/m.tar.gz"}


@pytest.fixture
def call(store: Store) -> Caller:
    return Caller(store)


def test_a_model_is_described_as_it_was_given(call: Caller) -> None:
    assert call.model("My-Model") == {"ModelArn": arn("model", "my-model")}
    described = call("DescribeModel", ModelName="My-Model")
    assert described == {
        "CreationTime": call.now,
        "ModelName": "My-Model",
        "ModelArn": arn("model", "my-model"),
        "PrimaryContainer": {
            "Image": "onnx",
            "ModelDataUrl": "s3://bucket/My-Model.tar.gz",
            "Mode": "SingleModel",
            "Environment": {},
        },
        "ExecutionRoleArn": ROLE,
    }


def test_everything_that_a_caller_sets_comes_back(call: Caller) -> None:
    source = {"S3DataSource": {"S3Uri": "s3://b/p/", "S3DataType": "S3Prefix", "CompressionType": "None"}}
    given: dict[str, Any] = {
        "Containers": [
            {
                "Image": "onnx",
                "ContainerHostname": "one",
                "ModelDataSource": source,
                "Environment": {"A": "\x00\u2028é"},
            },
            {"Image": "xgboost", "ContainerHostname": "two", "Mode": "MultiModel", "ModelDataUrl": "s3://b/many/"},
        ],
        "InferenceExecutionConfig": {"Mode": "Direct"},
        "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
        "EnableNetworkIsolation": True,
        "ExecutionRoleArn": ROLE,
    }
    call("CreateModel", ModelName="m", Tags=[{"Key": "k", "Value": "v"}], **given)
    described = call("DescribeModel", ModelName="m")
    assert {name: described[name] for name in given if name != "Containers"} == {
        name: value for name, value in given.items() if name != "Containers"
    }
    assert described["Containers"] == [
        {"Mode": "SingleModel", **given["Containers"][0]},
        {"Environment": {}, **given["Containers"][1]},
    ]
    assert "Tags" not in described
    assert "PrimaryContainer" not in described
    assert call("ListTags", ResourceArn=arn("model", "m")) == {"Tags": [{"Key": "k", "Value": "v"}]}


def test_many_models_are_described_as_they_were_given(call: Caller) -> None:
    given = {
        "Image": "onnx",
        "Mode": "MultiModel",
        "ModelDataUrl": "s3://b/many/",
        "MultiModelConfig": {"ModelCacheSetting": "Disabled"},
    }
    call("CreateModel", ModelName="m", PrimaryContainer=given, ExecutionRoleArn=ROLE)
    assert call("DescribeModel", ModelName="m")["PrimaryContainer"] == {**given, "Environment": {}}


def test_a_name_is_taken_in_any_case_until_it_is_deleted(call: Caller) -> None:
    call.model("m")
    for name in ("m", "M"):
        with pytest.raises(ControlFault, match=f'^Cannot create already existing model "{arn("model", "m")}".$'):
            call.model(name)
    assert call("DeleteModel", ModelName="m") == {}
    call.model("M")
    assert call("DescribeModel", ModelName="m")["ModelName"] == "M"


@pytest.mark.parametrize("operation", ["DescribeModel", "DeleteModel"])
def test_an_absent_model(call: Caller, operation: str) -> None:
    with pytest.raises(ControlFault, match=f'^Could not find model "{arn("model", "none")}".$'):
        call(operation, ModelName="None")


def test_the_tags_of_a_model_go_with_it(call: Caller) -> None:
    call("CreateModel", ModelName="m", PrimaryContainer=CONTAINER, Tags=[{"Key": "k", "Value": "v"}])
    call("DeleteModel", ModelName="m")
    call.model("m")
    assert call("ListTags", ResourceArn=arn("model", "m")) == {"Tags": []}


SOURCE = {"S3DataSource": {"S3Uri": "s3://b/p/", "S3DataType": "S3Prefix", "CompressionType": "None"}}
CHANNEL = {"ChannelName": "drafts", "S3DataSource": SOURCE["S3DataSource"]}


@ONE_DATABASE
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Neither PrimaryContainer nor Containers"),
        ({"Containers": []}, "Neither PrimaryContainer nor Containers"),
        ({"PrimaryContainer": CONTAINER, "Containers": [CONTAINER]}, "Both PrimaryContainer and Containers"),
        ({"PrimaryContainer": {}}, "Specify one of either Image"),
        ({"PrimaryContainer": {"ModelDataUrl": "s3://b/m.tar.gz"}}, "Specify one of either Image"),
        ({"PrimaryContainer": {"Image": "onnx", "ModelPackageName": "p"}}, "Specify one of either Image"),
        (
            {"PrimaryContainer": {"ModelDataUrl": "s3://b/m.tar.gz", "ModelPackageName": "p"}},
            "Specify one of either Image",
        ),
        ({"PrimaryContainer": {"ModelDataSource": SOURCE, "ModelPackageName": "p"}}, "Specify one of either Image"),
        (
            {"PrimaryContainer": {**CONTAINER, "ModelDataSource": SOURCE}},
            "only one of ModelDataUrl and ModelDataSource",
        ),
        ({"PrimaryContainer": {**CONTAINER, "InferenceSpecificationName": "s"}}, "InferenceSpecificationName"),
        (
            {"PrimaryContainer": {**CONTAINER, "MultiModelConfig": {"ModelCacheSetting": "Enabled"}}},
            "MultiModelConfig needs Mode MultiModel",
        ),
        (
            {"PrimaryContainer": {**CONTAINER, "AdditionalModelDataSources": [CHANNEL, CHANNEL]}},
            "ChannelName must be unique",
        ),
        ({"Containers": [{**CONTAINER, "ContainerHostname": "h"}] * 2}, "ContainerHostname must be unique"),
        (
            {"Containers": [CONTAINER] * 2, "InferenceExecutionConfig": {"Mode": "Direct"}},
            "Every container needs a ContainerHostname",
        ),
        (
            {"PrimaryContainer": {**CONTAINER, "Environment": {f"K{n}": "x" * 1000 for n in range(40)}}},
            "40110 characters",
        ),
        ({"PrimaryContainer": CONTAINER, "Tags": [{"Key": "k", "Value": "v"}] * 2}, "Tag keys must be unique"),
        ({"PrimaryContainer": CONTAINER, "Tags": [{"Key": "aws:k", "Value": "v"}]}, "begins with aws:"),
        ({"PrimaryContainer": {"ModelPackageName": "p"}}, "ModelPackage arn:.*model-package/p does not exist"),
    ],
)
def test_a_contradiction_is_refused_and_leaves_nothing(call: Caller, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlFault, match=message):
        call("CreateModel", ModelName="m", **given)
    with pytest.raises(ControlFault, match="Could not find model"):
        call("DescribeModel", ModelName="m")


def test_one_container_may_come_as_a_list(call: Caller) -> None:
    call("CreateModel", ModelName="m", Containers=[CONTAINER])
    assert call("DescribeModel", ModelName="m")["Containers"] == [
        {"Mode": "SingleModel", "Environment": {}, **CONTAINER}
    ]
