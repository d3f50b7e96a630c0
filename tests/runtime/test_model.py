"""A loaded model behind a real server: whose rows come back, why batches start, what is refused and when."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support import onnx_models as models
from tests.support import server as support
from tests.support.clients import ROW, Answer, Background, Caller, get, metric, post
from tests.support.server import Server, wait_until

Rows = list[list[float]]

SETTINGS = {
    "inline": "batching: {max_batch_size: 16}",
    "threaded": "batching: {max_batch_size: 16, inline_below_us: 0}",
    "delayed": "batching: {max_batch_size: 16, max_queue_delay_us: 3000}",
    "two-slots": "batching: {max_batch_size: 8, inline_below_us: 0}\nslots: 2",
    "padded": "batching: {max_batch_size: 16, max_queue_delay_us: 2000, pad_batch_to: [4, 16]}",
    "apart": "batching: {max_batch_size: 16, inline_below_us: 0, merge_requests: false}",
    "with-levels": "batching: {max_batch_size: 4, inline_below_us: 0, priority_levels: 3}",
}
"""Models that give rows and their sums back, each batched in another way."""

WHOLE = "batching: {max_batch_size: 8, max_queue_delay_us: 2000000}"
"""Eight rows are a batch, and nothing less is for two seconds."""


def place(model: Path, settings: str) -> None:
    (model.parent / "model.yaml").write_text(settings + "\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("models")
    for name, settings in SETTINGS.items():
        place(models.checked_echo(root / name / "model.onnx"), settings)
    place(models.checked_echo(root / "preferring" / "model.onnx"),
          "batching: {max_batch_size: 16, preferred_batch_sizes: [4], max_queue_delay_us: 300000}")  # fmt: skip
    place(models.checked_echo(root / "whole" / "model.onnx"), WHOLE)
    place(models.row_dropper(root / "dropper" / "model.onnx"), WHOLE)
    place(models.table(root / "table" / "model.onnx"), WHOLE)
    models.centred(root / "centred" / "model.onnx")
    models.slow(root / "slow" / "model.onnx", 250, rows=1)
    place(models.slow(root / "levels" / "model.onnx", 1000, rows=1),
          "batching: {priority_levels: 3, max_queue_wait_s: 20}")  # fmt: skip
    place(models.slow(root / "bounded" / "model.onnx", 250, rows=1), "batching: {max_queue_wait_s: 0.1}")
    place(models.slow(root / "impatient" / "model.onnx", 500, rows=1), "batching: {default_timeout_s: 0.1}")
    place(models.slow(root / "pair" / "model.onnx", 400, rows=1), "slots: 2")
    state_dir = tmp_path_factory.mktemp("model-tests") / "state"
    with support.running("--model-repository", root, state_dir=state_dir) as server:
        yield server


def path(name: str) -> str:
    return f"/endpoints/{name}/invocations"


def records(server: Server, name: str) -> list[dict[str, Any]]:
    """The model's last batches, newest first."""
    got: list[dict[str, Any]] = get(server, f"/debug/models/{name}/batches").json
    return got


def queued(server: Server, name: str) -> int:
    return int(metric(server, "serving_queue_requests", model=name))


def occupied(server: Server, name: str) -> list[Background]:
    """One request that runs and one that waits, on a model that runs one at a time."""
    first = Background(server, path(name), [[1, 0, 0, 0]])
    second = Background(server, path(name), [[2, 0, 0, 0]])
    wait_until(lambda: queued(server, name) == 1, 5, "a request that runs and one that waits")
    return [first, second]


def running(server: Server, name: str) -> Background:
    """One request that runs, on a model that had nothing to do."""
    assert post(server, path(name), [[0, 0, 0, 0]]).status == 200
    request = Background(server, path(name), [ROW])
    wait_until(lambda: summary(server, name)["predicted_wait_us"] > 0, 5, "a request that runs")
    return request


def summary(server: Server, name: str) -> dict[str, Any]:
    """What the server tells of the model."""
    (found,) = [each for each in get(server, "/debug/models").json if each["name"] == name]
    assert isinstance(found, dict)
    return found


def is_right(answer: Answer, rows: Rows) -> bool:
    expected = [{"y": row, "total": [sum(row)]} for row in rows]
    return answer.status == 200 and answer.json == {"predictions": expected}


# ---------------------------------------------------------------------- everybody gets their own rows


@pytest.mark.parametrize("name", SETTINGS)
def test_nobody_gets_the_rows_of_another(server: Server, name: str) -> None:
    """Callers that send rows of their own, hang up, come too late and make mistakes, all at once."""

    def call(number: int) -> int:
        """One caller's history; gives the number of answers that were checked."""
        chance = random.Random(number)
        checked = 0
        caller = Caller(server)
        for turn in range(40):
            # Small whole numbers, whose sums are exact in 32 bits.
            rows = [[float(number), float(turn), float(row), float(chance.randrange(1000))]
                    for row in range(chance.choice([1, 1, 1, 2, 3, 7, 20]))]  # fmt: skip
            kind = chance.choice(["plain"] * 7 + ["late", "wrong", "hang up"])
            if kind == "hang up":
                caller.send(path(name), {"instances": rows})
                caller.hang_up()
                continue
            headers = {"X_Serving_Timeout_Ms": "1"} if kind == "late" else {}
            if name == "with-levels":
                headers["X_Serving_Priority"] = str(chance.randrange(4))
            answer = caller.post(path(name), {"instances": [[1.0, 2.0]] if kind == "wrong" else rows}, **headers)
            if kind == "wrong":
                assert answer.json["OriginalStatusCode"] == 400, answer
            elif kind != "late" or answer.status == 200:
                assert is_right(answer, rows), (rows, answer)
                checked += 1
            else:
                assert answer.status in (424, 429), answer
        caller.hang_up()
        return checked

    with ThreadPoolExecutor(16) as pool:
        assert min(pool.map(call, range(16))) > 10
    wait_until(lambda: queued(server, name) == 0, 5, "an empty queue")
    wait_until(lambda: metric(server, "serving_in_flight_bytes") == 0, 5, "no bytes held")
    last = records(server, name)
    assert (max(record["requests"] for record in last) > 1) == (name != "apart")
    limit = {"two-slots": 8, "with-levels": 4}.get(name, 16)
    assert all(record["rows"] <= limit or record["requests"] == 1 for record in last)


def test_a_request_larger_than_a_batch(server: Server) -> None:
    rows = [[float(row), 1, 2, 3] for row in range(500)]
    assert is_right(post(server, path("threaded"), {"instances": rows}), rows)


def test_a_request_that_is_not_merged_is_one_run_of_all_its_rows(server: Server) -> None:
    rows = [[float(row), 1, 2, 3] for row in range(16)]
    assert is_right(post(server, path("apart"), {"instances": rows}), rows)
    batch = records(server, "apart")[0]
    assert (batch["requests"], batch["rows"]) == (1, 16)


def test_one_batch_of_eight_callers(server: Server) -> None:
    rows = [[float(number), 1, 2, 3] for number in range(8)]
    calls = [Background(server, path("whole"), {"instances": [row]}) for row in rows]
    for row, call in zip(rows, calls, strict=True):
        assert is_right(call.answer(), [row])
    batch = records(server, "whole")[0]
    assert (batch["requests"], batch["rows"], batch["reason"]) == (8, 8, "full")
    assert batch["queue_us"] < 2e6


# ---------------------------------------------------------------------- faults in a batch


def test_rows_that_cannot_be_told_apart_fail_alone(server: Server) -> None:
    """The model drops a row: its caller is told, and the other callers of the batch get their own."""
    values = [1.0, 2.0, 3.0, 9e6, 5.0, 6.0, 7.0, 8.0]
    calls = [Background(server, path("dropper"), [[value]]) for value in values]
    for value, call in zip(values, calls, strict=True):
        answer = call.answer()
        if value < 1e6:
            assert answer.json == [[value]]
        else:
            assert answer.status == 424
            assert answer.json["OriginalStatusCode"] == 500
            assert "output 'y' came back as 0 rows for a batch of 1 rows" in answer.json["OriginalMessage"]
            assert "cannot be told apart" in answer.json["OriginalMessage"]
    batches = records(server, "dropper")
    assert {batch["reason"] for batch in batches} == {"isolated"}
    assert sum(batch["requests"] for batch in batches) == 8


def test_a_row_that_the_model_fails_on_fails_alone(server: Server) -> None:
    indices = [0, 1, 99, 3, 4, -50, 6, 7]
    calls = [Background(server, path("table"), [[index]]) for index in indices]
    for index, call in zip(indices, calls, strict=True):
        answer = call.answer()
        if 0 <= index < 10:
            assert answer.json == [[index, -index]]
        else:
            assert answer.json["OriginalStatusCode"] == 500
            assert "the model failed while it ran" in answer.json["OriginalMessage"]
    assert metric(server, "sagemaker_invocation_model_errors_total", endpoint_name="table") == 2


# ---------------------------------------------------------------------- a model that cannot be batched


def test_a_model_that_cannot_be_batched_runs_each_request_alone(server: Server) -> None:
    requests = [[[float(number), 0, 0, 0], [0, float(row), 0, 0]] for number in range(5) for row in range(4)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda rows: post(server, path("centred"), rows), requests))
    for rows, answer in zip(requests, answers, strict=True):
        means = [sum(column) / 2 for column in zip(*rows, strict=True)]
        assert answer.json == [[value - mean for value, mean in zip(row, means, strict=True)] for row in rows]
    assert all(record["requests"] == 1 for record in records(server, "centred"))
    assert summary(server, "centred")["batched"] is False
    assert "rows influence each other" in summary(server, "centred")["why_not_batched"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("batching: {max_batch_size: 4}", "rows influence each other"),
        ("batching: {preferred_batch_sizes: [4]}", "batching names a size of 4 rows, over its max_batch_size of 1"),
        ("batching: {default_priority: 2}", "default_priority 2 is over priority_levels 1"),
        ("batching: {max_batch: 4}", "max_batch"),
        ("batching: {merge_requests: false, max_queue_delay_us: 5}", "are for requests that are merged"),
    ],
)
def test_settings_that_cannot_be_honoured(tmp_path: Path, settings: str, words: str) -> None:
    place(models.centred(tmp_path / "centred" / "model.onnx"), settings)
    server = support.start("--model", tmp_path / "centred", state_dir=tmp_path / "state")
    try:
        assert server.process.wait(20) == 1
        assert words in server.output
        assert len(server.output.splitlines()) == 1
    finally:
        server.end()


# ---------------------------------------------------------------------- how batches form


def test_padding(server: Server) -> None:
    before = metric(server, "serving_batch_padding_rows_total", model="padded")
    for count, padding in ((3, 1), (4, 0), (5, 11)):
        rows = [[float(row), 1, 2, 3] for row in range(count)]
        assert is_right(post(server, path("padded"), {"instances": rows}), rows)
        batch = records(server, "padded")[0]
        assert (batch["rows"], batch["padding_rows"]) == (count, padding)
    assert metric(server, "serving_batch_padding_rows_total", model="padded") == before + 12


def test_a_preferred_size_ends_the_queue_delay(server: Server) -> None:
    calls = [Background(server, path("preferring"), {"instances": [ROW]}) for _ in range(4)]
    assert all(is_right(call.answer(), [ROW]) for call in calls)
    batch = records(server, "preferring")[0]
    assert (batch["reason"], batch["rows"]) == ("preferred", 4)


def test_a_lone_request_waits_for_the_queue_delay_only(server: Server) -> None:
    answer = post(server, path("preferring"), {"instances": [ROW]}, X_Serving_Timing="1")
    assert is_right(answer, [ROW])
    batch = records(server, "preferring")[0]
    assert (batch["reason"], batch["rows"]) == ("delay", 1)
    assert 300e3 <= batch["queue_us"] < 1.5e6
    queue, rows, compute = answer.headers["server-timing"].split(", ")
    assert queue.startswith("queue;dur=")
    assert float(queue.removeprefix("queue;dur=")) >= 300
    assert rows == 'batch;desc="1 rows"'
    assert float(compute.removeprefix("compute;dur=")) > 0


def test_a_free_slot_does_not_wait(server: Server) -> None:
    assert is_right(post(server, path("threaded"), {"instances": [ROW]}), [ROW])
    batch = records(server, "threaded")[0]
    assert batch["reason"] in ("idle", "gap")
    assert batch["mode"] == "thread"
    assert {"requests", "queue_us", "compute_us", "ended_s_ago", "padding_rows"} < set(batch)


def test_a_fast_model_runs_on_the_loop(server: Server) -> None:
    for _ in range(200):
        assert is_right(post(server, path("inline"), {"instances": [ROW]}), [ROW])
    assert metric(server, "serving_batches_total", model="inline", mode="inline") > 0


def test_priorities(server: Server) -> None:
    """The highest goes first, though it came last; both faces can say it."""
    ended: list[str] = []

    def call(label: str, priority: int, *, v2: bool = False) -> None:
        if v2:
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": ROW}
            question = {"inputs": [tensor], "parameters": {"priority": priority}}
            assert post(server, "/v2/models/levels/infer", question).status == 200
        else:
            assert post(server, path("levels"), [ROW], X_Serving_Priority=str(priority)).status == 200
        ended.append(label)

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call, "running", 0)]
        wait_until(lambda: summary(server, "levels")["predicted_wait_us"] > 0, 5, "the first request")
        for count, (label, priority) in enumerate([("low", 3), ("low", 3), ("middle", 2)], 1):
            calls.append(pool.submit(call, label, priority))
            wait_until(lambda: queued(server, "levels") >= count, 5, "the next request")  # noqa: B023
        calls.append(pool.submit(call, "high", 1, v2=True))
        for done in calls:
            done.result()
    assert ended == ["running", "high", "middle", "low", "low"]


def test_two_slots_run_two_at_once(server: Server) -> None:
    calls = [Background(server, path("pair"), [ROW]) for _ in range(3)]
    wait_until(lambda: queued(server, "pair") == 1, 5, "two that run and one that waits")
    assert not any(call.done for call in calls)
    assert all(call.answer().status == 200 for call in calls)


# ---------------------------------------------------------------------- deadlines and refusals


def test_overload_is_refused_at_once(server: Server) -> None:
    calls = occupied(server, "bounded")
    seconds = []
    with Caller(server) as caller:
        for _ in range(5):
            began = time.perf_counter()
            answer = caller.post(path("bounded"), [ROW])
            seconds.append(time.perf_counter() - began)
            assert answer.status == 429
            assert answer.headers["x-amzn-errortype"] == "ThrottlingException"
            assert int(answer.headers["retry-after"]) >= 1
            assert "its bound is 0.1 s" in answer.json["Message"]
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": ROW}
        assert caller.post("/v2/models/bounded/infer", {"inputs": [tensor]}).status == 503
    assert min(seconds) < 0.05
    assert [call.answer().status for call in calls] == [200, 200]
    assert metric(server, "serving_queue_refused_total", model="bounded") == 6
    assert metric(server, "serving_refusal_seconds_count", endpoint_name="bounded") == 6
    assert metric(server, "serving_refusal_seconds_bucket", endpoint_name="bounded", le="0.05") == 6
    assert post(server, path("bounded"), [ROW]).status == 200


def test_a_wait_beyond_the_own_deadline_is_refused_at_once(server: Server) -> None:
    calls = occupied(server, "slow")
    answer = post(server, path("slow"), [ROW], X_Serving_Timeout_Ms="20")
    assert answer.status == 429
    assert "the deadline of the request is 0.020 s" in answer.json["Message"]
    assert [call.answer().status for call in calls] == [200, 200]


def test_the_deadline_of_a_request_that_runs(server: Server) -> None:
    before = metric(server, "serving_queue_expired_total", model="slow")
    answer = post(server, path("slow"), [ROW], X_Serving_Timeout_Ms="50", X_Serving_Timing="1")
    assert answer.status == 424
    assert answer.json["OriginalStatusCode"] == 0
    assert "timed out while waiting for a response" in answer.json["OriginalMessage"]
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": ROW}
    question = {"inputs": [tensor], "parameters": {"timeout": 50_000}}
    wait_until(lambda: records(server, "slow")[0]["ended_s_ago"] < 0.2, 5, "the end of the run")
    answer = post(server, "/v2/models/slow/infer", question)
    assert answer.status == 504
    assert "the deadline of 0.050 s passed before model 'slow' answered" in answer.json["error"]
    assert metric(server, "serving_queue_expired_total", model="slow") == before + 2


def test_the_deadline_of_a_request_that_waits(server: Server) -> None:
    """It is answered when its time is over, and never runs."""
    first = running(server, "slow")
    rows = metric(server, "serving_batch_rows_sum", model="slow")
    waiting = Background(server, path("slow"), [ROW], X_Serving_Timeout_Ms="40")
    assert waiting.answer().status == 424
    assert not first.done
    assert first.answer().status == 200
    assert metric(server, "serving_batch_rows_sum", model="slow") == rows + 1


def test_the_deadline_that_the_model_sets(server: Server) -> None:
    answer = post(server, path("impatient"), [ROW])
    assert answer.json["OriginalStatusCode"] == 0
    longer = post(server, path("impatient"), [ROW], X_Serving_Timeout_Ms="5000")
    assert longer.status in (424, 429)


def test_a_caller_that_hangs_up_in_the_queue_is_not_served(server: Server) -> None:
    cancelled = metric(server, "serving_queue_cancelled_total", model="slow")
    first, second = occupied(server, "slow")
    rows = metric(server, "serving_batch_rows_sum", model="slow")
    leaving = Caller(server)
    leaving.send(path("slow"), [ROW])
    wait_until(lambda: queued(server, "slow") == 2, 5, "the request of the caller that leaves")
    leaving.hang_up()
    wait_until(lambda: metric(server, "serving_queue_cancelled_total", model="slow") == cancelled + 1, 5, "its end")
    assert first.answer().status == second.answer().status == 200
    assert metric(server, "serving_batch_rows_sum", model="slow") == rows + 2


def test_a_model_that_fails_to_keep_up_does_not_hold_up_another(server: Server) -> None:
    calls = occupied(server, "slow")
    began = time.perf_counter()
    rows = [ROW]
    assert is_right(post(server, path("threaded"), {"instances": rows}), rows)
    assert not calls[1].done
    assert time.perf_counter() - began < 1
    for call in calls:
        call.answer()


def test_the_tensors_of_many_callers_with_other_shapes(start_server: StartServer, tmp_path: Path) -> None:
    """Only requests of one shape share a batch."""
    models.echo(tmp_path / "wide.onnx", "FP32")
    server = start_server("--model", tmp_path / "wide.onnx")
    sent = [[[float(number)] * (1 + number % 3)] for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda rows: post(server, "/invocations", rows), sent))
    assert [answer.json for answer in answers] == sent
