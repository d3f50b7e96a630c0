"""Models whose loads fail, hang or end their process: what that costs others, what is said of it, and when it is over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.processes.test_endpoints import ROLE, client
from tests.support import server as support
from tests.support import stubborn
from tests.support.clients import ROW, post, worker_pids
from tests.support.server import Server, wait_until
from tests.support.stubborn import Stubborn

WITHIN_S = 15.0


SAID = {"kill": "ended", "fail": "it does not want to"}
"""What a FailureReason has of each."""


class Desk:
    """A folder with models, and a state directory for servers that know the kind `stubborn`, one after another."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.state_dir = folder / "state"
        self._variables = stubborn.install(folder / "installed")
        self._settings = folder / "settings.yaml"
        self._settings.write_text(f"images:\n  {stubborn.KIND}: {stubborn.KIND}\n")

    def model(self, name: str, number: float = 1.0) -> Stubborn:
        return Stubborn(self.models / name, number)

    def running(self, *arguments: str | Path) -> Any:
        # A short hold: tests look often.
        given = ("--config", self._settings, "--allow-path", self.models, "--describe-hold-s", "0.05", *arguments)
        return support.running(*given, state_dir=self.state_dir, env=self._variables)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    return Desk(tmp_path)


def create(server: Server, name: str, model: Stubborn) -> Any:
    sagemaker = client(server)
    configure(sagemaker, name, model)
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    return sagemaker


def configure(sagemaker: Any, name: str, model: Stubborn) -> None:
    data = {"S3DataType": "S3Object", "CompressionType": "None", "S3Uri": model.file.as_uri()}
    container = {"Image": stubborn.KIND, "ModelDataSource": {"S3DataSource": data}}
    sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])


def status(server: Server, name: str) -> str:
    try:
        told: str = client(server).describe_endpoint(EndpointName=name)["EndpointStatus"]
    except ClientError as error:
        if "Could not find" not in str(error):
            raise
        return "gone"
    return told


def reason(server: Server, name: str) -> str:
    return str(client(server).describe_endpoint(EndpointName=name).get("FailureReason", ""))


def becomes(server: Server, name: str, wanted: str, within_s: float = WITHIN_S) -> None:
    wait_until(lambda: status(server, name) == wanted, within_s, f"{name} {wanted}")


def answers(server: Server, name: str, number: float = 1.0) -> bool:
    answer = post(server, f"/endpoints/{name}/invocations", [ROW])
    return answer.status == 200 and answer.json == [[value + number for value in ROW]]


def test_a_load_that_ends_its_worker_fails_its_endpoint_alone(desk: Desk) -> None:
    with desk.running("--workers", "2") as server:
        create(server, "good", desk.model("good"))
        becomes(server, "good", "InService")
        bad = desk.model("bad")
        bad.will("kill")
        create(server, "bad", bad)
        becomes(server, "bad", "Failed")
        assert "ended" in reason(server, "bad")
        assert bad.loads == 2
        assert answers(server, "good")


def test_what_is_loaded_beside_a_load_that_ends_its_worker_is_served(desk: Desk) -> None:
    with desk.running() as server:
        bad = desk.model("bad")
        bad.will("kill")
        first = desk.model("first")
        first.will("hang")
        create(server, "first", first)
        wait_until(lambda: first.loads > 0, WITHIN_S, "a load")
        create(server, "bad", bad)
        wait_until(lambda: bad.loads > 0, WITHIN_S, "another load")
        first.will_not("hang")
        create(server, "second", desk.model("second"))
        becomes(server, "bad", "Failed")
        becomes(server, "first", "InService")
        becomes(server, "second", "InService")
        assert answers(server, "first")


@pytest.mark.parametrize("does", ["kill", "fail"])
def test_an_endpoint_that_cannot_be_loaded_any_more_does_not_keep_the_server_from_starting(
    desk: Desk, does: str
) -> None:
    bad = desk.model("bad")
    with desk.running("--workers", "2") as server:
        for name, model in (("bad", bad), ("good", desk.model("good"))):
            create(server, name, model)
            becomes(server, name, "InService")
    bad.will(does)
    with desk.running("--workers", "2") as server:
        assert answers(server, "good")
        becomes(server, "bad", "OutOfService")
        assert SAID[does] in reason(server, "bad")
        assert bad.loads < 12
        create(server, "new", desk.model("new", 2.0))
        becomes(server, "new", "InService")
        assert answers(server, "new", 2.0)
        client(server).delete_endpoint(EndpointName="bad")
        becomes(server, "bad", "gone")


@pytest.mark.parametrize(("does", "workers"), [("kill", "1"), ("fail", "2")])
def test_a_new_worker_that_cannot_load_an_endpoint_serves_the_others(desk: Desk, does: str, workers: str) -> None:
    with desk.running("--workers", workers) as server:
        bad = desk.model("bad")
        for name, model in (("bad", bad), ("good", desk.model("good"))):
            create(server, name, model)
            becomes(server, name, "InService")
        bad.will(does)
        before = worker_pids(server)
        os.kill(min(before), signal.SIGKILL)
        becomes(server, "bad", "OutOfService")
        assert SAID[does] in reason(server, "bad")
        wait_until(lambda: len(worker_pids(server)) == int(workers), WITHIN_S, "another worker")
        for _ in range(10):
            assert answers(server, "good")
            assert post(server, "/endpoints/bad/invocations", [ROW]).status == 400
        bad.will_not(does)
        client(server).delete_endpoint(EndpointName="bad")
        becomes(server, "bad", "gone")


def test_a_worker_that_ends_while_another_loads_keeps_nobody_waiting(desk: Desk) -> None:
    with desk.running("--workers", "2") as server:
        model = desk.model("one")
        model.will("hang")
        create(server, "one", model)
        wait_until(lambda: model.loads > 0, WITHIN_S, "a load")
        loading = int((desk.models / "one" / "loads").read_text().split()[0])
        before = {process.pid for process in server.children()}
        (other,) = before - {loading}
        os.kill(other, signal.SIGKILL)
        wait_until(lambda: "starting another" in server.output, WITHIN_S, "another worker")
        model.will_not("hang")
        becomes(server, "one", "InService")


def test_an_endpoint_is_deleted_while_its_load_hangs_and_made_again(desk: Desk) -> None:
    with desk.running() as server:
        create(server, "quick", desk.model("quick"))
        becomes(server, "quick", "InService")
        models = [desk.model(f"bad{number}") for number in range(5)]
        for number, model in enumerate(models):
            model.will("hang")
            sagemaker = create(server, f"bad{number}", model)
        wait_until(lambda: sum(model.loads for model in models) >= 2, WITHIN_S, "loads")
        for number in range(5):
            sagemaker.delete_endpoint(EndpointName=f"bad{number}")
        for number in range(5):
            becomes(server, f"bad{number}", "gone", 5)
        for model in models:
            model.will_not("hang")
        sagemaker.create_endpoint(EndpointName="bad0", EndpointConfigName="bad0")
        becomes(server, "bad0", "InService")
        assert answers(server, "bad0")


def test_an_update_whose_load_hangs_can_be_deleted_and_the_old_serves_until_then(desk: Desk) -> None:
    with desk.running("--workers", "2") as server:
        sagemaker = create(server, "one", desk.model("one"))
        becomes(server, "one", "InService")
        model = desk.model("two", 2.0)
        model.will("hang")
        configure(sagemaker, "two", model)
        sagemaker.update_endpoint(EndpointName="one", EndpointConfigName="two")
        wait_until(lambda: model.loads > 0, WITHIN_S, "a load")
        assert status(server, "one") == "Updating"
        assert answers(server, "one")
        sagemaker.delete_endpoint(EndpointName="one")
        becomes(server, "one", "gone")
        assert post(server, "/endpoints/one/invocations", [ROW]).status == 400
        model.will_not("hang")
        sagemaker.create_endpoint(EndpointName="one", EndpointConfigName="two")
        becomes(server, "one", "InService")
        assert answers(server, "one", 2.0)


def test_loads_that_hang_hold_up_no_others(desk: Desk) -> None:
    with desk.running() as server:
        # More than are loaded at a time.
        for number in range(3):
            model = desk.model(f"bad{number}")
            model.will("hang")
            create(server, f"bad{number}", model)
        create(server, "good", desk.model("good"))
        becomes(server, "good", "InService", 30)
        assert answers(server, "good")
        server.terminate(5)


def test_a_server_ends_amid_a_load_that_hangs_and_takes_it_up_again(desk: Desk) -> None:
    model = desk.model("one")
    model.will("hang")
    with desk.running() as server:
        create(server, "one", model)
        wait_until(lambda: model.loads > 0, WITHIN_S, "a load")
        assert server.terminate(5) == 0
    model.will_not("hang")
    with desk.running() as server:
        becomes(server, "one", "InService")
