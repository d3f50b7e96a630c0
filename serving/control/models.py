"""Models: images with model data, given or out of a model package. They never change once they are created."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from serving.control import model_packages, schema, tags
from serving.control.call import Document, Operation, Parameters
from serving.control.listing import Listing
from serving.control.package_source import RESOLVED
from serving.control.resource import MODEL, decode, encode, without
from serving.control.store import Transaction
from serving.errors import ControlFault

ENVIRONMENT_CHARACTERS: Final = 32 * 1024
"""Of all keys and values of a model's containers together. Source: ContainerDefinition.Environment, API reference."""

DEFAULTS: Final[Mapping[str, Any]] = {"Mode": "SingleModel", "Environment": {}}


def create(tx: Transaction, parameters: Parameters) -> Document:
    containers = _containers(parameters)
    _check(parameters, containers)
    document = without(parameters, "ModelName", "Tags", "PrimaryContainer", "Containers")
    if parameters.get("PrimaryContainer") is not None:
        document["PrimaryContainer"] = {**DEFAULTS, **containers[0]}
    else:
        document["Containers"] = [{**DEFAULTS, **container} for container in containers]
    if any("ModelPackageName" in container for container in containers):
        document[RESOLVED] = [one for container in containers for one in _resolved(tx, container)]
    arn = MODEL.add(tx, parameters["ModelName"], {"document": encode(document)})
    tags.attach(tx, arn, parameters.get("Tags", ()))
    return {"ModelArn": arn}


def describe(tx: Transaction, parameters: Parameters) -> Document:
    return without(_document(MODEL.find(tx, parameters["ModelName"])), RESOLVED)


def delete(tx: Transaction, parameters: Parameters) -> Document:
    """Endpoints that serve the model keep their copy of it."""
    MODEL.remove(tx, MODEL.arn(tx, parameters["ModelName"]))
    return {}


def list_models(tx: Transaction, parameters: Parameters) -> Document:
    return LISTING.page(tx, parameters)


def require(tx: Transaction, names: Collection[str]) -> dict[str, Document]:
    """DescribeModel's documents by name, packages' containers in the packages' place. Raises `ControlFault`."""
    rows = MODEL.find_all(tx, names)
    for name in names:
        if name not in rows:
            raise ControlFault(MODEL.absent.format(MODEL.arn(tx, name)))
    return {name: _servable(_document(row)) for name, row in rows.items()}


def _servable(document: Document) -> Document:
    if RESOLVED not in document:
        return document
    containers = document[RESOLVED]
    served = without(document, RESOLVED, "PrimaryContainer", "Containers")
    return served | ({"PrimaryContainer": containers[0]} if len(containers) == 1 else {"Containers": containers})


def _document(row: Any) -> Document:
    return {"ModelName": row.name, "ModelArn": row.arn, "CreationTime": row.created_at, **decode(row.document)}


def _resolved(tx: Transaction, container: Mapping[str, Any]) -> list[Document]:
    """The container, or those of its package. What the caller says of the environment is over what the package says."""
    if "ModelPackageName" not in container:
        return [{**DEFAULTS, **container}]
    named = container.get("InferenceSpecificationName")
    given = without(container, "ModelPackageName", "InferenceSpecificationName", "Environment")
    environment = container.get("Environment", {})
    packaged = model_packages.containers(tx, container["ModelPackageName"], named)
    return [
        {**DEFAULTS, **one, **given, "Environment": {**one.get("Environment", {}), **environment}} for one in packaged
    ]


def _containers(parameters: Parameters) -> list[Mapping[str, Any]]:
    primary, several = parameters.get("PrimaryContainer"), parameters.get("Containers")
    if primary is not None and several:
        raise ControlFault("Both PrimaryContainer and Containers were specified; give one of them")
    if primary is None and not several:
        raise ControlFault("Neither PrimaryContainer nor Containers was specified; give one of them")
    return [primary] if primary is not None else list(several or ())


def _check(parameters: Parameters, containers: list[Mapping[str, Any]]) -> None:
    """Refuses what no single member shows to be wrong."""
    for container in containers:
        _check_container(container)
    hostnames = [container["ContainerHostname"] for container in containers if "ContainerHostname" in container]
    if len(containers) > 1 and len(set(hostnames)) < len(hostnames):
        raise ControlFault("ContainerHostname must be unique among the containers of a model")
    mode = parameters.get("InferenceExecutionConfig", {}).get("Mode")
    if mode == "Direct" and len(hostnames) < len(containers):
        raise ControlFault("Every container needs a ContainerHostname where InferenceExecutionConfig says Mode Direct")
    variables = [pair for container in containers for pair in container.get("Environment", {}).items()]
    length = sum(len(key) + len(value) for key, value in variables)
    if length > ENVIRONMENT_CHARACTERS:
        raise ControlFault(
            f"The Environment of all containers has {length} characters in its keys and values; "
            f"at most {ENVIRONMENT_CHARACTERS} are possible"
        )


def _check_container(container: Mapping[str, Any]) -> None:
    packaged = "ModelPackageName" in container
    model_data = [member for member in ("ModelDataUrl", "ModelDataSource") if member in container]
    if packaged == ("Image" in container) or (packaged and model_data):
        raise ControlFault(
            "Specify one of either Image and Model Data URL or ModelPackageName in container definition."
        )
    if len(model_data) > 1:
        raise ControlFault("Specify only one of ModelDataUrl and ModelDataSource in container definition.")
    if "InferenceSpecificationName" in container and not packaged:
        raise ControlFault("InferenceSpecificationName is of use with ModelPackageName only, which is missing.")
    if "MultiModelConfig" in container and container.get("Mode") != "MultiModel":
        raise ControlFault("MultiModelConfig needs Mode MultiModel in container definition.")
    channels = [source["ChannelName"] for source in container.get("AdditionalModelDataSources", ())]
    if len(set(channels)) < len(channels):
        raise ControlFault("ChannelName must be unique among AdditionalModelDataSources in container definition.")


def _summary(row: Any) -> Document:
    return {"ModelName": row.name, "ModelArn": row.arn, "CreationTime": row.created_at}


LISTING: Final = Listing(
    "ListModels", "Models", (schema.models.c.name, schema.models.c.arn, schema.models.c.created_at), _summary
)

OPERATIONS: Final[Mapping[str, Operation]] = {
    "sagemaker.CreateModel": create,
    "sagemaker.DescribeModel": describe,
    "sagemaker.DeleteModel": delete,
    "sagemaker.ListModels": list_models,
}
