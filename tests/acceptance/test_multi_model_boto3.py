"""boto3, unmodified: one endpoint, and fifty models in S3 behind it that are named with each invocation."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from tests.support import many
from tests.support import notebook as support
from tests.support.notebook import ROLE, Notebook
from tests.support.server import wait_until

BUCKET = "many"
MODELS = 50
WITHIN_S = 20.0


class Clients(NamedTuple):
    """boto3's clients for one server, and where it is."""

    s3: Any
    sagemaker: Any
    runtime: Any
    url: str


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with support.opened(tmp_path_factory.mktemp("many") / "state", "--model-refresh-s", "0.2") as opened:
        yield opened


@pytest.fixture(scope="module")
def clients(notebook: Notebook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """The clients; the endpoint `many` is in service, with its models below s3://many/models/."""
    folder = tmp_path_factory.mktemp("models")
    with ExitStack() as stack:
        names = ("s3", "sagemaker", "sagemaker-runtime")
        made = Clients(*(stack.enter_context(notebook.client(name)) for name in names), notebook.server.url)
        made.s3.create_bucket(Bucket=BUCKET)
        for number in range(MODELS):
            made.s3.put_object(Bucket=BUCKET, Key=f"models/team/m{number}.tar.gz", Body=many.archive(folder, number))
        create(made, "many", f"s3://{BUCKET}/models/")
        yield made
        made.sagemaker.delete_endpoint(EndpointName="many")
        made.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="many")


def create(clients: Clients, name: str, prefix: str, **container: Any) -> None:
    """A multi-model endpoint in service."""
    clients.sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "onnx", "Mode": "MultiModel", "ModelDataUrl": prefix, **container},
    )
    clients.sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        ],
    )
    clients.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    clients.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name)


def invoke(clients: Clients, target: str | None, endpoint: str = "many", rows: Any = many.ROWS) -> Any:
    named = {} if target is None else {"TargetModel": target}
    answer = clients.runtime.invoke_endpoint(
        EndpointName=endpoint, ContentType="application/json", Accept="application/json", Body=json.dumps(rows), **named
    )
    return json.loads(answer["Body"].read())


def refused(clients: Clients, target: str | None, endpoint: str = "many") -> tuple[str, int, str]:
    """Code, status and text of the error that an invocation ends in."""
    with pytest.raises(ClientError) as caught:
        invoke(clients, target, endpoint)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


def get(url: str, body: bytes | None = None) -> bytes:
    """The answer to a GET, or to a POST of `body`."""
    with urllib.request.urlopen(url, body, timeout=WITHIN_S) as answer:
        read: bytes = answer.read()
        return read


def metric(clients: Clients, name: str) -> float:
    text = get(f"{clients.url}/metrics").decode()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(name) and 'endpoint_name="many"' in line
    )


def test_each_of_fifty_models_answers_for_itself(clients: Clients) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: invoke(clients, f"team/m{number}.tar.gz"), range(MODELS)))
    assert answers == [many.answer(number) for number in range(MODELS)]
    assert metric(clients, "sagemaker_loaded_model_count") == MODELS


def test_a_slash_before_the_target_is_normalised(clients: Clients) -> None:
    assert invoke(clients, "/team/m7.tar.gz") == many.answer(7)


def test_the_second_call_is_a_hit(clients: Clients) -> None:
    invoke(clients, "team/m1.tar.gz")
    misses, hits = (metric(clients, f"sagemaker_model_cache_{what}_total") for what in ("misses", "hits"))
    assert invoke(clients, "team/m1.tar.gz") == many.answer(1)
    assert metric(clients, "sagemaker_model_cache_misses_total") == misses
    assert metric(clients, "sagemaker_model_cache_hits_total") > hits


def test_a_model_is_added_while_others_are_served(clients: Clients, tmp_path: Path) -> None:
    done = threading.Event()
    wrong: list[Any] = []

    def serve() -> None:
        while not done.is_set():
            if (found := invoke(clients, "team/m2.tar.gz")) != many.answer(2):
                wrong.append(found)

    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(serve)
        try:
            assert refused(clients, "new.tar.gz")[0] == "ValidationError"
            clients.s3.put_object(Bucket=BUCKET, Key="models/new.tar.gz", Body=many.archive(tmp_path, 99))
            wait_until(lambda: answers(clients, "new.tar.gz", many.answer(99)), WITHIN_S, "the new model")
        finally:
            done.set()
        serving.result()
    assert not wrong


def answers(clients: Clients, target: str, expected: Any) -> bool:
    try:
        return bool(invoke(clients, target) == expected)
    except ClientError:
        return False


def test_a_model_that_is_replaced_is_picked_up(clients: Clients, tmp_path: Path) -> None:
    clients.s3.put_object(Bucket=BUCKET, Key="models/changing.tar.gz", Body=many.archive(tmp_path, 3))
    assert invoke(clients, "changing.tar.gz") == many.answer(3)
    clients.s3.put_object(Bucket=BUCKET, Key="models/changing.tar.gz", Body=many.archive(tmp_path, 4))
    wait_until(lambda: answers(clients, "changing.tar.gz", many.answer(4)), WITHIN_S, "the changed model")


def test_a_missing_model_is_the_callers_fault(clients: Clients) -> None:
    code, status, text = refused(clients, "team/none.tar.gz")
    assert (code, status) == ("ValidationError", 400)
    assert text.startswith(
        "Failed to download model data(bucket: many, key: models/team/none.tar.gz). Please ensure that there is an object"
    )


def test_no_target_is_the_callers_fault(clients: Clients) -> None:
    code, status, text = refused(clients, None)
    assert (code, status) == ("ValidationError", 400)
    assert "Target-Model" in text


@pytest.mark.parametrize("target", ["../models/team/m1.tar.gz", "team/../../secret", "a\\b", "team//m1.tar.gz"])
def test_no_name_leaves_the_prefix(clients: Clients, target: str) -> None:
    assert refused(clients, target)[:2] == ("ValidationError", 400)


@pytest.mark.parametrize("body", [b"", b"not an archive", b"\x1f\x8b\x08\x00cut"])
def test_a_broken_archive_is_the_models_fault_and_no_others(clients: Clients, body: bytes) -> None:
    clients.s3.put_object(Bucket=BUCKET, Key=f"models/broken{len(body)}.tar.gz", Body=body)
    code, status, text = refused(clients, f"broken{len(body)}.tar.gz")
    assert (code, status) == ("ModelError", 424)
    assert f"broken{len(body)}.tar.gz" in text
    assert invoke(clients, "team/m3.tar.gz") == many.answer(3)


def test_v2_names_a_target_after_a_colon(clients: Clients) -> None:
    asked = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": many.ROWS}]}
    path = "/v2/models/many:team%2Fm5.tar.gz"
    answer = json.loads(get(f"{clients.url}{path}/infer", json.dumps(asked).encode()))
    assert answer["model_name"] == "many:team/m5.tar.gz"
    assert answer["outputs"][0]["data"] == [value for row in many.answer(5) for value in row]
    metadata = json.loads(get(f"{clients.url}{path}"))
    assert metadata["name"] == "many:team/m5.tar.gz"
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]


def test_every_load_can_be_read_about(clients: Clients) -> None:
    invoke(clients, "team/m9.tar.gz")
    (row,) = (row for row in json.loads(get(f"{clients.url}/debug/models")) if row["name"] == "many")
    target = next(target for target in row["targets"] if target["target"] == "team/m9.tar.gz")
    assert target["state"] == "READY"
    assert target["bytes"] > 0
    loaded = [event for event in row["events"] if event["target"] == "team/m9.tar.gz"]
    assert loaded
    assert all(event["reason"] for event in row["events"])


def test_models_are_not_kept_where_the_cache_is_disabled(clients: Clients) -> None:
    create(clients, "brief", f"s3://{BUCKET}/models/team/", MultiModelConfig={"ModelCacheSetting": "Disabled"})
    assert invoke(clients, "m11.tar.gz", "brief") == many.answer(11)
    assert invoke(clients, "m11.tar.gz", "brief") == many.answer(11)

    def unloaded() -> bool:
        (row,) = (row for row in json.loads(get(f"{clients.url}/debug/models")) if row["name"] == "brief")
        return not any(target["state"] == "READY" for target in row["targets"])

    wait_until(unloaded, WITHIN_S, "an empty cache")
    clients.sagemaker.delete_endpoint(EndpointName="brief")
