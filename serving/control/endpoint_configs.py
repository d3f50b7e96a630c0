"""Endpoint configurations: which models an endpoint serves, as variants with weights. They never change once created."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import select

from serving.control import models, schema, tags
from serving.control.call import Document, Operation, Parameters
from serving.control.listing import Listing
from serving.control.resource import ENDPOINT_CONFIG, decode, encode, without
from serving.control.store import Transaction
from serving.errors import ControlFault

MEGABYTES_PER_STEP: Final = 1024
"""Serverless memory comes in whole GB. Source: ProductionVariantServerlessConfig, API reference."""


class _Named(msgspec.Struct):
    """Of a deployment only the name of its config."""

    config_name: str


def create(tx: Transaction, parameters: Parameters) -> Document:
    _check(parameters)
    models.require(tx, named_models(parameters))
    document = without(parameters, "EndpointConfigName", "Tags")
    for member in ("ProductionVariants", "ShadowProductionVariants"):
        if member in parameters:
            document[member] = [{"InitialVariantWeight": 1.0, **variant} for variant in parameters[member]]
    arn = ENDPOINT_CONFIG.add(tx, parameters["EndpointConfigName"], {"document": encode(document)})
    tags.attach(tx, arn, parameters.get("Tags", ()))
    return {"EndpointConfigArn": arn}


def describe(tx: Transaction, parameters: Parameters) -> Document:
    row = ENDPOINT_CONFIG.find(tx, parameters["EndpointConfigName"])
    given = decode(row.document)
    return {"EndpointConfigName": row.name, "EndpointConfigArn": row.arn, "CreationTime": row.created_at, **given}


def delete(tx: Transaction, parameters: Parameters) -> Document:
    """Endpoints that serve by the config keep their copy of it; those that are on the way there still show its name."""
    arn = ENDPOINT_CONFIG.arn(tx, parameters["EndpointConfigName"])
    table = schema.endpoints
    query = select(table.c.arn, table.c.status, table.c.target, table.c.current)
    for row in tx.connection.execute(query.where(table.c.status.in_(("Creating", "Updating")))):
        used = (msgspec.json.decode(text, type=_Named) for text in (row.target, row.current) if text is not None)
        if arn in {ENDPOINT_CONFIG.arn(tx, deployment.config_name) for deployment in used}:
            raise ControlFault(
                f'Cannot delete endpoint configuration "{arn}": the endpoint "{row.arn}" is {row.status} and uses it.'
            )
    ENDPOINT_CONFIG.remove(tx, arn)
    return {}


def list_endpoint_configs(tx: Transaction, parameters: Parameters) -> Document:
    return LISTING.page(tx, parameters)


def named_models(config: Mapping[str, Any]) -> list[str]:
    """The models that a config names, each once."""
    names: dict[str, None] = {}
    for variant in (*config["ProductionVariants"], *config.get("ShadowProductionVariants", ())):
        for named in (
            variant.get("ModelName"),
            *(p.get("ModelNameOverride") for p in variant.get("InstancePools", ())),
        ):
            if named is not None:
                names[named] = None
    return list(names)


def _check(config: Parameters) -> None:
    """Refuses what no single member shows to be wrong. Sources: CreateEndpointConfig and ProductionVariant, API reference."""
    production: Sequence[Mapping[str, Any]] = config["ProductionVariants"]
    shadows: Sequence[Mapping[str, Any]] = config.get("ShadowProductionVariants", ())
    variants = [*production, *shadows]
    names = [variant["VariantName"] for variant in variants]
    if len({name.lower() for name in names}) < len(names):
        raise ControlFault(
            f"VariantName must be unique within an endpoint configuration; given were {', '.join(names)}"
        )
    for variant in variants:
        _check_variant(variant, config)
    if shadows and (len(production), len(shadows)) != (1, 1):
        raise ControlFault(
            "With ShadowProductionVariants there can be one variant in ProductionVariants and one in "
            f"ShadowProductionVariants; given were {len(production)} and {len(shadows)}"
        )
    serverless = any("ServerlessConfig" in variant for variant in variants)
    if serverless and len(variants) > 1:
        raise ControlFault("A variant with ServerlessConfig must be the only one of its endpoint configuration")
    if "AsyncInferenceConfig" in config and (shadows or serverless):
        other = "ShadowProductionVariants" if shadows else "ServerlessConfig"
        raise ControlFault(f"AsyncInferenceConfig and {other} cannot be in one endpoint configuration")
    if serverless and "DataCaptureConfig" in config:
        raise ControlFault("DataCaptureConfig and ServerlessConfig cannot be in one endpoint configuration")
    if "CrossRegionTrafficConfig" in config and (serverless or "AsyncInferenceConfig" in config):
        other = "ServerlessConfig" if serverless else "AsyncInferenceConfig"
        raise ControlFault(f"CrossRegionTrafficConfig and {other} cannot be in one endpoint configuration")


def _check_variant(variant: Mapping[str, Any], config: Parameters) -> None:
    """A variant is of one shape: serverless, on instances, on instance pools, or instances for inference components."""
    where = f"The variant '{variant['VariantName']}'"
    shapes = [member for member in ("ServerlessConfig", "InstanceType", "InstancePools") if member in variant]
    if len(shapes) != 1:
        given = f"has {' and '.join(shapes)}" if shapes else "has none of them"
        raise ControlFault(f"{where} {given}; one of ServerlessConfig, InstanceType and InstancePools was expected")
    if shapes == ["ServerlessConfig"]:
        _check_serverless(where, variant)
    elif "InstancePools" in variant:
        _check_pools(where, variant)
    elif "ModelName" not in variant and "ExecutionRoleArn" not in config:
        raise ControlFault(
            f"{where} has no ModelName, so it is for inference components, which need the configuration's ExecutionRoleArn"
        )
    elif "ModelName" in variant and "InitialInstanceCount" not in variant:
        raise ControlFault(f"{where} has InstanceType without InitialInstanceCount")
    scaling = variant.get("ManagedInstanceScaling", {})
    if scaling.get("MinInstanceCount", 0) > scaling.get("MaxInstanceCount", float("inf")):
        raise ControlFault(f"{where} has a MinInstanceCount above its MaxInstanceCount in ManagedInstanceScaling")


def _check_serverless(where: str, variant: Mapping[str, Any]) -> None:
    if "ModelName" not in variant:
        raise ControlFault(f"{where} has ServerlessConfig without ModelName")
    for member in ("InitialInstanceCount", "AcceleratorType", "ManagedInstanceScaling", "VolumeSizeInGB"):
        if member in variant:
            raise ControlFault(f"{where} has {member}, which is of no use with ServerlessConfig")
    serverless = variant["ServerlessConfig"]
    if serverless["MemorySizeInMB"] % MEGABYTES_PER_STEP:
        raise ControlFault(
            f"{where} has a MemorySizeInMB of {serverless['MemorySizeInMB']}; a multiple of 1024 was expected"
        )
    if serverless.get("ProvisionedConcurrency", 0) > serverless["MaxConcurrency"]:
        raise ControlFault(
            f"{where} has a ProvisionedConcurrency of {serverless['ProvisionedConcurrency']}, "
            f"above its MaxConcurrency of {serverless['MaxConcurrency']}"
        )


def _check_pools(where: str, variant: Mapping[str, Any]) -> None:
    pools = variant["InstancePools"]
    if len({pool["InstanceType"] for pool in pools}) < len(pools):
        raise ControlFault(f"{where} has InstancePools with the same InstanceType; each must be unique")
    if "ModelName" not in variant and not all("ModelNameOverride" in pool for pool in pools):
        raise ControlFault(f"{where} has no ModelName, and InstancePools without ModelNameOverride")


def _summary(row: Any) -> Document:
    return {"EndpointConfigName": row.name, "EndpointConfigArn": row.arn, "CreationTime": row.created_at}


_table = schema.endpoint_configs
LISTING: Final = Listing(
    "ListEndpointConfigs", "EndpointConfigs", (_table.c.name, _table.c.arn, _table.c.created_at), _summary
)

OPERATIONS: Final[Mapping[str, Operation]] = {
    "sagemaker.CreateEndpointConfig": create,
    "sagemaker.DescribeEndpointConfig": describe,
    "sagemaker.DeleteEndpointConfig": delete,
    "sagemaker.ListEndpointConfigs": list_endpoint_configs,
}
