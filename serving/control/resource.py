"""Kinds of resources: the table, the ARNs and the error texts of each, and how one is added, found and removed.

Resources are found by ARN. Names in ARNs are lower case, so that two names which differ in case alone are one resource;
SageMaker says so of endpoints (CreateEndpoint, "The name is case-insensitive").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Table, delete, insert, select

from serving.control import schema
from serving.control.call import Document
from serving.control.store import Transaction
from serving.errors import ControlFault, ResourceLimitExceeded

MOST_BYTES: Final = 1024 * 1024
"""Of a resource's document: many times what any is made of, and a page of a hundred can still be read."""

ARN: Final = re.compile(r"arn:aws[a-z-]*:sagemaker:([a-z0-9-]*):([0-9]{12}):([a-z-]+)/(.+)")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of resource. `absent` and `existing` are AWS's texts, with {} for the ARN."""

    table: Table
    arn_type: str
    absent: str
    existing: str

    def arn(self, tx: Transaction, named: str) -> str:
        """The ARN of what a name, or an ARN, names. Raises `ControlFault` for an ARN of another region or kind."""
        if not named.startswith("arn:"):
            return tx.place.arn(self.arn_type, named)
        region, account, kind, name = split(named)
        if region != tx.place.region:
            raise ControlFault(f"ARN should be scoped to correct region: {tx.place.region}")
        if kind != self.arn_type:
            raise ControlFault(f'"{named}" is the ARN of a {kind}; one of a {self.arn_type} was expected')
        if account != tx.place.account_id:
            raise ControlFault(self.absent.format(named))
        return tx.place.arn(kind, name)

    def find(self, tx: Transaction, named: str) -> Row[Any]:
        """The row of a name or an ARN. Raises `ControlFault`."""
        arn = self.arn(tx, named)
        row = tx.connection.execute(select(self.table).where(self.table.c.arn == arn)).one_or_none()
        if row is None:
            raise ControlFault(self.absent.format(arn))
        return row

    def find_all(self, tx: Transaction, named: Collection[str]) -> dict[str, Row[Any]]:
        """The rows of the names, by name; of one that is absent nothing."""
        arns = {name: self.arn(tx, name) for name in named}
        rows = tx.connection.execute(select(self.table).where(self.table.c.arn.in_(set(arns.values()))))
        by_arn = {row.arn: row for row in rows}
        return {name: by_arn[arn] for name, arn in arns.items() if arn in by_arn}

    def add(self, tx: Transaction, name: str, columns: Mapping[str, object]) -> str:
        """Adds a row, and answers its ARN. Raises `ControlFault` where the name is in use.

        Who loses a race against another that adds the same loses its transaction, is run again, and finds it here.
        """
        arn = tx.place.arn(self.arn_type, name)
        if tx.connection.execute(select(self.table.c.arn).where(self.table.c.arn == arn)).one_or_none():
            raise ControlFault(self.existing.format(arn))
        tx.connection.execute(insert(self.table).values({"name": name, "arn": arn, "created_at": tx.now, **columns}))
        return arn

    def remove(self, tx: Transaction, arn: str) -> None:
        """Removes a resource and its tags. Raises `ControlFault` where it is absent."""
        if not tx.connection.execute(delete(self.table).where(self.table.c.arn == arn)).rowcount:
            raise ControlFault(self.absent.format(arn))
        tx.connection.execute(delete(schema.tags).where(schema.tags.c.arn == arn))


MODEL: Final = Kind(schema.models, "model", 'Could not find model "{}".', 'Cannot create already existing model "{}".')
ENDPOINT_CONFIG: Final = Kind(
    schema.endpoint_configs,
    "endpoint-config",
    'Could not find endpoint configuration "{}".',
    'Cannot create already existing endpoint configuration "{}".',
)
ENDPOINT: Final = Kind(
    schema.endpoints, "endpoint", 'Could not find endpoint "{}".', 'Cannot create already existing endpoint "{}".'
)
MODEL_PACKAGE_GROUP: Final = Kind(
    schema.model_package_groups,
    "model-package-group",
    "ModelPackageGroup {} does not exist.",
    "Model Package Group already exists: {}",
)
MODEL_PACKAGE: Final = Kind(
    schema.model_packages, "model-package", "ModelPackage {} does not exist.", "ModelPackage already exists: {}"
)

KINDS: Final = {kind.arn_type: kind for kind in (MODEL, ENDPOINT_CONFIG, ENDPOINT, MODEL_PACKAGE_GROUP, MODEL_PACKAGE)}
"""The kinds by their type in ARNs."""


def split(arn: str) -> tuple[str, str, str, str]:
    """Region, account, kind and name of an ARN of SageMaker. Raises `ControlFault` where it is none."""
    matched = ARN.fullmatch(arn)
    if matched is None:
        raise ControlFault(
            f'"{arn}" is not the ARN of a resource; arn:aws:sagemaker:REGION:ACCOUNT:TYPE/NAME was expected'
        )
    region, account, kind, name = matched.groups()
    return region, account, kind, name


def encode(document: Mapping[str, Any]) -> str:
    """A document as the tables keep it. Raises `ResourceLimitExceeded` for one that no list could go through."""
    text = msgspec.json.encode(document)
    if len(text) > MOST_BYTES:
        raise ResourceLimitExceeded(
            f"The resource would have {len(text)} bytes as JSON; at most {MOST_BYTES} are possible. Environment and model "
            "cards are what grows large"
        )
    return text.decode()


def decode(text: str) -> Document:
    """A document out of a table."""
    document: Document = msgspec.json.decode(text)
    return document


def without(document: Mapping[str, Any], *members: str) -> Document:
    """The document less some members."""
    return {name: value for name, value in document.items() if name not in members}
