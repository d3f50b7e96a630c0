"""boto3's `sagemaker` client, unmodified: a model in S3 becomes an endpoint that answers, is changed, and goes."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, WaiterError

from tests.support import notebook as support
from tests.support.answers import close, same
from tests.support.notebook import ROLE, XGBOOST_IMAGE, Models, Notebook, Rows
from tests.support.server import wait_until

BUCKET = "control"
ARN = "arn:aws:sagemaker:us-east-1:123456789012"
AT_ONCE_S = 2.0


class Clients(NamedTuple):
    """boto3's clients for one server."""

    s3: Any
    sagemaker: Any
    runtime: Any
    logs: Any


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models.make(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with support.opened(tmp_path_factory.mktemp("control") / "state") as opened:
        yield opened


@pytest.fixture(scope="module")
def clients(notebook: Notebook, models: Models) -> Iterator[Clients]:
    """The clients, and the archives in their bucket as NAME/model.tar.gz."""
    with ExitStack() as stack:
        names = ("s3", "sagemaker", "sagemaker-runtime", "logs")
        made = Clients(*(stack.enter_context(notebook.client(name)) for name in names))
        made.s3.create_bucket(Bucket=BUCKET)
        for name in models.answers:
            made.s3.upload_file(str(models.archive(name)), BUCKET, f"{name}/model.tar.gz")
        yield made


@pytest.fixture(scope="module")
def rows() -> Rows:
    return support.rows()


Deploy = Callable[..., float]


@pytest.fixture
def deploy(clients: Clients) -> Iterator[Deploy]:
    """Deploys NAME's model, config and endpoint of one name and waits; gives the seconds. All are gone afterwards."""
    made: list[str] = []

    def call(name: str, container: dict[str, Any], **variant: Any) -> float:
        began = time.monotonic()
        made.append(name)
        create(clients, name, container, **variant)
        clients.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        clients.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name)
        return time.monotonic() - began

    yield call
    for name in made:
        for remove, key in (
            (clients.sagemaker.delete_endpoint, "EndpointName"),
            (clients.sagemaker.delete_endpoint_config, "EndpointConfigName"),
            (clients.sagemaker.delete_model, "ModelName"),
        ):
            with suppress(ClientError):
                remove(**{key: name})


def create(clients: Clients, name: str, container: dict[str, Any], **variant: Any) -> None:
    """A model and a config of that name."""
    clients.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    clients.sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": "AllTraffic",
                "ModelName": name,
                "InstanceType": "ml.m5.large",
                "InitialInstanceCount": 1,
                **variant,
            }
        ],
    )


def container(name: str, image: str, **more: Any) -> dict[str, Any]:
    """What a model is made of: an image, and the archive of that name."""
    return {"Image": image, "ModelDataUrl": f"s3://{BUCKET}/{name}/model.tar.gz", **more}


def invoke(clients: Clients, name: str, body: bytes | str, content_type: str, accept: str) -> bytes:
    answer = clients.runtime.invoke_endpoint(EndpointName=name, ContentType=content_type, Accept=accept, Body=body)
    assert answer["ContentType"].startswith(accept)
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    read: bytes = answer["Body"].read()
    return read


def check(clients: Clients, name: str, rows: Rows, expected: Rows) -> None:
    """The endpoint answers CSV, JSON and NPY as the model's own library does."""
    as_csv = "\n".join(",".join(map(str, row)) for row in rows.tolist())
    close(invoke(clients, name, as_csv, "text/csv", "text/csv").decode(), expected)
    as_json = json.dumps({"instances": rows.tolist()})
    close(json.loads(invoke(clients, name, as_json, "application/json", "application/json")), expected)
    as_npy = io.BytesIO()
    np.save(as_npy, rows)
    answer = np.load(io.BytesIO(invoke(clients, name, as_npy.getvalue(), "application/x-npy", "application/x-npy")))
    same(answer, expected)


# ---------------------------------------------------------------------- deploying


@pytest.mark.parametrize(
    ("name", "image"), [("xgboost", XGBOOST_IMAGE), ("onnx", "onnx"), ("sklearn", "serving/sklearn:latest")]
)
def test_a_model_from_s3_answers_as_its_library_does(
    clients: Clients, deploy: Deploy, models: Models, rows: Rows, name: str, image: str
) -> None:
    seconds = deploy(f"boto3-{name}", container(name, image))
    # The first load of its kind imports scikit-learn.
    assert seconds < AT_ONCE_S or name == "sklearn"
    check(clients, f"boto3-{name}", rows, models.answer(name, rows))


def test_a_prefix_of_the_bucket_is_model_data_too(clients: Clients, deploy: Deploy, models: Models, rows: Rows) -> None:
    clients.s3.upload_file(str(models.folder / "classifier.onnx"), BUCKET, "unpacked/model.onnx")
    source = {
        "S3DataSource": {"S3Uri": f"s3://{BUCKET}/unpacked/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    }
    deploy("boto3-prefix", {"Image": "onnx", "ModelDataSource": source})
    check(clients, "boto3-prefix", rows, models.answer("onnx", rows))


def test_the_layout_of_triton(clients: Clients, deploy: Deploy, models: Models, rows: Rows) -> None:
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:24.09-py3"
    deploy(
        "boto3-triton", container("triton", image, Environment={"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "classifier"})
    )
    tensor = {"name": "features", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    answer = invoke(clients, "boto3-triton", json.dumps({"inputs": [tensor]}), "application/json", "application/json")
    (output,) = json.loads(answer)["outputs"]
    close(output["data"], models.answer("triton", rows))


def test_what_describe_tells(clients: Clients, deploy: Deploy) -> None:
    deploy("boto3-told", container("onnx", "onnx"))
    endpoint = clients.sagemaker.describe_endpoint(EndpointName="boto3-told")
    assert endpoint["EndpointArn"] == f"{ARN}:endpoint/boto3-told"
    assert endpoint["EndpointConfigName"] == "boto3-told"
    assert endpoint["EndpointStatus"] == "InService"
    assert "FailureReason" not in endpoint
    (variant,) = endpoint["ProductionVariants"]
    assert variant["VariantName"] == "AllTraffic"
    assert variant["CurrentInstanceCount"] == variant["DesiredInstanceCount"] == 1
    assert variant["CurrentWeight"] == variant["DesiredWeight"] == 1.0
    (image,) = variant["DeployedImages"]
    assert image["SpecifiedImage"] == "onnx"
    model = clients.sagemaker.describe_model(ModelName="boto3-told")
    assert model["PrimaryContainer"]["ModelDataUrl"] == f"s3://{BUCKET}/onnx/model.tar.gz"
    assert not {"VpcConfig", "Containers", "InferenceExecutionConfig"} & set(model)
    config = clients.sagemaker.describe_endpoint_config(EndpointConfigName="boto3-told")
    assert [one["ModelName"] for one in config["ProductionVariants"]] == ["boto3-told"]
    assert not {"DataCaptureConfig", "AsyncInferenceConfig", "ShadowProductionVariants", "KmsKeyId"} & set(config)


def test_the_logs_of_an_endpoint(clients: Clients, deploy: Deploy) -> None:
    deploy("boto3-logged", container("onnx", "onnx"))
    group = "/aws/sagemaker/Endpoints/boto3-logged"
    streams = clients.logs.describe_log_streams(logGroupName=group)["logStreams"]
    assert streams
    assert all(stream["logStreamName"].startswith("AllTraffic/") for stream in streams)
    pages = clients.logs.get_paginator("filter_log_events").paginate(
        logGroupName=group, logStreamNamePrefix="AllTraffic/"
    )
    events = [event for page in pages for event in page["events"]]
    assert events
    read = clients.logs.get_log_events(logGroupName=group, logStreamName=streams[0]["logStreamName"])["events"]
    assert {event["message"] for event in read} <= {event["message"] for event in events}


# ---------------------------------------------------------------------- listing


def test_paginators_find_each_once(clients: Clients) -> None:
    names = [f"boto3-page-{number:02}" for number in range(23)]
    for name in names:
        create(clients, name, container("onnx", "onnx"))
    try:
        for operation, key, one in (
            ("list_models", "Models", "ModelName"),
            ("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"),
        ):
            pages = clients.sagemaker.get_paginator(operation).paginate(
                NameContains="boto3-page", SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 10}
            )
            found = [[each[one] for each in page[key]] for page in pages]
            assert [len(page) for page in found] == [10, 10, 3]
            assert [name for page in found for name in page] == names
    finally:
        for name in names:
            clients.sagemaker.delete_endpoint_config(EndpointConfigName=name)
            clients.sagemaker.delete_model(ModelName=name)


def test_endpoints_by_their_status(clients: Clients, deploy: Deploy) -> None:
    deploy("boto3-listed", container("onnx", "onnx"))
    wanted = {"NameContains": "boto3-listed"}
    (summary,) = clients.sagemaker.list_endpoints(StatusEquals="InService", **wanted)["Endpoints"]
    assert summary["EndpointName"] == "boto3-listed"
    assert summary["EndpointArn"] == f"{ARN}:endpoint/boto3-listed"
    assert summary["CreationTime"] <= summary["LastModifiedTime"]
    assert clients.sagemaker.list_endpoints(StatusEquals="Failed", **wanted)["Endpoints"] == []


def test_tags(clients: Clients) -> None:
    name, arn = "boto3-tagged", f"{ARN}:model/boto3-tagged"
    clients.sagemaker.create_model(
        ModelName=name,
        PrimaryContainer=container("onnx", "onnx"),
        ExecutionRoleArn=ROLE,
        Tags=[{"Key": "team", "Value": "payments"}],
    )
    try:
        clients.sagemaker.add_tags(
            ResourceArn=arn, Tags=[{"Key": "team", "Value": "risk"}, {"Key": "tier", "Value": "1"}]
        )
        clients.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["tier"])
        pages = clients.sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
        assert [tag for page in pages for tag in page["Tags"]] == [{"Key": "team", "Value": "risk"}]
    finally:
        clients.sagemaker.delete_model(ModelName=name)


# ---------------------------------------------------------------------- changing and ending


def test_update_to_another_model(clients: Clients, deploy: Deploy, models: Models, rows: Rows) -> None:
    deploy("boto3-changed", container("onnx", "onnx"))
    create(clients, "boto3-changed-next", container("xgboost", XGBOOST_IMAGE))
    try:
        began = time.monotonic()
        clients.sagemaker.update_endpoint(EndpointName="boto3-changed", EndpointConfigName="boto3-changed-next")
        clients.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="boto3-changed")
        assert time.monotonic() - began < AT_ONCE_S
        described = clients.sagemaker.describe_endpoint(EndpointName="boto3-changed")
        assert described["EndpointConfigName"] == "boto3-changed-next"
        check(clients, "boto3-changed", rows, models.answer("xgboost", rows))
    finally:
        clients.sagemaker.delete_endpoint_config(EndpointConfigName="boto3-changed-next")
        clients.sagemaker.delete_model(ModelName="boto3-changed-next")


def test_updates_lose_no_request(clients: Clients, notebook: Notebook, deploy: Deploy, rows: Rows) -> None:
    deploy("boto3-steady", container("onnx", "onnx"))
    create(clients, "boto3-steady-next", container("triton", "serving/triton"))
    stop, faults, answered = threading.Event(), [], [0, 0]
    body = ",".join(map(str, rows[0].tolist()))

    def ask(number: int, runtime: Any) -> None:
        while not stop.is_set():
            try:
                runtime.invoke_endpoint(EndpointName="boto3-steady", ContentType="text/csv", Body=body)["Body"].read()
                answered[number] += 1
            except Exception as error:
                faults.append(error)
                return

    def over(before: int) -> bool:
        return bool(faults) or min(answered) > before

    once = Config(retries={"total_max_attempts": 1})
    with ExitStack() as stack:
        runtimes = [stack.enter_context(notebook.client("sagemaker-runtime", config=once)) for _ in answered]
        askers = [threading.Thread(target=ask, args=each) for each in enumerate(runtimes)]
        for asker in askers:
            asker.start()
            stack.callback(asker.join)
        stack.callback(stop.set)
        for config in ("boto3-steady-next", "boto3-steady") * 5:
            before = min(answered)
            clients.sagemaker.update_endpoint(EndpointName="boto3-steady", EndpointConfigName=config)
            clients.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="boto3-steady")
            wait_until(partial(over, before), 10, "an answer after the update")
    clients.sagemaker.delete_endpoint_config(EndpointConfigName="boto3-steady-next")
    clients.sagemaker.delete_model(ModelName="boto3-steady-next")
    assert faults == []


def test_update_to_a_model_that_does_not_load(clients: Clients, deploy: Deploy, models: Models, rows: Rows) -> None:
    deploy("boto3-kept", container("onnx", "onnx"))
    create(clients, "boto3-kept-next", container("missing", "onnx"))
    try:
        clients.sagemaker.update_endpoint(EndpointName="boto3-kept", EndpointConfigName="boto3-kept-next")
        clients.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="boto3-kept")
        described = clients.sagemaker.describe_endpoint(EndpointName="boto3-kept")
        assert described["EndpointConfigName"] == "boto3-kept"
        assert f"s3://{BUCKET}/missing/model.tar.gz" in described["FailureReason"]
        check(clients, "boto3-kept", rows, models.answer("onnx", rows))
    finally:
        clients.sagemaker.delete_endpoint_config(EndpointConfigName="boto3-kept-next")
        clients.sagemaker.delete_model(ModelName="boto3-kept-next")


def test_delete(clients: Clients, deploy: Deploy) -> None:
    deploy("boto3-gone", container("onnx", "onnx"))
    # What the endpoint is made of may go first.
    clients.sagemaker.delete_model(ModelName="boto3-gone")
    clients.sagemaker.delete_endpoint_config(EndpointConfigName="boto3-gone")
    assert clients.sagemaker.describe_endpoint(EndpointName="boto3-gone")["EndpointStatus"] == "InService"
    began = time.monotonic()
    clients.sagemaker.delete_endpoint(EndpointName="boto3-gone")
    clients.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="boto3-gone")
    assert time.monotonic() - began < AT_ONCE_S
    with pytest.raises(ClientError) as caught:
        clients.sagemaker.describe_endpoint(EndpointName="boto3-gone")
    assert caught.value.response["Error"] == {
        "Code": "ValidationException",
        "Message": f'Could not find endpoint "{ARN}:endpoint/boto3-gone".',
    }
    with pytest.raises(clients.runtime.exceptions.ValidationError):
        clients.runtime.invoke_endpoint(EndpointName="boto3-gone", Body=b"1,2,3,4", ContentType="text/csv")


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("name", "parts", "words"),
    [
        ("absent", {"Image": "onnx", "ModelDataUrl": f"s3://{BUCKET}/absent.tar.gz"}, f"s3://{BUCKET}/absent.tar.gz"),
        (
            "bucketless",
            {"Image": "onnx", "ModelDataUrl": "s3://no-such-bucket/x.tar.gz"},
            "s3://no-such-bucket/x.tar.gz",
        ),
        ("other", {"Image": "onnx", "ModelDataUrl": f"s3://{BUCKET}/xgboost/model.tar.gz"}, "xgboost/model.tar.gz"),
        ("unknown", {"Image": "nginx:latest", "ModelDataUrl": f"s3://{BUCKET}/onnx/model.tar.gz"}, "nginx:latest"),
    ],
)
def test_what_cannot_be_deployed_fails_with_its_reason(
    clients: Clients, deploy: Deploy, name: str, parts: dict[str, Any], words: str
) -> None:
    began = time.monotonic()
    with pytest.raises(WaiterError) as caught:
        deploy(f"boto3-{name}", parts)
    assert time.monotonic() - began < AT_ONCE_S
    assert caught.value.last_response["EndpointStatus"] == "Failed"
    assert words in caught.value.last_response["FailureReason"]


def test_a_name_that_is_taken(clients: Clients, deploy: Deploy) -> None:
    deploy("boto3-taken", container("onnx", "onnx"))
    for call, what, kind in (
        (lambda: create(clients, "boto3-taken", container("onnx", "onnx")), "model", "model"),
        (
            lambda: clients.sagemaker.create_endpoint(EndpointName="boto3-taken", EndpointConfigName="boto3-taken"),
            "endpoint",
            "endpoint",
        ),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["Error"] == {
            "Code": "ValidationException",
            "Message": f'Cannot create already existing {what} "{ARN}:{kind}/boto3-taken".',
        }


def test_an_operation_that_is_not_built(clients: Clients) -> None:
    with pytest.raises(ClientError) as caught:
        clients.sagemaker.list_training_jobs()
    assert caught.value.response["Error"]["Code"] == "UnknownOperationException"
    assert "ListTrainingJobs" in caught.value.response["Error"]["Message"]


def test_endpoints_come_back_with_the_server(models: Models, rows: Rows, tmp_path: Path) -> None:
    with support.opened(tmp_path / "state") as before, ExitStack() as stack:
        names = ("s3", "sagemaker", "sagemaker-runtime", "logs")
        clients = Clients(*(stack.enter_context(before.client(name)) for name in names))
        clients.s3.create_bucket(Bucket=BUCKET)
        clients.s3.upload_file(str(models.archive("xgboost")), BUCKET, "xgboost/model.tar.gz")
        create(clients, "boto3-stays", container("xgboost", XGBOOST_IMAGE))
        clients.sagemaker.create_endpoint(EndpointName="boto3-stays", EndpointConfigName="boto3-stays")
        clients.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="boto3-stays")
    with support.opened(tmp_path / "state") as after, after.client("sagemaker-runtime") as runtime:
        body = "\n".join(",".join(map(str, row)) for row in rows.tolist())
        answer = runtime.invoke_endpoint(
            EndpointName="boto3-stays", ContentType="text/csv", Accept="text/csv", Body=body
        )
        close(answer["Body"].read().decode(), models.answer("xgboost", rows))
