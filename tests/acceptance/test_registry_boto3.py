"""boto3 against the model registry: register versions, approve one, and deploy it by its package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from tests.support import notebook as support
from tests.support.answers import close
from tests.support.notebook import ROLE, XGBOOST_IMAGE, Models, Notebook

BUCKET = "registry"
ARN = "arn:aws:sagemaker:us-east-1:123456789012"


class Clients(NamedTuple):
    """boto3's clients for one server."""

    s3: Any
    sagemaker: Any
    runtime: Any


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models.make(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with support.opened(tmp_path_factory.mktemp("registry") / "state") as opened:
        yield opened


@pytest.fixture(scope="module")
def clients(notebook: Notebook, models: Models) -> Iterator[Clients]:
    with ExitStack() as stack:
        made = Clients(
            *(stack.enter_context(notebook.client(name)) for name in ("s3", "sagemaker", "sagemaker-runtime"))
        )
        made.s3.create_bucket(Bucket=BUCKET)
        for name in ("xgboost", "onnx"):
            made.s3.upload_file(str(models.archive(name)), BUCKET, f"{name}/model.tar.gz")
        yield made


def register(clients: Clients, group: str, name: str, image: str, **more: Any) -> str:
    """A new version of the group; its ARN."""
    answer = clients.sagemaker.create_model_package(
        ModelPackageGroupName=group,
        InferenceSpecification={
            "Containers": [{"Image": image, "ModelDataUrl": f"s3://{BUCKET}/{name}/model.tar.gz"}],
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["text/csv"],
        },
        **more,
    )
    arn: str = answer["ModelPackageArn"]
    return arn


def fault(call: Any, **arguments: Any) -> dict[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error: dict[str, str] = caught.value.response["Error"]
    return error


def test_register_approve_and_deploy(clients: Clients, models: Models) -> None:
    sagemaker, rows = clients.sagemaker, support.rows()
    group = sagemaker.create_model_package_group(
        ModelPackageGroupName="fraud", ModelPackageGroupDescription="who pays whom"
    )
    assert group["ModelPackageGroupArn"] == f"{ARN}:model-package-group/fraud"
    described = sagemaker.describe_model_package_group(ModelPackageGroupName="fraud")
    assert described["ModelPackageGroupStatus"] == "Completed"

    first = register(clients, "fraud", "xgboost", XGBOOST_IMAGE, ModelPackageDescription="trees")
    second = register(clients, "fraud", "onnx", "onnx", ModelApprovalStatus="Rejected")
    assert [first, second] == [f"{ARN}:model-package/fraud/1", f"{ARN}:model-package/fraud/2"]
    package = sagemaker.describe_model_package(ModelPackageName=first)
    assert package["ModelPackageVersion"] == 1
    assert package["ModelPackageStatus"] == "Completed"
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    assert "ModelPackageName" not in package

    container = {"ModelPackageName": first}
    pending = fault(sagemaker.create_model, ModelName="fraud-1", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    assert pending["Code"] == "ValidationException"
    assert first in pending["Message"]

    sagemaker.update_model_package(ModelPackageArn=first, ModelApprovalStatus="Approved", ApprovalDescription="checked")
    pages = sagemaker.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName="fraud", ModelApprovalStatus="Approved"
    )
    assert [one["ModelPackageArn"] for page in pages for one in page["ModelPackageSummaryList"]] == [first]

    sagemaker.create_model(ModelName="fraud-1", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    described = sagemaker.describe_model(ModelName="fraud-1")
    assert described["PrimaryContainer"]["ModelPackageName"] == first
    variant = {"VariantName": "AllTraffic", "ModelName": "fraud-1", "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName="fraud-1", ProductionVariants=[{**variant, "InitialInstanceCount": 1}]
    )
    sagemaker.create_endpoint(EndpointName="fraud-1", EndpointConfigName="fraud-1")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="fraud-1")
    body = "\n".join(",".join(map(str, row)) for row in rows.tolist())
    answer = clients.runtime.invoke_endpoint(
        EndpointName="fraud-1", ContentType="text/csv", Accept="text/csv", Body=body
    )
    close(answer["Body"].read().decode(), models.answer("xgboost", rows))

    # A package may go although an endpoint serves it; a group only when it is empty.
    refused = fault(sagemaker.delete_model_package_group, ModelPackageGroupName="fraud")
    assert refused["Code"] == "ConflictException"
    for arn in (first, second):
        sagemaker.delete_model_package(ModelPackageName=arn)
    sagemaker.delete_model_package_group(ModelPackageGroupName="fraud")
    assert sagemaker.describe_endpoint(EndpointName="fraud-1")["EndpointStatus"] == "InService"
    sagemaker.delete_endpoint(EndpointName="fraud-1")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="fraud-1")


def test_many_at_once_and_tags(clients: Clients) -> None:
    sagemaker = clients.sagemaker
    sagemaker.create_model_package_group(ModelPackageGroupName="many", Tags=[{"Key": "team", "Value": "payments"}])
    arns = [register(clients, "many", "onnx", "onnx") for _ in range(3)]
    absent = f"{ARN}:model-package/many/9"
    answer = sagemaker.batch_describe_model_package(ModelPackageArnList=[*arns[:2], absent])
    assert set(answer["ModelPackageSummaries"]) == set(arns[:2])
    assert set(answer["BatchDescribeModelPackageErrorMap"]) == {absent}
    tags = sagemaker.list_tags(ResourceArn=f"{ARN}:model-package-group/many")["Tags"]
    assert tags == [{"Key": "team", "Value": "payments"}]
    listed = sagemaker.list_model_packages(ModelPackageGroupName="many", SortBy="CreationTime", SortOrder="Ascending")
    assert [one["ModelPackageVersion"] for one in listed["ModelPackageSummaryList"]] == [1, 2, 3]


def test_what_the_registry_refuses(clients: Clients) -> None:
    sagemaker = clients.sagemaker
    sagemaker.create_model_package_group(ModelPackageGroupName="strict")
    taken = fault(sagemaker.create_model_package_group, ModelPackageGroupName="strict")
    assert taken["Code"] == "ValidationException"
    assert "already exists" in taken["Message"]
    absent = fault(sagemaker.describe_model_package, ModelPackageName=f"{ARN}:model-package/strict/1")
    assert absent["Code"] == "ValidationException"
    assert f"{ARN}:model-package/strict/1" in absent["Message"]
    groupless = fault(
        sagemaker.create_model_package,
        ModelPackageGroupName="no-such-group",
        InferenceSpecification={"Containers": [{"Image": "onnx"}]},
    )
    assert groupless["Code"] == "ValidationException"
    assert "no-such-group" in groupless["Message"]
