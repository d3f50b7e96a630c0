"""The logging extension: what all processes of a server log, changed by callers while it runs."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from serving.errors import BadRequest, ServingError, Unsupported
from serving.frontends.log_settings import log_settings
from serving.processes.adjustments import Adjustments
from serving.processes.channel import Ask
from serving.settings import Settings
from serving.telemetry import logs
from tests.conftest import StartServer
from tests.support.clients import get, post, worker_pids
from tests.support.server import Server, wait_until
from tests.support.versioned import version

LOGGED_WITHIN_S = 5.0
REPLACED_WITHIN_S = 15.0
USUAL = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
PARAMETERS = {bool: "bool_param", int: "uint32_param", str: "string_param"}


class Supervised:
    """The settings of a server, asked without any process."""

    def __init__(self, state_dir: Path, **settings: Any) -> None:
        self.adjustments = Adjustments(Settings(state_dir=state_dir, **settings), lambda: ())

    async def setting(self, what: str, name: str | None, changes: bytes) -> bytes:
        return self.adjustments.carry_out(Ask(0, what, name, changes))[0]

    def log(self, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        found = asyncio.run(log_settings(self, changes))
        settings = {name: {PARAMETERS[type(value)]: value} for name, value in found.items()}
        ParseDict({"settings": settings}, service_pb2.LogSettingsResponse())
        return found


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """This process logs after a test as it did before."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    filters = [list(handler.filters) for handler in handlers]
    serving, serving_level = logging.getLogger("serving"), logging.getLogger("serving").level
    yield
    serving.setLevel(serving_level)
    root.handlers[:] = handlers
    for handler, before in zip(handlers, filters, strict=True):
        handler.filters[:] = before
    root.setLevel(level)


# ---------------------------------------------------------------------- the settings


@pytest.mark.parametrize(
    ("level", "changed"),
    [
        ("debug", {"log_verbose_level": 1}),
        ("info", {}),
        ("warning", {"log_info": False}),
        ("error", {"log_info": False, "log_warning": False}),
    ],
)
def test_what_the_server_was_started_with(tmp_path: Path, level: str, changed: dict[str, Any]) -> None:
    assert Supervised(tmp_path, log_level=level).log() == {**USUAL, **changed}


def test_changes_are_kept(tmp_path: Path) -> None:
    server = Supervised(tmp_path)
    assert server.log({}) == USUAL
    assert server.log({"log_info": False, "log_verbose_level": 3, "log_file": ""}) == {
        **USUAL,
        "log_info": False,
        "log_verbose_level": 3,
    }
    assert server.log({"log_error": False, "log_format": "ISO8601"})["log_verbose_level"] == 3
    assert server.log(USUAL) == USUAL
    assert server.adjustments.message.logs == logs.Enabled()


def test_a_log_of_json_has_whole_dates(tmp_path: Path) -> None:
    server = Supervised(tmp_path, log_format="json")
    assert server.log({"log_format": "ISO8601"})["log_format"] == "ISO8601"
    with pytest.raises(Unsupported, match="--log-format human"):
        server.log({"log_format": "default", "log_info": False})
    assert server.log() == {**USUAL, "log_format": "ISO8601"}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"log_info": 0}, BadRequest, "log_info' is 0; true or false was expected"),
        ({"log_warning": "true"}, BadRequest, "log_warning' is 'true'"),
        ({"log_error": None}, BadRequest, "log_error' is None"),
        (
            {"log_verbose_level": -1},
            BadRequest,
            "log_verbose_level' is -1; an integer from 0 to 4294967295 was expected",
        ),
        ({"log_verbose_level": 2**32}, BadRequest, "log_verbose_level"),
        ({"log_verbose_level": True}, BadRequest, "log_verbose_level' is True"),
        ({"log_verbose_level": 1.0}, BadRequest, "log_verbose_level"),
        ({"log_format": "iso8601"}, BadRequest, "log_format' is 'iso8601'; default or ISO8601 was expected"),
        ({"log_format": ["default"]}, BadRequest, "log_format"),
        ({"log_file": "/tmp/elsewhere"}, Unsupported, "log_file' cannot be changed"),
        ({"log_file": 1}, BadRequest, "log_file' is 1; a string was expected"),
        ({"log_warnings": True}, BadRequest, "there is no log setting 'log_warnings'; log_file, log_info, log_warning"),
    ],
)
def test_what_is_refused_changes_nothing(
    tmp_path: Path, changes: dict[str, Any], kind: type[ServingError], words: str
) -> None:
    server = Supervised(tmp_path)
    with pytest.raises(kind, match=words):
        server.log({"log_info": False, **changes})
    assert server.log() == USUAL


@pytest.mark.parametrize("form", ["human", "json"])
def test_what_passes(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("worker 3", form, "info")
    log = logging.getLogger("serving.test")

    def passed(enabled: logs.Enabled) -> list[str]:
        logs.adjust(enabled)
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            log.log(level, "at %s", logging.getLevelName(level).lower())
        return re.findall(r"at (\w+)", capsys.readouterr().err)

    assert passed(logs.Enabled()) == ["info", "warning", "error", "critical"]
    assert passed(logs.Enabled(verbose=1)) == ["debug", "info", "warning", "error", "critical"]
    assert passed(logs.Enabled(info=False)) == ["warning", "error", "critical"]
    assert passed(logs.Enabled(warning=False)) == ["info", "error", "critical"]
    assert passed(logs.Enabled(error=False, verbose=2)) == ["debug", "info", "warning"]
    assert passed(logs.Enabled(info=False, warning=False, error=False)) == []
    assert passed(logs.Enabled.of("warning", form)) == ["warning", "error", "critical"]


def test_libraries_never_log_for_developers(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("supervisor", "human", "debug")
    for enabled in (logs.Enabled.of("debug", "human"), logs.Enabled(verbose=1)):
        logging.getLogger("botocore.parsers").debug("a body")
        logging.getLogger("serving.test").debug("no body")
        logs.adjust(enabled)
    logging.getLogger("botocore.parsers").debug("a body")
    logging.getLogger("serving.test").debug("no body")
    assert re.findall(r"(?:a|no) body", capsys.readouterr().err) == ["no body"] * 3


def test_the_logs_of_endpoints_stay_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("worker 3", "human", "info", tmp_path, "node")
    log = logging.getLogger("serving.test")
    kept = (logs.Enabled(info=False, warning=False, error=False), logs.Enabled(verbose=1))
    for number, enabled in enumerate(kept):
        logs.adjust(enabled)
        for level in (logging.DEBUG, logging.INFO, logging.ERROR):
            log.log(level, "%d at %d", number, level, extra={"endpoint": "fraud"})
    handler = logging.getLogger().handlers[1]
    handler.close()
    (file,) = (tmp_path / "fraud").rglob("*.jsonl")
    assert re.findall(r"\d at \d+", file.read_text()) == ["0 at 20", "0 at 40", "1 at 20", "1 at 40"]
    assert re.findall(r"\d at \d+", capsys.readouterr().err) == ["1 at 10", "1 at 20", "1 at 40"]


# ---------------------------------------------------------------------- a server of two workers


@pytest.fixture
def server(tmp_path: Path, start_server: StartServer) -> Server:
    version(tmp_path / "repository" / "m", 1)
    arguments = ("--model-repository", tmp_path / "repository", "--model-control-mode", "explicit", "--workers", "2")
    started = start_server(*arguments)
    wait_until(lambda: "ready\n" in started.output, 10, "both workers")
    return started


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as made:
        yield made


def logged(server: Server, client: triton.InferenceServerClient) -> list[str]:
    """What is logged of a load and an unload, in which all three processes have a part."""
    before = len(server.output)
    client.load_model("m")
    client.unload_model("m")
    return server.output[before:].splitlines()


def told(lines: list[str]) -> set[str]:
    """The processes that told something for people."""
    return {match[1] for line in lines if (match := re.search(r" (supervisor|worker \d) +INFO ", line))}


def test_all_processes_log_what_callers_want(server: Server, client: triton.InferenceServerClient) -> None:
    everybody = {"supervisor", "worker 0", "worker 1"}
    assert client.get_log_settings() == USUAL
    assert told(logged(server, client)) == everybody
    assert client.update_log_settings({"log_info": False}) == {**USUAL, "log_info": False}
    assert client.get_log_settings() == {**USUAL, "log_info": False}
    assert logged(server, client) == []
    client.update_log_settings({"log_info": True, "log_format": "ISO8601"})
    lines = logged(server, client)
    assert told(lines) == everybody
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ", line) for line in lines)
    assert "WARNING a caller changes what the log lets through: {'info': False}" in server.output


def test_a_new_worker_keeps_to_it(server: Server, client: triton.InferenceServerClient) -> None:
    client.load_model("m")
    client.update_log_settings({"log_info": False, "log_warning": False, "log_error": False})
    before, pids = len(server.output), worker_pids(server)
    os.kill(min(pids), signal.SIGKILL)
    wait_until(lambda: len(worker_pids(server)) == 2 and worker_pids(server) != pids, REPLACED_WITHIN_S, "a new worker")
    assert server.output[before:] == ""


def test_errors_over_http(server: Server, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="log_info' is 1; true or false was expected") as caught:
        client.update_log_settings({"log_info": 1})
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="log_file' cannot be changed") as caught:
        client.update_log_settings({"log_file": "/tmp/elsewhere"})
    assert caught.value.status() == "501"
    for body in (b"[]", b"{", b"null", b'{"log_info": true, "log_level": 1}'):
        answer = post(server, "/v2/logging", body)
        assert (answer.status, list(answer.json)) == (400, ["error"]), body
    assert get(server, "/v2/logging").json == post(server, "/v2/logging", {}).json == USUAL
