"""A caller of operations as the plane is one: input and output are checked by AWS's service model, the store is real."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from sqlalchemy import update

from serving.control import schema
from serving.control.call import Document
from serving.control.operations import OPERATIONS
from serving.control.service import Catalogue, Service
from serving.control.store import Store

ONE_DATABASE = pytest.mark.parametrize("url", [None], ids=["sqlite"])
"""Marks a test of rules that no database knows of: one is enough."""

ROLE = "arn:aws:iam::123456789012:role/service-role/Execution"


@cache
def service(name: str) -> Service:
    return Catalogue(tuple(OPERATIONS)).service(name)


def arn(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:us-east-1:123456789012:{kind}/{name}"


class Caller:
    """Calls operations by name: `call("CreateModel", ModelName="m", ...)`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, operation: str, *, of: str = "sagemaker", **parameters: Any) -> Document:
        valid = service(of).read(operation, parameters)
        run = OPERATIONS[f"{of}.{operation}"]
        document = self.store.transact(lambda tx: run(tx, valid))
        checked, wrong = service(of).check_output(operation, document)
        assert wrong == []
        assert checked == document, "an answer has an unset member"
        return document

    @property
    def now(self) -> float:
        """The store's time."""
        return self.store.transact(lambda tx: tx.now)

    def model(self, name: str = "m", image: str = "onnx", **container: Any) -> Document:
        container = {"Image": image, "ModelDataUrl": f"s3://bucket/{name}.tar.gz", **container}
        return self("CreateModel", ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)

    def config(self, name: str = "c", model: str = "m", **parameters: Any) -> Document:
        variants = [variant(model)]
        return self("CreateEndpointConfig", EndpointConfigName=name, **{"ProductionVariants": variants, **parameters})

    def endpoint(self, name: str = "e", config: str = "c", **parameters: Any) -> Document:
        return self("CreateEndpoint", EndpointName=name, EndpointConfigName=config, **parameters)

    def settle(self, name: str, status: str, *, serving: bool = True, reason: str | None = None) -> None:
        """What the reconciler does once nodes have served, or could not serve, what is asked for."""
        table = schema.endpoints.c
        values: dict[Any, Any] = {table.status: status, table.failure_reason: reason}
        if serving:
            values[table.current] = table.target
        self.store.transact(
            lambda tx: tx.connection.execute(update(schema.endpoints).where(table.name == name).values(values)).close()
        )

    def pages(self, operation: str, member: str, **parameters: Any) -> list[list[Document]]:
        """All pages of a list."""
        answer = self(operation, **parameters)
        found = [answer[member]]
        while "NextToken" in answer:
            answer = self(operation, **parameters, NextToken=answer["NextToken"])
            found.append(answer[member])
        return found


def variant(model: str = "m", name: str = "AllTraffic", **members: Any) -> Document:
    return {
        "VariantName": name,
        "ModelName": model,
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
        **members,
    }
