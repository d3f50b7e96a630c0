"""Endpoints of the control API and the processes that serve them: what survives whose death, and what holds up nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.conftest import StartServer
from tests.support import onnx_models as models
from tests.support import server as support
from tests.support.clients import ROW, get, post, worker_pids
from tests.support.server import Server, wait_until

ROLE = "arn:aws:iam::123456789012:role/serving"


def client(server: Server) -> Any:
    return boto3.client(
        "sagemaker",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(retries={"max_attempts": 1}),
    )


def create(server: Server, name: str, artifact: Path) -> Any:
    """Asks for an endpoint with a model and a config of its name; gives the client."""
    sagemaker = client(server)
    data = {"S3DataType": "S3Object", "CompressionType": "None", "S3Uri": artifact.as_uri()}
    sagemaker.create_model(
        ModelName=name,
        PrimaryContainer={"Image": "onnx", "ModelDataSource": {"S3DataSource": data}},
        ExecutionRoleArn=ROLE,
    )
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    return sagemaker


def deploy(server: Server, name: str, artifact: Path) -> Any:
    """The same, in service."""
    sagemaker = create(server, name, artifact)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name)
    return sagemaker


def answers(server: Server, name: str) -> bool:
    return post(server, f"/endpoints/{name}/invocations", [ROW]).json == [ROW]


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder that servers may read models from."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    models.echo(folder / "echo.onnx", "FP32", ("N", 4))
    return folder


def test_an_endpoint_is_served_beside_models_of_the_command_line(
    start_server: StartServer, shelf: Path, echo: Path
) -> None:
    server = start_server("--model", echo, "--allow-path", shelf, "--workers", "2")
    deploy(server, "one", shelf / "echo.onnx")
    assert answers(server, "one")
    assert answers(server, "echo")
    assert get(server, "/v2/models/one").json["name"] == "one"


def test_endpoints_are_there_again_after_the_server_was_killed(tmp_path: Path, shelf: Path) -> None:
    with support.running("--allow-path", shelf, state_dir=tmp_path / "state") as server:
        for name in ("one", "two"):
            deploy(server, name, shelf / "echo.onnx")
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
        wait_until(lambda: not server.processes(), 5, "the end of its workers")
    # Where the models came from is not needed again.
    (shelf / "echo.onnx").unlink()
    with support.running("--allow-path", shelf, state_dir=tmp_path / "state") as server:
        # It accepts when they are served, so the first call is answered.
        assert answers(server, "one")
        assert answers(server, "two")
        assert client(server).describe_endpoint(EndpointName="one")["EndpointStatus"] == "InService"


def test_a_worker_that_is_replaced_serves_them_again(start_server: StartServer, shelf: Path) -> None:
    server = start_server("--allow-path", shelf)
    deploy(server, "one", shelf / "echo.onnx")
    (pid,) = worker_pids(server)
    psutil.Process(pid).kill()
    wait_until(lambda: pid not in worker_pids(server), 10, "another worker")
    assert answers(server, "one")


def test_a_slow_load_holds_up_no_other(start_server: StartServer, shelf: Path) -> None:
    server = start_server("--allow-path", shelf)
    models.slow(shelf / "slow.onnx", 500)
    sagemaker = create(server, "slow", shelf / "slow.onnx")
    deploy(server, "quick", shelf / "echo.onnx")
    assert sagemaker.list_endpoints(StatusEquals="Creating")["Endpoints"][0]["EndpointName"] == "slow"
    assert answers(server, "quick")

    def in_service() -> bool:
        return bool(sagemaker.list_endpoints(StatusEquals="InService", NameContains="slow")["Endpoints"])

    wait_until(in_service, 30, "the slow endpoint")


def test_a_name_from_the_command_line_cannot_be_an_endpoints(
    start_server: StartServer, shelf: Path, echo: Path
) -> None:
    server = start_server("--model", echo, "--allow-path", shelf)
    with pytest.raises(ClientError, match="given to the server when it was started"):
        create(server, "echo", shelf / "echo.onnx")
    assert answers(server, "echo")


def test_a_model_in_the_repository_cannot_take_an_endpoints_name(
    start_server: StartServer, shelf: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    server = start_server("--model-repository", repository, "--model-control-mode", "explicit", "--allow-path", shelf)
    deploy(server, "one", shelf / "echo.onnx")
    models.echo(repository / "one.onnx", "FP32", ("N", 4))
    refused = post(server, "/v2/repository/models/one/load", {})
    assert refused.status == 400
    assert "an endpoint of the control API has the name 'one'" in refused.json["error"]
    assert answers(server, "one")


def test_deleting_an_endpoint_takes_it_out_of_every_worker(start_server: StartServer, shelf: Path) -> None:
    server = start_server("--allow-path", shelf, "--workers", "2")
    sagemaker = deploy(server, "one", shelf / "echo.onnx")
    sagemaker.delete_endpoint(EndpointName="one")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="one")
    for _ in range(20):
        assert post(server, "/endpoints/one/invocations", [ROW]).status == 400
    with pytest.raises(ClientError, match="Could not find endpoint"):
        sagemaker.describe_endpoint(EndpointName="one")


def test_what_cannot_be_loaded_fails_the_endpoint_and_says_why(start_server: StartServer, shelf: Path) -> None:
    server = start_server("--allow-path", shelf)
    (shelf / "junk.onnx").write_bytes(b"this is no graph")
    sagemaker = create(server, "junk", shelf / "junk.onnx")
    described: Callable[[], dict[str, Any]] = lambda: sagemaker.describe_endpoint(EndpointName="junk")  # noqa: E731
    wait_until(lambda: described()["EndpointStatus"] == "Failed", 10, "a failed endpoint")
    reason = described()["FailureReason"]
    assert (shelf / "junk.onnx").as_uri() in reason
    assert str(server.state_dir) not in reason
    deploy(server, "one", shelf / "echo.onnx")


def test_an_update_that_cannot_be_loaded_leaves_the_old_serving(start_server: StartServer, shelf: Path) -> None:
    server = start_server("--allow-path", shelf)
    sagemaker = deploy(server, "one", shelf / "echo.onnx")
    (shelf / "junk.onnx").write_bytes(b"this is no graph")
    create(server, "two", shelf / "junk.onnx")
    sagemaker.update_endpoint(EndpointName="one", EndpointConfigName="two")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="one")
    told = sagemaker.describe_endpoint(EndpointName="one")
    assert told["EndpointConfigName"] == "one"
    assert "junk.onnx" in told["FailureReason"]
    assert answers(server, "one")


def test_calls_say_what_is_not_served_here(start_server: StartServer) -> None:
    server = start_server()
    refused = post(server, "/", {}, **{"X-Amz-Target": "SageMaker.CreateTrainingJob"})
    assert refused.status == 404
    assert refused.json["__type"] == "UnknownOperationException"
    assert get(server, "/").status == 200


def test_the_server_tells_other_programs_of_itself(start_server: StartServer) -> None:
    server = start_server()
    told = server.state_dir / "server.json"
    wait_until(told.exists, 5, "server.json")
    assert server.url in told.read_text()
    assert told.stat().st_mode & 0o777 == 0o600
    server.terminate()
    assert not told.exists()


def test_a_server_that_cannot_tell_of_itself_serves(tmp_path: Path, echo: Path) -> None:
    # A disk that is full or only read; by root too.
    (tmp_path / "state" / "server.json" / "in-the-way").mkdir(parents=True)
    with support.running("--model", echo, state_dir=tmp_path / "state") as server:
        wait_until(lambda: "ready\n" in server.output, 5, "a ready server")
        assert "`serving env` will not find this server" in server.output
        assert post(server, "/invocations", [ROW]).json == [ROW]
