"""What this server makes of each field of SageMaker's API: the source of docs/compatibility.md.

`python -m serving.control.compatibility > docs/compatibility.md` writes it anew. A structure that is not declared here
shares the effect of the member that holds it; one that is has each of its members declared, so that a member which AWS
adds is noticed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final

from serving.control.service import Catalogue, Service


class Effect(Enum):
    """What becomes of a field that a caller sets."""

    HONOURED = "honoured"
    PARTLY = "honoured in part"
    RECORDED = "recorded, without effect"
    FAILS = "the endpoint fails"


H, P, R, F = Effect.HONOURED, Effect.PARTLY, Effect.RECORDED, Effect.FAILS

FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "Models": ("sagemaker.CreateModel", "sagemaker.DescribeModel", "sagemaker.ListModels", "sagemaker.DeleteModel"),
    "Endpoint configurations": (
        "sagemaker.CreateEndpointConfig",
        "sagemaker.DescribeEndpointConfig",
        "sagemaker.ListEndpointConfigs",
        "sagemaker.DeleteEndpointConfig",
    ),
    "Endpoints": (
        "sagemaker.CreateEndpoint",
        "sagemaker.DescribeEndpoint",
        "sagemaker.ListEndpoints",
        "sagemaker.UpdateEndpoint",
        "sagemaker.DeleteEndpoint",
    ),
    "Model registry": (
        "sagemaker.CreateModelPackageGroup",
        "sagemaker.DescribeModelPackageGroup",
        "sagemaker.ListModelPackageGroups",
        "sagemaker.DeleteModelPackageGroup",
        "sagemaker.CreateModelPackage",
        "sagemaker.DescribeModelPackage",
        "sagemaker.BatchDescribeModelPackage",
        "sagemaker.ListModelPackages",
        "sagemaker.UpdateModelPackage",
        "sagemaker.DeleteModelPackage",
    ),
    "Tags": ("sagemaker.AddTags", "sagemaker.ListTags", "sagemaker.DeleteTags"),
    "Identity": ("sts.GetCallerIdentity", "iam.GetRole", "iam.SimulatePrincipalPolicy"),
    "Logs": ("logs.DescribeLogGroups", "logs.DescribeLogStreams", "logs.GetLogEvents", "logs.FilterLogEvents"),
}
"""All operations that are built."""

_PAGED: Final = "SortBy SortOrder NextToken MaxResults NameContains CreationTimeBefore CreationTimeAfter"
_SPECIFICATION: Final = {
    H: "Containers",
    R: (
        "SupportedTransformInstanceTypes SupportedRealtimeInferenceInstanceTypes SupportedContentTypes "
        "SupportedResponseMIMETypes"
    ),
}

DECLARED: Final[Mapping[str, Mapping[Effect, str]]] = {
    "CreateModelInput": {
        H: "ModelName PrimaryContainer Tags",
        P: "Containers",
        R: "InferenceExecutionConfig ExecutionRoleArn VpcConfig EnableNetworkIsolation",
    },
    "ContainerDefinition": {
        H: (
            "Image ModelDataUrl ModelDataSource Mode MultiModelConfig Environment ModelPackageName "
            "InferenceSpecificationName"
        ),
        R: "ContainerHostname ImageConfig ContainerMetricsConfig",
        F: "AdditionalModelDataSources",
    },
    "ModelDataSource": {H: "S3DataSource"},
    "S3ModelDataSource": {
        H: "S3Uri S3DataType CompressionType",
        R: "ModelAccessConfig ETag ManifestEtag",
        F: "HubAccessConfig ManifestS3Uri",
    },
    "DescribeModelInput": {H: "ModelName"},
    "DeleteModelInput": {H: "ModelName"},
    "ListModelsInput": {H: _PAGED},
    "CreateEndpointConfigInput": {
        H: "EndpointConfigName Tags",
        P: "ProductionVariants",
        R: "KmsKeyId ExecutionRoleArn VpcConfig EnableNetworkIsolation MetricsConfig CrossRegionTrafficConfig",
        F: "DataCaptureConfig AsyncInferenceConfig ExplainerConfig ShadowProductionVariants",
    },
    "ProductionVariant": {
        H: (
            "VariantName ModelName InitialInstanceCount ModelDataDownloadTimeoutInSeconds "
            "ContainerStartupHealthCheckTimeoutInSeconds"
        ),
        R: (
            "InstanceType VariantInstanceProvisionTimeoutInSeconds InitialVariantWeight VolumeSizeInGB EnableSSMAccess "
            "RoutingConfig InferenceAmiVersion CapacityReservationConfig AcceleratorPartitionLayouts"
        ),
        F: "InstancePools AcceleratorType CoreDumpConfig ServerlessConfig ManagedInstanceScaling",
    },
    "DescribeEndpointConfigInput": {H: "EndpointConfigName"},
    "DeleteEndpointConfigInput": {H: "EndpointConfigName"},
    "ListEndpointConfigsInput": {H: _PAGED},
    "CreateEndpointInput": {H: "EndpointName EndpointConfigName Tags", R: "DeploymentConfig"},
    "UpdateEndpointInput": {
        H: "EndpointName EndpointConfigName RetainAllVariantProperties ExcludeRetainedVariantProperties",
        R: "DeploymentConfig RetainDeploymentConfig",
    },
    "DescribeEndpointInput": {H: "EndpointName"},
    "DeleteEndpointInput": {H: "EndpointName"},
    "ListEndpointsInput": {H: f"{_PAGED} LastModifiedTimeBefore LastModifiedTimeAfter StatusEquals"},
    "CreateModelPackageGroupInput": {
        H: "ModelPackageGroupName ModelPackageGroupDescription Tags",
        R: "ManagedConfiguration",
    },
    "DescribeModelPackageGroupInput": {H: "ModelPackageGroupName"},
    "DeleteModelPackageGroupInput": {H: "ModelPackageGroupName"},
    "ListModelPackageGroupsInput": {H: f"{_PAGED} CrossAccountFilterOption"},
    "CreateModelPackageInput": {
        H: (
            "ModelPackageName ModelPackageGroupName ModelPackageDescription ModelPackageRegistrationType "
            "InferenceSpecification Tags ModelApprovalStatus MetadataProperties ModelMetrics ClientToken "
            "CustomerMetadataProperties DriftCheckBaselines AdditionalInferenceSpecifications SourceUri ModelCard "
            "ModelLifeCycle"
        ),
        R: (
            "ValidationSpecification SourceAlgorithmSpecification CertifyForMarketplace Domain Task SamplePayloadUrl "
            "SkipModelValidation SecurityConfig ManagedStorageType"
        ),
    },
    "InferenceSpecification": _SPECIFICATION,
    "AdditionalInferenceSpecificationDefinition": {H: "Name Description Containers", R: _SPECIFICATION[R]},
    "ModelPackageContainerDefinition": {
        H: "Image ModelDataUrl ModelDataSource Environment",
        R: (
            "ContainerHostname ImageDigest ProductId ModelInput Framework FrameworkVersion NearestModelName "
            "AdditionalS3DataSource ModelDataETag IsCheckpoint BaseModel"
        ),
        F: "AdditionalModelDataSources",
    },
    "DescribeModelPackageInput": {H: "ModelPackageName IncludedData"},
    "BatchDescribeModelPackageInput": {H: "ModelPackageArnList"},
    "ListModelPackagesInput": {H: f"{_PAGED} ModelApprovalStatus ModelPackageGroupName ModelPackageType"},
    "UpdateModelPackageInput": {
        H: (
            "ModelPackageArn ModelApprovalStatus ModelPackageRegistrationType ApprovalDescription "
            "CustomerMetadataProperties CustomerMetadataPropertiesToRemove AdditionalInferenceSpecificationsToAdd "
            "InferenceSpecification SourceUri ModelCard ModelLifeCycle"
        ),
        R: "ClientToken",
    },
    "DeleteModelPackageInput": {H: "ModelPackageName"},
    "AddTagsInput": {H: "ResourceArn Tags"},
    "ListTagsInput": {H: "ResourceArn NextToken MaxResults"},
    "DeleteTagsInput": {H: "ResourceArn TagKeys"},
    "GetCallerIdentityRequest": {},
    "GetRoleRequest": {H: "RoleName"},
    "SimulatePrincipalPolicyRequest": {
        H: "ActionNames",
        P: "ContextEntries PolicyExclusionList",
        R: (
            "PolicySourceArn PolicyInputList PermissionsBoundaryPolicyInputList ResourceArns ResourcePolicy ResourceOwner "
            "CallerArn ResourceHandlingOption MaxItems Marker"
        ),
    },
    "DescribeLogGroupsRequest": {
        H: "logGroupNamePrefix logGroupNamePattern nextToken limit logGroupClass logGroupIdentifiers",
        R: "accountIdentifiers includeLinkedAccounts",
    },
    "DescribeLogStreamsRequest": {
        H: "logGroupName logGroupIdentifier logStreamNamePrefix orderBy descending nextToken limit"
    },
    "GetLogEventsRequest": {
        H: "logGroupName logGroupIdentifier logStreamName startTime endTime nextToken limit startFromHead",
        R: "unmask",
    },
    "FilterLogEventsRequest": {
        H: ("logGroupName logGroupIdentifier logStreamNames logStreamNamePrefix startTime endTime nextToken limit"),
        P: "filterPattern startFromHead",
        R: "interleaved unmask",
    },
}
"""What becomes of each member, by structure of the service model."""

NOTES: Final[Mapping[str, str]] = {
    "CreateModelInput.Containers": "one container is served; with several, an inference pipeline, the endpoint fails: that is not built yet",
    "CreateModelInput.ExecutionRoleArn": "given back; nothing here is guarded by roles",
    "CreateModelInput.InferenceExecutionConfig": "matters to several containers only",
    "ContainerDefinition.Image": (
        "the kind of container, by short name (`onnx`, `xgboost`, `sklearn`), by the repositories of SageMaker's images, or "
        "by the `images` setting; another fails the endpoint"
    ),
    "ContainerDefinition.Environment": "what SageMaker's containers read of it; what is not built fails the endpoint",
    "ContainerDefinition.Mode": (
        "with `MultiModel` ModelDataUrl is a prefix, and callers name the object below it that they want (TargetModel)"
    ),
    "ContainerDefinition.MultiModelConfig": "with ModelCacheSetting `Disabled` a model is unloaded as soon as nobody uses it",
    "ContainerDefinition.ModelDataUrl": "not looked at before an endpoint is created; what is wrong with it fails the endpoint",
    "ContainerDefinition.ModelPackageName": "a version has to be `Approved`",
    "S3ModelDataSource.S3Uri": "an archive (`Gzip`), one object, or all objects below a prefix",
    "CreateEndpointConfigInput.ProductionVariants": "one is served; with several the endpoint fails",
    "CreateEndpointConfigInput.DataCaptureConfig": "unless EnableCapture is false",
    "ProductionVariant.ModelName": "without it the endpoint fails: inference components are not built yet",
    "ProductionVariant.InitialInstanceCount": "instances of one machine share its cores: they add parallel executions, 64 at most",
    "ProductionVariant.InitialVariantWeight": "matters to several variants only",
    "ProductionVariant.ManagedInstanceScaling": "where its Status is `ENABLED`",
    "CreateEndpointInput.DeploymentConfig": "checked and given back; traffic moves all at once, when the new deployment is warm",
    "UpdateEndpointInput.DeploymentConfig": "checked and given back; traffic moves all at once, when the new deployment is warm",
    "UpdateEndpointInput.RetainAllVariantProperties": "instance count, weight and data capture of the same variant are kept",
    "DescribeEndpointInput.EndpointName": (
        "while the status is Creating, Updating or Deleting the answer waits for a change, `describe_hold_s` at most"
    ),
    "CreateModelPackageInput.ClientToken": "remembered for a day",
    "CreateModelPackageInput.ModelApprovalStatus": "`PendingManualApproval` where a version does not say",
    "CreateModelPackageInput.SourceAlgorithmSpecification": "no model can be made of it",
    "CreateModelPackageInput.ValidationSpecification": "no validation runs; a package is Completed at once",
    "ListTagsInput.MaxResults": "all tags of a resource come in one page",
    "GetRoleRequest.RoleName": "every name is a role of the account",
    "SimulatePrincipalPolicyRequest.ActionNames": "everything is allowed to everybody, on all resources, in one page",
    "SimulatePrincipalPolicyRequest.ContextEntries": "refused: nothing depends on a context",
    "SimulatePrincipalPolicyRequest.PolicyExclusionList": "refused: there are no policies to leave out",
    "FilterLogEventsRequest.filterPattern": "words and quoted phrases, all of which the text must hold; more is refused",
    "FilterLogEventsRequest.interleaved": "events of several streams are always in the order of their times",
    "FilterLogEventsRequest.startFromHead": "false is refused",
}

_HEAD: Final = """\
# What is compatible with SageMaker

Made by `python -m serving.control.compatibility` out of the service models that botocore ships; a test holds it.

Requests are checked against those models: required members, types, lengths, ranges, enumerations and patterns, with
AWS's error classes and texts. Besides:

- A member that the API does not have is a ValidationException. AWS ignores such members; here nothing that cannot be
  honoured is silently taken.
- Errors about a value of the wrong type (SerializationException) also say where it is.
- CreateModel and CreateEndpoint accept model data that does not exist; the endpoint then becomes Failed, with the object
  and the cause in FailureReason.
- Model data may also lie on the server's machine, in folders that the operator allows with `--allow-path`:
  `file:///FOLDER/model.tar.gz` in ModelDataUrl, also `file:///FOLDER/` in S3Uri.
- A resource may have a megabyte as JSON, its Environment and its model card included; more is a ResourceLimitExceeded.
- Constraints that a parameter of CloudWatch Logs does not satisfy are an InvalidParameterException, as that service has them.
- An operation that is not in these tables answers UnknownOperationException (in the query protocol InvalidAction), with
  status 404 (400), as does an API that is not served at all.

Each field has one of these effects; a field inside a structure that is not listed shares the structure's. A structure
that an operation takes in several places is listed once.

| Effect | Meaning |
|--|--|
| honoured | as SageMaker does it, but for what the note says |
| honoured in part | the note says which part |
| recorded, without effect | checked, kept and given back by Describe operations where they have it; changes nothing else |
| the endpoint fails | accepted by the operation; an endpoint that uses it becomes Failed (or stays on its old config) with a FailureReason that names what is not built yet |
"""


def effects(shape: str) -> dict[str, Effect]:
    """The declared effects of a structure's members; empty for a structure that is not declared."""
    return {name: effect for effect, names in DECLARED.get(shape, {}).items() for name in names.split()}


def text() -> str:
    """The page."""
    keys = [key for family in FAMILIES.values() for key in family]
    catalogue = Catalogue(keys)
    parts = [_HEAD]
    for title, family in FAMILIES.items():
        parts.append(f"\n## {title}\n")
        for key in family:
            name, _, operation = key.partition(".")
            parts.append(f"\n### {operation}{'' if name == 'sagemaker' else f' ({name})'}\n\n")
            parts.append(_table(catalogue.service(name), operation))
    return "".join(parts)


def _table(service: Service, operation: str) -> str:
    shape = service.operations[operation].input
    rows = list(_rows(service, shape, "", set())) if shape else []
    if not rows:
        return "It has no fields.\n"
    return "".join(["| Field | Effect | Note |\n|--|--|--|\n", *rows])


def _rows(service: Service, shape: str, prefix: str, seen: set[str]) -> Iterator[str]:
    declared = effects(shape)
    if not declared or shape in seen:
        return
    seen.add(shape)
    for member, held in service.shapes[shape]["members"].items():
        yield f"| `{prefix}{member}` | {declared[member].value} | {NOTES.get(f'{shape}.{member}', '')} |\n"
        if declared[member] is not Effect.FAILS:
            inner, suffix = structure(service, held["shape"])
            yield from _rows(service, inner, f"{prefix}{member}{suffix}.", seen)


def structure(service: Service, shape: str) -> tuple[str, str]:
    """The structure that a member holds, itself or in lists and maps, and how a path into it is written."""
    suffix = ""
    raw = service.shapes[shape]
    while raw["type"] in ("list", "map"):
        shape = raw["member" if raw["type"] == "list" else "value"]["shape"]
        suffix += "[]" if raw["type"] == "list" else "{}"
        raw = service.shapes[shape]
    return shape, suffix


if __name__ == "__main__":
    sys.stdout.write(text())
