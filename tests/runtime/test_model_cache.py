"""The model cache as a state machine: its rules, one by one, and its promises over random histories."""

from __future__ import annotations

import math
import sys
import tracemalloc
from collections import Counter
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.errors import (
    InsufficientMemory,
    LoadFailed,
    ModelLoading,
    Overloaded,
    ServingError,
    TargetMissing,
    Unavailable,
)
from serving.runtime.cache_actions import Drop, Load, Locate, Refuse, Serve, Unload
from serving.runtime.eviction import policy
from serving.runtime.model_cache import ModelCache

Key = tuple[str, str]


class Model:
    """A loaded model; `users` are requests in it."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.users = 0
        self.open = True


class Artifact:
    """What was located; `open` until it is loaded or dropped."""

    def __init__(self, key: Key, size: int, revision: str) -> None:
        self.key = key
        self.size = size
        self.revision = revision


def key(name: str) -> Key:
    return ("E", name)


GONE = TargetMissing("the endpoint is gone")


ENDS = ("removed", "its endpoint is gone", "replaced")
"""Why also a pinned model goes."""


class Loop:
    """A loop around the cache that does at once, or when told, what it is told; it checks each action against the promises."""

    def __init__(self, budget: int = 100, by: str = "lru", **options: Any) -> None:
        self.cache: ModelCache[Key, str, Model, Artifact] = ModelCache(
            budget, policy(by), lambda model: model.users > 0, **options
        )
        self.now = 0.0
        self.locating: dict[Key, str] = {}
        self.loading: dict[Key, Artifact] = {}
        self.unloading: list[tuple[Model, str]] = []
        self.served: dict[str, Model] = {}
        self.refused: dict[str, ServingError] = {}
        self.dropped: list[Artifact] = []
        self.log: list[Any] = []
        self.busy = False
        """Whether those who are served use their model until it is told to rest."""

    def pump(self) -> list[Any]:
        """What the cache wants done now."""
        done = []
        while (action := self.cache.poll(self.now)) is not None:
            done.append(action)
            match action:
                case Locate(name, revision):
                    assert name not in self.locating
                    assert name not in self.loading
                    self.locating[name] = revision
                case Load(name, artifact):
                    assert self.cache.budget.held <= self.cache.budget.bytes
                    assert name not in self.locating
                    assert name not in self.loading
                    assert all(model.key != name for model, _ in self.unloading)
                    self.loading[name] = artifact
                case Drop(_, artifact):
                    self.dropped.append(artifact)
                case Unload(name, model, reason):
                    assert model.key == name
                    assert model.open
                    assert not model.users
                    assert reason in ENDS or name not in self.cache._room.pins
                    assert self.cache.get(name) is not model
                    model.open = False
                    self.unloading.append((model, reason))
                case Serve(name, waiter, model):
                    assert model.key == name
                    assert model.open
                    assert waiter not in self.served
                    assert waiter not in self.refused
                    self.served[waiter] = model
                    model.users += self.busy
                case Refuse(_, waiter, error):
                    assert waiter not in self.served
                    assert waiter not in self.refused
                    self.refused[waiter] = error
        self.log += done
        return done

    def want(self, name: str, waiter: str, patience: float = math.inf, keep: bool = True) -> Model | None:
        found = self.cache.want(key(name), waiter, self.now + patience, self.now, keep=keep)
        self.pump()
        return found

    def locate(self, name: str, size: int = 10, revision: str = "1") -> None:
        del self.locating[key(name)]
        self.cache.located(key(name), Artifact(key(name), size, revision), size, revision, self.now)
        self.pump()

    def unchanged(self, name: str) -> None:
        del self.locating[key(name)]
        self.cache.unchanged(key(name), self.now)
        self.pump()

    def loaded(self, name: str, seconds: float = 0.1) -> Model:
        del self.loading[key(name)]
        model = Model(key(name))
        self.cache.loaded(key(name), model, seconds, self.now)
        self.pump()
        return model

    def fail(self, name: str, error: ServingError | None = None, believe_s: float | None = None) -> None:
        self.locating.pop(key(name), None)
        self.loading.pop(key(name), None)
        self.cache.failed(key(name), error or LoadFailed("broken"), believe_s, self.now)
        self.pump()

    def unload_all(self) -> list[tuple[str, str]]:
        """Ends all unloads; what they were, and why."""
        ended, self.unloading = self.unloading, []
        for model, _ in ended:
            self.cache.unloaded(model.key, model, self.now)
        self.pump()
        return [(model.key[1], reason) for model, reason in ended]

    def bring(self, name: str, size: int = 10, revision: str = "1", keep: bool = True) -> Model:
        """A model loaded for nobody, once what goes for it is gone."""
        self.cache.load(key(name), self.now, keep=keep)
        self.pump()
        self.locate(name, size, revision)
        self.unload_all()
        return self.loaded(name)

    def rest(self, model: Model) -> None:
        """A model goes out of use."""
        model.users -= 1
        self.cache.idle(self.now)
        self.pump()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.pump()

    def discard(self, name: str, reason: str = "removed") -> bool:
        there = self.cache.discard(key(name), reason, GONE, self.now)
        self.pump()
        return there

    def names(self) -> set[str]:
        return {name for _, name in self.cache}

    def what(self) -> list[str]:
        return [event.what for event in self.cache.events()]


# ---------------------------------------------------------------------- fetches


def test_a_miss_is_located_loaded_and_served() -> None:
    loop = Loop()
    assert loop.cache.get(key("a")) is None
    assert loop.want("a", "w") is None
    assert loop.locating == {key("a"): ""}
    loop.locate("a")
    assert loop.loading[key("a")].revision == "1"
    model = loop.loaded("a")
    assert loop.served == {"w": model}
    assert loop.cache.get(key("a")) is model
    assert loop.want("a", "x") is model
    assert loop.cache.waiting == 0
    assert loop.cache.budget.held == 10
    assert loop.cache.stats.misses == 1


def test_a_herd_has_one_flight() -> None:
    loop = Loop()
    for number in range(1000):
        assert loop.want("a", str(number)) is None
    assert loop.log == [Locate(key("a"), "")]
    assert loop.cache.waiting == 1000
    loop.locate("a")
    loop.loaded("a")
    assert Counter(type(action).__name__ for action in loop.log) == {"Locate": 1, "Load": 1, "Serve": 1000}
    assert len(loop.served) == 1000
    assert loop.cache.waiting == 0


def test_those_who_wait_are_served_in_the_order_in_which_they_came() -> None:
    loop = Loop()
    for number in range(9):
        loop.want("a", str(number))
    loop.locate("a")
    loop.loaded("a")
    assert list(loop.served) == [str(number) for number in range(9)]


def test_flights_start_in_the_order_in_which_they_were_asked_for_and_several_at_once() -> None:
    loop = Loop(locates=3, loads=2)
    for name in "abcde":
        loop.want(name, name)
    assert [name for _, name in loop.locating] == ["a", "b", "c"]
    loop.locate("c")
    loop.locate("a")
    loop.locate("b")
    assert [name for _, name in loop.locating] == ["d", "e"]
    assert [name for _, name in loop.loading] == ["c", "a"]
    loop.loaded("a")
    assert [name for _, name in loop.loading] == ["c", "b"]


def test_loads_that_hang_hold_up_no_others() -> None:
    loop = Loop(loads=2, slow_s=5.0)
    for name in "abcd":
        loop.want(name, name)
        loop.locate(name)
    assert [name for _, name in loop.loading] == ["a", "b"]
    assert loop.cache.wake_at == 5.0
    loop.wait(4.0)
    loop.loaded("b")
    assert [name for _, name in loop.loading] == ["a", "c"]
    assert loop.cache.wake_at == 5.0
    loop.wait(1.0)
    assert [name for _, name in loop.loading] == ["a", "c", "d"]
    loop.want("e", "e")
    loop.locate("e")
    assert loop.cache.wake_at == 9.0
    loop.loaded("a")
    assert key("e") not in loop.loading
    loop.loaded("c")
    assert key("e") in loop.loading
    assert loop.served.keys() == {"a", "b", "c"}


def test_each_fetch_ends_with_an_event_of_all_its_times() -> None:
    loop = Loop()
    loop.want("a", "w")
    loop.now = 0.5
    loop.want("a", "x")
    loop.now = 1.0
    loop.locate("a", 20)
    loop.now = 3.0
    loop.loaded("a", seconds=1.5)
    (event,) = loop.cache.events()
    assert event.what == "loaded"
    assert event.key == key("a")
    assert event.reason == "requested"
    assert (event.bytes, event.seconds, event.locating_s, event.waited_s, event.when) == (20, 1.5, 1.0, 3.0, 3.0)
    assert event.callers == 2
    assert "requested" in event.text
    assert loop.cache.events(event.number) == []
    assert loop.cache.stats.loading_s == 1.5
    assert loop.cache.stats.locating_s == 1.0


def test_the_log_is_bounded_and_read_from_any_number_on() -> None:
    loop = Loop(budget=1000, keep_events=5)
    for number in range(12):
        loop.bring(str(number))
    numbers = [event.number for event in loop.cache.events()]
    assert numbers == [8, 9, 10, 11, 12]
    assert [event.number for event in loop.cache.events(10)] == [11, 12]
    assert [event.number for event in loop.cache.events(3)] == numbers
    assert loop.cache.events(99) == []


def test_one_that_nobody_wants_any_more_is_not_located() -> None:
    loop = Loop(locates=1)
    loop.want("a", "v")
    loop.want("b", "w")
    loop.cache.leave(key("b"), "w")
    loop.cache.leave(key("b"), "w")
    assert loop.cache.waiting == 1
    loop.locate("a")
    assert not loop.locating
    assert list(loop.cache.entries())[-1].key == key("a")


def test_one_whose_waiters_are_late_before_it_is_begun_is_not_located() -> None:
    loop = Loop(locates=1)
    loop.want("a", "v")
    loop.want("b", "w", patience=1.0)
    loop.want("c", "x", patience=1.0)
    loop.cache.load(key("c"), loop.now)
    loop.wait(1.0)
    assert set(loop.refused) == {"w", "x"}
    loop.locate("a")
    # Somebody asked for it, though nobody waits.
    assert list(loop.locating) == [key("c")]


def test_a_fetch_that_was_begun_goes_on_without_its_waiters() -> None:
    loop = Loop()
    loop.want("a", "w")
    loop.cache.leave(key("a"), "w")
    loop.locate("a")
    model = loop.loaded("a")
    assert not loop.served
    assert not loop.refused
    assert loop.cache.get(key("a")) is model


def test_hanging_up_after_the_answer_is_passed_over() -> None:
    loop = Loop()
    loop.want("a", "w")
    loop.locate("a")
    loop.loaded("a")
    loop.cache.leave(key("a"), "w")
    loop.cache.leave(key("never"), "w")
    assert loop.cache.waiting == 0


def test_a_deadline_refuses_with_429_while_the_load_goes_on() -> None:
    loop = Loop()
    loop.want("a", "w", patience=2.0)
    loop.want("a", "x", patience=9.0)
    loop.locate("a")
    assert loop.cache.wake_at == 2.0
    loop.wait(1.9)
    assert not loop.refused
    loop.wait(0.1)
    error = loop.refused["w"]
    assert isinstance(error, ModelLoading)
    assert "E:a" in error.message
    assert loop.cache.wake_at == 9.0
    loop.loaded("a")
    assert list(loop.served) == ["x"]
    assert loop.cache.wake_at is None
    assert loop.cache.stats.refused == {"deadline": 1}


def test_nobody_waits_longer_than_the_limit() -> None:
    loop = Loop(wait_s=5.0)
    loop.want("a", "w")
    assert loop.cache.wake_at == 5.0
    loop.wait(5.0)
    assert isinstance(loop.refused["w"], ModelLoading)


def test_too_many_waiters_are_refused_at_once() -> None:
    loop = Loop(max_waiting=3)
    for waiter in "uvw":
        loop.want(waiter, waiter)
    with pytest.raises(Overloaded):
        loop.want("u", "x")
    loop.cache.leave(key("v"), "v")
    assert loop.want("u", "x") is None


def test_the_deadlines_of_the_gone_take_no_memory() -> None:
    loop = Loop()
    loop.want("a", "stays", patience=50.0)
    for number in range(5000):
        loop.cache.want(key("a"), str(number), 40.0, 0.0)
        loop.cache.leave(key("a"), str(number))
    assert len(loop.cache._waiters._heap) < 200
    assert loop.cache.wake_at == 50.0


def test_a_herd_costs_by_its_size() -> None:
    """In lines of Python that run, which does not depend on what else the machine does."""

    def herd(size: int) -> int:
        loop = Loop(max_waiting=size)
        lines = 0

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal lines
            lines += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            for number in range(size):
                loop.want("a", str(number), patience=1.0 + number % 2)
            for number in range(0, size, 4):
                loop.cache.leave(key("a"), str(number))
            loop.wait(1.5)
            loop.locate("a")
            loop.loaded("a")
        finally:
            sys.settrace(before)
        assert len(loop.refused) == size // 4
        assert len(loop.served) == size // 2
        return lines

    assert herd(4000) < 1.3 * 8 * herd(500)


# ---------------------------------------------------------------------- room


def test_room_is_made_before_a_load_and_only_as_much_as_needed() -> None:
    loop = Loop()
    for name in "abcd":
        loop.bring(name, 25)
    loop.cache.used(key("a"), 3, loop.now)
    loop.want("e", "w")
    loop.locate("e", 30)
    assert not loop.loading
    assert [(model.key[1], reason) for model, reason in loop.unloading] == [
        ("b", "evicted for E:e"),
        ("c", "evicted for E:e"),
    ]
    assert loop.cache.get(key("b")) is None
    assert loop.cache.budget.held == 100
    loop.unload_all()
    loop.loaded("e")
    assert loop.names() == {"a", "d", "e"}
    assert loop.cache.stats.unloaded == {"evicted": 2}
    assert loop.cache.stats.evicted_bytes == 50


def test_what_turns_out_not_to_be_needed_is_spared() -> None:
    loop = Loop()
    loop.bring("small", 5)
    loop.bring("large", 90)
    loop.want("x", "w")
    loop.locate("x", 90)
    assert loop.unload_all() == [("large", "evicted for E:x")]


def test_no_more_goes_than_needed_while_unloads_are_under_way() -> None:
    loop = Loop(loads=2)
    for name in "abcdefghij":
        loop.bring(name, 10)
    loop.want("x", "x")
    loop.want("y", "y")
    loop.locate("x", 10)
    loop.locate("y", 10)
    assert [model.key[1] for model, _ in loop.unloading] == ["a", "b"]
    model, _ = loop.unloading.pop(0)
    loop.cache.unloaded(model.key, model, loop.now)
    loop.pump()
    assert set(loop.loading) == {key("x")}
    loop.unload_all()
    assert set(loop.loading) == {key("x"), key("y")}


def test_pinned_and_used_ones_are_passed_over() -> None:
    loop = Loop()
    models = {name: loop.bring(name, 25) for name in "abcd"}
    loop.cache.pin(key("a"))
    models["b"].users = 1
    loop.want("x", "w")
    loop.locate("x", 20)
    assert loop.unload_all() == [("c", "evicted for E:x")]


def test_nothing_is_evicted_in_vain() -> None:
    loop = Loop()
    models = {name: loop.bring(name, 25) for name in "abcd"}
    for name in "ab":
        models[name].users = 1
    loop.want("x", "w")
    loop.locate("x", 60)
    assert not loop.unloading
    assert loop.cache.heeds_idle
    loop.now = 0.02
    loop.rest(models["a"])
    assert {name for name, _ in loop.unload_all()} == {"a", "c", "d"}
    loop.loaded("x")
    assert list(loop.served) == ["w"]
    assert not loop.cache.heeds_idle


def test_room_is_looked_for_a_hundred_times_a_second_at_most() -> None:
    loop = Loop()
    model = loop.bring("a", 90)
    model.users = 1
    loop.want("x", "w", patience=5.0)
    loop.locate("x", 20)
    loop.now = 0.004
    loop.rest(model)
    assert not loop.unloading
    assert loop.cache.wake_at == 0.01
    loop.wait(0.006)
    assert loop.unload_all() == [("a", "evicted for E:x")]


def test_one_without_room_is_refused_at_its_deadline_and_given_up() -> None:
    loop = Loop()
    model = loop.bring("a", 90)
    model.users = 1
    loop.want("x", "w", patience=2.5)
    loop.locate("x", 20)
    loop.wait(2.5)
    assert isinstance(loop.refused["w"], ModelLoading)
    assert "memory" in loop.refused["w"].message
    assert [artifact.key for artifact in loop.dropped] == [key("x")]
    assert loop.cache.stats.refused == {"no room": 1}
    assert loop.names() == {"a"}
    assert loop.cache.wake_at is None
    assert not loop.cache.heeds_idle
    loop.rest(model)
    assert not loop.unloading


def test_one_that_was_asked_for_waits_for_room_as_long_as_a_caller_may() -> None:
    loop = Loop(wait_s=5.0)
    model = loop.bring("a", 90)
    model.users = 1
    for name in "xy":
        loop.cache.load(key(name), loop.now)
        loop.pump()
        loop.locate(name, 20)
    assert not loop.dropped
    for _ in range(5):
        assert len(loop.dropped) == 0
        assert loop.cache.wake_at is not None
        loop.wait(loop.cache.wake_at - loop.now)
    assert [artifact.key[1] for artifact in loop.dropped] == ["x", "y"]
    assert loop.what()[-1] == "discarded"
    assert "no room" in loop.cache.events()[-1].reason
    assert loop.cache.wake_at is None
    assert loop.names() == {"a"}


def test_small_ones_pass_a_large_one_that_finds_no_room_but_for_its_turns() -> None:
    loop = Loop(turn_s=1.0, loads=1)
    models = [loop.bring(name, 20) for name in "abc"]
    for model in models:
        model.users = 1
    loop.want("large", "L")
    loop.locate("large", 90)
    loop.want("small", "s")
    loop.locate("small", 5)
    assert list(loop.loading) == [key("small")]
    loop.loaded("small")
    # Its turn: nobody passes, though there is room.
    loop.wait(1.0)
    loop.want("next", "n")
    loop.locate("next", 5)
    assert not loop.loading
    assert loop.cache.wake_at == 2.0
    # The others' turn.
    loop.wait(1.0)
    assert list(loop.loading) == [key("next")]
    loop.loaded("next")
    for model in models:
        loop.rest(model)
    loop.wait(0.02)
    loop.unload_all()
    assert list(loop.loading) == [key("large")]
    loop.loaded("large")
    assert set(loop.served) == {"L", "s", "n"}


def test_a_large_one_does_not_starve_behind_a_stream_of_small_ones() -> None:
    """Small models that are in use as soon as they are loaded, always more of them, and one that needs nearly all."""
    loop = Loop(turn_s=1.0, loads=2, wait_s=1000.0)
    running: list[tuple[float, Model]] = []
    seen = 0
    for turn in range(2000):
        loop.now += 0.01
        if turn == 100:
            loop.want("large", "L")
        loop.want(f"s{turn}", f"w{turn}")
        for _, name in list(loop.locating):
            loop.locate(name, 90 if name == "large" else 10)
        for _, name in list(loop.loading):
            loop.loaded(name)
        for waiter in list(loop.served)[seen:]:
            seen += 1
            loop.served[waiter].users += 1
            running.append((loop.now + 0.3, loop.served[waiter]))
        for ends, model in list(running):
            if ends <= loop.now:
                running.remove((ends, model))
                loop.rest(model)
        loop.unload_all()
        if "L" in loop.served:
            break
    assert 2.0 < loop.now < 3.0
    assert len(loop.served) > 20


def test_one_that_can_never_fit_is_refused_at_once_and_known_until_the_budget_grows() -> None:
    loop = Loop()
    loop.bring("a", 50)
    loop.want("x", "w")
    loop.locate("x", 101)
    error = loop.refused["w"]
    assert isinstance(error, InsufficientMemory)
    assert "101" in error.message
    assert "100" in error.message
    assert [artifact.key for artifact in loop.dropped] == [key("x")]
    assert not loop.unloading
    with pytest.raises(InsufficientMemory):
        loop.want("x", "v")
    loop.cache.resize(200, loop.now)
    loop.want("x", "u")
    loop.locate("x", 101)
    assert list(loop.loading) == [key("x")]


def test_what_pinned_models_take_can_be_had_by_nobody() -> None:
    loop = Loop()
    loop.cache.pin(key("a"))
    loop.bring("a", 50)
    loop.want("x", "w")
    loop.locate("x", 60)
    assert isinstance(loop.refused["w"], InsufficientMemory)
    assert "pinned" in loop.refused["w"].message
    loop.cache.unpin(key("a"))
    loop.want("x", "v")
    loop.locate("x", 60)
    assert loop.unload_all() == [("a", "evicted for E:x")]
    loop.loaded("x")
    assert list(loop.served) == ["v"]


def test_one_that_is_wanted_while_it_is_unloaded_is_loaded_again_after() -> None:
    loop = Loop()
    first = loop.bring("a", 60)
    loop.want("b", "w")
    loop.locate("b", 50)
    assert [gone for gone, _ in loop.unloading] == [first]
    loop.want("a", "v")
    loop.locate("a", 30)
    assert not loop.loading
    loop.unload_all()
    assert set(loop.loading) == {key("a"), key("b")}


def test_a_smaller_budget_evicts_down_to_it() -> None:
    loop = Loop()
    models = {name: loop.bring(name, 25) for name in "abcd"}
    models["a"].users = 1
    loop.cache.resize(60, loop.now)
    loop.pump()
    assert loop.unload_all() == [("b", "the budget shrank"), ("c", "the budget shrank")]
    assert loop.cache.budget.held == 50
    loop.cache.resize(20, loop.now)
    loop.pump()
    assert loop.unload_all() == [("d", "the budget shrank")]
    assert loop.cache.heeds_idle
    loop.now += 0.02
    loop.rest(models["a"])
    assert loop.unload_all() == [("a", "the budget shrank")]
    assert loop.cache.budget.held == 0
    assert not loop.cache.heeds_idle


def test_nothing_goes_for_a_load_before_it_has_a_slot() -> None:
    loop = Loop(loads=1)
    for name in "abcdefghij":
        loop.bring(name, 10)
    for name in "xyz":
        loop.want(name, name)
        loop.locate(name, 10)
    for name, other in zip("abc", "xyz", strict=True):
        assert loop.unload_all() == [(name, f"evicted for E:{other}")]
        loop.loaded(other)


def test_what_goes_for_the_budget_makes_room_too() -> None:
    loop = Loop(loads=1)
    for name in "abc":
        loop.bring(name, 25)
    loop.want("y", "y")
    loop.locate("y", 20)
    loop.want("x", "x")
    loop.locate("x", 20)
    loop.cache.resize(90, loop.now)
    loop.loaded("y")
    assert loop.unload_all() == [("a", "the budget shrank")]
    assert list(loop.loading) == [key("x")]


def test_what_goes_already_counts_when_the_budget_shrinks() -> None:
    loop = Loop()
    loop.bring("a", 50).users = 1
    loop.bring("b", 50)
    loop.discard("a")
    loop.cache.resize(50, loop.now)
    assert loop.pump() == []
    assert loop.names() == {"b"}


def test_a_key_is_not_loaded_while_a_model_of_it_is_unloaded_though_there_is_room() -> None:
    loop = Loop(loads=2)
    loop.bring("a")
    loop.discard("a")
    loop.want("a", "w")
    loop.locate("a")
    loop.want("b", "v")
    loop.locate("b")
    assert list(loop.loading) == [key("b")]
    loop.unload_all()
    assert list(loop.loading) == [key("b"), key("a")]


# ---------------------------------------------------------------------- what is measured

MIB = 1 << 20


def test_estimates_are_scaled_by_what_is_measured() -> None:
    loop = Loop(budget=1000 * MIB)
    for name in "abcd":
        loop.bring(name, 200 * MIB)
    for _ in range(12):
        loop.cache.measured(600 * MIB, loop.now)
        loop.pump()
    budget = loop.cache.budget
    assert budget.held == pytest.approx(600 * MIB, rel=0.02)
    assert abs(budget.residual) < 12 * MIB
    # Now a fifth fits beside them.
    loop.bring("e", 200 * MIB)
    assert loop.names() == set("abcde")


def test_more_than_estimated_evicts() -> None:
    loop = Loop(budget=1000 * MIB)
    for name in "abcde":
        loop.bring(name, 200 * MIB)
    for _ in range(8):
        loop.cache.measured(1500 * MIB, loop.now)
        loop.pump()
        if loop.unloading:
            break
    assert loop.unload_all()[0] == ("a", "more was measured than estimated")
    assert loop.cache.budget.held <= 1000 * MIB


def test_measurements_amid_loads_are_passed_over_unless_forced() -> None:
    loop = Loop(budget=1000 * MIB)
    loop.bring("a", 100 * MIB)
    loop.want("b", "w")
    loop.locate("b", 100 * MIB)
    loop.cache.measured(900 * MIB, loop.now)
    assert loop.cache.budget.scale == 1.0
    loop.cache.measured(900 * MIB, loop.now, force=True)
    assert loop.cache.budget.scale > 1.0


def test_the_scale_is_sane_whatever_is_measured() -> None:
    loop = Loop(budget=1000 * MIB)
    loop.cache.measured(10**15, loop.now)
    assert loop.cache.budget.scale == 1.0
    loop.bring("a", 100 * MIB)
    model = loop.cache.get(key("a"))
    assert model is not None
    model.users = 1
    for _ in range(50):
        loop.cache.measured(10**15, loop.now)
    assert loop.cache.budget.scale == pytest.approx(8.0)
    for _ in range(80):
        loop.cache.measured(0, loop.now)
    assert loop.cache.budget.scale == pytest.approx(0.25, abs=0.02)


def test_what_a_first_small_model_brings_along_is_not_taken_for_all() -> None:
    loop = Loop(budget=1000 * MIB)
    loop.bring("a", MIB)
    for _ in range(20):
        loop.cache.measured(20 * MIB, loop.now)
    assert loop.cache.budget.scale < 1.7


def test_a_scale_that_lets_none_in_is_forgotten_with_the_last_model() -> None:
    loop = Loop(budget=1000 * MIB)
    loop.bring("a", 200 * MIB)
    for _ in range(50):
        loop.cache.measured(10**15, loop.now)
    loop.pump()
    loop.unload_all()
    assert not loop.names()
    loop.cache.measured(10**15, loop.now)
    assert loop.cache.budget.scale == 1.0
    loop.bring("b", 900 * MIB)


def test_a_better_estimate_of_a_load_counts() -> None:
    loop = Loop()
    loop.bring("a", 40)
    loop.want("b", "w")
    loop.locate("b", 40)
    del loop.loading[key("b")]
    model = Model(key("b"))
    loop.cache.loaded(key("b"), model, 0.1, loop.now, bytes_=70)
    loop.pump()
    assert loop.unload_all() == [("a", "more was loaded than estimated")]
    assert loop.cache.budget.held == 70


# ---------------------------------------------------------------------- faults


def test_a_fault_refuses_all_that_wait_each_with_an_error_of_its_own() -> None:
    loop = Loop()
    for waiter in "uvw":
        loop.want("a", waiter)
    loop.locate("a")
    loop.fail("a", LoadFailed("no graph"))
    errors = list(loop.refused.values())
    assert [(type(error), error.message) for error in errors] == [(LoadFailed, "no graph")] * 3
    assert len({id(error) for error in errors}) == 3
    assert loop.what() == ["failed", "refused"]
    assert loop.cache.stats.refused == {"failed": 3}
    assert loop.cache.budget.held == 0


def test_what_is_broken_is_believed_for_longer_each_time() -> None:
    loop = Loop(broken_s=30.0, broken_most_s=100.0)
    for believed in (30.0, 60.0, 100.0, 100.0):
        assert loop.want("a", f"w{loop.now}") is None
        loop.fail("a")
        loop.now += believed - 0.1
        with pytest.raises(LoadFailed):
            loop.want("a", "x")
        loop.now += 0.2
    loop.want("a", "y")
    loop.locate("a")
    loop.loaded("a")
    assert "y" in loop.served
    loop.discard("a")
    loop.unload_all()
    loop.want("a", "z")
    loop.fail("a")
    loop.now += 30.1
    assert loop.want("a", "z2") is None


@pytest.mark.parametrize("error", [TargetMissing("no such object"), Unavailable("the store is down")])
def test_what_may_pass_by_itself_is_believed_for_a_second(error: ServingError) -> None:
    loop = Loop()
    loop.want("a", "w")
    loop.fail("a", error)
    with pytest.raises(type(error)):
        loop.want("a", "v")
    loop.now = 1.01
    assert loop.want("a", "u") is None


def test_a_time_that_is_told_is_taken() -> None:
    loop = Loop()
    loop.want("a", "w")
    loop.fail("a", LoadFailed(), believe_s=0.0)
    assert loop.want("a", "v") is None
    loop.fail("a", LoadFailed(), believe_s=5.0)
    loop.now = 4.9
    with pytest.raises(LoadFailed):
        loop.want("a", "u")


def test_a_broken_one_is_tried_again_at_once_when_that_is_asked_for() -> None:
    loop = Loop()
    loop.want("a", "w")
    loop.fail("a")
    loop.cache.load(key("a"), loop.now)
    loop.pump()
    assert list(loop.locating) == [key("a")]
    # Who comes meanwhile waits for it.
    assert loop.want("a", "v") is None
    loop.fail("a")
    assert "v" in loop.refused
    loop.now = 59.0
    with pytest.raises(LoadFailed):
        loop.want("a", "u")


def test_errors_are_remembered_without_the_frames_that_they_came_through() -> None:
    loop = Loop()
    ballast = [b"x" * 1_000_000]
    try:
        raise LoadFailed("broken") from ValueError(ballast)
    except LoadFailed as error:
        loop.want("a", "w")
        loop.fail("a", error)
    (view,) = loop.cache.entries()
    assert (view.state, view.reason, view.until) == ("refused", "broken", 30.0)
    fault = loop.cache._faults.get(key("a"))
    assert fault is not None
    assert fault.error.__traceback__ is None
    assert fault.error.__cause__ is None
    for _ in range(3):
        with pytest.raises(LoadFailed) as caught:
            loop.want("a", "v")
        assert caught.value is not fault.error
    assert fault.error.__traceback__ is None
    assert next(loop.cache.entries()).refused == 3


# ---------------------------------------------------------------------- refreshes


def test_a_use_after_a_while_has_the_store_asked_whether_it_changed() -> None:
    loop = Loop(refresh_s=60.0)
    model = loop.bring("a", revision="1")
    loop.now = 59.0
    loop.cache.used(key("a"), 1, loop.now)
    assert loop.pump() == []
    loop.now = 61.0
    assert loop.want("a", "w") is model
    assert loop.locating == {key("a"): "1"}
    assert loop.want("a", "w") is model
    loop.unchanged("a")
    assert loop.cache.stats.unchanged == 1
    loop.now = 120.0
    loop.cache.used(key("a"), 1, loop.now)
    assert loop.pump() == []
    loop.now = 121.0
    loop.cache.used(key("a"), 1, loop.now)
    assert loop.pump() == [Locate(key("a"), "1")]
    loop.locate("a", revision="1")
    assert [artifact.revision for artifact in loop.dropped] == ["1"]
    assert loop.cache.get(key("a")) is model


def test_what_changed_is_loaded_beside_the_old_and_takes_its_place() -> None:
    loop = Loop()
    old = loop.bring("a", revision="1")
    old.users = 1
    loop.now = 61.0
    loop.cache.used(key("a"), 1, loop.now)
    loop.pump()
    loop.locate("a", 12, revision="2")
    assert loop.cache.get(key("a")) is old
    new = loop.loaded("a")
    assert loop.cache.get(key("a")) is new
    assert not loop.unloading
    assert loop.cache.budget.held == 22
    loop.rest(old)
    assert loop.unload_all() == [("a", "replaced")]
    assert loop.cache.budget.held == 12
    assert loop.names() == {"a"}
    assert loop.cache.events()[1].reason == "changed"


@pytest.mark.parametrize("stage", ["locate", "load"])
def test_a_refresh_that_fails_costs_nobody_anything(stage: str) -> None:
    loop = Loop(refresh_s=10.0)
    model = loop.bring("a")
    loop.now = 11.0
    loop.cache.used(key("a"), 1, loop.now)
    loop.pump()
    if stage == "load":
        loop.locate("a", revision="2")
    loop.fail("a", LoadFailed("worse than before"))
    assert loop.want("a", "w") is model
    assert loop.what()[-1] == "refresh failed"
    view = next(loop.cache.entries())
    assert (view.state, view.reason) == ("loaded", "worse than before")
    loop.now = 40.9
    loop.cache.used(key("a"), 1, loop.now)
    assert loop.pump() == []
    loop.now = 41.1
    loop.cache.used(key("a"), 1, loop.now)
    assert loop.pump() == [Locate(key("a"), "1")]
    loop.unchanged("a")
    assert next(loop.cache.entries()).reason == ""


def test_a_changed_one_that_does_not_fit_beside_the_old_takes_its_place() -> None:
    loop = Loop(refresh_s=10.0)
    loop.bring("b", 20)
    old = loop.bring("a", 60)
    loop.now = 11.0
    old.users = 1
    loop.cache.used(key("a"), 1, loop.now)
    loop.pump()
    loop.locate("a", 70, revision="2")
    # In use: given up, and tried again at the next refresh.
    assert [artifact.revision for artifact in loop.dropped] == ["2"]
    assert loop.cache.get(key("a")) is old
    loop.rest(old)
    loop.now = 22.0
    loop.cache.used(key("a"), 1, loop.now)
    loop.pump()
    loop.locate("a", 70, revision="2")
    gone = loop.unload_all()
    assert ("a", "replaced, and both do not fit") in gone
    loop.want("a", "w")
    new = loop.loaded("a")
    assert loop.served == {"w": new}


def test_others_go_for_a_changed_one_before_the_old_does() -> None:
    loop = Loop()
    old = loop.bring("a", 40)
    loop.bring("b", 40)
    loop.cache.refresh(key("a"), loop.now)
    loop.pump()
    loop.locate("a", 50, revision="2")
    assert loop.unload_all() == [("b", "evicted for E:a")]
    assert loop.cache.get(key("a")) is old
    loop.loaded("a")
    assert loop.unload_all() == [("a", "replaced")]


def test_who_comes_while_it_is_tried_again_waits_whatever_went_wrong_before() -> None:
    loop = Loop()
    loop.bring("a", 60)
    loop.cache.refresh(key("a"), loop.now)
    loop.pump()
    loop.fail("a")
    loop.cache.refresh(key("a"), loop.now)
    loop.pump()
    loop.cache.resize(50, loop.now)
    loop.pump()
    assert loop.want("a", "w") is None
    loop.locate("a", 20)
    loop.unload_all()
    loop.loaded("a")
    assert list(loop.served) == ["w"]


def test_one_that_goes_while_it_is_compared_is_fetched_anew_for_who_waits() -> None:
    loop = Loop(refresh_s=10.0)
    loop.bring("a", 60)
    loop.now = 11.0
    loop.cache.used(key("a"), 1, loop.now)
    loop.pump()
    loop.want("b", "w")
    loop.locate("b", 60)
    loop.unload_all()
    loop.want("a", "v")
    loop.unchanged("a")
    assert loop.locating == {key("a"): ""}
    loop.loaded("b")
    loop.locate("a", 60)
    loop.unload_all()
    loop.loaded("a")
    assert set(loop.served) == {"v", "w"}


def test_one_that_goes_before_it_is_compared_is_fetched_for_who_waits() -> None:
    loop = Loop(refresh_s=10.0, locates=1)
    loop.bring("a", 60)
    loop.want("b", "w")
    loop.now = 11.0
    loop.cache.used(key("a"), 1, loop.now)
    loop.pump()
    loop.cache.resize(50, loop.now)
    loop.pump()
    assert loop.unload_all() == [("a", "the budget shrank")]
    loop.want("a", "v")
    loop.locate("b")
    assert loop.locating == {key("a"): ""}
    loop.locate("a", 20)
    assert not loop.locating
    loop.loaded("a")
    assert list(loop.served) == ["v"]


def test_one_that_goes_before_it_is_compared_is_not_loaded_for_nobody() -> None:
    loop = Loop(refresh_s=10.0)
    loop.bring("a", 60)
    loop.now = 11.0
    loop.cache.used(key("a"), 1, loop.now)
    loop.pump()
    loop.cache.resize(50, loop.now)
    loop.pump()
    loop.unload_all()
    loop.locate("a", 20, revision="2")
    assert not loop.loading
    assert [artifact.revision for artifact in loop.dropped] == ["2"]
    assert list(loop.cache.entries()) == []


def test_refreshes_take_a_quarter_of_the_slots_while_others_wait() -> None:
    loop = Loop(refresh_s=10.0, locates=4, budget=1000)
    for name in "abcd":
        loop.bring(name)
    loop.now = 11.0
    for number in range(6):
        loop.want(f"cold{number}", f"w{number}")
    assert len(loop.locating) == 4
    for name in "abcd":
        loop.cache.used(key(name), 1, loop.now)
    loop.pump()
    loop.locate("cold0")
    loop.locate("cold1")
    assert [revision for revision in loop.locating.values() if revision] == ["1"]
    for name in ("cold2", "cold3", "cold4", "cold5"):
        loop.locate(name)
    assert [revision for revision in loop.locating.values() if revision] == ["1"] * 4


def test_refreshes_have_their_quarter_again_and_again() -> None:
    loop = Loop(locates=4, budget=1000)
    loop.bring("a")
    for number in range(8):
        loop.want(f"cold{number}", f"w{number}")
    for number in range(3):
        loop.cache.refresh(key("a"), loop.now)
        loop.pump()
        loop.locate(f"cold{number}")
        assert loop.locating[key("a")] == "1"
        loop.unchanged("a")


def test_a_refresh_can_be_asked_for() -> None:
    loop = Loop()
    assert loop.cache.refresh(key("a"), 0.0) is False
    loop.bring("a")
    assert loop.cache.refresh(key("a"), 0.0)
    assert loop.pump() == [Locate(key("a"), "1")]


# ---------------------------------------------------------------------- what is not to be kept


def test_what_is_not_kept_goes_after_its_use() -> None:
    loop = Loop()
    loop.want("a", "w", keep=False)
    loop.locate("a")
    del loop.loading[key("a")]
    model = Model(key("a"))
    loop.cache.loaded(key("a"), model, 0.1, loop.now)
    served = loop.cache.poll(loop.now)
    assert isinstance(served, Serve)
    model.users = 1
    assert loop.pump() == []
    assert loop.cache.heeds_idle
    assert loop.cache.get(key("a")) is model
    loop.rest(model)
    assert loop.unload_all() == [("a", "not kept")]
    assert loop.cache.stats.unloaded == {"not kept": 1}
    assert loop.cache.stats.evicted_bytes == 0
    assert not loop.names()
    assert list(loop.cache.entries()) == []


def test_what_is_not_kept_and_came_too_late_waits_for_its_first_use() -> None:
    loop = Loop()
    loop.want("a", "w", patience=1.0, keep=False)
    loop.locate("a")
    loop.wait(2.0)
    model = loop.loaded("a")
    assert not loop.unloading
    assert loop.want("a", "v", keep=False) is model
    assert loop.unload_all() == [("a", "not kept")]


def test_what_is_pinned_is_kept() -> None:
    loop = Loop()
    loop.cache.pin(key("a"))
    loop.bring("a", keep=False)
    loop.want("a", "w", keep=False)
    assert not loop.unloading
    loop.cache.unpin(key("a"))
    loop.pump()
    assert loop.unload_all() == [("a", "not kept")]


def test_what_is_to_be_kept_after_all_stays() -> None:
    loop = Loop()
    model = loop.bring("a", keep=False)
    model.users = 1
    loop.want("a", "v", keep=False)
    loop.want("a", "w", keep=True)
    loop.rest(model)
    assert not loop.unloading


# ---------------------------------------------------------------------- discarding


def test_a_loaded_one_goes_once_it_is_out_of_use() -> None:
    loop = Loop()
    model = loop.bring("a")
    loop.cache.pin(key("a"))
    model.users = 1
    assert loop.discard("a")
    assert loop.cache.get(key("a")) is None
    assert [(view.state, view.reason) for view in loop.cache.entries()] == [("in use", "removed")]
    assert loop.cache.budget.held == 10
    assert not loop.unloading
    # It can be had anew beside it.
    loop.want("a", "w")
    loop.locate("a")
    second = loop.loaded("a")
    assert loop.served == {"w": second}
    loop.rest(model)
    assert loop.unload_all() == [("a", "removed")]
    assert loop.cache.get(key("a")) is second
    assert loop.discard("a")
    loop.unload_all()
    assert list(loop.cache.entries()) == []
    assert not loop.discard("a")


def test_one_that_is_located_is_refused_and_dropped() -> None:
    loop = Loop()
    loop.want("a", "w")
    assert loop.discard("a")
    assert loop.refused["w"].message == "the endpoint is gone"
    assert loop.cache.stats.refused == {"removed": 1}
    assert not loop.discard("a")
    loop.locate("a")
    assert len(loop.dropped) == 1
    assert list(loop.cache.entries()) == []


def test_one_that_is_loaded_meanwhile_is_unloaded_at_once() -> None:
    loop = Loop()
    loop.want("a", "w")
    loop.locate("a")
    loop.discard("a")
    loop.loaded("a")
    assert not loop.served
    assert loop.unload_all() == [("a", "removed")]
    assert loop.cache.budget.held == 0
    assert list(loop.cache.entries()) == []


@pytest.mark.parametrize("outcome", ["located", "unchanged", "failed"])
def test_who_comes_after_a_discard_gets_a_flight_of_its_own(outcome: str) -> None:
    loop = Loop()
    loop.want("a", "w")
    loop.discard("a")
    assert loop.want("a", "v") is None
    if outcome == "located":
        loop.locate("a")
    elif outcome == "unchanged":
        loop.unchanged("a")
    else:
        loop.fail("a")
    assert loop.locating == {key("a"): ""}
    loop.locate("a", revision="2")
    model = loop.loaded("a")
    assert loop.served == {"v": model}


def test_one_that_waits_in_a_queue_is_dropped() -> None:
    loop = Loop(locates=1, loads=1)
    loop.want("a", "u")
    loop.locate("a")
    loop.want("b", "v")
    loop.locate("b")
    loop.want("c", "w")
    loop.want("d", "x")
    for name in "bd":
        assert loop.discard(name)
    assert set(loop.refused) == {"v", "x"}
    assert [artifact.key[1] for artifact in loop.dropped] == ["b"]
    loop.locate("c")
    loop.loaded("a")
    assert list(loop.loading) == [key("c")]


def test_all_of_an_endpoint_are_discarded() -> None:
    loop = Loop(budget=1000)
    loop.bring("a")
    loop.want("b", "w")
    loop.want("c", "v")
    loop.fail("c")
    loop.cache.pin(key("z"))
    other: Key = ("F", "a")
    loop.cache.load(other, loop.now)
    loop.pump()
    loop.cache.discard_where(lambda name: name[0] == "E", "its endpoint is gone", GONE, loop.now)
    loop.pump()
    assert set(loop.refused) == {"v", "w"}
    assert loop.unload_all() == [("a", "its endpoint is gone")]
    loop.locate("b")
    assert [view.key for view in loop.cache.entries()] == [other]
    assert not loop.cache._room.pins


# ---------------------------------------------------------------------- answers that nobody asked for


def test_answers_that_were_not_asked_for_are_told() -> None:
    loop = Loop()
    with pytest.raises(ValueError, match="E:a is not locating"):
        loop.cache.located(key("a"), Artifact(key("a"), 1, "1"), 1, "1", 0.0)
    with pytest.raises(ValueError, match="not loading"):
        loop.cache.loaded(key("a"), Model(key("a")), 0.1, 0.0)
    with pytest.raises(ValueError, match="not locating or loading"):
        loop.cache.failed(key("a"), LoadFailed(), None, 0.0)
    model = loop.bring("a")
    with pytest.raises(ValueError, match="not to be"):
        loop.cache.unloaded(key("a"), model, 0.0)


# ---------------------------------------------------------------------- what is known takes little


def test_ten_thousand_known_keys_take_less_than_a_kilobyte_each() -> None:
    loop = Loop(keep_known=10_000)
    names = [("endpoint", f"team/model-{number:06}.tar.gz") for number in range(12_000)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for name in names:
            loop.cache.want(name, "w", 50.0, 0.0)
            while loop.cache.poll(0.0) is not None:
                pass
            loop.cache.failed(name, LoadFailed(f"model '{name[1]}' cannot be loaded: it is no archive"), None, 0.0)
            while loop.cache.poll(0.0) is not None:
                pass
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert sum(1 for _ in loop.cache.entries()) == 10_000
    assert taken / 10_000 < 1024
    assert loop.cache.want(names[0], "w", 50.0, 0.0) is None
    with pytest.raises(LoadFailed):
        loop.cache.want(names[-1], "w", 50.0, 0.0)


def test_nothing_is_kept_of_what_came_and_went() -> None:
    loop = Loop(budget=50)
    for number in range(300):
        loop.bring(str(number))
    assert len(loop.cache._entries) == 5
    assert len(loop.names()) == 5


def test_expired_faults_go_before_the_limit() -> None:
    loop = Loop(broken_s=1.0, broken_most_s=10.0)
    for number in range(50):
        loop.want(str(number), "w")
        loop.fail(str(number))
        loop.refused.clear()
        loop.now += 1.0
    assert len(loop.cache._faults) < 15


# ---------------------------------------------------------------------- over random histories

NAMES = "abcdefg"
SIZES = (0, 1, 7, 20, 45, 90, 130)


class Histories(RuleBasedStateMachine):
    """The cache under all that can happen to it, in any order; `Loop` checks each action."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.waiters: dict[str, str] = {}
        self.number = 0
        self.models: list[Model] = []
        self.sizes: dict[int, int] = {}
        self.artifacts: list[Artifact] = []
        self.loaded_artifacts: list[Artifact] = []
        self.last_event = 0

    @initialize(
        by=st.sampled_from(["lru", "gdsf"]),
        loads=st.integers(1, 3),
        locates=st.integers(1, 5),
        refresh_s=st.sampled_from([0.0, 5.0]),
        wait_s=st.sampled_from([3.0, 60.0]),
        busy=st.booleans(),
    )
    def begin(self, by: str, loads: int, locates: int, refresh_s: float, wait_s: float, busy: bool) -> None:
        self.loop = Loop(100, by, loads=loads, locates=locates, refresh_s=refresh_s, wait_s=wait_s, broken_s=2.0)
        self.loop.busy = busy

    def settle(self) -> None:
        """Strikes off those who were answered."""
        for waiter in [*self.loop.served, *self.loop.refused]:
            assert self.waiters.pop(waiter, None) is not None
        self.loop.served.clear()
        self.loop.refused.clear()

    # ------------------------------------------------------------------ callers

    @rule(name=st.sampled_from(NAMES), patience=st.sampled_from([0.0, 0.5, 4.0, math.inf]), keep=st.booleans())
    def want(self, name: str, patience: float, keep: bool) -> None:
        self.number += 1
        waiter = str(self.number)
        self.waiters[waiter] = name
        try:
            found = self.loop.cache.want(key(name), waiter, self.loop.now + patience, self.loop.now, keep=keep)
        except ServingError:
            del self.waiters[waiter]
            return
        if found is not None:
            assert found.open
            found.users += self.loop.busy
            del self.waiters[waiter]
        self.loop.pump()
        self.settle()

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(sorted(self.waiters)))
        self.loop.cache.leave(key(self.waiters.pop(waiter)), waiter)
        self.loop.pump()
        self.settle()

    @rule(name=st.sampled_from(NAMES), keep=st.booleans())
    def load(self, name: str, keep: bool) -> None:
        self.loop.cache.load(key(name), self.loop.now, keep=keep)
        self.loop.pump()
        self.settle()

    @rule(name=st.sampled_from(NAMES))
    def use(self, name: str) -> None:
        model = self.loop.cache.get(key(name))
        if model is not None:
            model.users += 1
        self.loop.cache.used(key(name), 1, self.loop.now)
        self.loop.pump()
        self.settle()

    @precondition(lambda self: any(model.users for model in self.models))
    @rule(data=st.data())
    def rest(self, data: st.DataObject) -> None:
        used = [number for number, model in enumerate(self.models) if model.users]
        self.loop.rest(self.models[data.draw(st.sampled_from(used))])
        self.settle()

    @rule(name=st.sampled_from(NAMES))
    def refresh(self, name: str) -> None:
        self.loop.cache.refresh(key(name), self.loop.now)
        self.loop.pump()

    # ------------------------------------------------------------------ what actions come to

    @precondition(lambda self: self.loop.locating)
    @rule(data=st.data(), size=st.sampled_from(SIZES), revision=st.sampled_from("12"))
    def locate(self, data: st.DataObject, size: int, revision: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.loop.locating)))
        self.located(name, size, revision)

    def located(self, name: Key, size: int, revision: str) -> None:
        artifact = Artifact(name, size, revision)
        self.artifacts.append(artifact)
        del self.loop.locating[name]
        self.loop.cache.located(name, artifact, size, revision, self.loop.now)
        self.loop.pump()
        self.settle()

    @precondition(lambda self: any(self.loop.locating.values()))
    @rule(data=st.data())
    def unchanged(self, data: st.DataObject) -> None:
        names = sorted(name for name, revision in self.loop.locating.items() if revision)
        self.loop.unchanged(data.draw(st.sampled_from(names))[1])
        self.settle()

    @precondition(lambda self: self.loop.loading)
    @rule(data=st.data(), better=st.none() | st.sampled_from(SIZES))
    def finish_load(self, data: st.DataObject, better: int | None) -> None:
        self.finish(data.draw(st.sampled_from(sorted(self.loop.loading))), better)

    def finish(self, name: Key, better: int | None = None) -> None:
        artifact = self.loop.loading.pop(name)
        self.loaded_artifacts.append(artifact)
        model = Model(name)
        self.models.append(model)
        self.sizes[id(model)] = artifact.size if better is None else better
        self.loop.cache.loaded(name, model, 0.1, self.loop.now, better)
        self.loop.pump()
        self.settle()

    @precondition(lambda self: self.loop.locating or self.loop.loading)
    @rule(
        data=st.data(),
        error=st.sampled_from([LoadFailed(), TargetMissing(), Unavailable()]),
        believe_s=st.sampled_from([None, 0.0, 3.0]),
    )
    def fail(self, data: st.DataObject, error: ServingError, believe_s: float | None) -> None:
        name = data.draw(st.sampled_from(sorted([*self.loop.locating, *self.loop.loading])))
        if name in self.loop.loading:
            self.loaded_artifacts.append(self.loop.loading[name])
        self.loop.fail(name[1], error, believe_s)
        self.settle()

    @precondition(lambda self: self.loop.unloading)
    @rule(data=st.data())
    def unload(self, data: st.DataObject) -> None:
        self.end_unload(data.draw(st.integers(0, len(self.loop.unloading) - 1)))

    def end_unload(self, number: int) -> None:
        model, _ = self.loop.unloading.pop(number)
        del self.sizes[id(model)]
        self.models.remove(model)
        self.loop.cache.unloaded(model.key, model, self.loop.now)
        self.loop.pump()
        self.settle()

    # ------------------------------------------------------------------ the operator, and time

    @rule(name=st.sampled_from(NAMES))
    def discard(self, name: str) -> None:
        self.loop.discard(name)
        assert self.loop.cache.get(key(name)) is None
        self.settle()

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def discard_several(self, names: set[str]) -> None:
        self.loop.cache.discard_where(lambda name: name[1] in names, "its endpoint is gone", GONE, self.loop.now)
        self.loop.pump()
        self.settle()

    @rule(name=st.sampled_from(NAMES))
    def pin(self, name: str) -> None:
        self.loop.cache.pin(key(name))

    @rule(name=st.sampled_from(NAMES))
    def unpin(self, name: str) -> None:
        self.loop.cache.unpin(key(name))
        self.loop.pump()
        self.settle()

    @rule(budget=st.sampled_from([0, 30, 100, 150]))
    def resize(self, budget: int) -> None:
        self.loop.cache.resize(budget, self.loop.now)
        self.loop.pump()
        self.settle()

    @rule(measured=st.integers(0, 200), force=st.booleans())
    def measure(self, measured: int, force: bool) -> None:
        self.loop.cache.measured(measured, self.loop.now, force=force)
        self.loop.pump()
        self.settle()

    @rule(seconds=st.sampled_from([0.001, 0.02, 1.0, 5.0, 100.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.wait(seconds)
        self.settle()
        wake_at = self.loop.cache.wake_at
        assert wake_at is None or wake_at > self.loop.now

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def nobody_is_lost(self) -> None:
        assert self.loop.cache.waiting == len(self.waiters)
        assert sum(view.waiting for view in self.loop.cache.entries()) == len(self.waiters)

    @invariant()
    def bytes_are_those_of_all_models(self) -> None:
        budget = self.loop.cache.budget
        closing = {id(model) for model, _ in self.loop.unloading}
        assert budget.unloading == sum(size for model, size in self.sizes.items() if model in closing)
        assert budget.loaded == sum(size for model, size in self.sizes.items() if model not in closing)
        assert budget.loading == sum(artifact.size for artifact in self.loop.loading.values())

    @invariant()
    def no_more_is_held_than_may_be_but_for_what_cannot_go(self) -> None:
        cache = self.loop.cache
        if cache.budget.loaded + cache.budget.loading > cache.budget.capacity and not cache.wake_at:
            for name in cache:
                model = cache.get(name)
                assert model is not None
                assert model.users or name in cache._room.pins or not self.sizes[id(model)]

    @invariant()
    def what_is_found_is_open(self) -> None:
        for name in self.loop.cache:
            model = self.loop.cache.get(name)
            assert model is not None
            assert model.open

    @invariant()
    def events_say_what_and_why(self) -> None:
        for event in self.loop.cache.events(self.last_event):
            assert event.number == self.last_event + 1
            self.last_event = event.number
            assert event.reason
            assert event.text
            assert event.bytes >= 0
            assert event.seconds >= 0.0

    def teardown(self) -> None:
        """All that is under way ends, and with it everybody's wait, though no deadline passes."""
        loop = self.loop
        started = loop.now
        for _ in range(200):
            for model in list(self.models):
                while model.users:
                    loop.rest(model)
            loop.wait(0.02)
            self.settle()
            while loop.locating or loop.loading or loop.unloading:
                for name in list(loop.locating):
                    self.located(name, 10, "1")
                for name in list(loop.loading):
                    self.finish(name)
                while loop.unloading:
                    self.end_unload(0)
            if not self.waiters and not any(model.users for model in self.models):
                break
        # Nobody's wait was ended by the limit.
        assert loop.now - started < 1.0
        assert not self.waiters
        loop.cache.discard_where(lambda _: True, "removed", GONE, loop.now)
        loop.pump()
        while loop.unloading or loop.locating or loop.loading:
            loop.unload_all()
            for name in list(loop.loading):
                self.finish(name)
        assert list(loop.cache.entries()) == []
        assert not loop.cache._entries
        assert list(loop.cache._policy.victims()) == []
        assert loop.cache.budget.taken == 0
        assert loop.cache.wake_at is None
        assert not loop.cache.heeds_idle
        ended = [*loop.dropped, *self.loaded_artifacts]
        assert sorted(map(id, ended)) == sorted(map(id, self.artifacts))


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
