"""Tags: up to fifty pairs of key and value on any resource, by its ARN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import delete, insert, select

from serving.control import schema
from serving.control.call import Document, Operation, Parameters
from serving.control.resource import KINDS, split
from serving.control.store import Transaction
from serving.errors import ControlFault

LIMIT: Final = 50


def attach(tx: Transaction, arn: str, tags: Sequence[Mapping[str, Any]]) -> None:
    """Puts tags on a resource, over those of the same keys. Raises `ControlFault` for more than it may have."""
    if not tags:
        return
    given = {tag["Key"]: tag["Value"] for tag in tags}
    if len(given) < len(tags):
        raise ControlFault("Tag keys must be unique per resource; a key is given more than once")
    reserved = [key for key in given if key.lower().startswith("aws:")]
    if reserved:
        raise ControlFault(f"The tag key '{reserved[0]}' begins with aws:, which is reserved for AWS")
    has = {tag["Key"]: tag["Value"] for tag in of(tx, arn)}
    merged = has | given
    if len(merged) > LIMIT:
        raise ControlFault(
            f"{arn} has {len(has)} tags and would have {len(merged)}; a resource can have at most {LIMIT} tags"
        )
    tx.connection.execute(delete(schema.tags).where(schema.tags.c.arn == arn))
    rows = [{"arn": arn, "key": k, "value": v, "position": n} for n, (k, v) in enumerate(merged.items())]
    tx.connection.execute(insert(schema.tags), rows)


def of(tx: Transaction, arn: str) -> list[Document]:
    """The tags of a resource, in the order in which they were added."""
    table = schema.tags
    rows = tx.connection.execute(
        select(table.c.key, table.c.value).where(table.c.arn == arn).order_by(table.c.position)
    )
    return [{"Key": row.key, "Value": row.value} for row in rows]


def add_tags(tx: Transaction, parameters: Parameters) -> Document:
    arn = _resource(tx, parameters["ResourceArn"])
    attach(tx, arn, parameters["Tags"])
    return {"Tags": of(tx, arn)}


def list_tags(tx: Transaction, parameters: Parameters) -> Document:
    if parameters.get("NextToken"):
        raise ControlFault("NextToken is not valid: the tags of a resource fit in one page, which has none")
    return {"Tags": of(tx, _resource(tx, parameters["ResourceArn"]))}


def delete_tags(tx: Transaction, parameters: Parameters) -> Document:
    arn = _resource(tx, parameters["ResourceArn"])
    table = schema.tags
    tx.connection.execute(delete(table).where(table.c.arn == arn, table.c.key.in_(parameters["TagKeys"])))
    return {}


def _resource(tx: Transaction, arn: str) -> str:
    """The ARN as the tables keep it. Raises `ControlFault` where there is no such resource."""
    kind = KINDS.get(split(arn)[2])
    if kind is None:
        raise ControlFault(f'Could not find resource "{arn}": resources here are of the types {", ".join(KINDS)}')
    found: str = kind.find(tx, arn).arn
    return found


OPERATIONS: Final[Mapping[str, Operation]] = {
    "sagemaker.AddTags": add_tags,
    "sagemaker.ListTags": list_tags,
    "sagemaker.DeleteTags": delete_tags,
}
