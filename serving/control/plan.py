"""What a deployment asks of this server: one variant of one container, its model data and limits; or why it cannot be."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from serving.control import environment, images
from serving.control.deployment import Deployment
from serving.control.images import Chosen
from serving.errors import ConfigurationError
from serving.runtime.wiring import TargetsWiring

Form = Literal["archive", "prefix", "object"]
"""Model data: one gzipped tar, all objects below a prefix as they are, or one object as it is."""

DOWNLOAD_S: Final = 3600.0
STARTUP_S: Final = 240.0
"""What SageMaker allows where the variant says nothing."""

MULTI_MODEL: Final = "MultiModel"
"""The Mode of a container with many models."""

BUT_ONE: Final = "one production variant is served so far"


class Source(msgspec.Struct, frozen=True):
    """Where model data lies."""

    url: str
    form: Form


class Plan(msgspec.Struct, frozen=True):
    """Everything that is needed to fetch and load a deployment. `download_s`, `startup_s`: the longest either may take.

    With `targets` it is a multi-model endpoint: nothing is fetched until it is asked for.
    """

    variant: str
    model: str
    image: str
    chosen: Chosen
    source: Source
    environment: Mapping[str, str]
    instances: int
    download_s: float
    startup_s: float
    targets: TargetsWiring | None = None


def plan(deployment: Deployment, names: Mapping[str, str], kinds: Collection[str]) -> Plan:
    """What to do for a deployment; `names` are the operator's images, `kinds` the container kinds installed.

    Raises `ConfigurationError` with one sentence for what is not built or not possible.
    """
    variant = _variant(deployment.config)
    name = str(variant["VariantName"])
    model_name = variant.get("ModelName")
    if not model_name:
        raise ConfigurationError(
            f"the variant '{name}' names no model; endpoints of inference components are not built yet"
        )
    model = deployment.models.get(model_name)
    if model is None:
        raise ConfigurationError(f"the variant '{name}' names the model '{model_name}', which was not there")
    container = _container(model_name, model)
    many = container.get("Mode") == MULTI_MODEL
    variables = environment.given(container.get("Environment") or {})
    environment.refuse_mode(variables, many=many)
    environment.refuse_unbuilt(variables)
    image = container.get("Image", "")
    if not image:
        raise ConfigurationError(
            f"the model '{model_name}' names no Image, which tells the container that serves it, such as onnx or xgboost"
        )
    return Plan(
        variant=name,
        model=model_name,
        image=image,
        chosen=images.choose(image, names, kinds),
        source=source(model_name, container, many=many),
        environment=variables,
        instances=int(variant.get("InitialInstanceCount") or 1),
        download_s=float(variant.get("ModelDataDownloadTimeoutInSeconds") or DOWNLOAD_S),
        startup_s=float(variant.get("ContainerStartupHealthCheckTimeoutInSeconds") or STARTUP_S),
        targets=_targets(model_name, container, variables) if many else None,
    )


def sources(deployment: Deployment) -> list[Source]:
    """Where the model data of a deployment lies that is fetched for it, as far as that can be told."""
    found = []
    for name, model in deployment.models.items():
        try:
            container = _container(name, model)
            if container.get("Mode") != MULTI_MODEL:
                found.append(source(name, container))
        except ConfigurationError:
            continue
    return found


def _variant(config: Mapping[str, Any]) -> Mapping[str, Any]:
    variants: Sequence[Mapping[str, Any]] = config.get("ProductionVariants") or []
    if len(variants) != 1:
        raise ConfigurationError(f"the endpoint config has {len(variants)} production variants; {BUT_ONE}")
    unbuilt = {
        "ShadowProductionVariants": "shadow variants are",
        "AsyncInferenceConfig": "asynchronous inference is",
        "ExplainerConfig": "explainers are",
    }
    for key, what in unbuilt.items():
        if config.get(key):
            raise ConfigurationError(f"the endpoint config has {key}: {what} not built yet")
    capture = config.get("DataCaptureConfig") or {}
    if capture.get("EnableCapture", bool(capture)):
        raise ConfigurationError("the endpoint config has DataCaptureConfig: data capture is not built yet")
    variant = variants[0]
    for key, what in {
        "ServerlessConfig": "serverless variants",
        "InstancePools": "instance pools",
        "CoreDumpConfig": "core dumps",
    }.items():
        if variant.get(key):
            raise ConfigurationError(f"the variant '{variant['VariantName']}' has {key}: {what} are not built yet")
    if (variant.get("ManagedInstanceScaling") or {}).get("Status") == "ENABLED":
        raise ConfigurationError(
            f"the variant '{variant['VariantName']}' has ManagedInstanceScaling: scaling of instances is not built yet"
        )
    if variant.get("AcceleratorType"):
        raise ConfigurationError(
            f"the variant '{variant['VariantName']}' asks for the accelerator {variant['AcceleratorType']}; there is none here"
        )
    return variant


def _container(name: str, model: Mapping[str, Any]) -> Mapping[str, Any]:
    several = model.get("Containers") or ()
    if len(several) > 1:
        raise ConfigurationError(
            f"the model '{name}' has {len(several)} containers: inference pipelines are not built yet"
        )
    container: Mapping[str, Any] = several[0] if several else model.get("PrimaryContainer") or {}
    if container.get("AdditionalModelDataSources"):
        raise ConfigurationError(
            f"the model '{name}' has AdditionalModelDataSources: model data beside the model's own is not built yet"
        )
    if container.get("InferenceSpecificationName"):
        raise ConfigurationError(
            f"the model '{name}' has InferenceSpecificationName {container['InferenceSpecificationName']}: additional "
            "inference specifications are not built yet"
        )
    return container


def _targets(name: str, container: Mapping[str, Any], variables: Mapping[str, str]) -> TargetsWiring:
    """The models of a multi-model container. Raises `ConfigurationError`."""
    setting = (container.get("MultiModelConfig") or {}).get("ModelCacheSetting", "Enabled")
    prefix = source(name, container, many=True).url
    return TargetsWiring(
        prefix=prefix,
        keep=setting == "Enabled",
        pinned=environment.targets(variables, environment.PINNED, prefix),
        prewarmed=environment.targets(variables, environment.PREWARMED, prefix),
    )


def source(name: str, container: Mapping[str, Any], *, many: bool = False) -> Source:
    """Where a container's model data lies; `many`: below what prefix its models do. Raises `ConfigurationError`."""
    url = container.get("ModelDataUrl")
    data = (container.get("ModelDataSource") or {}).get("S3DataSource")
    if url and data:
        raise ConfigurationError(f"the model '{name}' has both ModelDataUrl and ModelDataSource; give one of them")
    if url:
        return Source(_folder(name, url), "prefix") if many else Source(url, "archive")
    if not data:
        raise ConfigurationError(
            f"the model '{name}' has no model data: ModelDataUrl or ModelDataSource was expected, since no container here "
            "holds a model of its own"
        )
    for key in ("HubAccessConfig", "ManifestS3Uri"):
        if data.get(key):
            raise ConfigurationError(f"the model '{name}' has {key} in its S3DataSource, which is not built yet")
    uri, kind, compression = data["S3Uri"], data["S3DataType"], data["CompressionType"]
    if many:
        if kind != "S3Prefix":
            raise ConfigurationError(
                f"the model '{name}' has Mode {MULTI_MODEL} and an S3DataSource with S3DataType {kind}; its models lie below a "
                "prefix, S3Prefix"
            )
        return Source(_folder(name, uri), "prefix")
    if compression == "Gzip":
        if kind != "S3Object":
            raise ConfigurationError(
                f"the model '{name}' has an S3DataSource with CompressionType Gzip and S3DataType {kind}; an archive is one "
                "object, S3Object"
            )
        return Source(uri, "archive")
    if kind == "S3Object":
        return Source(uri, "object")
    if not uri.endswith("/"):
        raise ConfigurationError(
            f"the model '{name}' has the S3Prefix {uri}, which does not end in /; write {uri}/ for all objects below it"
        )
    return Source(uri, "prefix")


def _folder(name: str, url: str) -> str:
    """The prefix below which the models of a multi-model endpoint lie."""
    if not re.match(r"(s3|https|file)://", url):
        raise ConfigurationError(f"the model '{name}' has the model data {url}; s3://BUCKET/PREFIX/ was expected")
    return url if url.endswith("/") else f"{url}/"
