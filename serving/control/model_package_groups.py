"""Model package groups: the versions of one model in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import false, select

from serving.control import schema, tags
from serving.control.call import Document, Operation, Parameters
from serving.control.identity import user_context
from serving.control.listing import Listing
from serving.control.resource import MODEL_PACKAGE_GROUP, decode, encode, without
from serving.control.store import Transaction
from serving.errors import Conflict


def create(tx: Transaction, parameters: Parameters) -> Document:
    name = parameters["ModelPackageGroupName"]
    document = without(parameters, "ModelPackageGroupName", "Tags")
    arn = MODEL_PACKAGE_GROUP.add(tx, name, {"last_version": 0, "document": encode(document)})
    tags.attach(tx, arn, parameters.get("Tags", ()))
    return {"ModelPackageGroupArn": arn}


def describe(tx: Transaction, parameters: Parameters) -> Document:
    row = MODEL_PACKAGE_GROUP.find(tx, parameters["ModelPackageGroupName"])
    return _summary(row) | {"CreatedBy": user_context(tx.place)}


def delete(tx: Transaction, parameters: Parameters) -> Document:
    """Raises `Conflict` while the group has model packages."""
    row = MODEL_PACKAGE_GROUP.find(tx, parameters["ModelPackageGroupName"])
    packages = schema.model_packages
    query = select(packages.c.arn).where(packages.c.group_name == row.name).order_by(packages.c.version).limit(1)
    held = tx.connection.execute(query).scalar_one_or_none()
    if held is not None:
        raise Conflict(
            f"Model Package Group {row.arn} cannot be deleted because it still contains model packages; "
            f"delete them first, beginning with {held}"
        )
    MODEL_PACKAGE_GROUP.remove(tx, row.arn)
    return {}


def list_model_package_groups(tx: Transaction, parameters: Parameters) -> Document:
    # No other account shares groups with this one.
    shared = (false(),) if parameters.get("CrossAccountFilterOption") == "CrossAccount" else ()
    return LISTING.page(tx, parameters, *shared)


def _summary(row: Any) -> Document:
    return {
        "ModelPackageGroupName": row.name,
        "ModelPackageGroupArn": row.arn,
        "CreationTime": row.created_at,
        "ModelPackageGroupStatus": "Completed",
        **decode(row.document),
    }


_columns = schema.model_package_groups.c
LISTING: Final = Listing(
    "ListModelPackageGroups",
    "ModelPackageGroupSummaryList",
    (_columns.name, _columns.arn, _columns.created_at, _columns.document),
    _summary,
    order="Ascending",
)

OPERATIONS: Final[Mapping[str, Operation]] = {
    "sagemaker.CreateModelPackageGroup": create,
    "sagemaker.DescribeModelPackageGroup": describe,
    "sagemaker.DeleteModelPackageGroup": delete,
    "sagemaker.ListModelPackageGroups": list_model_package_groups,
}
