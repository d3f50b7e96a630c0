"""The model registry: groups, versions, approval, and models made from packages."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from serving.control import model_packages
from serving.control.call import Document
from serving.control.operations import OPERATIONS
from serving.control.resource import MOST_BYTES
from serving.control.store import Store
from serving.errors import Conflict, ControlFault, ResourceLimitExceeded
from tests.control.caller import ONE_DATABASE, ROLE, Caller, arn, variant
from tests.control.conftest import Clock

T = 1_700_000_000.0
SPECIFICATION: Document = {
    "Containers": [{"Image": "onnx", "ModelDataUrl": "s3://b/m.tar.gz", "Environment": {"A": "1", "B": "2"}}],
    "SupportedContentTypes": ["text/csv"],
    "SupportedResponseMIMETypes": ["text/csv"],
}


@pytest.fixture
def call(store: Store) -> Caller:
    caller = Caller(store)
    caller("CreateModelPackageGroup", ModelPackageGroupName="Group", ModelPackageGroupDescription="d")
    return caller


def register(call: Caller, **parameters: Any) -> str:
    given = {"ModelPackageGroupName": "Group", "InferenceSpecification": SPECIFICATION, **parameters}
    return str(call("CreateModelPackage", **given)["ModelPackageArn"])


def described(call: Caller, named: str) -> Document:
    return call("DescribeModelPackage", ModelPackageName=named)


# ---------------------------------------------------------------- groups


def test_a_group_is_described_as_it_was_given(call: Caller) -> None:
    group = call("DescribeModelPackageGroup", ModelPackageGroupName=arn("model-package-group", "group"))
    assert group.pop("CreatedBy")["IamIdentity"]["Arn"].startswith("arn:aws:sts::123456789012:assumed-role/")
    assert group == {
        "ModelPackageGroupName": "Group",
        "ModelPackageGroupArn": arn("model-package-group", "group"),
        "ModelPackageGroupDescription": "d",
        "CreationTime": T,
        "ModelPackageGroupStatus": "Completed",
    }


def test_groups_that_exist_and_that_do_not(call: Caller) -> None:
    with pytest.raises(
        ControlFault, match=f"^Model Package Group already exists: {arn('model-package-group', 'group')}$"
    ):
        call("CreateModelPackageGroup", ModelPackageGroupName="group")
    for operation in ("DescribeModelPackageGroup", "DeleteModelPackageGroup", "ListModelPackages"):
        with pytest.raises(
            ControlFault, match=f"^ModelPackageGroup {arn('model-package-group', 'none')} does not exist.$"
        ):
            call(operation, ModelPackageGroupName="none")
    with pytest.raises(ControlFault, match=r"is the ARN of a model-package; one of a model-package-group was expected"):
        call("DescribeModelPackageGroup", ModelPackageGroupName=arn("model-package", "group"))


def test_a_group_goes_only_when_it_is_empty(call: Caller) -> None:
    package = register(call)
    with pytest.raises(Conflict, match="still contains model packages") as refused:
        call("DeleteModelPackageGroup", ModelPackageGroupName="Group")
    assert refused.value.sagemaker_code == "ConflictException"
    call("DeleteModelPackage", ModelPackageName=package)
    assert call("DeleteModelPackageGroup", ModelPackageGroupName="Group") == {}
    assert call("ListModelPackageGroups") == {"ModelPackageGroupSummaryList": []}


def test_groups_are_listed_oldest_first(call: Caller, clock: Clock) -> None:
    clock.advance(1)
    call("CreateModelPackageGroup", ModelPackageGroupName="next")
    listed = call("ListModelPackageGroups")["ModelPackageGroupSummaryList"]
    assert [one["ModelPackageGroupName"] for one in listed] == ["Group", "next"]
    assert "CreatedBy" not in listed[0]
    assert call("ListModelPackageGroups", CrossAccountFilterOption="CrossAccount") == {
        "ModelPackageGroupSummaryList": []
    }
    assert len(call("ListModelPackageGroups", NameContains="EX")["ModelPackageGroupSummaryList"]) == 1


# ---------------------------------------------------------------- packages


def test_versions_count_up_and_are_never_given_twice(call: Caller) -> None:
    assert register(call) == arn("model-package", "group/1")
    assert register(call, ModelPackageGroupName=arn("model-package-group", "group")) == arn("model-package", "group/2")
    call("DeleteModelPackage", ModelPackageName="Group/2")
    assert register(call) == arn("model-package", "group/3")
    with pytest.raises(ControlFault, match=f"^ModelPackage {arn('model-package', 'group/2')} does not exist.$"):
        described(call, "Group/2")


@pytest.mark.parametrize("named", [arn("model-package", "group/1"), "Group/1", "group/1"])
def test_a_version_is_described_by_arn_and_by_name(call: Caller, named: str) -> None:
    register(call, ModelPackageDescription="first", CustomerMetadataProperties={"k": "v"}, CertifyForMarketplace=False)
    assert described(call, named) == {
        "ModelPackageGroupName": "Group",
        "ModelPackageVersion": 1,
        "ModelPackageArn": arn("model-package", "group/1"),
        "ModelPackageDescription": "first",
        "CreationTime": T,
        "InferenceSpecification": SPECIFICATION,
        "ModelPackageStatus": "Completed",
        "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
        "ModelApprovalStatus": "PendingManualApproval",
        "CustomerMetadataProperties": {"k": "v"},
        "CertifyForMarketplace": False,
    }


def test_a_package_without_a_group(call: Caller) -> None:
    tags = [{"Key": "k", "Value": "v"}]
    package = call("CreateModelPackage", ModelPackageName="Own", InferenceSpecification=SPECIFICATION, Tags=tags)
    assert package == {"ModelPackageArn": arn("model-package", "own")}
    found = described(call, "Own")
    assert found["ModelPackageName"] == "Own"
    for absent in ("ModelPackageGroupName", "ModelPackageVersion", "ModelApprovalStatus", "Tags", "LastModifiedTime"):
        assert absent not in found
    assert call("ListTags", ResourceArn=arn("model-package", "own"))["Tags"] == tags
    # The SDKs look for these words.
    with pytest.raises(ControlFault, match=f"^ModelPackage already exists: {arn('model-package', 'own')}$"):
        call("CreateModelPackage", ModelPackageName="own")


@ONE_DATABASE
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "Missing ARN"),
        (
            {"ModelPackageName": "p", "ModelPackageGroupName": "Group"},
            "Both ModelPackageName and ModelPackageGroupName",
        ),
        ({"ModelPackageGroupName": "none"}, "ModelPackageGroup .*/none does not exist"),
        (
            {"ModelPackageGroupName": "Group", "Tags": [{"Key": "k", "Value": "v"}]},
            "Tags cannot be provided for a version",
        ),
        ({"ModelPackageName": "p", "SourceUri": "s3://b/x"}, "SourceUri can be provided for a version"),
        (
            {
                "ModelPackageGroupName": "Group",
                "InferenceSpecification": SPECIFICATION,
                "SourceAlgorithmSpecification": {"SourceAlgorithms": [{"AlgorithmName": "a"}]},
            },
            "Both InferenceSpecification and SourceAlgorithmSpecification",
        ),
        (
            {
                "ModelPackageGroupName": "Group",
                "InferenceSpecification": {"Containers": [{"ModelDataUrl": "s3://b/m"}]},
            },
            "Specify Image in container definition",
        ),
        (
            {
                "ModelPackageGroupName": "Group",
                "AdditionalInferenceSpecifications": [{"Name": "n", "Containers": [{"Image": "onnx"}]}] * 2,
            },
            "Name must be unique",
        ),
        ({"ModelPackageGroupName": "Group", "SourceUri": arn("model", "none")}, "Could not find model"),
        (
            {"ModelPackageGroupName": "Group", "SourceUri": arn("model-package", "none")},
            "ModelPackage .* does not exist",
        ),
    ],
)
def test_a_package_that_cannot_be(call: Caller, parameters: Document, message: str) -> None:
    with pytest.raises(ControlFault, match=message):
        call("CreateModelPackage", **parameters)
    assert call("ListModelPackages", ModelPackageType="Both") == {"ModelPackageSummaryList": []}
    assert register(call) == arn("model-package", "group/1")


def test_a_request_that_is_repeated_creates_one_package(call: Caller, clock: Clock) -> None:
    first = register(call, ClientToken="token-1")
    assert register(call, ClientToken="token-1") == first
    assert register(call, ClientToken="token-2") == arn("model-package", "group/2")
    with pytest.raises(ControlFault, match=r"ClientToken was used before, in another request, which created .*group/1"):
        register(call, ClientToken="token-1", ModelPackageDescription="another")
    call("UpdateModelPackage", ModelPackageArn=first, ModelApprovalStatus="Approved", ClientToken="token-3")
    assert register(call, ClientToken="token-1") == first
    assert "ClientToken" not in described(call, first)
    assert "RequestDigest" not in described(call, first)
    # Data that reads like a token is none.
    register(call, CustomerMetadataProperties={"ClientToken": "token-4"}, ClientToken="token-5")
    assert register(call, ClientToken="token-4") == arn("model-package", "group/4")
    clock.advance(2 * 24 * 3600)
    assert register(call, ClientToken="token-1") == arn("model-package", "group/5")


def test_a_repeated_request_for_a_package_of_its_own(call: Caller) -> None:
    for _ in range(2):
        assert register_own(call, ClientToken="t") == arn("model-package", "own")
    with pytest.raises(ControlFault, match="already exists"):
        register_own(call, ClientToken="u")


def register_own(call: Caller, **parameters: Any) -> str:
    return str(call("CreateModelPackage", ModelPackageName="own", **parameters)["ModelPackageArn"])


def test_requests_at_once_get_versions_of_their_own_and_repeated_ones_share(call: Caller) -> None:
    async def race() -> list[Document]:
        run: Any = OPERATIONS["sagemaker.CreateModelPackage"]
        given = [{"ModelPackageGroupName": "Group", "ClientToken": f"t{n // 2}"} for n in range(8)]
        tries = [call.store.run(partial(run, parameters=one)) for one in given]
        return list(await asyncio.gather(*tries))

    arns = [one["ModelPackageArn"] for one in asyncio.run(race())]
    assert all(arns[n] == arns[n + 1] for n in range(0, 8, 2))
    assert set(arns) == {arn("model-package", f"group/{n}") for n in range(1, 5)}


def test_updates(call: Caller, clock: Clock) -> None:
    package = register(call, CustomerMetadataProperties={"a": "1", "b": "2"})
    clock.advance(5)
    life = {"Stage": "Production", "StageStatus": "Ready"}
    extra = {"Name": "fast", "Containers": [{"Image": "xgboost"}]}
    answer = call(
        "UpdateModelPackage",
        ModelPackageArn=package,
        ModelApprovalStatus="Approved",
        ApprovalDescription="good",
        CustomerMetadataProperties={"b": "3", "c": "4"},
        CustomerMetadataPropertiesToRemove=["a", "absent"],
        AdditionalInferenceSpecificationsToAdd=[extra],
        ModelLifeCycle=life,
    )
    assert answer == {"ModelPackageArn": package}
    found = described(call, package)
    assert (found["ModelApprovalStatus"], found["ApprovalDescription"]) == ("Approved", "good")
    assert found["CustomerMetadataProperties"] == {"b": "3", "c": "4"}
    assert found["AdditionalInferenceSpecifications"] == [extra]
    assert found["ModelLifeCycle"] == life
    assert (found["CreationTime"], found["LastModifiedTime"]) == (T, T + 5)
    call("UpdateModelPackage", ModelPackageArn=package, CustomerMetadataPropertiesToRemove=["b", "c"])
    found = described(call, package)
    assert "CustomerMetadataProperties" not in found
    assert (found["ModelApprovalStatus"], found["ApprovalDescription"]) == ("Approved", "good")


@ONE_DATABASE
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"CustomerMetadataProperties": {f"k{n}": "v" for n in range(50)}}, "would have 51 entries"),
        (
            {"CustomerMetadataProperties": {"k": "v"}, "CustomerMetadataPropertiesToRemove": ["k"]},
            "cannot be both set and removed",
        ),
        (
            {"AdditionalInferenceSpecificationsToAdd": [{"Name": "fast", "Containers": [{"Image": "onnx"}]}]},
            "Name must be unique",
        ),
        (
            {
                "AdditionalInferenceSpecificationsToAdd": [
                    {"Name": f"n{n}", "Containers": [{"Image": "onnx"}]} for n in range(15)
                ]
            },
            "would have 16 entries",
        ),
        ({"ModelPackageArn": arn("model-package", "group/9")}, "ModelPackage .*group/9 does not exist"),
        (
            {"ModelPackageArn": "arn:aws:sagemaker:eu-west-1:123456789012:model-package/group/1"},
            "correct region: us-east-1",
        ),
    ],
)
def test_updates_that_cannot_be(call: Caller, parameters: Document, message: str) -> None:
    package = register(
        call,
        CustomerMetadataProperties={"own": "v"},
        AdditionalInferenceSpecifications=[{"Name": "fast", "Containers": [{"Image": "onnx"}]}],
    )
    before = described(call, package)
    with pytest.raises(ControlFault, match=message):
        call("UpdateModelPackage", **{"ModelPackageArn": package, **parameters})
    assert described(call, package) == before


def test_a_model_card_without_its_content(call: Caller) -> None:
    card = {"ModelCardContent": '{"secret": 1}', "ModelCardStatus": "Draft"}
    package = register(call, ModelCard=card)
    assert described(call, package)["ModelCard"] == card
    bare = call("DescribeModelPackage", ModelPackageName=package, IncludedData="MetadataOnly")
    assert bare["ModelCard"] == {"ModelCardContent": "{}", "ModelCardStatus": "Draft"}


def test_lists_of_packages(call: Caller, clock: Clock) -> None:
    call("CreateModelPackageGroup", ModelPackageGroupName="other")
    for _ in range(12):
        register(call)
        clock.advance(1)
    register(call, ModelPackageGroupName="other", ModelApprovalStatus="Rejected")
    call("CreateModelPackage", ModelPackageName="own", ModelPackageDescription="d")

    def listed(**parameters: Any) -> list[str]:
        pages = call.pages("ListModelPackages", "ModelPackageSummaryList", **parameters)
        return [one["ModelPackageArn"].partition("/")[2] for page in pages for one in page]

    assert listed() == ["own"]
    assert listed(ModelPackageType="Unversioned") == ["own"]
    versions = [f"group/{n}" for n in range(1, 13)]
    assert listed(ModelPackageGroupName="Group") == versions
    assert listed(ModelPackageGroupName="Group", SortBy="CreationTime", SortOrder="Descending") == versions[::-1]
    assert listed(ModelPackageType="Versioned") == [*versions, "other/1"]
    assert sorted(listed(ModelPackageType="Both")) == sorted([*versions, "other/1", "own"])
    assert listed(ModelPackageGroupName="Group", ModelPackageType="Unversioned") == []
    assert listed(ModelPackageType="Both", ModelApprovalStatus="Rejected") == ["other/1"]
    assert listed(ModelPackageType="Both", NameContains="OW") == ["own"]
    assert listed(ModelPackageType="Versioned", NameContains="oth") == ["other/1"]
    assert listed(ModelPackageType="Versioned", NameContains="1") == []
    summary = call("ListModelPackages", ModelPackageGroupName="Group", MaxResults=1)["ModelPackageSummaryList"][0]
    assert summary == {
        "ModelPackageGroupName": "Group",
        "ModelPackageVersion": 1,
        "ModelPackageArn": arn("model-package", "group/1"),
        "CreationTime": T,
        "ModelPackageStatus": "Completed",
        "ModelApprovalStatus": "PendingManualApproval",
    }


def test_packages_in_a_batch(call: Caller) -> None:
    package = register(call, ModelLifeCycle={"Stage": "s", "StageStatus": "t"})
    own = call("CreateModelPackage", ModelPackageName="own")["ModelPackageArn"]
    absent = arn("model-package", "group/7")
    answer = call("BatchDescribeModelPackage", ModelPackageArnList=[package, own, absent])
    assert answer["ModelPackageSummaries"] == {
        package: {
            "ModelPackageGroupName": "Group",
            "ModelPackageVersion": 1,
            "ModelPackageArn": package,
            "CreationTime": T,
            "InferenceSpecification": SPECIFICATION,
            "ModelPackageStatus": "Completed",
            "ModelApprovalStatus": "PendingManualApproval",
        }
    }
    assert answer["BatchDescribeModelPackageErrorMap"] == {
        own: {
            "ErrorCode": "ValidationException",
            "ErrorResponse": f"ModelPackage {own} is not a version of a Model Package Group.",
        },
        absent: {"ErrorCode": "ValidationException", "ErrorResponse": f"ModelPackage {absent} does not exist."},
    }


def test_a_package_that_grows_too_large_is_refused(call: Caller) -> None:
    environment = {f"k{number}": "v" * 1000 for number in range(100)}
    container = {"Image": "onnx", "Environment": environment}
    package = register(call)

    def add(name: str) -> None:
        added = [{"Name": name, "Containers": [container] * 4}]
        call("UpdateModelPackage", ModelPackageArn=package, AdditionalInferenceSpecificationsToAdd=added)

    add("n0")
    add("n1")
    with pytest.raises(ResourceLimitExceeded, match=f"bytes as JSON; at most {MOST_BYTES} are possible"):
        add("n2")
    assert [one["Name"] for one in described(call, package)["AdditionalInferenceSpecifications"]] == ["n0", "n1"]


@ONE_DATABASE
def test_packages_that_are_too_large_for_one_batch(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_packages, "BATCH_BYTES", 1000)
    arns = [register(call) for _ in range(5)]
    assert len(call("BatchDescribeModelPackage", ModelPackageArnList=arns[:1] * 100)["ModelPackageSummaries"]) == 1
    with pytest.raises(ControlFault, match="of these model packages have more than 1000 bytes; describe fewer at once"):
        call("BatchDescribeModelPackage", ModelPackageArnList=arns)


# ---------------------------------------------------------------- models made from packages


def model_from(call: Caller, name: str = "m", **container: Any) -> None:
    call("CreateModel", ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)


def served(call: Caller, *models: str) -> Document:
    """The models as an endpoint gets them."""
    from serving.control import models as family

    return call.store.transact(lambda tx: family.require(tx, models))


@pytest.mark.parametrize("status", ["PendingManualApproval", "Rejected"])
def test_only_an_approved_version_becomes_a_model(call: Caller, status: str) -> None:
    package = register(call, ModelApprovalStatus=status)
    with pytest.raises(ControlFault, match=f"group/1: its approval status is {status}; it must be Approved"):
        model_from(call, ModelPackageName=package)
    call("UpdateModelPackage", ModelPackageArn=package, ModelApprovalStatus="Approved")
    model_from(call, ModelPackageName=package)
    model_from(call, "m2", ModelPackageName="Group/1")
    call("CreateModelPackage", ModelPackageName="own", InferenceSpecification=SPECIFICATION, ModelApprovalStatus=status)
    model_from(call, "m3", ModelPackageName="own")


def test_a_model_names_its_package_and_serves_what_that_held(call: Caller) -> None:
    package = register(call, ModelApprovalStatus="Approved")
    model_from(call, ModelPackageName=package, Environment={"B": "mine", "C": "3"})
    described_model = call("DescribeModel", ModelName="m")
    lineage = {"ModelPackageName": package, "Environment": {"B": "mine", "C": "3"}, "Mode": "SingleModel"}
    assert described_model["PrimaryContainer"] == lineage
    assert "ResolvedContainers" not in described_model
    # What becomes of the package later changes nothing.
    other = {"Containers": [{"Image": "xgboost"}]}
    call("UpdateModelPackage", ModelPackageArn=package, InferenceSpecification=other, ModelApprovalStatus="Rejected")
    call("DeleteModelPackage", ModelPackageName=package)
    assert call("DescribeModel", ModelName="m")["PrimaryContainer"] == lineage
    assert served(call, "m")["m"]["PrimaryContainer"] == {
        "Image": "onnx",
        "ModelDataUrl": "s3://b/m.tar.gz",
        "Environment": {"A": "1", "B": "mine", "C": "3"},
        "Mode": "SingleModel",
    }
    call.config("c", "m")
    call.endpoint("e", "c")
    pending = call("DescribeEndpoint", EndpointName="e")["PendingDeploymentSummary"]
    assert pending["ProductionVariants"][0]["DeployedImages"][0]["SpecifiedImage"] == "onnx"


def test_a_package_of_several_containers_takes_their_place(call: Caller) -> None:
    several = {"Containers": [{"Image": "sklearn", "ContainerHostname": "one"}, {"Image": "xgboost"}]}
    package = register(call, ModelApprovalStatus="Approved", InferenceSpecification=several)
    call("CreateModel", ModelName="m", Containers=[{"ModelPackageName": package}, {"Image": "onnx"}])
    model_from(call, "m2", ModelPackageName=package)
    found = served(call, "m", "m2")
    assert [one["Image"] for one in found["m"]["Containers"]] == ["sklearn", "xgboost", "onnx"]
    assert [one["Image"] for one in found["m2"]["Containers"]] == ["sklearn", "xgboost"]
    assert "PrimaryContainer" not in found["m2"]


def test_an_additional_specification_by_its_name(call: Caller) -> None:
    extra = [{"Name": "fast", "Containers": [{"Image": "xgboost", "ModelDataUrl": "s3://b/fast.tar.gz"}]}]
    package = register(call, ModelApprovalStatus="Approved", AdditionalInferenceSpecifications=extra)
    model_from(call, ModelPackageName=package, InferenceSpecificationName="fast")
    assert served(call, "m")["m"]["PrimaryContainer"]["ModelDataUrl"] == "s3://b/fast.tar.gz"
    with pytest.raises(ControlFault, match="it has no AdditionalInferenceSpecification 'slow'"):
        model_from(call, "m2", ModelPackageName=package, InferenceSpecificationName="slow")


def test_a_package_that_holds_nothing_to_serve(call: Caller) -> None:
    given = {"ModelPackageGroupName": "Group", "ModelApprovalStatus": "Approved"}
    package = call("CreateModelPackage", **given)["ModelPackageArn"]
    with pytest.raises(ControlFault, match="it has no InferenceSpecification"):
        model_from(call, ModelPackageName=package)
    with pytest.raises(ControlFault, match=r"ModelPackage .*group/8 does not exist"):
        model_from(call, ModelPackageName="Group/8")


def test_a_version_registered_from_a_model_or_another_package(call: Caller) -> None:
    call.model("source", Environment={"A": "1"})
    package = register_from(call, arn("model", "source"))
    container = {"Image": "onnx", "ModelDataUrl": "s3://bucket/source.tar.gz", "Environment": {"A": "1"}}
    assert described(call, package)["InferenceSpecification"] == {"Containers": [container]}
    assert described(call, package)["SourceUri"] == arn("model", "source")
    clone = register_from(call, package)
    assert described(call, clone)["InferenceSpecification"] == {"Containers": [container]}
    model_from(call, "copy", ModelPackageName=clone)
    again = register_from(call, arn("model", "copy"))
    assert described(call, again)["InferenceSpecification"] == {"Containers": [container]}
    elsewhere = register_from(call, "s3://bucket/run")
    assert "InferenceSpecification" not in described(call, elsewhere)


def register_from(call: Caller, source: str) -> str:
    given = {"ModelPackageGroupName": "Group", "SourceUri": source, "ModelApprovalStatus": "Approved"}
    return str(call("CreateModelPackage", **given)["ModelPackageArn"])


def test_a_variant_may_name_a_model_in_another_case(call: Caller) -> None:
    call.model("Mixed")
    call.config("c", ProductionVariants=[variant("mixed")])
    call.endpoint("e", "c")
    assert list(served(call, "mixed")) == ["mixed"]
