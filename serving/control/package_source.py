"""Containers of model packages and of models, which say the same in other members: each out of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from serving.control.call import Document, Parameters
from serving.control.resource import ARN, MODEL, MODEL_PACKAGE, decode
from serving.control.store import Transaction
from serving.errors import ControlFault

RESOLVED: Final = "ResolvedContainers"
"""A member of stored models that no answer has: the containers with those of packages in the packages' place.

Packages can change and go; a model cannot, so it keeps what its packages held when it was created.
"""

SHARED: Final = (
    "ContainerHostname",
    "Image",
    "ModelDataUrl",
    "ModelDataSource",
    "AdditionalModelDataSources",
    "Environment",
)
"""Members that ContainerDefinition and ModelPackageContainerDefinition have in common."""


def definition(container: Mapping[str, Any]) -> Document:
    """A model's container out of a package's, or the other way round."""
    return {member: container[member] for member in SHARED if member in container}


def check(specification: Mapping[str, Any]) -> None:
    """Refuses an inference specification no container of which could be served. Raises `ControlFault`."""
    for container in specification["Containers"]:
        if "ModelDataUrl" in container and "ModelDataSource" in container:
            raise ControlFault("Specify only one of ModelDataUrl and ModelDataSource in container definition.")
        if not {"Image", "ModelDataSource", "BaseModel"} & container.keys():
            raise ControlFault("Specify Image in container definition.")


def populated(tx: Transaction, parameters: Parameters) -> Document:
    """What a package has of the model or the package that its SourceUri names; {} where it says all itself."""
    matched = ARN.fullmatch(parameters.get("SourceUri", ""))
    if matched is None or "InferenceSpecification" in parameters:
        return {}
    if matched[3] == MODEL_PACKAGE.arn_type:
        source = decode(MODEL_PACKAGE.find(tx, matched[0]).document)
        copied = ("InferenceSpecification", "AdditionalInferenceSpecifications", "SourceAlgorithmSpecification")
        return {member: source[member] for member in copied if member in source and member not in parameters}
    if matched[3] != MODEL.arn_type:
        return {}
    model = decode(MODEL.find(tx, matched[0]).document)
    return {"InferenceSpecification": {"Containers": [definition(one) for one in held(model)]}}


def held(model: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The containers of a stored model, packages' containers in the packages' place."""
    containers: Sequence[Mapping[str, Any]] = (
        model.get(RESOLVED) or model.get("Containers") or [model["PrimaryContainer"]]
    )
    return containers
