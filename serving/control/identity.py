"""Who calls: the answers of STS and IAM that the SageMaker SDKs ask for. Here every caller is one role of the account."""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from serving.control.call import Document, Operation, Parameters
from serving.control.store import Place, Transaction

ROLE: Final = "serving"
SESSION: Final = "local"


def caller(place: Place) -> str:
    """The caller's ARN. That of an assumed role: the SDKs' `get_execution_role` takes only roles."""
    return f"arn:aws:sts::{place.account_id}:assumed-role/{ROLE}/{SESSION}"


def user_context(place: Place) -> Document:
    """The caller as the UserContext of a resource."""
    return {"IamIdentity": {"Arn": caller(place), "PrincipalId": f"{role_id(ROLE)}:{SESSION}"}}


def role_id(name: str) -> str:
    """The unique id of a role: always the same for one name. Form: "Unique identifiers" of the IAM User Guide."""
    return "AROA" + b32encode(sha256(name.encode()).digest()).decode()[:17]


def get_caller_identity(tx: Transaction, parameters: Parameters) -> Document:
    return {
        "UserId": f"{role_id(ROLE)}:{SESSION}",
        "Account": tx.place.account_id,
        "Arn": caller(tx.place),
    }


def get_role(tx: Transaction, parameters: Parameters) -> Document:
    """Any role: nothing here is guarded by roles, but SDKs look up the ARN of the one that they are given by name."""
    name = parameters["RoleName"]
    return {
        "Role": {
            "Path": "/",
            "RoleName": name,
            "RoleId": role_id(name),
            "Arn": f"arn:aws:iam::{tx.place.account_id}:role/{name}",
            "CreateDate": 0.0,
        }
    }


def simulate_principal_policy(tx: Transaction, parameters: Parameters) -> Document:
    """All is allowed: SDK v3 asks, before it deploys, whether the role may do what it needs."""
    results = [
        {"EvalActionName": action, "EvalResourceName": "*", "EvalDecision": "allowed"}
        for action in parameters["ActionNames"]
    ]
    return {"EvaluationResults": results, "IsTruncated": False}


OPERATIONS: Final[Mapping[str, Operation]] = {
    "sts.GetCallerIdentity": get_caller_identity,
    "iam.GetRole": get_role,
    "iam.SimulatePrincipalPolicy": simulate_principal_policy,
}
