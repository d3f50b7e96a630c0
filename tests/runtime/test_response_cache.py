"""The response cache: nobody gets another input's answer, its bytes hold, and a server that keeps answers answers right."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.codecs.base import Column
from serving.contract import Array
from serving.runtime.response_cache import MOST_EVICTED, ResponseCache, compact, key_of, size_of
from tests.support import onnx_models as models
from tests.support import server as support
from tests.support.clients import Answer, Background, Caller, get, metric, post
from tests.support.server import Server, wait_until
from tests.support.versioned import adder, replace

ROOMY = 1 << 30


def outputs(value: float, columns: int = 4) -> list[Array]:
    return [np.full((1, columns), value, np.float32)]


def key(number: int) -> tuple[int, Any, bytes]:
    return key_of(1, None, (number.to_bytes(16, "little"),))


# ---------------------------------------------------------------------- keys

Input = tuple[int, tuple[tuple[int, ...], ...] | None, tuple[Column, ...]]


@st.composite
def same_shaped(draw: st.DrawFn) -> tuple[Input, Input]:
    """Two inputs that one model may get: equal rows and shapes, so that only their values tell them apart."""
    rows = draw(st.integers(1, 3))
    kinds = draw(st.lists(st.sampled_from(["bytes", "numbers"]), min_size=1, max_size=3))

    def columns() -> tuple[Column, ...]:
        return tuple(
            draw(st.lists(st.binary(max_size=3), min_size=rows, max_size=rows))
            if kind == "bytes"
            else draw(st.binary(min_size=4 * rows, max_size=4 * rows))
            for kind in kinds
        )

    return (rows, None, columns()), (rows, None, columns())


@given(same_shaped())
@settings(max_examples=400, deadline=None)
def test_inputs_have_one_key_when_they_are_equal_and_never_otherwise(pair: tuple[Input, Input]) -> None:
    one, other = pair
    assert (key_of(*one) == key_of(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, None, ([b"ab", b"c"],)), (1, None, ([b"a", b"bc"],))),
        ((2, None, ([b"", b"a"],)), (2, None, ([b"a", b""],))),
        ((1, None, ([b"a"], [b"b"])), (1, None, ([b"ab"], [b""]))),
        ((1, ((2, 3),), (bytes(24),)), (1, ((3, 2),), (bytes(24),))),
        ((1, ((6,),), (bytes(24),)), (2, ((3,),), (bytes(24),))),
        ((1, None, (b"\0\0\0\0",)), (1, None, (b"\0\0\0\x80",))),
    ],
    ids=["elements", "order", "columns", "shapes", "rows", "minus zero"],
)
def test_inputs_that_look_alike_have_different_keys(one: Input, other: Input) -> None:
    assert key_of(*one) != key_of(*other)


def test_a_key_does_not_depend_on_what_holds_the_bytes() -> None:
    assert key_of(1, None, (b"abcd",)) == key_of(1, None, (memoryview(b"xabcd")[1:],))
    assert key_of(1, None, (b"abcd",)) == key_of(1, None, (bytearray(b"abcd"),))


# ---------------------------------------------------------------------- entries


def test_an_entry_holds_its_own_rows_alone_and_cannot_be_changed() -> None:
    batch = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    part = ResponseCache(ROOMY).partition("m", "1")
    part.put(key(1), [batch[7:8]])
    batch[:] = 0
    found = part.get(key(1))
    assert found is not None
    assert found[0].tolist() == [[28, 29, 30, 31]]
    assert found[0].base is None
    with pytest.raises(ValueError, match="read-only"):
        found[0][0, 0] = 1


def test_copies_are_not_copied_again() -> None:
    first = compact([np.zeros(3)[:2], np.zeros(())])
    assert all(one is other for one, other in zip(first, compact(first), strict=True))


def test_texts_count_with_all_that_they_take() -> None:
    texts = np.empty((1, 2), object)
    texts[:] = [[b"x" * 1000, b""]]
    assert size_of(key(1), [texts]) > 1000 + size_of(key(1), [])


@pytest.mark.parametrize("columns", [1, 30, 3000])
@pytest.mark.parametrize("signature", [None, ((3, 4), (5,))])
def test_what_is_counted_is_at_least_what_is_taken(columns: int, signature: Any) -> None:
    cache = ResponseCache(ROOMY)
    part = cache.partition("m", "1")
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1000):
            shapes = None if signature is None else (*signature, (number,))
            part.put(key_of(1, shapes, (number.to_bytes(16, "little"),)), outputs(number, columns))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(part) == 1000
    assert 0.6 * cache.bytes < after - before <= cache.bytes


def test_the_entry_that_was_used_longest_ago_goes_first_whoever_it_belongs_to() -> None:
    size = size_of(key(1), outputs(1))
    cache = ResponseCache(3 * size)
    one, other = cache.partition("one", "1"), cache.partition("other", "1")
    one.put(key(1), outputs(1))
    other.put(key(2), outputs(2))
    one.put(key(3), outputs(3))
    assert one.get(key(1)) is not None
    one.put(key(4), outputs(4))
    assert other.get(key(2)) is None
    assert one.get(key(1)) is not None
    assert one.get(key(3)) is not None
    assert (one.counts.evictions, other.counts.evictions) == (0, 1)


def test_an_entry_that_is_asked_for_stays() -> None:
    part = ResponseCache(3 * size_of(key(1), outputs(1))).partition("m", "1")
    for number in (1, 2, 3):
        part.put(key(number), outputs(number))
    assert part.get(key(1)) is not None
    part.put(key(4), outputs(4))
    assert [number for number in (1, 2, 3, 4) if part.get(key(number)) is not None] == [1, 3, 4]


def test_an_answer_larger_than_all_there_is_costs_nobody_a_place() -> None:
    cache = ResponseCache(4096)
    part = cache.partition("m", "1")
    part.put(key(1), outputs(1))
    part.put(key(2), outputs(2, columns=2000))
    assert part.get(key(1)) is not None
    assert part.get(key(2)) is None
    assert part.counts.too_large == 1


def test_making_room_for_one_answer_takes_a_bounded_time() -> None:
    size = size_of(key(1), outputs(1))
    cache = ResponseCache(1000 * size)
    part = cache.partition("m", "1")
    for number in range(1000):
        part.put(key(number), outputs(number))
    part.put(key(-1 % 2**64), [np.zeros(1000 * size // 8 - 100)])
    assert part.counts.evictions == MOST_EVICTED
    assert part.counts.too_large == 1
    assert len(part) == 1000 - MOST_EVICTED


def test_a_model_that_ends_leaves_nothing_and_the_next_counts_on() -> None:
    cache = ResponseCache(ROOMY)
    part = cache.partition("m", "1")
    part.put(key(1), outputs(1))
    assert part.get(key(1)) is not None
    part.close()
    assert cache.bytes == part.bytes == len(part) == 0
    part.put(key(2), outputs(2))
    assert cache.bytes == 0
    after = cache.partition("m", "1")
    assert after.get(key(1)) is None
    assert (after.counts.hits, after.counts.misses) == (1, 1)


class Histories(RuleBasedStateMachine):
    """Puts, gets and ends at random, against dictionaries without a bound."""

    @initialize(budget=st.integers(500, 20_000))
    def begin(self, budget: int) -> None:
        self.cache = ResponseCache(budget)
        self.parts = [self.cache.partition(name, "1") for name in "abc"]
        self.truth: list[dict[Any, float]] = [{}, {}, {}]
        self.hits = [0, 0, 0]

    @rule(which=st.integers(0, 2), number=st.integers(0, 20), columns=st.integers(0, 500))
    def put(self, which: int, number: int, columns: int) -> None:
        value = float(1000 * which + number)
        self.parts[which].put(key(number), outputs(value, columns))
        self.truth[which][number] = value

    @rule(which=st.integers(0, 2), number=st.integers(0, 20))
    def get(self, which: int, number: int) -> None:
        found = self.parts[which].get(key(number))
        if found is not None:
            self.hits[which] += 1
            assert set(found[0].ravel().tolist()) <= {self.truth[which][number]}

    @rule(which=st.integers(0, 2))
    def put_and_get(self, which: int) -> None:
        """What was just kept is there, if it can be."""
        self.parts[which].put(key(99), outputs(1.0, 1))
        self.truth[which][99] = 1.0
        kept = size_of(key(99), outputs(1.0, 1)) <= self.cache.budget_bytes
        assert (self.parts[which].get(key(99)) is not None) == kept
        self.hits[which] += kept

    @precondition(lambda self: sum(map(len, self.parts)) > 3)
    @rule(which=st.integers(0, 2))
    def end(self, which: int) -> None:
        self.parts[which].close()
        self.parts[which] = self.cache.partition("abc"[which], "1")
        self.truth[which] = {}

    @invariant()
    def holds(self) -> None:
        assert 0 <= self.cache.bytes <= self.cache.budget_bytes
        assert self.cache.bytes == sum(part.bytes for part in self.parts)
        assert [part.counts.hits for part in self.parts] == self.hits


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase


# ---------------------------------------------------------------------- behind a server

CACHED = "response_cache: true\n"
SMALL = 64 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("models")
    for name, more in (("echo", ""), ("other", ""), ("threaded", "batching: {inline_below_us: 0}\n")):
        models.checked_echo(root / name / "model.onnx")
        (root / name / "model.yaml").write_text(CACHED + more)
    models.checked_echo(root / "uncached" / "model.onnx")
    models.echo(root / "text" / "model.onnx", "BYTES", ("N", 2))
    models.echo(root / "ragged" / "model.onnx", "FP32")
    models.table(root / "table" / "model.onnx")
    models.centred(root / "centred" / "model.onnx")
    for name in ("text", "ragged", "table", "centred"):
        (root / name / "model.yaml").write_text(CACHED)
    state_dir = tmp_path_factory.mktemp("cache-tests") / "state"
    with support.running(
        "--model-repository", root, "--response-cache-bytes", str(4 << 20), state_dir=state_dir
    ) as server:
        yield server


def path(name: str) -> str:
    return f"/endpoints/{name}/invocations"


def counted(server: Server, name: str) -> dict[str, int]:
    (found,) = [one for one in get(server, "/debug/models").json if one["name"] == name]
    cache: dict[str, int] = found["response_cache"]
    return cache


def batches(server: Server, name: str) -> float:
    return metric(server, "serving_batches_total", model=name)


def echoed(rows: list[list[float]]) -> Any:
    return {"predictions": [{"y": row, "total": [sum(row)]} for row in rows]}


@pytest.mark.parametrize("name", ["echo", "threaded"])
def test_a_repeated_input_is_answered_without_a_run(server: Server, name: str) -> None:
    rows = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    first = post(server, path(name), {"instances": rows}, X_Serving_Timing="1")
    before = batches(server, name)
    again = post(server, path(name), {"instances": rows}, X_Serving_Timing="1")
    assert again.json == first.json == echoed(rows)
    assert batches(server, name) == before
    assert first.headers["server-timing"].startswith("queue;dur=")
    assert again.headers["server-timing"] == 'cache;desc="hit"'


def test_every_codec_and_face_shares_what_is_kept(server: Server) -> None:
    row = [11.0, 12.0, 13.0, 14.0]
    assert post(server, path("echo"), {"instances": [row]}).json == echoed([row])
    before = batches(server, "echo")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": row}
    open_inference = post(server, "/v2/models/echo/infer", {"id": "7", "inputs": [tensor]}).json
    assert open_inference["id"] == "7"
    assert [output["data"] for output in open_inference["outputs"]] == [row, [50.0]]
    assert post(server, path("echo"), b"11,12,13,14\n", Content_Type="text/csv").json == echoed([row])
    as_csv = post(server, path("echo"), {"instances": [row]}, Accept="text/csv")
    assert as_csv.status == 200, as_csv
    chosen = {"inputs": [tensor], "outputs": [{"name": "total"}]}
    assert [one["name"] for one in post(server, "/v2/models/echo/infer", chosen).json["outputs"]] == ["total"]
    assert batches(server, "echo") == before


def test_rows_count(server: Server) -> None:
    row = [1.0, 1.0, 1.0, 1.0]
    for count in (1, 2, 3, 1, 2, 3):
        assert post(server, path("echo"), {"instances": [row] * count}).json == echoed([row] * count)


def test_models_keep_their_own(server: Server) -> None:
    assert post(server, path("echo"), {"instances": [[3.0, 0.0, 0.0, 9.0]]}).status == 200
    before = counted(server, "other")
    assert post(server, path("other"), {"instances": [[3.0, 0.0, 0.0, 9.0]]}).status == 200
    assert counted(server, "other")["hits"] == before["hits"]


def test_a_model_that_did_not_ask_keeps_nothing(server: Server) -> None:
    body = {"instances": [[1.0, 2.0, 3.0, 4.0]]}
    before = batches(server, "uncached")
    assert post(server, path("uncached"), body).json == post(server, path("uncached"), body).json
    assert batches(server, "uncached") == before + 2
    assert counted(server, "uncached") is None


def test_texts_that_join_to_the_same_bytes_are_different_inputs(server: Server) -> None:
    for texts in (["ab", "c"], ["a", "bc"], ["", "abc"], ["ab", "c"]):
        assert post(server, path("text"), {"instances": [texts]}).json == {"predictions": [texts]}
    assert counted(server, "text")["hits"] == 1


def test_shapes_that_vary_are_part_of_the_input(server: Server) -> None:
    for rows in ([[1.0] * 6], [[1.0] * 3] * 2, [[1.0] * 2] * 3, [[1.0] * 6]):
        assert post(server, path("ragged"), {"instances": rows}).json == {"predictions": rows}


def test_a_model_that_is_not_batched_keeps_whole_inputs(server: Server) -> None:
    body = {"instances": [[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0]]}
    first, again = (post(server, path("centred"), body) for _ in range(2))
    assert first.status == again.status == 200
    assert first.json == again.json
    assert counted(server, "centred")["hits"] == 1


def test_failures_are_not_kept(server: Server) -> None:
    for _ in range(3):
        assert post(server, path("table"), {"instances": [[77]]}).status == 424
    assert counted(server, "table")["entries"] == 0
    assert counted(server, "table")["misses"] >= 3


def test_what_would_be_refused_is_refused_though_the_answer_is_known(server: Server) -> None:
    body = {"instances": [[8.0, 8.0, 8.0, 8.0]]}
    assert post(server, path("echo"), body).status == 200
    refused = post(server, path("echo"), body, X_Serving_Priority="9")
    assert refused.status != 200
    assert b"priority" in refused.body


def test_answers_that_are_encoded_on_a_thread_are_kept(server: Server) -> None:
    """Over 256 KiB in and out, in several pieces, and longer than a batch."""
    rows = np.arange(4 * 20_000, dtype=np.float32).reshape(-1, 4)
    tensor = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    before = counted(server, "other")["hits"]
    answers = [post(server, "/v2/models/other/infer", {"inputs": [tensor]}).json for _ in range(3)]
    for answer in answers:
        y, total = (np.array(output["data"]) for output in answer["outputs"])
        assert np.array_equal(y.reshape(-1, 4), rows)
        assert np.array_equal(total, rows.sum(axis=1))
    assert counted(server, "other")["hits"] == before + 2


def test_nobody_gets_anothers_answer_and_the_bytes_hold(server: Server) -> None:
    """Callers that ask for few things often and for many things once, hang up and make mistakes, all at once."""

    def call(number: int) -> int:
        chance = random.Random(number)
        with Caller(server) as caller:
            for turn in range(150):
                name = chance.choice(["echo", "other", "threaded"])
                mine = chance.random() < 0.3
                rows = [[float(chance.randrange(9)), float(number * 1000 + turn if mine else 0), 1.0, 2.0]
                        for _ in range(chance.choice([1, 1, 2, 40]))]  # fmt: skip
                if chance.random() < 0.05:
                    caller.send(path(name), {"instances": rows})
                    caller.hang_up()
                elif chance.random() < 0.05:
                    assert caller.post(path(name), {"instances": [[1.0]]}).status == 424
                else:
                    answer = caller.post(path(name), {"instances": rows})
                    assert answer.status == 200
                    assert answer.json == echoed(rows)
        return number

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(call, range(8)))) == 8
    kept = [counted(server, name) for name in ("echo", "other", "threaded")]
    assert all(one["hits"] > 50 for one in kept)
    assert sum(one["bytes"] for one in kept) <= 4 << 20
    assert metric(server, "serving_cache_hits_total", model="echo") == kept[0]["hits"]
    assert metric(server, "serving_cache_bytes", model="echo") == kept[0]["bytes"]


def test_the_same_question_at_the_same_moment_is_answered_for_each(server: Server) -> None:
    body = {"instances": [[123.0, 4.0, 5.0, 6.0]]}
    asked = [Background(server, path("threaded"), body) for _ in range(12)]
    answers: list[Answer] = [one.answer() for one in asked]
    assert {answer.body for answer in answers} == {answers[0].body}
    assert answers[0].json == echoed([[123.0, 4.0, 5.0, 6.0]])


def test_entries_go_when_there_is_no_room(tmp_path: Path) -> None:
    file = models.checked_echo(tmp_path / "echo" / "model.onnx")
    (file.parent / "model.yaml").write_text(CACHED)
    with (
        support.running(
            "--model", file.parent, "--response-cache-bytes", str(SMALL), state_dir=tmp_path / "state"
        ) as server,
        Caller(server) as caller,
    ):
        for number in range(300):
            row = [float(number), 0.0, 0.0, 1.0]
            assert caller.post("/invocations", {"instances": [row]}).json == echoed([row])
        wait_until(lambda: counted(server, "echo")["misses"] == 300, 5, "every miss counted")
        found = counted(server, "echo")
        assert found["bytes"] <= SMALL
        assert found["entries"] + found["evictions"] == 300
        assert found["evictions"] > 100


def test_a_model_that_changes_never_answers_for_the_one_before(tmp_path: Path) -> None:
    """The same input, asked all the time while its model is replaced: once the new one answered, the old never does."""
    repository = tmp_path / "models"
    file = adder(repository / "adder" / "model.onnx", 1.0)
    (file.parent / "model.yaml").write_text(CACHED)
    arguments = ("--model-control-mode", "poll", "--repository-poll-s", "0.1", "--response-cache-bytes", str(SMALL))
    row = [1.0, 2.0, 3.0, 4.0]
    with (
        support.running("--model-repository", repository, *arguments, state_dir=tmp_path / "state") as server,
        Caller(server) as caller,
    ):

        def added() -> float:
            answer = caller.post(path("adder"), {"instances": [row]})
            assert answer.status == 200, answer
            (got,) = answer.json["predictions"]
            (number,) = {after - before for before, after in zip(row, got, strict=True)}
            return float(number)

        for number in (1.0, 2.0, 3.0):
            if number > 1:
                replace(file, number)
            seen: list[float] = []
            wait_until(lambda: seen.append(added()) or seen[-1] == number, 20, f"answers of {number}")  # noqa: B023
            assert set(seen) <= {number - 1, number}
            before = counted(server, "adder")["hits"]
            assert [added() for _ in range(20)] == [number] * 20
            found = counted(server, "adder")
            assert found["hits"] == before + 20
            assert found["entries"] == 1
        assert metric(server, "serving_cache_hits_total", model="adder") == found["hits"]
        assert found["misses"] == 3


def test_a_model_that_asks_of_a_server_that_keeps_nothing_is_an_error(tmp_path: Path) -> None:
    file = models.checked_echo(tmp_path / "echo" / "model.onnx")
    (file.parent / "model.yaml").write_text(CACHED)
    server = support.start("--model", file.parent, state_dir=tmp_path / "state")
    try:
        with pytest.raises(support.DidNotStart, match="--response-cache-bytes"):
            server.wait_ready()
    finally:
        server.end()
