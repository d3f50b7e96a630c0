"""What DescribeEndpoint says of an endpoint's row: what serves, and what is on the way to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Row

from serving.control.call import Document
from serving.control.deployment import Deployment

ECHOED: Final = ("AsyncInferenceConfig", "ExplainerConfig", "MetricsConfig", "CrossRegionTrafficConfig")
"""Members of the config that the answer has too."""

REASON_CHARACTERS: Final = 1024
"""The most that a FailureReason has in the service model."""


def describe(row: Row[Any]) -> Document:
    """DescribeEndpoint's answer. The config in force is the target's only once that serves, or if nothing ever did."""
    target = deployment(row.target)
    current = deployment(row.current) if row.current is not None else None
    named = current or target
    answer: Document = {
        "EndpointName": row.name,
        "EndpointArn": row.arn,
        "EndpointConfigName": named.config_name,
        "EndpointStatus": row.status,
        "CreationTime": row.created_at,
        "LastModifiedTime": row.modified_at,
        **{member: named.config[member] for member in ECHOED if member in named.config},
    }
    if current is not None:
        answer |= _variants(current, row.modified_at)
    if "DataCaptureConfig" in named.config:
        answer["DataCaptureConfig"] = _capture(named.config["DataCaptureConfig"])
    if "DeploymentConfig" in named.request:
        answer["LastDeploymentConfig"] = named.request["DeploymentConfig"]
    if row.status in ("Creating", "Updating"):
        answer["PendingDeploymentSummary"] = _pending(target, row.modified_at)
    if row.failure_reason:
        answer["FailureReason"] = row.failure_reason[:REASON_CHARACTERS]
    return answer


def deployment(text: str) -> Deployment:
    """A deployment as the table keeps it."""
    return msgspec.json.decode(text, type=Deployment)


def _variants(current: Deployment, since: float) -> Document:
    members = ("ProductionVariants", "ShadowProductionVariants")
    return {
        member: [_variant(variant, current, since) for variant in current.config[member]]
        for member in members
        if member in current.config
    }


def _variant(variant: Mapping[str, Any], served: Deployment, since: float) -> Document:
    weight, count = variant["InitialVariantWeight"], variant.get("InitialInstanceCount")
    summary: Document = {"VariantName": variant["VariantName"], "CurrentWeight": weight, "DesiredWeight": weight}
    images = list(_images(variant, served, since))
    if images:
        summary["DeployedImages"] = images
    if count is not None:
        summary |= {"CurrentInstanceCount": count, "DesiredInstanceCount": count}
    if "ServerlessConfig" in variant:
        summary |= {
            "CurrentServerlessConfig": variant["ServerlessConfig"],
            "DesiredServerlessConfig": variant["ServerlessConfig"],
        }
    kept = ("ManagedInstanceScaling", "RoutingConfig", "CapacityReservationConfig", "AcceleratorPartitionLayouts")
    return summary | {member: variant[member] for member in kept if member in variant}


def _images(variant: Mapping[str, Any], served: Deployment, since: float) -> Iterator[Document]:
    model = served.models.get(variant.get("ModelName", ""), {})
    containers = [model["PrimaryContainer"]] if "PrimaryContainer" in model else model.get("Containers", ())
    for container in containers:
        image = container.get("Image")
        if image:
            yield {"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": since}


def _pending(target: Deployment, since: float) -> Document:
    pending: Document = {"EndpointConfigName": target.config_name, "StartTime": since}
    for member, summaries in _variants(target, since).items():
        kinds = [variant.get("InstanceType") for variant in target.config[member]]
        pending[member] = [_upcoming(summary, kind, since) for summary, kind in zip(summaries, kinds, strict=True)]
    return pending


def _upcoming(summary: Document, instance_type: str | None, since: float) -> Document:
    """A variant that does not serve yet: nothing of it is there, all of it is wanted."""
    upcoming = {name: value for name, value in summary.items() if not name.startswith("Current")}
    upcoming.pop("CapacityReservationConfig", None)
    if instance_type is not None:
        upcoming["InstanceType"] = instance_type
    return upcoming | {"VariantStatus": [{"Status": "Creating", "StartTime": since}]}


def _capture(config: Mapping[str, Any]) -> Document:
    on = bool(config.get("EnableCapture", False))
    return {
        "EnableCapture": on,
        "CaptureStatus": "Started" if on else "Stopped",
        "CurrentSamplingPercentage": config["InitialSamplingPercentage"],
        "DestinationS3Uri": config["DestinationS3Uri"],
        # The only member that the service model requires here and not in the config.
        "KmsKeyId": config.get("KmsKeyId", ""),
    }
