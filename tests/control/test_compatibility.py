"""docs/compatibility.md says what the code does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from serving.control import compatibility, logs
from serving.control.compatibility import DECLARED, FAMILIES, NOTES, Effect, effects
from serving.control.deployment import Deployment
from serving.control.operations import OPERATIONS
from serving.control.plan import plan
from serving.control.service import Catalogue, Service
from serving.control.store import Place
from serving.errors import ConfigurationError
from tests.control.inputs import Inputs

DOCS = Path(__file__).parent.parent.parent / "docs" / "compatibility.md"
KEYS = [key for family in FAMILIES.values() for key in family]


@cache
def service(name: str) -> Service:
    return Catalogue(KEYS).service(name)


def shapes() -> dict[str, Any]:
    return {shape: raw for name in ("sagemaker", "sts", "iam", "logs") for shape, raw in service(name).shapes.items()}


def test_the_page_is_what_is_generated() -> None:
    assert DOCS.read_text() == compatibility.text(), "python -m serving.control.compatibility > docs/compatibility.md"


def test_every_built_operation_is_listed_once(tmp_path: Path) -> None:
    assert sorted(KEYS) == sorted({*OPERATIONS, *logs.handlers(tmp_path, Place("123456789012", "us-east-1"))})


@pytest.mark.parametrize("shape", sorted(DECLARED))
def test_a_declared_structure_has_the_members_of_the_model(shape: str) -> None:
    names = [name for names in DECLARED[shape].values() for name in names.split()]
    assert sorted(names) == sorted(shapes()[shape]["members"])


def test_every_input_is_declared_and_every_note_is_used() -> None:
    inputs = {service(key.split(".")[0]).operations[key.split(".")[1]].input for key in KEYS}
    assert inputs - {""} <= set(DECLARED)
    page = DOCS.read_text()
    for key, note in NOTES.items():
        shape, _, member = key.partition(".")
        assert member in effects(shape), key
        assert f"{member}` | {effects(shape)[member].value} | {note} |" in page, key


# ---------------------------------------------------------------- what is declared of endpoints is what the code does

WITH: dict[str, dict[str, Any]] = {
    "ManagedInstanceScaling": {"ManagedInstanceScaling": {"Status": "ENABLED"}},
}
"""What else has to be there for a member to matter."""

ELSEWHERE = frozenset(
    {"ModelName", "Containers", "PrimaryContainer", "ProductionVariants", "ModelPackageName", "Environment", "Mode"}
    | {
        "Image",
        "ModelDataUrl",
        "ModelDataSource",
        "InferenceSpecificationName",
        "S3Uri",
        "S3DataType",
        "CompressionType",
    }
)
"""Members whose values are not any that the model allows, or that are resolved before an endpoint sees them."""


def members(shape: str) -> Iterator[tuple[str, str, Effect]]:
    for member, effect in effects(shape).items():
        if member not in ELSEWHERE:
            yield shape, member, effect


@pytest.mark.parametrize(
    ("shape", "member", "effect"),
    [
        case
        for shape in ("CreateEndpointConfigInput", "ProductionVariant", "ContainerDefinition", "S3ModelDataSource")
        for case in members(shape)
    ],
)
def test_an_endpoint_fails_for_the_members_of_which_the_page_says_so(shape: str, member: str, effect: Effect) -> None:
    given = {member: Inputs(service("sagemaker")).value(service("sagemaker").shapes[shape]["members"][member]["shape"])}
    given |= WITH.get(member, {})
    variant: dict[str, Any] = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.m5.large"}
    container: dict[str, Any] = {"Image": "onnx", "Environment": {}}
    source = {"S3Uri": "s3://b/k/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    config: dict[str, Any] = {"ProductionVariants": [variant]}
    place = {"CreateEndpointConfigInput": config, "ProductionVariant": variant, "ContainerDefinition": container}
    place.get(shape, source).update(given)
    container["ModelDataSource"] = {"S3DataSource": source}
    deployment = Deployment("c", config, {"m": {"ModelName": "m", "PrimaryContainer": container}})
    if effect is Effect.FAILS:
        with pytest.raises(ConfigurationError, match=r"not built yet|there is none here"):
            plan(deployment, {}, ["onnx"])
    else:
        assert plan(deployment, {}, ["onnx"]).chosen.kind == "onnx"
