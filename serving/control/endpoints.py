"""Endpoints: what each is asked to serve. The reconciler makes it so, and moves every status that begins here on.

Creating -> InService or Failed; Updating -> InService, by the new config or back on the old; Deleting -> gone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Row, update

from serving.control import endpoint_configs, endpoint_summary, guardrails, models, schema, tags
from serving.control.call import Document, Operation, Parameters
from serving.control.deployment import Deployment
from serving.control.listing import Listing
from serving.control.resource import ENDPOINT, ENDPOINT_CONFIG
from serving.control.store import Transaction
from serving.errors import ControlFault

IN_PROGRESS: Final = 'Cannot update in-progress endpoint "{}".'

UPDATABLE: Final = frozenset({"InService", "OutOfService", "UpdateRollbackFailed"})
"""OutOfService too: another config is how an endpoint whose model can no longer be loaded is mended."""

DELETABLE: Final = UPDATABLE | {"Creating", "Updating", "Failed"}

WEIGHT, COUNT, CAPTURE = "DesiredWeight", "DesiredInstanceCount", "DataCaptureConfig"
RETAINED: Final = {WEIGHT: "InitialVariantWeight", COUNT: "InitialInstanceCount"}
"""The member of a variant that each property is, as VariantPropertyType names it."""


def create(tx: Transaction, parameters: Parameters) -> Document:
    name = parameters["EndpointName"]
    if name in tx.taken:
        raise ControlFault(
            f"{ENDPOINT.existing.format(ENDPOINT.arn(tx, name))} The name is that of a model which was given to the "
            "server when it was started; another was expected."
        )
    if "DeploymentConfig" in parameters:
        guardrails.check(parameters["DeploymentConfig"])
    target = _resolve(tx, parameters)
    columns = {
        "modified_at": tx.now,
        "status": "Creating",
        "generation": tx.next_generation(),
        "target": _encode(target),
    }
    arn = ENDPOINT.add(tx, name, columns)
    tags.attach(tx, arn, parameters.get("Tags", ()))
    return {"EndpointArn": arn}


def describe(tx: Transaction, parameters: Parameters) -> Document:
    return endpoint_summary.describe(ENDPOINT.find(tx, parameters["EndpointName"]))


def update_endpoint(tx: Transaction, parameters: Parameters) -> Document:
    row = ENDPOINT.find(tx, parameters["EndpointName"])
    _require_updatable(row)
    _check_update(parameters)
    target = _resolve(tx, parameters)
    if row.current is not None:
        current = endpoint_summary.deployment(row.current)
        if row.status == "InService" and (target.config, target.models) == (current.config, current.models):
            raise ControlFault(
                f'Cannot update endpoint "{row.arn}": it uses the endpoint configuration '
                f'"{ENDPOINT_CONFIG.arn(tx, target.config_name)}" already.'
            )
        target = _retaining(target, current, parameters)
    _change(tx, row, "Updating", target=_encode(target), failure_reason=None)
    return {"EndpointArn": row.arn}


def delete(tx: Transaction, parameters: Parameters) -> Document:
    """The row stays, Deleting, until no server serves it any more."""
    row = ENDPOINT.find(tx, parameters["EndpointName"])
    if row.status not in DELETABLE:
        raise ControlFault(IN_PROGRESS.format(row.arn))
    _change(tx, row, "Deleting")
    return {}


def list_endpoints(tx: Transaction, parameters: Parameters) -> Document:
    return LISTING.page(tx, parameters)


def _resolve(tx: Transaction, parameters: Parameters) -> Deployment:
    """The config named, with its models. Raises `ControlFault` where one is absent."""
    config = endpoint_configs.describe(tx, parameters)
    served = models.require(tx, endpoint_configs.named_models(config))
    said = {
        name: value for name, value in parameters.items() if name not in ("EndpointName", "EndpointConfigName", "Tags")
    }
    return Deployment(config["EndpointConfigName"], config, served, said)


def _require_updatable(row: Row[Any]) -> None:
    if row.status == "Failed":
        raise ControlFault(
            f'Cannot update endpoint "{row.arn}": it is Failed, and can only be deleted and created again.'
        )
    if row.status not in UPDATABLE:
        raise ControlFault(IN_PROGRESS.format(row.arn))


def _check_update(parameters: Parameters) -> None:
    excluded = parameters.get("ExcludeRetainedVariantProperties", ())
    if excluded and not parameters.get("RetainAllVariantProperties"):
        raise ControlFault("ExcludeRetainedVariantProperties needs RetainAllVariantProperties to be true")
    if "DeploymentConfig" in parameters:
        if parameters.get("RetainDeploymentConfig"):
            raise ControlFault("DeploymentConfig cannot be given where RetainDeploymentConfig is true")
        guardrails.check(parameters["DeploymentConfig"])


def _retaining(target: Deployment, current: Deployment, parameters: Parameters) -> Deployment:
    """The target with what the caller wants to keep of what serves now."""
    if parameters.get("RetainDeploymentConfig") and "DeploymentConfig" in current.request:
        said = {**target.request, "DeploymentConfig": current.request["DeploymentConfig"]}
        target = msgspec.structs.replace(target, request=said)
    if not parameters.get("RetainAllVariantProperties"):
        return target
    excluded = {one["VariantPropertyType"] for one in parameters.get("ExcludeRetainedVariantProperties", ())}
    config = dict(target.config)
    for member in ("ProductionVariants", "ShadowProductionVariants"):
        before = {variant["VariantName"]: variant for variant in current.config.get(member, ())}
        if member in config:
            config[member] = [_kept(one, before.get(one["VariantName"], {}), excluded) for one in config[member]]
    if CAPTURE in current.config and CAPTURE not in excluded:
        config[CAPTURE] = current.config[CAPTURE]
    return msgspec.structs.replace(target, config=config)


def _kept(variant: Mapping[str, Any], before: Mapping[str, Any], excluded: Collection[str]) -> Document:
    kept = {
        member: before[member]
        for name, member in RETAINED.items()
        # A variant that turned serverless has no instances to count.
        if name not in excluded and member in before and member in variant
    }
    return {**variant, **kept}


def _change(tx: Transaction, row: Row[Any], status: str, **columns: object) -> None:
    table = schema.endpoints
    values = {"status": status, "modified_at": tx.now, "generation": tx.next_generation(), **columns}
    tx.connection.execute(update(table).where(table.c.name == row.name).values(values))


def _encode(deployment: Deployment) -> str:
    return msgspec.json.encode(deployment).decode()


def _summary(row: Row[Any]) -> Document:
    return {
        "EndpointName": row.name,
        "EndpointArn": row.arn,
        "CreationTime": row.created_at,
        "LastModifiedTime": row.modified_at,
        "EndpointStatus": row.status,
    }


_columns = schema.endpoints.c
LISTING: Final = Listing(
    "ListEndpoints",
    "Endpoints",
    (_columns.name, _columns.arn, _columns.created_at, _columns.modified_at, _columns.status),
    _summary,
)

OPERATIONS: Final[Mapping[str, Operation]] = {
    "sagemaker.CreateEndpoint": create,
    "sagemaker.DescribeEndpoint": describe,
    "sagemaker.UpdateEndpoint": update_endpoint,
    "sagemaker.DeleteEndpoint": delete,
    "sagemaker.ListEndpoints": list_endpoints,
}
