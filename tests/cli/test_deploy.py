"""`serving deploy` and its neighbours against a real server with an S3 of its own: what a person types and reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serving.cli.api import calling
from serving.cli.deploy import unique_name
from serving.cli.main import commands
from serving.objects.repository import ENDPOINT_NAME
from serving.processes import presence
from serving.samples import fraud
from tests.control.shelf import packed
from tests.support import onnx_models
from tests.support import server as support
from tests.support.clients import Answer, post
from tests.support.server import Server, wait_until

ROWS = {"instances": fraud.ROWS}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys, no servers of the person who runs the tests."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "SERVING_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose endpoints each test names for itself."""
    state_dir = tmp_path_factory.mktemp("deploy") / "state"
    with support.running("--with-s3", "--s3-port", "0", state_dir=state_dir) as running:
        # Its workers answer a moment before it says where it is.
        wait_until(lambda: presence.read(state_dir) is not None, 5, "the server's presence")
        yield running


def serving(server: Server, command: str, *arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, [command, "--state-dir", str(server.state_dir), *map(str, arguments)])


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result) -> str:
    """The one line of a command that failed."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def listed(server: Server, command: str) -> list[list[str]]:
    return [line.split("\t") for line in done(serving(server, command)).splitlines()]


def named(server: Server, command: str, name: str) -> list[list[str]]:
    return [row for row in listed(server, command) if row[0] == name or row[0].startswith(f"{name}-")]


# ---------------------------------------------------------------- from a model to an answer, and away again


def test_a_directory_becomes_an_endpoint_and_goes(server: Server, samples: Path) -> None:
    text = done(
        serving(server, "deploy", "pays", samples / "fraud", "--env", "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT=text/csv")
    )
    assert text.startswith("pays: InService after ")
    assert f"curl {server.url}/endpoints/pays/invocations " in text
    answer = post(server, "/endpoints/pays/invocations", ROWS)
    assert answer.status == 200
    assert len(answer.body.decode().strip().split(",")) == len(fraud.ROWS)
    (row,) = named(server, "endpoints", "pays")
    assert row[1] == "InService"
    (model,) = named(server, "models", "pays")
    log = done(serving(server, "logs", "pays"))
    assert "Z AllTraffic/" in log
    assert "INFO model pays version 1 loaded in " in log
    gone = done(serving(server, "delete", "pays", "--all", "--yes"))
    assert gone.splitlines() == [
        "endpoint pays: deleted",
        f"endpoint config {model[0]}: deleted",
        f"model {model[0]}: deleted",
    ]
    assert named(server, "endpoints", "pays") == named(server, "models", "pays") == []
    assert post(server, "/endpoints/pays/invocations", ROWS).status == 400
    # What it had to say can still be read.
    assert "INFO model pays version 1 loaded in " in done(serving(server, "logs", "pays"))


def test_an_update_takes_the_place(server: Server, tmp_path: Path) -> None:
    echo, table = onnx_models.checked_echo(tmp_path / "echo.onnx"), onnx_models.table(tmp_path / "table.onnx")
    done(serving(server, "deploy", "moving", echo, "--variant", "blue"))
    before = post(server, "/endpoints/moving/invocations", {"instances": [[1, 2, 3, 4]]})
    assert before.json == {"predictions": [{"y": [1, 2, 3, 4], "total": [10]}]}
    assert "endpoint moving exists and is InService: --update puts this model in its place" in refused(
        serving(server, "deploy", "moving", table)
    )
    assert done(serving(server, "deploy", "moving", table, "--update")).startswith("moving: InService after ")
    after = post(server, "/endpoints/moving/invocations", {"instances": [[1, 2, 3, 4]]})
    assert after.body != before.body
    failure = refused(serving(server, "deploy", "moving", echo, "--update", "--image", "no-such"))
    assert "endpoint moving is InService; it serves what it served before: " in failure
    assert "no-such" in failure
    assert post(server, "/endpoints/moving/invocations", {"instances": [[1, 2, 3, 4]]}).body == after.body


def test_a_failure_is_told_with_its_reason(server: Server, samples: Path) -> None:
    failure = refused(serving(server, "deploy", "fails", samples / "fraud", "--image", "pytorch-inference:2.4"))
    assert failure.startswith("Error: endpoint fails is Failed: ")
    assert "PyTorch" in failure
    (row,) = named(server, "endpoints", "fails")
    assert row[1] == "Failed"
    assert "PyTorch" in row[4]
    for options in ((), ("--update",)):
        again = refused(serving(server, "deploy", "fails", samples / "fraud", *options))
        assert "is Failed, and so cannot be updated: `serving delete fails` removes it" in again
    done(serving(server, "delete", "fails", "--yes"))


def test_what_an_endpoint_says_drives_no_terminal(server: Server) -> None:
    failure = refused(serving(server, "deploy", "painted", "s3://bucket/\x1b[31mred\x07.onnx"))
    assert "painted is Failed: " in failure
    assert failure.rstrip("\n").isprintable()
    done(serving(server, "delete", "painted", "--yes"))


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_CONFIG_FILE"])
def test_settings_of_aws_that_cannot_be_read_are_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    broken = tmp_path / "config"
    broken.write_text("no sections\n")
    monkeypatch.setenv(name, str(broken))
    assert str(broken) in refused(serving(server, "endpoints"))


def test_without_waiting(server: Server, samples: Path) -> None:
    assert done(serving(server, "deploy", "later", samples / "fraud", "--no-wait")) == "later: Creating\n"
    wait_until(lambda: named(server, "endpoints", "later")[0][1] == "InService", 20, "the endpoint in service")


def test_what_is_in_s3_already(server: Server, samples: Path) -> None:
    done(serving(server, "deploy", "first", samples / "fraud"))
    url = document(server, "first")["ModelDataUrl"]
    assert "name the container with --image" in refused(serving(server, "deploy", "second", url))
    done(serving(server, "deploy", "second", url, "--image", "xgboost"))
    assert post(server, "/endpoints/second/invocations", ROWS).status == 200
    # The same content is uploaded once.
    done(serving(server, "deploy", "third", samples / "fraud"))
    assert document(server, "third")["ModelDataUrl"] == url


def document(server: Server, name: str) -> dict[str, Any]:
    """The container of the model that was made last for an endpoint."""
    with calling(None, str(server.state_dir)) as api:
        model = named(server, "models", name)[-1][0]
        container: dict[str, Any] = api.client("sagemaker").describe_model(ModelName=model)["PrimaryContainer"]
    return container


def test_documents_are_the_apis(server: Server, samples: Path) -> None:
    done(serving(server, "deploy", "exact", samples / "file-type", "--instance-count", "2"))
    endpoints = json.loads(done(serving(server, "endpoints", "--json")))
    (mine,) = [one for one in endpoints if one["EndpointName"] == "exact"]
    assert mine["EndpointArn"] == "arn:aws:sagemaker:us-east-1:123456789012:endpoint/exact"
    assert set(mine) == {"EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus"}
    assert {"ModelName", "ModelArn", "CreationTime"} == set(json.loads(done(serving(server, "models", "--json")))[0])
    events = [json.loads(line) for line in done(serving(server, "logs", "exact", "--json")).splitlines()]
    assert {"logStreamName", "timestamp", "message", "eventId"} <= set(events[0])


def test_a_log_is_followed(server: Server, samples: Path) -> None:
    done(serving(server, "deploy", "followed", samples / "fraud"))
    command = [sys.executable, "-m", "serving.cli.main", "logs", "followed", "-f", "--state-dir", server.state_dir]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as follower:
        assert follower.stdout is not None
        while "loaded in" not in (line := follower.stdout.readline()):
            assert line
        done(serving(server, "deploy", "followed", samples / "file-type", "--update"))
        while "loaded in" not in (line := follower.stdout.readline()):
            assert line
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130


def test_a_log_is_followed_as_sagemakers_sdk_does(server: Server, samples: Path) -> None:
    """`wait_for_endpoint(live_logging=True)` of SDK v2: pages without a token are not printed, the last one is kept."""
    settings: dict[str, Any] = {"MaxItems": 100, "PageSize": 2}

    def printed(client: Any) -> list[str]:
        pages = client.get_paginator("filter_log_events").paginate(
            logGroupName="/aws/sagemaker/Endpoints/live", logStreamNamePrefix="AllTraffic/", PaginationConfig=settings
        )
        lines: list[str] = []
        for page in pages:
            if "nextToken" in page:
                settings["StartingToken"] = page["nextToken"]
                lines += [event["message"] for event in page["events"]]
        return lines

    with calling(None, str(server.state_dir)) as api:
        client = api.client("logs")
        done(serving(server, "deploy", "live", samples / "fraud"))
        assert sum("loaded in" in line and "model live" in line for line in printed(client)) == 1
        assert printed(client) == []
        done(serving(server, "deploy", "live", samples / "file-type", "--update"))
        assert sum("loaded in" in line and "model live" in line for line in printed(client)) == 1


def test_only_what_is_asked_for_is_logged(server: Server, samples: Path) -> None:
    done(serving(server, "deploy", "filtered", samples / "fraud"))
    assert "loaded in" in done(serving(server, "logs", "filtered", "--filter", '"loaded in"'))
    assert done(serving(server, "logs", "filtered", "--filter", "nowhere")) == ""
    assert "Invalid character(s) in term" in refused(serving(server, "logs", "filtered", "--filter", "{ $.x = 1 }"))


def test_a_models_failure_is_in_its_log(server: Server, tmp_path: Path) -> None:
    done(serving(server, "deploy", "drops", onnx_models.row_dropper(tmp_path / "model.onnx")))
    answer = post(server, "/endpoints/drops/invocations", {"instances": [[1], [2e6]]})
    assert (answer.status, answer.json["OriginalStatusCode"]) == (424, 500)
    line = "ERROR model drops version 1: output 'y' came back as "
    wait_until(lambda: line in done(serving(server, "logs", "drops")), 5, "the failure in the log")


# ---------------------------------------------------------------- many models on one endpoint


def ask(server: Server, name: str, target: str) -> Answer:
    rows = {"instances": [[1, 2, 3, 4]]}
    return post(server, f"/endpoints/{name}/invocations", rows, X_Amzn_SageMaker_Target_Model=target)


def test_many_models_in_s3(server: Server, tmp_path: Path) -> None:
    echo = onnx_models.checked_echo(tmp_path / "echo.onnx").read_bytes()
    text = done(serving(server, "deploy", "lots", "s3://many/models", "--multi-model", "--pin", "a/echo.onnx"))
    assert text.startswith("lots: InService after ")
    assert "-H 'X-Amzn-SageMaker-Target-Model: model.tar.gz'" in text
    assert 'TargetModel="model.tar.gz"' in text
    container = document(server, "lots")
    assert (container["Mode"], container["ModelDataUrl"]) == ("MultiModel", "s3://many/models/")
    assert (container["Image"], container["Environment"]) == ("triton", {"SERVING_PINNED_MODELS": "a/echo.onnx"})
    with calling(None, str(server.state_dir)) as api:
        client = api.buckets(api.store())
        client.create_bucket(Bucket="many")
        client.put_object(Bucket="many", Key="models/a/echo.onnx", Body=echo)
        client.put_object(Bucket="many", Key="models/b.tar.gz", Body=packed({"model.onnx": echo}))
    wait_until(lambda: ask(server, "lots", "a/echo.onnx").status == 200, 20, "the model that was uploaded")
    assert ask(server, "lots", "a/echo.onnx").json == {"predictions": [{"y": [1, 2, 3, 4], "total": [10]}]}
    assert ask(server, "lots", "b.tar.gz").status == 200


def test_many_models_in_a_folder(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    onnx_models.checked_echo(folder / "echo.onnx")
    with support.running("--allow-path", str(folder), state_dir=tmp_path / "state") as server:
        wait_until(lambda: presence.read(server.state_dir) is not None, 5, "the server's presence")
        done(serving(server, "deploy", "here", folder, "--multi-model", "--image", "onnx"))
        assert ask(server, "here", "echo.onnx").status == 200
        assert ask(server, "here", "none.onnx").status == 400
        failure = refused(serving(server, "deploy", "there", samples, "--multi-model"))
        assert "is not below a folder from which files may be read" in failure


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("deploy", "no_name", "x"), "'no_name' cannot be the name of an endpoint"),
        (("deploy", "x" * 64, "x"), "cannot be the name of an endpoint"),
        (("deploy", "x", "x", "--variant", "a b"), "'a b' cannot be the variant of an endpoint"),
        (("deploy", "x", "/none"), "/none: there is no such file or directory"),
        (("deploy", "x", "/etc/hostname"), "/etc/hostname holds no model: "),
        (("deploy", "x", "s3://bucket"), "s3://bucket is not an s3:// URL of a bucket and a key"),
        (("deploy", "x", "https://a/b.onnx"), "is not an s3:// URL"),
        (("deploy", "x", "s3://bucket/model.tar.gz"), "name the container with --image"),
        (("deploy", "x", "/etc/hostname", "--env", "A"), "--env A: NAME=VALUE was expected"),
        (("deploy", "x", "/etc/hostname", "--env", "1A=x"), "--env 1A=x: NAME=VALUE was expected"),
        (("deploy", "x", "s3://b/p/", "--pin", "a"), "--pin: only an endpoint with --multi-model has models to pin"),
        (("deploy", "x", "s3://b/p/", "--multi-model", "--pin", "a,b"), "--pin a,b: the name of a pinned model"),
        (("deploy", "x", "/none", "--multi-model"), "/none: a folder of models was expected"),
        (("deploy", "x", "/etc/hostname", "--multi-model"), "/etc/hostname: a folder of models was expected"),
        (("deploy", "x", "https://a/b/", "--multi-model"), "is not an s3:// URL of a bucket and a prefix"),
        (("deploy", "x", "s3:///b/", "--multi-model"), "is not an s3:// URL of a bucket and a prefix"),
        (("delete", "none", "--yes"), "there is no endpoint none"),
        (("logs", "none"), "there is no endpoint none, and no log of one"),
        (("delete", "a b", "--yes"), "ValidationException: "),
        (("logs", "a:b"), "at 'logGroupName' failed to satisfy constraint"),
    ],
)
def test_what_cannot_be_is_one_line(server: Server, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(serving(server, *arguments))


def test_what_aws_refuses_is_one_line_and_leaves_nothing(server: Server, samples: Path) -> None:
    before = listed(server, "models")
    failure = refused(serving(server, "deploy", "many", samples / "fraud", "--env", f"A={'x' * 1025}"))
    assert failure.startswith("Error: ValidationException: ")
    failure = refused(serving(server, "deploy", "many", samples / "fraud", "--instance-count", "2147483648"))
    assert failure.startswith("Error: ")
    assert listed(server, "models") == before


def test_nothing_is_deleted_unasked(server: Server, samples: Path) -> None:
    done(serving(server, "deploy", "kept", samples / "fraud"))
    assert "endpoint kept: say --yes to delete without being asked" in refused(serving(server, "delete", "kept"))
    assert named(server, "endpoints", "kept")[0][1] == "InService"


@pytest.mark.parametrize("command", [("endpoints",), ("models",), ("logs", "x"), ("delete", "x"), ("deploy", "x", "y")])
def test_no_server(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(commands, [*command, "--state-dir", str(tmp_path)])
    assert f"no server runs on the state directory {tmp_path}" in refused(result)
    result = CliRunner().invoke(commands, [*command, "--url", "http://127.0.0.1:1"])
    assert "nothing listens at http://127.0.0.1:1" in refused(result)
    assert "is not a URL" in refused(CliRunner().invoke(commands, [*command, "--url", "nowhere"]))


def test_a_server_without_s3_says_what_to_do(sample_server: Server, samples: Path) -> None:
    failure = refused(serving(sample_server, "deploy", "x", samples / "fraud"))
    assert "there is no S3 to upload to: start the server with --with-s3" in failure


def test_without_botocore() -> None:
    command = [sys.executable, "-c", NO_BOTOCORE, "endpoints", "--url", "http://127.0.0.1:1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "pip install 'serving[control]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


NO_BOTOCORE = "import sys; sys.modules['botocore'] = None; from serving.cli.main import main; main()"


@pytest.mark.parametrize("name", ["a", "a" * 63, "a-" * 31 + "b", "x" * 35 + "-" + "y" * 20])
def test_unique_names_are_names(name: str) -> None:
    found = unique_name(name, "0123456789abcdef", 1_763_744_703.25)
    assert ENDPOINT_NAME.fullmatch(found), found
    assert found.endswith("-01234567-20251121170503250")
    assert found != unique_name(name, "0123456789abcdef", 1_763_744_703.251)
