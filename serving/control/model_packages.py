"""Model packages: what the registry holds, versions of a group (GROUP/VERSION) or packages of their own (NAME).

Nothing here scans images or runs validation jobs, so a package is Completed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Row, func, select, update

from serving.control import package_source, schema, tags
from serving.control.call import Document, Operation, Parameters
from serving.control.listing import Listing
from serving.control.package_changes import changed
from serving.control.resource import MODEL_PACKAGE, MODEL_PACKAGE_GROUP, decode, encode, without
from serving.control.store import Transaction
from serving.errors import ControlFault

PENDING: Final = "PendingManualApproval"

TOKEN_S: Final = 24 * 3600.0
"""How long a ClientToken is remembered."""

BATCH_BYTES: Final = 8 * 1024 * 1024
"""Of the documents of all packages that BatchDescribeModelPackage looks at."""

TOKEN, DIGEST = "ClientToken", "RequestDigest"
"""Members of stored documents that no answer has."""

_table = schema.model_packages


class _Shown(msgspec.Struct, omit_defaults=True):
    """What lists show of a document."""

    ModelPackageDescription: str | msgspec.UnsetType = msgspec.UNSET
    ModelLifeCycle: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    ModelPackageRegistrationType: str | msgspec.UnsetType = msgspec.UNSET


def create(tx: Transaction, parameters: Parameters) -> Document:
    grouped = "ModelPackageGroupName" in parameters
    if grouped == ("ModelPackageName" in parameters):
        given = "Both ModelPackageName and ModelPackageGroupName are" if grouped else "Missing ARN. None is"
        raise ControlFault(
            f"{given} provided in the input: a version of a group needs ModelPackageGroupName, another package ModelPackageName"
        )
    group = MODEL_PACKAGE_GROUP.find(tx, parameters["ModelPackageGroupName"]) if grouped else None
    digest = _digest(parameters)
    before = _created_before(tx, parameters, group)
    if before is not None:
        if decode(before.document).get(DIGEST) != digest:
            raise ControlFault(f"ClientToken was used before, in another request, which created {before.arn}")
        return {"ModelPackageArn": before.arn}
    _check(parameters)
    document = without(parameters, "ModelPackageName", "ModelPackageGroupName", "Tags", "ModelApprovalStatus")
    document |= package_source.populated(tx, parameters) | {DIGEST: digest}
    columns = {"status": "Completed", "modified_at": tx.now, "document": encode(document)}
    columns["approval"] = parameters.get("ModelApprovalStatus", PENDING if grouped else None)
    if group is not None:
        return {"ModelPackageArn": _add_version(tx, group, parameters, columns)}
    arn = MODEL_PACKAGE.add(tx, parameters["ModelPackageName"], columns)
    tags.attach(tx, arn, parameters.get("Tags", ()))
    return {"ModelPackageArn": arn}


def describe(tx: Transaction, parameters: Parameters) -> Document:
    row = MODEL_PACKAGE.find(tx, parameters["ModelPackageName"])
    document = without(decode(row.document), TOKEN, DIGEST)
    if parameters.get("IncludedData") == "MetadataOnly" and "ModelCardContent" in document.get("ModelCard", {}):
        document["ModelCard"] = {**document["ModelCard"], "ModelCardContent": "{}"}
    described = (
        _head(row) | document | {"ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []}}
    )
    if row.modified_at > row.created_at:
        described["LastModifiedTime"] = row.modified_at
    return described


def update_model_package(tx: Transaction, parameters: Parameters) -> Document:
    row = MODEL_PACKAGE.find(tx, parameters["ModelPackageArn"])
    columns = {
        "modified_at": tx.now,
        "approval": parameters.get("ModelApprovalStatus", row.approval),
        "document": encode(changed(decode(row.document), parameters)),
    }
    tx.connection.execute(update(_table).where(_table.c.name == row.name).values(columns))
    return {"ModelPackageArn": row.arn}


def delete(tx: Transaction, parameters: Parameters) -> Document:
    """Models that were made from the package keep what it held. Its version is not given again."""
    MODEL_PACKAGE.remove(tx, MODEL_PACKAGE.arn(tx, parameters["ModelPackageName"]))
    return {}


def batch_describe(tx: Transaction, parameters: Parameters) -> Document:
    summaries: Document = {}
    errors: Document = {}
    length = 0
    for place, arn in enumerate(dict.fromkeys(parameters["ModelPackageArnList"]), 1):
        try:
            row = MODEL_PACKAGE.find(tx, arn)
            if row.version is None:
                raise ControlFault(f"ModelPackage {row.arn} is not a version of a Model Package Group.")
        except ControlFault as fault:
            errors[arn] = {"ErrorCode": fault.sagemaker_code, "ErrorResponse": fault.message}
        else:
            length += len(row.document)
            if length > BATCH_BYTES:
                raise ControlFault(
                    f"The first {place} of these model packages have more than {BATCH_BYTES} bytes; describe fewer at once"
                )
            specification = decode(row.document).get("InferenceSpecification", {"Containers": []})
            summaries[arn] = _summary(row) | {"InferenceSpecification": specification}
            summaries[arn].pop("ModelLifeCycle", None)
    return {"ModelPackageSummaries": summaries, "BatchDescribeModelPackageErrorMap": errors}


def list_model_packages(tx: Transaction, parameters: Parameters) -> Document:
    conditions: list[ColumnElement[bool]] = []
    kind = parameters.get("ModelPackageType", "Versioned" if "ModelPackageGroupName" in parameters else "Unversioned")
    if kind != "Both":
        conditions.append(_table.c.version.is_not(None) if kind == "Versioned" else _table.c.version.is_(None))
    if "ModelPackageGroupName" in parameters:
        group = MODEL_PACKAGE_GROUP.find(tx, parameters["ModelPackageGroupName"])
        conditions.append(_table.c.group_name == group.name)
    if "ModelApprovalStatus" in parameters:
        conditions.append(_table.c.approval == parameters["ModelApprovalStatus"])
    return LISTING.page(tx, parameters, *conditions)


def containers(tx: Transaction, named: str, specification: str | None) -> list[Document]:
    """The containers that a model made from the package has, as ContainerDefinitions.

    `specification` names one of the additional specifications. Raises `ControlFault` where there is no such thing, or
    the package is a version that is not approved.
    """
    row = MODEL_PACKAGE.find(tx, named)
    if row.version is not None and row.approval != "Approved":
        raise ControlFault(
            f"Cannot create a model from ModelPackage {row.arn}: its approval status is {row.approval}; it must be Approved."
        )
    document = decode(row.document)
    if specification is None:
        found = document.get("InferenceSpecification")
        what = "InferenceSpecification"
    else:
        additional = document.get("AdditionalInferenceSpecifications", ())
        found = next((one for one in additional if one["Name"] == specification), None)
        what = f"AdditionalInferenceSpecification '{specification}'"
    if found is None:
        raise ControlFault(f"Cannot create a model from ModelPackage {row.arn}: it has no {what}.")
    return [package_source.definition(container) for container in found["Containers"]]


def _check(parameters: Parameters) -> None:
    grouped = "ModelPackageGroupName" in parameters
    if grouped and parameters.get("Tags"):
        raise ControlFault(
            "Tags cannot be provided for a version of a Model Package Group, which uses the group's tags"
        )
    if not grouped and "SourceUri" in parameters:
        raise ControlFault("SourceUri can be provided for a version of a Model Package Group only")
    if "InferenceSpecification" in parameters and "SourceAlgorithmSpecification" in parameters:
        raise ControlFault(
            "Both InferenceSpecification and SourceAlgorithmSpecification are provided; give one of them"
        )
    names = [one["Name"] for one in parameters.get("AdditionalInferenceSpecifications", ())]
    if len(set(names)) < len(names):
        raise ControlFault("Name must be unique among AdditionalInferenceSpecifications")
    for specification in (
        *(parameters[name] for name in ("InferenceSpecification",) if name in parameters),
        *parameters.get("AdditionalInferenceSpecifications", ()),
    ):
        package_source.check(specification)


def _add_version(tx: Transaction, group: Row[Any], parameters: Parameters, columns: Mapping[str, object]) -> str:
    version = group.last_version + 1
    groups = schema.model_package_groups
    tx.connection.execute(update(groups).where(groups.c.name == group.name).values(last_version=version))
    name = f"{group.name}/{version}"
    return MODEL_PACKAGE.add(tx, name, {**columns, "group_name": group.name, "version": version})


def _digest(parameters: Parameters) -> str:
    return blake2b(msgspec.json.encode(parameters, order="deterministic"), digest_size=16).hexdigest()


def _created_before(tx: Transaction, parameters: Parameters, group: Row[Any] | None) -> Row[Any] | None:
    """The package that a request with the same ClientToken created, of that group or name."""
    token = parameters.get(TOKEN)
    if token is None:
        return None
    if group is not None:
        same: ColumnElement[bool] = _table.c.group_name == group.name
    else:
        same = _table.c.arn == MODEL_PACKAGE.arn(tx, parameters["ModelPackageName"])
    recent = _table.c.created_at > tx.now - TOKEN_S
    mentions = _table.c.document.contains(f'"{TOKEN}":"{token}"', autoescape=True)
    rows = tx.connection.execute(select(_table).where(same, recent, mentions))
    return next((row for row in rows if decode(row.document).get(TOKEN) == token), None)


def _head(row: Row[Any]) -> Document:
    """What every description begins with. A version has no ModelPackageName: SDKs then go by its ARN, as with AWS."""
    head: Document = {
        "ModelPackageArn": row.arn,
        "CreationTime": row.created_at,
        "ModelPackageStatus": row.status,
    }
    if row.version is None:
        head["ModelPackageName"] = row.name
    else:
        head |= {"ModelPackageGroupName": row.group_name, "ModelPackageVersion": row.version}
    if row.approval is not None:
        head["ModelApprovalStatus"] = row.approval
    return head


def _summary(row: Row[Any]) -> Document:
    shown: Document = msgspec.to_builtins(msgspec.json.decode(row.document, type=_Shown))
    return _head(row) | shown


LISTING: Final = Listing(
    "ListModelPackages",
    "ModelPackageSummaryList",
    tuple(_table.c),
    _summary,
    order="Ascending",
    # The number of a version is no part of a name.
    searched=func.coalesce(_table.c.group_name, _table.c.name),
)

OPERATIONS: Final[Mapping[str, Operation]] = {
    "sagemaker.CreateModelPackage": create,
    "sagemaker.DescribeModelPackage": describe,
    "sagemaker.UpdateModelPackage": update_model_package,
    "sagemaker.DeleteModelPackage": delete,
    "sagemaker.ListModelPackages": list_model_packages,
    "sagemaker.BatchDescribeModelPackage": batch_describe,
}
