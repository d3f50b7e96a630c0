"""Endpoints: what is asked of the reconciler, what their description says on the way, and who may change them when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from serving.control import schema
from serving.control.call import Document
from serving.control.deployment import Deployment
from serving.control.operations import OPERATIONS
from serving.control.store import Store
from serving.errors import ControlFault
from tests.control.caller import ONE_DATABASE, Caller, arn, variant
from tests.control.conftest import Clock, OpenStore

T = 1_700_000_000.0
CANARY = {"Type": "CAPACITY_PERCENT", "Value": 10}


def blue_green(kind: str = "ALL_AT_ONCE", wait: int = 0, **members: Any) -> Document:
    policy = {name: members.pop(name) for name in list(members) if name.endswith("InSeconds")}
    routing = {"Type": kind, "WaitIntervalInSeconds": wait, **members}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, **policy}}


@pytest.fixture
def call(store: Store) -> Caller:
    caller = Caller(store)
    caller.model("m", Environment={"A": "1"})
    caller.config("c")
    caller.model("m2", image="xgboost")
    caller.config("c2", ProductionVariants=[variant("m2", InitialInstanceCount=3, InitialVariantWeight=0.5)])
    return caller


def row(call: Caller, name: str = "e") -> Any:
    table = schema.endpoints
    return call.store.transact(lambda tx: tx.connection.execute(select(table).where(table.c.name == name)).one())


def target(call: Caller, name: str = "e") -> Deployment:
    return msgspec.json.decode(row(call, name).target, type=Deployment)


def test_a_new_endpoint_asks_for_its_config_and_models_whole(call: Caller) -> None:
    assert call.endpoint("E1", "C") == {"EndpointArn": arn("endpoint", "e1")}
    asked = row(call, "E1")
    assert (asked.status, asked.generation, asked.current, asked.failure_reason) == ("Creating", 1, None, None)
    deployment = target(call, "E1")
    assert deployment.config_name == "c"
    assert deployment.config == call("DescribeEndpointConfig", EndpointConfigName="c")
    assert deployment.models == {"m": call("DescribeModel", ModelName="m")}
    assert deployment.request == {}
    for name in ("m", "m2"):
        call("DeleteModel", ModelName=name)
    assert target(call, "E1") == deployment


def test_nodes_hear_of_every_change_and_of_nothing_else(call: Caller) -> None:
    def changed(operation: str, **parameters: Any) -> bool:
        def work(tx: Any) -> bool:
            OPERATIONS[f"sagemaker.{operation}"](tx, parameters)
            return bool(tx.changed)

        return call.store.transact(work)

    assert changed("CreateEndpoint", EndpointName="e", EndpointConfigName="c")
    assert not changed("DescribeEndpoint", EndpointName="e")
    assert not changed("ListEndpoints")
    call.settle("e", "InService")
    assert changed("UpdateEndpoint", EndpointName="e", EndpointConfigName="c2")
    assert changed("DeleteEndpoint", EndpointName="e")
    assert row(call).generation == 3


def test_the_description_from_creation_to_service(call: Caller, clock: Clock) -> None:
    call.endpoint()
    image = {"SpecifiedImage": "onnx", "ResolvedImage": "onnx", "ResolutionTime": T}
    creating = call("DescribeEndpoint", EndpointName="E")
    assert creating == {
        "EndpointName": "e",
        "EndpointArn": arn("endpoint", "e"),
        "EndpointConfigName": "c",
        "EndpointStatus": "Creating",
        "CreationTime": creating["CreationTime"],
        "LastModifiedTime": creating["CreationTime"],
        "PendingDeploymentSummary": {
            "EndpointConfigName": "c",
            "StartTime": creating["CreationTime"],
            "ProductionVariants": [
                {
                    "VariantName": "AllTraffic",
                    "DeployedImages": [image],
                    "DesiredWeight": 1.0,
                    "DesiredInstanceCount": 1,
                    "InstanceType": "ml.m5.large",
                    "VariantStatus": [{"Status": "Creating", "StartTime": T}],
                }
            ],
        },
    }
    call.settle("e", "InService")
    assert call("DescribeEndpoint", EndpointName="e") == {
        "EndpointName": "e",
        "EndpointArn": arn("endpoint", "e"),
        "EndpointConfigName": "c",
        "EndpointStatus": "InService",
        "CreationTime": T,
        "LastModifiedTime": T,
        "ProductionVariants": [
            {
                "VariantName": "AllTraffic",
                "DeployedImages": [image],
                "CurrentWeight": 1.0,
                "DesiredWeight": 1.0,
                "CurrentInstanceCount": 1,
                "DesiredInstanceCount": 1,
            }
        ],
    }


def test_the_description_of_an_update_and_of_one_that_failed(call: Caller, clock: Clock) -> None:
    call.endpoint()
    call.settle("e", "InService")
    clock.advance(60)
    assert call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c2") == {"EndpointArn": arn("endpoint", "e")}
    updating = call("DescribeEndpoint", EndpointName="e")
    assert (updating["EndpointStatus"], updating["EndpointConfigName"]) == ("Updating", "c")
    assert updating["LastModifiedTime"] == T + 60
    assert updating["ProductionVariants"][0]["DeployedImages"][0]["SpecifiedImage"] == "onnx"
    pending = updating["PendingDeploymentSummary"]
    assert (pending["EndpointConfigName"], pending["StartTime"]) == ("c2", T + 60)
    assert pending["ProductionVariants"][0]["DesiredInstanceCount"] == 3
    call.settle("e", "InService", serving=False, reason="it does not fit: " + "x" * 2000)
    failed = call("DescribeEndpoint", EndpointName="e")
    assert failed["EndpointConfigName"] == "c"
    assert len(failed["FailureReason"]) == 1024
    assert "PendingDeploymentSummary" not in failed
    call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c2")
    assert "FailureReason" not in call("DescribeEndpoint", EndpointName="e")
    call.settle("e", "InService")
    served = call("DescribeEndpoint", EndpointName="e")
    assert served["EndpointConfigName"] == "c2"
    assert served["ProductionVariants"][0]["CurrentWeight"] == 0.5


def test_an_endpoint_that_never_served(call: Caller) -> None:
    call.endpoint()
    call.settle("e", "Failed", serving=False, reason="no such object")
    described = call("DescribeEndpoint", EndpointName="e")
    assert described["FailureReason"] == "no such object"
    assert described["EndpointConfigName"] == "c"
    assert "ProductionVariants" not in described
    assert "PendingDeploymentSummary" not in described


def test_what_the_config_sets_is_described(call: Caller) -> None:
    capture = {
        "InitialSamplingPercentage": 25,
        "DestinationS3Uri": "s3://bucket/capture",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    parts: Document = {
        "ManagedInstanceScaling": {"Status": "ENABLED", "MaxInstanceCount": 2},
        "RoutingConfig": {"RoutingStrategy": "RANDOM"},
    }
    call.config(
        "full",
        ProductionVariants=[variant(**parts)],
        ShadowProductionVariants=[variant("m2", "Shadow")],
        DataCaptureConfig=capture | {"EnableCapture": True},
    )
    call.endpoint("e", "full")
    pending = call("DescribeEndpoint", EndpointName="e")["PendingDeploymentSummary"]
    assert pending["ShadowProductionVariants"][0]["VariantName"] == "Shadow"
    call.settle("e", "InService")
    described = call("DescribeEndpoint", EndpointName="e")
    assert described["DataCaptureConfig"] == {
        "EnableCapture": True,
        "CaptureStatus": "Started",
        "CurrentSamplingPercentage": 25,
        "DestinationS3Uri": "s3://bucket/capture",
        "KmsKeyId": "",
    }
    assert {name: described["ProductionVariants"][0][name] for name in parts} == parts
    assert described["ShadowProductionVariants"][0]["DeployedImages"][0]["SpecifiedImage"] == "xgboost"


def test_a_serverless_variant_has_no_instances(call: Caller) -> None:
    serverless = {"MemorySizeInMB": 1024, "MaxConcurrency": 1}
    call.config("s", ProductionVariants=[{"VariantName": "v", "ModelName": "m", "ServerlessConfig": serverless}])
    call.endpoint("e", "s")
    pending = call("DescribeEndpoint", EndpointName="e")["PendingDeploymentSummary"]["ProductionVariants"][0]
    assert pending["DesiredServerlessConfig"] == serverless
    assert "CurrentServerlessConfig" not in pending
    call.settle("e", "InService")
    served = call("DescribeEndpoint", EndpointName="e")["ProductionVariants"][0]
    assert served["CurrentServerlessConfig"] == serverless
    assert "CurrentInstanceCount" not in served


def test_names_that_cannot_be_created(call: Caller, open_store: OpenStore) -> None:
    call.endpoint()
    for name in ("e", "E"):
        with pytest.raises(ControlFault, match=f'^Cannot create already existing endpoint "{arn("endpoint", "e")}".$'):
            call.endpoint(name)
    with pytest.raises(
        ControlFault, match=f'^Could not find endpoint configuration "{arn("endpoint-config", "none")}".$'
    ):
        call.endpoint("new", "none")
    call("DeleteModel", ModelName="m")
    with pytest.raises(ControlFault, match=f'^Could not find model "{arn("model", "m")}".$'):
        call.endpoint("new", "c")
    assert [one["EndpointName"] for one in call("ListEndpoints")["Endpoints"]] == ["e"]


def test_a_name_that_is_served_from_the_command_line(open_store: OpenStore) -> None:
    call = Caller(open_store("other", taken=frozenset({"fraud"})))
    call.model()
    call.config()
    with pytest.raises(ControlFault, match=r"^Cannot create already existing endpoint .*given to the server"):
        call.endpoint("fraud")
    call.endpoint("fraud-2")


@pytest.mark.parametrize("operation", ["DescribeEndpoint", "DeleteEndpoint", "UpdateEndpoint"])
def test_an_absent_endpoint(call: Caller, operation: str) -> None:
    more = {"EndpointConfigName": "c"} if operation == "UpdateEndpoint" else {}
    with pytest.raises(ControlFault, match=f'^Could not find endpoint "{arn("endpoint", "none")}".$'):
        call(operation, EndpointName="none", **more)


IN_PROGRESS = f'^Cannot update in-progress endpoint "{arn("endpoint", "e")}".$'


@ONE_DATABASE
@pytest.mark.parametrize(
    ("status", "update", "delete"),
    [
        ("Creating", IN_PROGRESS, ""),
        ("Updating", IN_PROGRESS, ""),
        ("InService", "", ""),
        ("OutOfService", "", ""),
        ("UpdateRollbackFailed", "", ""),
        ("Failed", "it is Failed, and can only be deleted", ""),
        ("Deleting", IN_PROGRESS, IN_PROGRESS),
        ("SystemUpdating", IN_PROGRESS, IN_PROGRESS),
        ("RollingBack", IN_PROGRESS, IN_PROGRESS),
    ],
)
def test_who_may_change_an_endpoint_when(call: Caller, status: str, update: str, delete: str) -> None:
    call.endpoint()

    def attempt(operation: str, message: str, **parameters: Any) -> None:
        call.settle("e", status)
        before = row(call)
        if not message:
            call(operation, EndpointName="e", **parameters)
            assert row(call).generation == before.generation + 1
            return
        with pytest.raises(ControlFault, match=message):
            call(operation, EndpointName="e", **parameters)
        assert row(call) == before

    attempt("UpdateEndpoint", update, EndpointConfigName="c2")
    attempt("DeleteEndpoint", delete)


def test_the_config_in_force_is_no_update_unless_it_mends(call: Caller) -> None:
    call.endpoint()
    call.settle("e", "InService")
    message = f'it uses the endpoint configuration "{arn("endpoint-config", "c")}" already'
    with pytest.raises(ControlFault, match=message):
        call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c")
    call.settle("e", "OutOfService", reason="its object is gone")
    call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c")
    call.settle("e", "InService")
    # One of the same name that was made anew is another.
    call("DeleteEndpointConfig", EndpointConfigName="c")
    call.config("c", ProductionVariants=[variant(InitialInstanceCount=2)])
    call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c")


def test_a_model_that_was_made_anew_is_an_update(call: Caller) -> None:
    call.endpoint()
    call.settle("e", "InService")
    call("DeleteModel", ModelName="m")
    call.model("m", image="sklearn")
    call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c")
    assert target(call).models["m"]["PrimaryContainer"]["Image"] == "sklearn"


def test_an_update_to_what_is_absent_changes_nothing(call: Caller) -> None:
    call.endpoint()
    call.settle("e", "InService")
    before = row(call)
    with pytest.raises(ControlFault, match="Could not find endpoint configuration"):
        call("UpdateEndpoint", EndpointName="e", EndpointConfigName="none")
    call("DeleteModel", ModelName="m2")
    with pytest.raises(ControlFault, match="Could not find model"):
        call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c2")
    assert row(call) == before


def test_variant_properties_are_retained_unless_excluded(call: Caller) -> None:
    capture = {
        "InitialSamplingPercentage": 25,
        "DestinationS3Uri": "s3://bucket/capture",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    call.config(
        "live",
        ProductionVariants=[variant(InitialInstanceCount=7, InitialVariantWeight=4.0)],
        DataCaptureConfig=capture,
    )
    call.config("next", ProductionVariants=[variant("m2"), variant("m2", "New", InitialInstanceCount=2)])

    def asked(**how: Any) -> tuple[int, float, bool]:
        name = f"e{len(call('ListEndpoints', MaxResults=100)['Endpoints'])}"
        call.endpoint(name, "live")
        call.settle(name, "InService")
        call("UpdateEndpoint", EndpointName=name, EndpointConfigName="next", **how)
        config = target(call, name).config
        kept, new = config["ProductionVariants"]
        assert (new["InitialInstanceCount"], new["InitialVariantWeight"], kept["ModelName"]) == (2, 1.0, "m2")
        return kept["InitialInstanceCount"], kept["InitialVariantWeight"], "DataCaptureConfig" in config

    def excluding(*kinds: str) -> Document:
        listed = [{"VariantPropertyType": kind} for kind in kinds]
        return {"RetainAllVariantProperties": True, "ExcludeRetainedVariantProperties": listed}

    assert asked() == (1, 1.0, False)
    assert asked(RetainAllVariantProperties=False) == (1, 1.0, False)
    assert asked(RetainAllVariantProperties=True) == (7, 4.0, True)
    assert asked(**excluding("DesiredInstanceCount")) == (1, 4.0, True)
    assert asked(**excluding("DesiredWeight")) == (7, 1.0, True)
    assert asked(**excluding("DataCaptureConfig", "DesiredWeight", "DesiredInstanceCount")) == (1, 1.0, False)
    call.endpoint()
    call.settle("e", "InService")
    with pytest.raises(ControlFault, match="needs RetainAllVariantProperties"):
        call(
            "UpdateEndpoint",
            EndpointName="e",
            EndpointConfigName="c2",
            ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DesiredWeight"}],
        )


def test_the_last_deployment_config(call: Caller) -> None:
    policy = blue_green("CANARY", CanarySize=CANARY)
    call.endpoint(DeploymentConfig=policy)
    call.settle("e", "InService")
    assert call("DescribeEndpoint", EndpointName="e")["LastDeploymentConfig"] == policy
    with pytest.raises(ControlFault, match="DeploymentConfig cannot be given where RetainDeploymentConfig"):
        call(
            "UpdateEndpoint",
            EndpointName="e",
            EndpointConfigName="c2",
            RetainDeploymentConfig=True,
            DeploymentConfig=policy,
        )
    call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c2", RetainDeploymentConfig=True)
    assert target(call).request["DeploymentConfig"] == policy
    call.settle("e", "InService")
    call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c")
    call.settle("e", "InService")
    assert "LastDeploymentConfig" not in call("DescribeEndpoint", EndpointName="e")
    call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c2", RetainDeploymentConfig=True)
    assert "DeploymentConfig" not in target(call).request


def rolling(percent: int, **members: Any) -> Document:
    size = {"Type": "CAPACITY_PERCENT", "Value": percent}
    return {"RollingUpdatePolicy": {"MaximumBatchSize": size, "WaitIntervalInSeconds": 0, **members}}


@ONE_DATABASE
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (blue_green(), ""),
        (blue_green("LINEAR", LinearStepSize=CANARY), ""),
        (blue_green("CANARY", CanarySize={"Type": "INSTANCE_COUNT", "Value": 60}), ""),
        (rolling(50, RollbackMaximumBatchSize={"Type": "CAPACITY_PERCENT", "Value": 100}), ""),
        ({"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "a"}]}}, ""),
        (blue_green() | rolling(5), "both BlueGreenUpdatePolicy and RollingUpdatePolicy"),
        (blue_green("CANARY"), "type CANARY needs CanarySize"),
        (blue_green("LINEAR"), "type LINEAR needs LinearStepSize"),
        (blue_green("CANARY", CanarySize=CANARY, LinearStepSize=CANARY), "type CANARY cannot have LinearStepSize"),
        (blue_green(CanarySize=CANARY), "type ALL_AT_ONCE cannot have CanarySize"),
        (
            blue_green("CANARY", CanarySize={"Type": "CAPACITY_PERCENT", "Value": 51}),
            "CanarySize is 51 percent.*1 to 50",
        ),
        (
            blue_green("LINEAR", LinearStepSize={"Type": "CAPACITY_PERCENT", "Value": 9}),
            "LinearStepSize is 9.*10 to 50",
        ),
        (rolling(4), "MaximumBatchSize is 4.*5 to 50"),
        (rolling(51), "MaximumBatchSize is 51.*5 to 50"),
        (
            rolling(5, RollbackMaximumBatchSize={"Type": "CAPACITY_PERCENT", "Value": 101}),
            "RollbackMaximumBatchSize is 101",
        ),
        (
            blue_green(wait=300, TerminationWaitInSeconds=300, MaximumExecutionTimeoutInSeconds=600),
            "is 600, which does not exceed the 600 seconds",
        ),
    ],
)
def test_deployment_configs(call: Caller, policy: Document, message: str) -> None:
    if not message:
        call.endpoint(DeploymentConfig=policy)
        call.settle("e", "InService")
        call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c2", DeploymentConfig=policy)
        return
    with pytest.raises(ControlFault, match=message):
        call.endpoint(DeploymentConfig=policy)
    call.endpoint()
    call.settle("e", "InService")
    with pytest.raises(ControlFault, match=message):
        call("UpdateEndpoint", EndpointName="e", EndpointConfigName="c2", DeploymentConfig=policy)


def test_an_endpoint_takes_its_tags(call: Caller) -> None:
    call.endpoint(Tags=[{"Key": "k", "Value": "v"}])
    assert call("ListTags", ResourceArn=arn("endpoint", "e"))["Tags"] == [{"Key": "k", "Value": "v"}]


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("CreateModel", {"ModelName": "race", "PrimaryContainer": {"Image": "onnx"}}),
        ("CreateEndpoint", {"EndpointName": "race", "EndpointConfigName": "c"}),
        ("CreateEndpointConfig", {"EndpointConfigName": "race", "ProductionVariants": [variant()]}),
        ("CreateModelPackageGroup", {"ModelPackageGroupName": "race"}),
        ("CreateModelPackage", {"ModelPackageName": "race"}),
    ],
)
def test_of_many_that_create_one_name_one_wins(call: Caller, operation: str, parameters: Document) -> None:
    async def race() -> list[object]:
        run = OPERATIONS[f"sagemaker.{operation}"]
        tries = [call.store.run(lambda tx: run(tx, parameters)) for _ in range(6)]
        return list(await asyncio.gather(*tries, return_exceptions=True))

    outcomes = asyncio.run(race())
    lost = [one for one in outcomes if isinstance(one, ControlFault)]
    assert len(lost) == 5, outcomes
    assert {one.sagemaker_code for one in lost} == {"ValidationException"}
    assert all("already exist" in one.message for one in lost)


def test_of_many_that_update_one_endpoint_one_wins(call: Caller) -> None:
    call.endpoint()
    call.settle("e", "InService")

    async def race(work: Callable[[Any], Any]) -> list[object]:
        return list(await asyncio.gather(*(call.store.run(work) for _ in range(6)), return_exceptions=True))

    parameters = {"EndpointName": "e", "EndpointConfigName": "c2"}
    outcomes = asyncio.run(race(lambda tx: OPERATIONS["sagemaker.UpdateEndpoint"](tx, parameters)))
    assert sum(isinstance(one, dict) for one in outcomes) == 1, outcomes
    assert row(call).generation == 2
