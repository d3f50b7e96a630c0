"""The control plane's front: protocols, errors, held DescribeEndpoint calls. What it calls are tiny operations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import orjson
import pytest
from botocore.parsers import create_parser
from botocore.session import get_session
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from serving.control import plane, schema
from serving.control.call import Answer, Document, Parameters, Request
from serving.control.plane import ControlPlane
from serving.control.store import Place, Store, Transaction
from serving.errors import (
    ConfigurationError,
    InvalidInput,
    Overloaded,
    ResourceInUse,
    ResourceNotFound,
    ServingError,
    StoreUnavailable,
)
from serving.settings import Settings

JSON = "application/x-amz-json-1.1"
FORM = "application/x-www-form-urlencoded; charset=utf-8"
HOLD_S = 30.0
"""Far longer than any test takes: what is held for so long was not woken."""


def describe(tx: Transaction, parameters: Parameters) -> Document:
    table = schema.endpoints
    row = tx.connection.execute(select(table).where(table.c.name == parameters["EndpointName"])).one_or_none()
    if row is None:
        raise ResourceNotFound("there is none")
    return {
        "EndpointName": row.name,
        "EndpointArn": row.arn,
        "EndpointStatus": row.status,
        "CreationTime": row.created_at,
        "LastModifiedTime": row.modified_at,
        "FailureReason": None,
    }


def create(tx: Transaction, parameters: Parameters) -> Document:
    """Creates an endpoint, its status given in place of its config's name; a name can ask for an error."""
    name = parameters["EndpointName"]
    if name in ERRORS:
        raise ERRORS[name]
    arn = tx.place.arn("endpoint", name)
    row = {"name": name, "arn": arn, "created_at": tx.now, "modified_at": tx.now, "generation": 1, "target": "{}"}
    tx.connection.execute(insert(schema.endpoints).values(row | {"status": parameters["EndpointConfigName"]}))
    return {"EndpointArn": arn}


def delete(tx: Transaction, parameters: Parameters) -> Document:
    return {}


async def identity(parameters: Parameters) -> Document:
    return {"UserId": "AROA<&>0123456789012", "Account": "123456789012", "Arn": "arn:aws:sts::123456789012:role/\u00e9"}


def role(tx: Transaction, parameters: Parameters) -> Document:
    if parameters["RoleName"] == "absent":
        raise ResourceNotFound("no such \x00 role")
    arn = f"arn:aws:iam::123456789012:role/{parameters['RoleName']}"
    tags = [{"Key": "a", "Value": "b"}, {"Key": "c", "Value": ""}]
    document = {"Path": "/", "RoleName": parameters["RoleName"], "RoleId": "AROA0123456789012345", "Arn": arn}
    return {"Role": document | {"CreateDate": 1_700_000_000.0, "Tags": tags}}


def misshapen(tx: Transaction, parameters: Parameters) -> Document:
    return {"ModelName": "x", "Modelname": "y", "ExecutionRoleArn": None}


ERRORS: dict[str, Exception] = {
    "in-use": ResourceInUse("it is in use"),
    "configuration": ConfigurationError("a setting cannot be honoured"),
    "container": InvalidInput("of a container"),
    "busy": Overloaded("later", retry_after_s=1.6),
    "gone": StoreUnavailable("the database is away"),
    "plain": ServingError("it failed"),
    "unexpected": RuntimeError("the secret is 42"),
}

OPERATIONS = {
    "sagemaker.CreateEndpoint": create,
    "sagemaker.DescribeEndpoint": describe,
    "sagemaker.DeleteEndpoint": delete,
    "sagemaker.DescribeModel": misshapen,
    "iam.GetRole": role,
}


def target(operation: str, document: Any = None, **changes: Any) -> Request:
    """A request of the JSON protocol."""
    body = document if isinstance(document, bytes) else orjson.dumps({} if document is None else document)
    request = {"target": f"SageMaker.{operation}", "content_type": JSON, "scope": "sagemaker"}
    return Request(**{**request, "request_id": "req-1", "body": body, **changes})


def form(body: str, **changes: Any) -> Request:
    """A request of the query protocol."""
    request = {"target": "", "content_type": FORM, "scope": "", "request_id": "req-1"}
    return Request(**{**request, "body": body.encode(), **changes})


def parsed(service: str, operation: str, answer: Answer) -> dict[str, Any]:
    """The answer as botocore understands it."""
    model = get_session().get_service_model(service)
    response = {"status_code": answer.status, "headers": dict(answer.fields), "body": answer.body}
    result = create_parser(model.protocol).parse(response, model.operation_model(operation).output_shape)
    assert isinstance(result, dict)
    return result


class Bench:
    """A control plane over a store of its own; `run` runs a test's coroutine on the one loop of both."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = Store.open(None, directory, Place("123456789012", "us-east-1"))
        self.plane = self.made(HOLD_S)

    def made(self, hold_s: float) -> ControlPlane:
        return ControlPlane(
            self.store, OPERATIONS, {"sts.GetCallerIdentity": identity}, Settings(describe_hold_s=hold_s)
        )

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def ask(self, request: Request) -> Answer:
        answer = self.run(self.plane.answer(request))
        assert isinstance(answer, Answer)
        assert ("x-amzn-RequestId", request.request_id) in answer.fields
        return answer

    def error(self, request: Request) -> tuple[int, str, str]:
        """Status, code and message of a call that fails."""
        answer = self.ask(request)
        body = orjson.loads(answer.body)
        assert ("x-amzn-errortype", body["__type"]) in answer.fields
        assert answer.content_type == JSON
        return answer.status, body["__type"], body["message"]

    def close(self) -> None:
        self.run(self.store.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    bench = Bench(tmp_path_factory.mktemp("plane"))
    yield bench
    bench.close()


# ---------------------------------------------------------------- JSON


def test_a_call_and_its_answer(bench: Bench) -> None:
    answer = bench.ask(target("CreateEndpoint", {"EndpointName": "One", "EndpointConfigName": "InService"}))
    assert (answer.status, answer.content_type) == (200, JSON)
    assert orjson.loads(answer.body) == {"EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/one"}
    described = bench.ask(target("DescribeEndpoint", {"EndpointName": "One"}))
    assert orjson.loads(described.body).keys() == {
        "EndpointName",
        "EndpointArn",
        "EndpointStatus",
        "CreationTime",
        "LastModifiedTime",
    }
    assert parsed("sagemaker", "DescribeEndpoint", described)["CreationTime"].tzinfo is not None


def test_an_operation_without_output_answers_nothing(bench: Bench) -> None:
    answer = bench.ask(target("DeleteEndpoint", {"EndpointName": "x"}))
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("request_", "status", "code", "text"),
    [
        (target("CreateEndpoint", b"{"), 400, "SerializationException", "the body is not JSON: "),
        (target("CreateEndpoint", b""), 400, "SerializationException", "the body is empty"),
        (target("CreateEndpoint", b"\xff\xfe"), 400, "SerializationException", "the body is not JSON: "),
        (target("CreateEndpoint", b"NaN"), 400, "SerializationException", "the body is not JSON: "),
        (target("CreateEndpoint", b"[" * 100_000), 400, "SerializationException", "the body is not JSON: "),
        (target("CreateEndpoint", b'{"a":' * 500 + b"1" + b"}" * 500), 400, "ValidationException", "not one that"),
        (target("CreateEndpoint", []), 400, "SerializationException", "Start of list found where not expected"),
        (target("CreateEndpoint", b"null"), 400, "ValidationException", "Value null at 'endpointName'"),
        (target("CreateEndpoint", b'"x"'), 400, "SerializationException", "Expected null"),
        (target("CreateEndpoint", {"EndpointName": 1}), 400, "SerializationException", "at 'endpointName'"),
        (target("CreateEndpoint", b" " * (plane.MOST_BYTES + 1)), 413, "413", f"at most {plane.MOST_BYTES}"),
        (target("CreateEndpoint", {"EndpointName": "a" * 200_000}), 400, "ValidationException", "equal to 63"),
        (
            target("CreateModel"),
            404,
            "UnknownOperationException",
            "this server does not have sagemaker.CreateModel yet",
        ),
        (target("DestroyModel"), 404, "UnknownOperationException", "no operation DestroyModel in version 2017-07-24"),
        (target("X", target=""), 404, "UnknownOperationException", "X-Amz-Target is missing"),
        (target("X", target="SageMaker"), 404, "UnknownOperationException", "SERVICE.Operation was expected"),
        (target("X", target="SageMaker."), 404, "UnknownOperationException", "SERVICE.Operation was expected"),
        (target("X", target="Toaster.Toast"), 404, "UnknownOperationException", "no API that this server knows"),
        (target("X", target="AmazonSQS.SendMessage"), 404, "UnknownOperationException", "and not sqs"),
        (
            target("X", target="AnyScaleFrontendService.RegisterScalableTarget", scope="application-autoscaling"),
            404,
            "UnknownOperationException",
            "this server has no RegisterScalableTarget: it serves iam, sagemaker, sts, and not application-autoscaling",
        ),
        (target("DescribeModel", content_type="text/plain"), 404, "UnknownOperationException", f"{JSON} was expected"),
        (target("DescribeModel", content_type=""), 404, "UnknownOperationException", f"{JSON} was expected"),
        (target("X", target="", content_type="x", scope="s3"), 404, "UnknownOperationException", "is missing"),
        (
            target("DescribeModel", scope="sts"),
            403,
            "InvalidSignatureException",
            "Credential should be scoped to correct service: 'sagemaker'.",
        ),
    ],
)
def test_calls_that_are_not_understood(bench: Bench, request_: Request, status: int, code: str, text: str) -> None:
    found = bench.error(request_)
    assert found[:2] == (status, code)
    assert text in found[2]


@pytest.mark.parametrize("media_type", ["application/x-amz-json-1.0", f"{JSON}; charset=utf-8", JSON.upper()])
def test_both_versions_of_the_json_protocol_are_read(bench: Bench, media_type: str) -> None:
    request = target("DeleteEndpoint", {"EndpointName": "x"}, content_type=media_type, scope="")
    assert bench.ask(request).status == 200


@pytest.mark.parametrize(
    ("name", "status", "code", "text"),
    [
        ("in-use", 400, "ResourceInUse", "it is in use"),
        ("configuration", 500, "InternalFailure", "a setting cannot be honoured"),
        ("container", 424, "InternalFailure", "of a container"),
        ("busy", 429, "ThrottlingException", "later"),
        ("gone", 503, "ServiceUnavailable", "the database is away"),
        ("plain", 500, "InternalFailure", "it failed"),
        (
            "unexpected",
            500,
            "InternalFailure",
            "the call failed in the server, whose log has the cause (request req-1)",
        ),
    ],
)
def test_errors_of_operations(
    bench: Bench, caplog: pytest.LogCaptureFixture, name: str, status: int, code: str, text: str
) -> None:
    request = target("CreateEndpoint", {"EndpointName": name, "EndpointConfigName": "value-of-the-body"})
    assert bench.error(request) == (status, code, text)
    assert ("sagemaker.CreateEndpoint" in caplog.text) is (status == 500)
    assert "value-of-the-body" not in caplog.text
    answer = bench.ask(request)
    assert dict(answer.fields).get("Retry-After") == ("2" if name == "busy" else None)
    assert parsed("sagemaker", "CreateEndpoint", answer)["Error"] == {"Code": code, "Message": text}


def test_an_answer_that_is_not_the_models_goes_out_and_is_logged_without_values(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    answer = bench.ask(target("DescribeModel", {"ModelName": "x"}))
    assert orjson.loads(answer.body) == {"ModelName": "x"}
    assert all(path in caplog.text for path in ("modelname", "creationTime", "modelArn"))
    assert "'y'" not in caplog.text


def test_a_pattern_that_takes_long_neither_hangs_the_call_nor_the_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane, "PATTERN_TIME_S", 0.3)
    slow = ControlPlane(bench.store, {"sagemaker.ListModels": delete}, {}, Settings())
    slow.catalogue.service("sagemaker").shapes["ModelNameContains"]["pattern"] = "(x|xx)+[yz]"

    async def work() -> int:
        answer = asyncio.ensure_future(slow.answer(target("ListModels", {"NameContains": "x" * 63})))
        turns = await turns_while(answer)
        body = orjson.loads((await answer).body)
        assert body["__type"] == "ValidationException"
        assert "with the pattern (x|xx)+[yz] takes too long" in body["message"]
        return turns

    assert bench.run(work()) > 5


async def turns_while(work: asyncio.Future[Answer]) -> int:
    """How often the loop came round until the answer was there."""
    turns = 0
    while not work.done():
        await asyncio.sleep(0.001)
        turns += 1
    return turns


def listing_models(bench: Bench, count: int) -> ControlPlane:
    """A plane whose ListModels has an answer of so many models."""
    model = {
        "ModelName": "m",
        "ModelArn": f"arn:aws:sagemaker:us-east-1:123456789012:model/{'m' * 63}",
        "CreationTime": 1.5,
    }
    document = {"Models": [model] * count}
    return ControlPlane(bench.store, {"sagemaker.ListModels": lambda tx, parameters: document}, {}, Settings())


MODELS = target("ListModels")


@pytest.mark.parametrize("what", ["form", "answer"])
def test_the_loop_goes_on_while_what_is_large_is_read_or_written(bench: Bench, what: str) -> None:
    async def work() -> None:
        slow, request = bench.plane, form("Action=GetRole&RoleName=" + "%41" * 1_000_000)
        if what == "answer":
            slow, request = listing_models(bench, 90_000), MODELS
            assert (await listing_models(bench, 1).answer(request)).status == 200
        answer = asyncio.ensure_future(slow.answer(request))
        assert await turns_while(answer) > 5
        assert (await answer).status == (200 if what == "answer" else 400)

    bench.run(work())


def test_an_answer_that_is_too_large_is_refused(bench: Bench) -> None:
    answer = bench.run(listing_models(bench, 120_000).answer(MODELS))
    body = orjson.loads(answer.body)
    assert (answer.status, body["__type"]) == (400, "ValidationException")
    assert f"at most {plane.MOST_ANSWERED} can be given: ask for less at once" in body["message"]


def test_logs_call_their_faults_by_other_names(bench: Bench) -> None:
    async def events(parameters: Parameters) -> Document:
        return {"events": []}

    logs = ControlPlane(bench.store, {}, {"logs.GetLogEvents": events}, Settings())
    request = target("GetLogEvents", {"limit": 0}, target="Logs_20140328.GetLogEvents", scope="logs")
    answer = bench.run(logs.answer(request))
    body = orjson.loads(answer.body)
    assert (answer.status, body["__type"]) == (400, "InvalidParameterException")
    assert ("x-amzn-errortype", "InvalidParameterException") in answer.fields
    assert "Value '0' at 'limit'" in body["message"]


# ---------------------------------------------------------------- query


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("MaxItems=10", ""),
        ("ResourceArns=", ""),
        ("ResourceArns.member.2=arn:b&ResourceArns.member.1=arn:a", ""),
        ("MaxItems=ten", "STRING_VALUE can not be converted to an Integer at 'maxItems'"),
        ("MaxItems=1.5", "STRING_VALUE can not be converted to an Integer at 'maxItems'"),
        ("MaxItems=0", "Member must have value greater than or equal to 1"),
        ("MaxItems=" + "9" * 5000, "STRING_VALUE can not be converted to an Integer at 'maxItems'"),
        ("ContextEntries.member.1.ContextKeyName=k", "ContextEntries.member.1.ContextKeyName is a part of a structure"),
    ],
)
def test_a_field_has_the_type_of_its_member(bench: Bench, body: str, error: str) -> None:
    seen: list[Parameters] = []

    def simulate(tx: Transaction, parameters: Parameters) -> Document:
        seen.append(parameters)
        return {"EvaluationResults": []}

    iam = ControlPlane(bench.store, {"iam.SimulatePrincipalPolicy": simulate}, {}, Settings())
    role = "arn:aws:iam::123456789012:role/serving"
    request = form(f"Action=SimulatePrincipalPolicy&PolicySourceArn={role}&ActionNames.member.1=s3:GetObject&{body}")
    answer = bench.run(iam.answer(request))
    assert answer.status == (400 if error else 200)
    assert error in answer.body.decode()
    if body == "MaxItems=10":
        assert seen[0]["MaxItems"] == 10
    elif body.startswith("ResourceArns"):
        assert seen[0]["ResourceArns"] == (["arn:a", "arn:b"] if "member" in body else [])


def test_the_query_protocol_as_botocore_reads_it(bench: Bench) -> None:
    answer = bench.ask(form("Action=GetCallerIdentity&Version=2011-06-15", scope="sts"))
    assert (answer.status, answer.content_type) == (200, "text/xml")
    found = parsed("sts", "GetCallerIdentity", answer)
    assert found["Arn"] == "arn:aws:sts::123456789012:role/\u00e9"
    assert found["UserId"] == "AROA<&>0123456789012"
    assert found["ResponseMetadata"]["RequestId"] == "req-1"
    role = parsed("iam", "GetRole", bench.ask(form("Action=GetRole&Version=2010-05-08&RoleName=a%2Bb")))["Role"]
    assert role["RoleName"] == "a+b"
    assert role["CreateDate"].timestamp() == 1_700_000_000
    assert role["Tags"] == [{"Key": "a", "Value": "b"}, {"Key": "c", "Value": ""}]


@pytest.mark.parametrize(
    ("body", "scope", "status", "code", "text"),
    [
        ("Action=GetRole&RoleName=absent", "iam", 404, "NoSuchEntity", "no such \ufffd role"),
        ("Action=GetRole", "iam", 400, "ValidationError", "Value null at 'roleName'"),
        ("Action=GetRole&RoleName=a%20b", "iam", 400, "ValidationError", "Member must satisfy regular expression"),
        ("Action=GetRole&RoleName=a&Rolename=b", "iam", 400, "ValidationError", "'rolename'"),
        ("Action=GetRole&RoleName=a&RoleName=b", "iam", 400, "MalformedInput", "a field twice"),
        (
            "Action=GetRole&Version=1999-01-01&RoleName=a",
            "iam",
            400,
            "ValidationError",
            "2010-05-08 was expected of iam",
        ),
        ("Action=CreateRole", "iam", 400, "InvalidAction", "this server does not have iam.CreateRole yet"),
        ("Action=Dance", "iam", 400, "InvalidAction", "there is no operation Dance"),
        ("Action=Dance", "", 400, "InvalidAction", "this server has no Dance"),
        ("Action=DescribeEndpoint", "sagemaker", 400, "MalformedInput", "its own is json"),
        ("Action=Publish", "sns", 400, "InvalidAction", "and not sns"),
        ("RoleName=a", "iam", 400, "MalformedInput", "no Action"),
        ("", "iam", 400, "MalformedInput", "no Action"),
        ("Action", "iam", 400, "MalformedInput", "is not a form"),
        ("&".join(f"a{n}=1" for n in range(2000)), "iam", 400, "MalformedInput", "is not a form"),
        ("Action=GetRole", "sts", 400, "InvalidAction", "there is no operation GetRole in version 2011-06-15 of sts"),
    ],
)
def test_errors_of_the_query_protocol(bench: Bench, body: str, scope: str, status: int, code: str, text: str) -> None:
    answer = bench.ask(form(body, scope=scope))
    assert answer.status == status
    error = parsed("iam", "GetRole", answer)["Error"]
    assert error["Code"] == code
    assert text in error["Message"]
    assert error["Type"] == "Sender"


def test_ec2_has_an_error_form_of_its_own(bench: Bench) -> None:
    answer = bench.ask(form("Action=DescribeInstanceTypes&Version=2016-11-15", scope="ec2"))
    error = parsed("ec2", "DescribeInstanceTypes", answer)["Error"]
    assert error["Code"] == "InvalidAction"
    assert "and not ec2" in error["Message"]


# ---------------------------------------------------------------- held calls


async def change(bench: Bench, name: str, status: str) -> None:
    """Gives an endpoint a status, as the reconciler does."""

    def work(tx: Transaction) -> None:
        tx.connection.execute(update(schema.endpoints).where(schema.endpoints.c.name == name).values(status=status))
        tx.next_generation()

    await bench.store.run(work)


async def begin(bench: Bench, name: str, status: str) -> None:
    answer = await bench.plane.answer(target("CreateEndpoint", {"EndpointName": name, "EndpointConfigName": status}))
    assert answer.status == 200


async def held(bench: Bench, count: int) -> None:
    """Waits until so many calls are held."""
    while bench.plane.held != count:  # noqa: ASYNC110 - the store's threads have to get their turn
        await asyncio.sleep(0.001)


def status_of(answer: Answer) -> str:
    return str(orjson.loads(answer.body)["EndpointStatus"])


@pytest.mark.parametrize("status", ["Creating", "Updating", "Deleting"])
def test_describe_is_held_until_the_status_lasts(bench: Bench, status: str) -> None:
    async def work() -> None:
        name = f"held-{status}"
        await begin(bench, name, status)
        answer = asyncio.ensure_future(bench.plane.answer(target("DescribeEndpoint", {"EndpointName": name})))
        await held(bench, 1)
        await begin(bench, f"{name}-other", "Creating")
        await change(bench, f"{name}-other", "Failed")
        assert not answer.done()
        await change(bench, name, "InService")
        assert status_of(await answer) == "InService"
        assert bench.plane.held == 0

    bench.run(work())


def test_a_held_call_ends_with_its_time_or_its_endpoint(bench: Bench) -> None:
    async def work() -> None:
        await begin(bench, "patient", "Creating")
        request = target("DescribeEndpoint", {"EndpointName": "patient"})
        for hold_s in (0.0, 0.05):
            assert status_of(await bench.made(hold_s).answer(request)) == "Creating"
        answer = asyncio.ensure_future(bench.plane.answer(request))
        await held(bench, 1)

        def remove(tx: Transaction) -> None:
            tx.connection.execute(schema.endpoints.delete().where(schema.endpoints.c.name == "patient"))
            tx.next_generation()

        await bench.store.run(remove)
        assert orjson.loads((await answer).body)["__type"] == "ResourceNotFound"
        assert bench.plane.held == 0

    bench.run(work())


def test_a_call_whose_caller_is_gone_is_held_no_more(bench: Bench) -> None:
    async def work() -> None:
        await begin(bench, "left", "Creating")
        answer = asyncio.ensure_future(bench.plane.answer(target("DescribeEndpoint", {"EndpointName": "left"})))
        await held(bench, 1)
        answer.cancel()
        await held(bench, 0)

    bench.run(work())


def test_a_server_that_stops_holds_no_call(bench: Bench) -> None:
    stopping = bench.made(HOLD_S)

    async def work() -> None:
        await begin(bench, "stopping", "Creating")
        request = target("DescribeEndpoint", {"EndpointName": "stopping"})
        answer = asyncio.ensure_future(stopping.answer(request))
        while not stopping.held:  # noqa: ASYNC110 - the store's threads have to get their turn
            await asyncio.sleep(0.001)
        stopping.release()
        assert status_of(await answer) == "Creating"
        assert status_of(await stopping.answer(request)) == "Creating"

    bench.run(work())


def test_no_more_calls_are_held_than_there_may_be(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "MOST_HELD", 3)

    async def work() -> None:
        await begin(bench, "popular", "Creating")
        request = target("DescribeEndpoint", {"EndpointName": "popular"})
        waiting = [asyncio.ensure_future(bench.plane.answer(request)) for _ in range(3)]
        await held(bench, 3)
        assert status_of(await bench.plane.answer(request)) == "Creating"
        await change(bench, "popular", "Failed")
        assert {status_of(answer) for answer in await asyncio.gather(*waiting)} == {"Failed"}

    bench.run(work())


def test_many_held_calls_do_not_keep_others_from_the_database(bench: Bench) -> None:
    looks: list[str] = []

    def looked(tx: Transaction, parameters: Parameters) -> Document:
        looks.append("")
        return describe(tx, parameters)

    def list_models(tx: Transaction, parameters: Parameters) -> Document:
        looks.append("other")
        return {"Models": []}

    operations = {"sagemaker.DescribeEndpoint": looked, "sagemaker.ListModels": list_models}
    crowded = ControlPlane(bench.store, operations, {}, Settings(describe_hold_s=HOLD_S))

    async def work() -> None:
        await begin(bench, "crowd", "Creating")
        request = target("DescribeEndpoint", {"EndpointName": "crowd"})
        waiting = [asyncio.ensure_future(crowded.answer(request)) for _ in range(100)]
        while len(looks) < 100 or crowded.held < 100:  # noqa: ASYNC110 - the store's threads have to get their turn
            await asyncio.sleep(0.001)
        assert (await crowded.answer(MODELS)).status == 200
        looks.clear()
        news = bench.store.news.count
        await change(bench, "crowd", "InService")
        await bench.store.news.wait(news, 5)
        await crowded.answer(MODELS)
        assert looks.index("other") < 20
        assert {status_of(answer) for answer in await asyncio.gather(*waiting)} == {"InService"}

    bench.run(work())


def test_an_endpoint_whose_status_lasts_is_described_at_once(bench: Bench) -> None:
    async def work() -> None:
        await begin(bench, "steady", "OutOfService")
        answers = await asyncio.gather(
            *(bench.plane.answer(target("DescribeEndpoint", {"EndpointName": "steady"})) for _ in range(50))
        )
        assert {status_of(answer) for answer in answers} == {"OutOfService"}

    bench.run(work())


# ---------------------------------------------------------------- whatever comes


def test_calls_are_counted_by_operation_and_outcome(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    try:
        for name in ("in-use", "unexpected", "fine"):
            bench.ask(target("CreateEndpoint", {"EndpointName": name, "EndpointConfigName": "InService"}))
        for number in range(100):
            bench.ask(target(f"Never{number}"))
        found = {tuple(value for _, value in one.labels): one.value for one in bench.plane.samples()}
    finally:
        bench.close()
    assert found == {
        ("sagemaker.CreateEndpoint", "OK"): 1,
        ("sagemaker.CreateEndpoint", "ResourceInUse"): 1,
        ("sagemaker.CreateEndpoint", "InternalFailure"): 1,
        ("unknown", "UnknownOperationException"): 100,
        (): 0,
    }


@given(
    target=st.sampled_from(["", "SageMaker.DeleteEndpoint", "SageMaker.DescribeModel", "Logs_20140328.X"]) | st.text(),
    content_type=st.sampled_from([JSON, FORM, ""]) | st.text(),
    scope=st.sampled_from(["", "sagemaker", "iam", "ec2"]) | st.text(),
    body=st.sampled_from([b'{"EndpointName":"x"}', b"Action=GetRole&RoleName=x"]) | st.binary(),
)
def test_whatever_comes_is_answered_as_the_callers_fault(
    bench: Bench, target: str, content_type: str, scope: str, body: bytes
) -> None:
    logging.getLogger("serving.control").disabled = True
    try:
        answer = bench.run(bench.plane.answer(Request(target, content_type, scope, "r", body)))
    finally:
        logging.getLogger("serving.control").disabled = False
    assert answer.status < 500
    assert answer.body or answer.status == 200
