"""The caller and its roles, as the SageMaker SDKs ask for them."""

from __future__ import annotations

import re

import pytest

from serving.control.store import Store
from serving.errors import ControlFault
from tests.control.caller import ONE_DATABASE, Caller


def test_the_caller_is_a_role_of_the_account(store: Store) -> None:
    identity = Caller(store)("GetCallerIdentity", of="sts")
    assert identity["Account"] == "123456789012"
    # What the SDKs turn the identity into, before they accept it as an execution role.
    role = re.sub(r"^(.+)sts::(\d+):assumed-role/(.+?)/.*$", r"\1iam::\2:role/\3", identity["Arn"])
    assert role == "arn:aws:iam::123456789012:role/serving"
    assert identity["UserId"].endswith(f":{identity['Arn'].rsplit('/')[-1]}")


def test_any_role_name_has_an_arn(store: Store) -> None:
    call = Caller(store)
    role = call("GetRole", of="iam", RoleName="My_Role+=,.@-")["Role"]
    assert role["Arn"] == "arn:aws:iam::123456789012:role/My_Role+=,.@-"
    assert role["RoleName"] == "My_Role+=,.@-"
    assert call("GetRole", of="iam", RoleName="My_Role+=,.@-")["Role"] == role
    assert call("GetRole", of="iam", RoleName="Other")["Role"]["RoleId"] != role["RoleId"]


@ONE_DATABASE
def test_a_role_may_do_whatever_is_asked(store: Store) -> None:
    actions = ["sagemaker:CreateModel", "s3:GetObject", "s3:*"]
    role = "arn:aws:iam::123456789012:role/serving"
    answer = Caller(store)("SimulatePrincipalPolicy", of="iam", PolicySourceArn=role, ActionNames=actions)
    assert [one["EvalActionName"] for one in answer["EvaluationResults"]] == actions
    assert {one["EvalDecision"] for one in answer["EvaluationResults"]} == {"allowed"}
    assert answer["IsTruncated"] is False


@ONE_DATABASE
@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 65])
def test_a_name_that_no_role_has(store: Store, name: str) -> None:
    with pytest.raises(ControlFault, match="roleName"):
        Caller(store)("GetRole", of="iam", RoleName=name)
