"""Models that change while they are served: nobody who calls them notices, but for the answers."""

from __future__ import annotations

import http.client
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import StartServer
from tests.support.clients import Answer, Caller, get, metric, post
from tests.support.onnx_models import slow
from tests.support.server import Server, wait_until
from tests.support.versioned import adder, broken, heavy, overwrite, remove, replace, version

POLL = ("--model-control-mode", "poll", "--repository-poll-s", "0.1")
WITHIN_S = 20.0
CALLERS = 6


class Load:
    """Callers that call one path without a pause; `seen` counts what was added to their rows, `failed` is all else.

    `broken_off` counts connections that ended without an answer.
    """

    def __init__(self, server: Server, path: str) -> None:
        self._server = server
        self._path = path
        self._ended = False
        self.seen: Counter[float] = Counter()
        self.failed: list[Answer] = []
        self.broken_off = 0

    def run(self, number: int) -> None:
        row = [float(number), 1.0, 2.0, 3.0]
        caller = Caller(self._server)
        while not self._ended:
            try:
                answer = caller.post(self._path, [row])
            except (OSError, http.client.HTTPException):
                self.broken_off += 1
                caller.hang_up()
                continue
            added = None
            if answer.status == 200:
                (got,) = answer.json
                (added, *others) = {after - before for before, after in zip(row, got, strict=True)}
                added = None if others else added
            if added is None:
                self.failed.append(answer)
            else:
                self.seen[added] += 1
        caller.hang_up()

    def stop(self) -> None:
        self._ended = True

    def wait_for(self, number: float, count: int = 20) -> None:
        """Returns when so many more answers have come that had the number added."""
        target = self.seen[number] + count
        wait_until(lambda: self.seen[number] >= target, WITHIN_S, f"answers of {number}")

    def wait_only(self, *numbers: float, count: int = 50) -> None:
        """Returns when none but these are answered any more."""

        def only() -> bool:
            before = Counter(self.seen)
            wait_until(lambda: self.seen.total() >= before.total() + count, WITHIN_S, "answers")
            return set(self.seen - before) <= set(numbers)

        wait_until(only, WITHIN_S, f"only answers of {numbers}")


@contextmanager
def load(server: Server, path: str = "/endpoints/m/invocations") -> Iterator[Load]:
    made = Load(server, path)
    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(made.run, number) for number in range(CALLERS)]
        try:
            yield made
        finally:
            made.stop()
            for call in calls:
                call.result()


def versions_of(server: Server, name: str = "m") -> list[str]:
    answer = get(server, f"/v2/models/{name}")
    return answer.json["versions"] if answer.status == 200 else []


def index(server: Server) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = post(server, "/v2/repository/index", b"").json
    return got


def reason(server: Server, name: str = "m") -> str:
    """Why a model's files cannot be served; "" where they can."""
    return " ".join(row["reason"] for row in index(server) if row["name"] == name and row.get("reason"))


def served(server: Server, name: str = "m") -> list[dict[str, Any]]:
    return [row for row in get(server, "/debug/models").json if row["name"] == name and "pid" in row]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One model, `m`, whose version 1 adds 1."""
    version(tmp_path / "repository" / "m", 1)
    return tmp_path / "repository"


@pytest.fixture
def server(repository: Path, start_server: StartServer) -> Server:
    started = start_server("--model-repository", repository, "--workers", "2", *POLL)
    wait_until(lambda: "ready\n" in started.output, 10, "both workers")
    return started


def test_everything_that_can_change_does_and_no_request_is_lost(server: Server, repository: Path) -> None:
    """Versions come, go, are replaced and broken, policies change: each answer is of a version in force, and none fails."""
    model = repository / "m"
    with load(server) as calls:
        calls.wait_for(1)
        # A newer version.
        version(model, 2)
        calls.wait_only(2)
        assert versions_of(server) == ["2"]
        # Its file replaced at once, then written over where it lies.
        replace(model / "2" / "model.onnx", 20)
        calls.wait_only(20)
        overwrite(model / "2" / "model.onnx", adder(repository / ".other" / "model.onnx", 21).read_bytes())
        calls.wait_only(21)
        # A broken newer one, and a broken replacement, change nothing.
        broken(model, 3)
        wait_until(lambda: "3" in str(index(server)), WITHIN_S, "the broken version in the index")
        overwrite(model / "2" / "model.onnx", b"garbage")
        wait_until(lambda: "its files on disk cannot be served" in reason(server), WITHIN_S, "the reason in the index")
        calls.wait_only(21)
        # A good one takes their place; the policy brings an old one back beside it.
        remove(model / "3")
        version(model, 4)
        calls.wait_only(4)
        (model / "model.yaml").write_text("version_policy: {specific: [1, 4]}\n")
        wait_until(lambda: versions_of(server) == ["1", "4"], WITHIN_S, "versions 1 and 4")
        calls.wait_only(4)
        # The newest goes.
        (model / "model.yaml").write_text("version_policy: {specific: [1]}\n")
        calls.wait_only(1)
        # Settings that cannot be read leave it as it is, and better ones come into force.
        (model / "model.yaml").write_text("version_policy: {newest: 1}\n")
        wait_until(lambda: "unknown field newest" in reason(server), WITHIN_S, "the reason in the index")
        calls.wait_for(1)
        (model / "model.yaml").unlink()
        calls.wait_only(4)
    assert calls.failed == []
    assert calls.broken_off == 0
    assert set(calls.seen) == {1.0, 2.0, 20.0, 21.0, 4.0}
    assert "Traceback" not in server.output
    assert metric(server, "serving_worker_starts_total") == 2


def test_versions_are_served_side_by_side(server: Server, repository: Path) -> None:
    model = repository / "m"
    (model / "model.yaml").write_text("version_policy: {latest: 2}\n")
    version(model, 2)
    version(model, 3)
    wait_until(lambda: versions_of(server) == ["2", "3"], WITHIN_S, "versions 2 and 3")
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}]}
    for path, expected in (("", "3"), ("/versions/2", "2"), ("/versions/3", "3")):
        answer = post(server, f"/v2/models/m{path}/infer", body).json
        assert (answer["model_version"], answer["outputs"][0]["data"][0]) == (expected, float(expected))
    assert get(server, "/v2/models/m/versions/2").json["versions"] == ["2"]
    for asked, status in (("/versions/2", 200), ("/versions/3", 200), ("/versions/1", 404), ("", 200)):
        assert get(server, f"/v2/models/m{asked}/ready").status == status
    unknown = post(server, "/v2/models/m/versions/1/infer", body)
    assert unknown.status == 404
    assert "version 1 is not found; it serves version 3, 2" in unknown.json["error"]
    assert metric(server, "serving_batch_rows_sum", model="m", version="2") == 1
    assert metric(server, "serving_batch_rows_sum", model="m", version="3") == 2
    assert metric(server, "sagemaker_invocations_total", endpoint_name="m") == 3
    assert {row["version"] for row in served(server)} == {"2", "3"}
    assert {record["version"] for record in get(server, "/debug/models/m/batches").json} == {"2", "3"}


def test_models_come_and_go(server: Server, repository: Path) -> None:
    adder(repository / ".new" / "model.onnx", 7)
    (repository / ".new").rename(repository / "n")
    wait_until(lambda: bool(versions_of(server, "n")), WITHIN_S, "the new model")
    assert post(server, "/endpoints/n/invocations", [[0, 0, 0, 0]]).json == [[7, 7, 7, 7]]
    adder(repository / "flat.onnx", 8)
    wait_until(lambda: bool(versions_of(server, "flat")), WITHIN_S, "the new file")
    # With several there is no default any more.
    assert post(server, "/invocations", [[0, 0, 0, 0]]).status == 404
    remove(repository / "n")
    (repository / "flat.onnx").unlink()
    wait_until(lambda: not versions_of(server, "n") and not versions_of(server, "flat"), WITHIN_S, "their end")
    assert post(server, "/endpoints/n/invocations", [[0, 0, 0, 0]]).status == 400
    assert post(server, "/invocations", [[0, 0, 0, 0]]).json == [[1, 1, 1, 1]]
    assert [row["name"] for row in index(server)] == ["m"]
    assert metric(server, "serving_endpoint_in_service", endpoint_name="n") == 0


def test_why_is_told_everywhere(server: Server, repository: Path) -> None:
    broken(repository / "m", 2)
    (repository / "bad").mkdir()
    (repository / "bad" / "model.yaml").write_text("slotz: 1\n")
    wait_until(
        lambda: "slotz" in reason(server, "bad") and "cannot be loaded" in reason(server), WITHIN_S, "the reasons"
    )
    rows = {(row["name"], row.get("version")): row for row in index(server)}
    assert rows["m", "1"] == {"name": "m", "version": "1", "state": "READY", "reason": ""}
    assert rows["m", "2"]["state"] == rows["bad", None]["state"] == "UNAVAILABLE"
    assert [row["name"] for row in post(server, "/v2/repository/index", {"ready": True}).json] == ["m"]
    told = {row["name"]: row for row in get(server, "/debug/models").json if "pid" not in row}
    assert set(told) == {"m", "bad"}
    assert told["m"]["reason"] == rows["m", "2"]["reason"]
    assert metric(server, "serving_model_unavailable", model="m", version="2") == 1
    assert metric(server, "serving_model_loads_total", model="m", outcome="failed") == 1
    assert "model m version 2 cannot be served" in server.output
    # It is not tried again until it changes.
    replace(repository / "m" / "2" / "model.onnx", 2)
    wait_until(lambda: versions_of(server) == ["2"], WITHIN_S, "version 2")
    assert metric(server, "serving_model_loads_total", model="m", outcome="failed") == 1
    assert metric(server, "serving_model_unavailable", model="m") == 0


def test_names_that_are_no_text_are_told_and_harm_nothing(server: Server, repository: Path) -> None:
    """A file system takes any bytes as a name, JSON and metrics do not."""
    (repository / os.fsdecode(b"bad\xff.onnx")).touch()
    within = adder(repository / ".l" / "model.onnx", 9)
    within.rename(within.parent / os.fsdecode(b"latin\xe9.onnx"))
    within.parent.rename(repository / "l")
    wait_until(lambda: reason(server, "bad\\udcff") != "" and reason(server, "l") != "", WITHIN_S, "both reasons")
    assert "cannot be a model's name" in reason(server, "bad\\udcff")
    assert "latin\\udce9.onnx: the path is not UTF-8" in reason(server, "l")
    assert metric(server, "serving_model_unavailable", model="bad\\\\udcff") == 1
    assert {row["name"] for row in get(server, "/debug/models").json} == {"m", "l", "bad\\udcff"}
    assert post(server, "/endpoints/m/invocations", [[0, 0, 0, 0]]).json == [[1, 1, 1, 1]]
    assert "Traceback" not in server.output


def test_settings_that_are_no_text_or_number_stop_no_other_model(server: Server, repository: Path) -> None:
    """Workers could not even be told of them."""
    for name, settings in (
        ("text", 'environment: {A: "\\ud800"}'),
        ("number", f"inputs: [{{name: x, shape: [{10**30}]}}]"),
    ):
        version(repository / f".{name}", 1)
        (repository / f".{name}" / "model.yaml").write_text(settings + "\n")
        (repository / f".{name}").rename(repository / name)
    version(repository / "m", 2)
    wait_until(lambda: versions_of(server) == ["2"], WITHIN_S, "version 2")
    for name in ("text", "number"):
        assert "hold a number or a text that is none" in reason(server, name)
    assert "Traceback" not in server.output


def test_hidden_files_reload_nothing(server: Server, repository: Path) -> None:
    loads = metric(server, "serving_model_loads_total", model="m")
    (repository / "m" / "1" / ".model.onnx.converted").write_bytes(b"cache")
    (repository / "m" / ".git").mkdir()
    # A change that is seen proves that the others were looked at.
    version(repository / "n", 1)
    wait_until(lambda: bool(versions_of(server, "n")), WITHIN_S, "the new model")
    assert metric(server, "serving_model_loads_total", model="m") == loads


def test_a_file_that_is_still_written_is_not_picked_up(server: Server, repository: Path) -> None:
    whole = adder(repository / ".other" / "model.onnx", 2).read_bytes()
    (repository / "m" / "2").mkdir()
    with (repository / "m" / "2" / "model.onnx").open("wb") as file:
        grown = 0

        def grow() -> bool:
            """Adds a byte whenever it is asked, far more often than the server looks."""
            nonlocal grown
            file.write(whole[grown : grown + 1])
            file.flush()
            grown += 1
            return grown == len(whole)

        wait_until(grow, WITHIN_S, "the whole file")
    wait_until(lambda: versions_of(server) == ["2"], WITHIN_S, "version 2")
    assert "cannot be served" not in server.output


def test_a_worker_killed_in_a_reload_converges(server: Server, repository: Path) -> None:
    for number in (2, 3):
        victims = [
            process for process in server.children() if "serving.processes.worker" in " ".join(process.cmdline())
        ]
        assert len(victims) == 2
        with load(server) as calls:
            calls.wait_for(number - 1)
            loads = server.output.count(f"m version {number} loaded")
            version(repository / "m", number)
            wait_until(lambda: server.output.count(f"m version {number} loaded") > loads, WITHIN_S, "a load")  # noqa: B023
            os.kill(victims[number - 2].pid, signal.SIGKILL)
            calls.wait_only(number)
        assert calls.failed == []
        # Only connections of the one that was killed.
        assert calls.broken_off <= CALLERS
        wait_until(lambda: len({row["pid"] for row in served(server)}) == 2, WITHIN_S, "both workers")
        assert {row["version"] for row in served(server)} == {str(number)}


def test_a_worker_that_is_killed_comes_back_with_what_was_served(server: Server, repository: Path) -> None:
    """Though by then the files on disk are broken."""
    overwrite(repository / "m" / "1" / "model.onnx", b"garbage")
    wait_until(lambda: "cannot be served" in reason(server), WITHIN_S, "the reason")
    before = {row["pid"] for row in served(server)}
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len({row["pid"] for row in served(server)} - before) == 1, WITHIN_S, "a new worker")
    for _ in range(20):
        assert post(server, "/endpoints/m/invocations", [[0, 0, 0, 0]]).json == [[1, 1, 1, 1]]


def test_requests_in_flight_are_answered_by_the_version_that_they_came_to(
    repository: Path, start_server: StartServer
) -> None:
    """Also those that wait in its queue, and bodies that are still decoded; then it is closed."""
    model = repository / "s"
    slow(model / "1" / "model.onnx", 400, rows=1)
    (model / "model.yaml").write_text("warmup: false\n")
    server = start_server("--model-repository", repository, *POLL)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(post, server, "/endpoints/s/invocations", [[1, 2, 3, 4]]) for _ in range(3)]
        wait_until(lambda: metric(server, "serving_queue_requests", model="s") == 2, 10, "two that wait")
        version(model, 5)
        wait_until(lambda: versions_of(server, "s") == ["5"], WITHIN_S, "version 5")
        assert post(server, "/endpoints/s/invocations", [[0, 0, 0, 0]]).json == [[5, 5, 5, 5]]
        for call in calls:
            assert call.result().json == [[1, 2, 3, 4]]


def test_bulk_bodies_are_not_lost(repository: Path, start_server: StartServer) -> None:
    """They are decoded on threads, while the model that they were for is replaced."""
    server = start_server("--model-repository", repository, *POLL)
    rows = [[0.0, 0.0, 0.0, 0.0]] * 20_000

    def call(_: int) -> list[Answer]:
        with Caller(server) as caller:
            return [caller.post("/endpoints/m/invocations", rows) for _ in range(12)]

    with ThreadPoolExecutor(3) as pool:
        calls = pool.map(call, range(3))
        for number in range(2, 8):
            version(repository / "m", number)
            wait_until(lambda: versions_of(server) == [str(number)], WITHIN_S, "the next version")  # noqa: B023
        answers = [answer for each in calls for answer in each]
    assert {answer.status for answer in answers} == {200}
    for answer in answers:
        values = {value for row in answer.json for value in row}
        assert len(values) == 1
        assert values < {float(number) for number in range(1, 8)}


def test_memory_and_threads_of_old_versions_are_given_back(repository: Path, start_server: StartServer) -> None:
    weights = 24 * 1024 * 1024
    model = repository / "big"
    server = start_server("--model-repository", repository, *POLL)
    (worker,) = [row["pid"] for row in served(server)]
    process = psutil.Process(worker)

    def reload(number: int) -> None:
        made = heavy(repository / f".big-{number}" / "model.onnx", number, weights).parent
        model.mkdir(exist_ok=True)
        made.rename(model / str(number))
        wait_until(lambda: versions_of(server, "big") == [str(number)], WITHIN_S, "the next version")
        assert post(server, "/endpoints/big/invocations", [[0, 0, 0, 0]]).json == [[number] * 4]
        for old in sorted(model.iterdir())[:-1]:
            remove(old)

    for number in range(1, 4):
        reload(number)
    before, threads = process.memory_info().rss, process.num_threads()
    for number in range(4, 9):
        reload(number)
    wait_until(lambda: process.memory_info().rss < before + 2 * weights, 5, "memory given back")
    assert process.num_threads() <= threads + 2
    wait_until(lambda: len(staged(server)) == 2, WITHIN_S, "the end of old copies")


def staged(server: Server) -> list[Path]:
    """The copies that the server keeps of models."""
    return [path for path in (server.state_dir / "staged").iterdir() if not path.name.startswith(".")]


def test_a_repository_that_cannot_be_read_changes_nothing(server: Server, repository: Path) -> None:
    repository.rename(repository.with_name("away"))
    wait_until(lambda: "what is served stays as it is" in server.output, WITHIN_S, "the error in the log")
    assert post(server, "/endpoints/m/invocations", [[0, 0, 0, 0]]).json == [[1, 1, 1, 1]]
    repository.with_name("away").rename(repository)
    version(repository / "m", 2)
    wait_until(lambda: versions_of(server) == ["2"], WITHIN_S, "version 2")


def test_a_server_that_polls_starts_with_what_can_be_served(repository: Path, start_server: StartServer) -> None:
    """An older version in place of a broken one, and everything but what is broken altogether."""
    broken(repository / "m", 2)
    version(repository / "n", 2)
    version(repository / "n", 3).joinpath("model.onnx").rename(repository / "n" / "3" / "a.onnx")
    (repository / "n" / "3" / "b.onnx").touch()
    (repository / "bad").mkdir()
    (repository / "bad" / "model.onnx").write_bytes(b"no graph")
    server = start_server("--model-repository", repository, *POLL)
    assert (versions_of(server), versions_of(server, "n"), versions_of(server, "bad")) == (["1"], ["2"], [])
    assert f"{repository}/m/2/model.onnx cannot be loaded" in reason(server)
    assert f"{repository}/n/3 holds 2 .onnx files" in reason(server, "n")
    assert f"{repository}/bad/model.onnx cannot be loaded" in reason(server, "bad")


def test_without_polling_nothing_changes(repository: Path, start_server: StartServer) -> None:
    server = start_server("--model-repository", repository)
    polling = start_server("--model-repository", repository, *POLL)
    version(repository / "m", 2)
    wait_until(lambda: versions_of(polling) == ["2"], WITHIN_S, "version 2 where it is polled for")
    assert versions_of(server) == ["1"]
    assert index(server) == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
    assert not (server.state_dir / "staged").exists()
