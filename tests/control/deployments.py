"""Deployments as CreateEndpoint would make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.control.deployment import Deployment

URL = "s3://models/a/model.tar.gz"


def container(url: str | None = URL, image: str | None = "onnx", **members: Any) -> dict[str, Any]:
    """A container definition; members that are None are absent."""
    found = {"Image": image, "ModelDataUrl": url, "Mode": "SingleModel", **members}
    return {name: value for name, value in found.items() if value is not None}


def variant(**members: Any) -> dict[str, Any]:
    found = {"VariantName": "blue", "ModelName": "m", "InitialInstanceCount": 1, "InitialVariantWeight": 1.0, **members}
    return {name: value for name, value in found.items() if value is not None}


def deployment(
    url: str | None = URL,
    image: str | None = "onnx",
    *,
    variants: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    revisions: Mapping[str, str] | None = None,
    **members: Any,
) -> Deployment:
    """A deployment of one variant `blue` of the model `m`; `members` are of its container, `variants` of its variant."""
    document = {"EndpointConfigName": "c", "ProductionVariants": [variant(**(variants or {}))], **(config or {})}
    served = {"ModelName": "m", "PrimaryContainer": container(url, image, **members)}
    return Deployment("c", document, {"m": model if model is not None else served}, {}, revisions or {})
