"""Fields at their limits and one step beyond, as stock boto3 sends them to a running server (generated; a sample)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError

from serving.control.compatibility import FAMILIES
from serving.control.service import Catalogue
from tests.control.inputs import Case, Inputs
from tests.support import server as support
from tests.support.server import Server

KEYS = sorted(key for family in FAMILIES.values() for key in family)
CATALOGUE = Catalogue(KEYS)
EVERY = 31
"""One case in so many is sent: some of each kind and of each operation."""
CALLED = {"iam": "ValidationError", "sts": "ValidationError", "logs": "InvalidParameterException"}
"""What services call what SageMaker calls a ValidationException."""


@cache
def client(url: str, service: str) -> Any:
    """A stock client that leaves the checking to the server."""
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(parameter_validation=False, retries={"mode": "standard", "total_max_attempts": 1}),
    )


def sendable(case: Case) -> bool:
    """Whether boto3 sends the value as it is: it cannot write what has the wrong type, and leaves null members out."""
    return case.error != "SerializationException" and case.what.rpartition(" ")[2] not in ("null", "8601", "unknown")


def sample(key: str) -> Iterator[Case]:
    """The cases of an operation that are sent."""
    name, _, operation = key.partition(".")
    cases = [one for one in Inputs(CATALOGUE.service(name)).cases(operation) if sendable(one)]
    if name == "iam":
        # Structures in forms are refused as a whole.
        cases = [one for one in cases if not {"ContextEntries", "PolicyExclusionList"} & one.value.keys()]
    yield from cases[:: 1 if len(cases) < 50 else EVERY]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with support.running(state_dir=tmp_path_factory.mktemp("parameters") / "state") as server:
        yield server


@pytest.mark.parametrize("key", KEYS)
def test_boto3_gets_the_error_that_the_model_asks_for(answers: Server, key: str) -> None:
    name, _, operation = key.partition(".")
    call = getattr(client(answers.url, name), xform_name(operation))
    wrong = []
    for case in sample(key):
        code, message = "", ""
        try:
            call(**case.value)
        except ClientError as error:
            code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        if case.error:
            expected = CALLED.get(name, case.error)
            right = code == expected and all(text in message for text in case.texts)
        else:
            # Well formed, so whatever is wrong is another thing: that what it names is not there, or is there already.
            right = "detected" not in message and code not in ("SerializationException", "InternalFailure")
        if not right:
            wrong.append(f"{case.what}: {case.error} {case.texts} was expected, not {code}: {message:.300}")
    assert wrong == []


def test_a_wrong_type_is_refused(answers: Server) -> None:
    with pytest.raises(ClientError, match="NUMBER_VALUE can not be converted to a String at 'modelName'") as raised:
        client(answers.url, "sagemaker").describe_model(ModelName=1)
    assert raised.value.response["Error"]["Code"] == "SerializationException"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
