"""Tags: on every kind of resource, overwritten by key, at most fifty."""

from __future__ import annotations

from typing import Any

import pytest

from serving.control.store import Store
from serving.errors import ControlFault
from tests.control.caller import ONE_DATABASE, Caller, arn

ARNS = [
    arn("model", "m"),
    arn("endpoint-config", "c"),
    arn("endpoint", "e"),
    arn("model-package-group", "g"),
    arn("model-package", "g/1"),
    arn("model-package", "p"),
]


def tag(key: str, value: str = "v") -> dict[str, str]:
    return {"Key": key, "Value": value}


@pytest.fixture
def call(store: Store) -> Caller:
    caller = Caller(store)
    caller.model("m")
    caller.config("c")
    caller.endpoint("e")
    caller("CreateModelPackageGroup", ModelPackageGroupName="g")
    caller("CreateModelPackage", ModelPackageGroupName="g")
    caller("CreateModelPackage", ModelPackageName="p")
    return caller


def test_every_resource_has_its_own_tags(call: Caller) -> None:
    for n, one in enumerate(ARNS):
        assert call("ListTags", ResourceArn=one) == {"Tags": []}
        assert call("AddTags", ResourceArn=one, Tags=[tag("n", str(n))]) == {"Tags": [tag("n", str(n))]}
    for n, one in enumerate(ARNS):
        assert call("ListTags", ResourceArn=one, MaxResults=50) == {"Tags": [tag("n", str(n))]}


def test_a_key_that_is_there_is_overwritten_in_its_place(call: Caller) -> None:
    one = arn("model", "m")
    call("AddTags", ResourceArn=one, Tags=[tag("b"), tag("a"), tag("B")])
    assert call("AddTags", ResourceArn=one, Tags=[tag("c"), tag("b", "")])["Tags"] == [
        tag("b", ""),
        tag("a"),
        tag("B"),
        tag("c"),
    ]
    assert call("AddTags", ResourceArn=one, Tags=[])["Tags"][0] == tag("b", "")
    assert call("DeleteTags", ResourceArn=one, TagKeys=["a", "absent", "c"]) == {}
    assert call("ListTags", ResourceArn=one) == {"Tags": [tag("b", ""), tag("B")]}


def test_the_name_in_an_arn_is_found_in_any_case(call: Caller) -> None:
    call("AddTags", ResourceArn=arn("model", "M"), Tags=[tag("k")])
    assert call("ListTags", ResourceArn=arn("model", "m")) == {"Tags": [tag("k")]}


def test_a_resource_has_at_most_fifty(call: Caller) -> None:
    one = arn("endpoint", "e")
    fifty = [tag(f"k{n}") for n in range(50)]
    assert call("AddTags", ResourceArn=one, Tags=fifty)["Tags"] == fifty
    assert call("AddTags", ResourceArn=one, Tags=fifty)["Tags"] == fifty
    with pytest.raises(ControlFault, match="has 50 tags and would have 51; a resource can have at most 50"):
        call("AddTags", ResourceArn=one, Tags=[tag("k0", "changed"), tag("one more")])
    assert call("ListTags", ResourceArn=one)["Tags"] == fifty


@ONE_DATABASE
@pytest.mark.parametrize("operation", ["AddTags", "ListTags", "DeleteTags"])
@pytest.mark.parametrize(
    ("one", "message"),
    [
        (arn("model", "none"), "Could not find model"),
        (arn("endpoint", "none"), "Could not find endpoint"),
        (arn("model-package", "g/2"), "ModelPackage .*/2 does not exist"),
        (arn("training-job", "t"), "Could not find resource"),
        ("arn:aws:sagemaker:us-east-1:123456789012:model", "is not the ARN of a resource"),
        ("arn:aws:sagemaker:eu-west-1:123456789012:model/m", "^ARN should be scoped to correct region: us-east-1$"),
        ("arn:aws:sagemaker:us-east-1:999999999999:model/m", "Could not find model"),
        ("model/m", "resourceArn"),
    ],
)
def test_what_is_no_resource_here(call: Caller, operation: str, one: str, message: str) -> None:
    more: dict[str, dict[str, Any]] = {"AddTags": {"Tags": [tag("k")]}, "DeleteTags": {"TagKeys": ["k"]}}
    with pytest.raises(ControlFault, match=message):
        call(operation, ResourceArn=one, **more.get(operation, {}))


@ONE_DATABASE
@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([tag("k"), tag("k", "w")], "Tag keys must be unique"),
        ([tag("aws:cloudformation")], "begins with aws:"),
        ([tag("AWS:x")], "begins with aws:"),
    ],
)
def test_tags_that_cannot_be(call: Caller, tags: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ControlFault, match=message):
        call("AddTags", ResourceArn=arn("model", "m"), Tags=tags)


def test_no_token_is_good_for_tags(call: Caller) -> None:
    assert call("ListTags", ResourceArn=arn("model", "m"), NextToken="") == {"Tags": []}
    with pytest.raises(ControlFault, match="NextToken is not valid"):
        call("ListTags", ResourceArn=arn("model", "m"), NextToken="abc")
