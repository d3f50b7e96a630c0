"""Eviction policies: each lists what is in, once and in its order, and what is seldom asked for does not push out the rest."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.runtime.eviction import POLICIES, EvictionPolicy, policy
from serving.runtime.eviction.gdsf import REMEMBERED, REMEMBERED_LEAST, Gdsf
from serving.runtime.eviction.lru import Lru
from serving.runtime.eviction.ranking import SLACK, Ranked, Ranking
from serving.runtime.eviction.shadow import Shadow

Call = tuple[str, int, int]

calls = st.lists(
    st.tuples(
        st.sampled_from(["added", "added", "used", "used", "resized", "evicted", "forgotten", "victims"]),
        st.integers(0, 12),
        st.integers(0, 5_000),
    ),
    max_size=120,
)
any_policy = pytest.mark.parametrize("name", POLICIES)


def tell(told: EvictionPolicy[int], call: Call, moment: float = 0.0) -> None:
    """One call; `number` is bytes and times, and what loading took in milliseconds."""
    what, key, number = call
    if what == "added":
        told.added(key, number, number / 1_000, moment)
    elif what == "used":
        told.used(key, number + 1, moment)
    elif what == "resized":
        told.resized(key, number)
    elif what == "victims":
        # As the cache does, which stops in the middle.
        list(itertools.islice(told.victims(), number % 5))
    else:
        told.removed(key, evicted=what == "evicted")


def fill(told: EvictionPolicy[int], keys: range, bytes_: int = 1_000, seconds: float = 0.01) -> None:
    for key in keys:
        told.added(key, bytes_, seconds, 0.0)


def replace(told: EvictionPolicy[int], key: int, bytes_: int = 1_000, seconds: float = 0.01) -> int:
    """Loads one in the place of the first victim, which it returns."""
    victim = next(told.victims())
    told.removed(victim, evicted=True)
    told.added(key, bytes_, seconds, 0.0)
    return victim


# ---------------------------------------------------------------------- all of them


@any_policy
@given(calls)
@settings(max_examples=150, deadline=None)
def test_the_victims_are_all_that_is_in_each_once(name: str, told: list[Call]) -> None:
    one: EvictionPolicy[int] = policy(name)
    present = set[int]()
    for call in told:
        tell(one, call)
        if call[0] == "added":
            present.add(call[1])
        elif call[0] in ("evicted", "forgotten"):
            present.discard(call[1])
        order = list(one.victims())
        assert len(order) == len(set(order))
        assert set(order) == present


@any_policy
@given(calls)
@settings(max_examples=50, deadline=None)
def test_the_same_calls_give_the_same_order_whatever_the_time_is(name: str, told: list[Call]) -> None:
    one: EvictionPolicy[int] = policy(name)
    other: EvictionPolicy[int] = policy(name)
    for moment, call in enumerate(told):
        tell(one, call, 0.0)
        tell(other, call, 1e9 - moment)
    assert list(one.victims()) == list(other.victims()) == list(one.victims())


@any_policy
def test_the_order_does_not_depend_on_the_hashes_of_a_process(name: str) -> None:
    program = f"""
from serving.runtime.eviction import policy
one = policy({name!r})
for number in range(3000):
    key = f"team/{{number * 7919 % 331}}.tar.gz"
    if key in (order := list(one.victims())):
        one.used(key, 1, number)
    else:
        if len(order) == 100:
            one.removed(order[0], evicted=True)
        one.added(key, 1000 + number % 7, 0.1, number)
print(list(one.victims()))
"""
    orders = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(orders) == 1
    assert len(orders.pop()) > 100


@any_policy
def test_what_is_not_in_is_passed_over(name: str) -> None:
    one: EvictionPolicy[str] = policy(name)
    one.used("a", 1, 0.0)
    one.resized("a", 5)
    one.removed("a", evicted=True)
    one.removed("a", evicted=False)
    assert list(one.victims()) == []


@any_policy
@pytest.mark.parametrize("seconds", [0.0, -1.0, nan, 1e-300, 1e9])
@pytest.mark.parametrize("bytes_", [0, 1, 10**15])
def test_any_size_and_any_time_of_loading_is_taken(name: str, seconds: float, bytes_: int) -> None:
    one: EvictionPolicy[int] = policy(name)
    fill(one, range(20))
    one.added(99, bytes_, seconds, 0.0)
    for _ in range(3):
        one.used(99, 10**9, 0.0)
        one.resized(99, 10**15 - bytes_)
        assert sorted(one.victims()) == [*range(20), 99]
    for _ in range(21):
        one.removed(next(one.victims()), evicted=True)
    assert list(one.victims()) == []


@any_policy
def test_memory_for_what_is_no_longer_in_is_bounded(name: str) -> None:
    one: EvictionPolicy[int] = policy(name)
    fill(one, range(50))

    def churn(first: int, last: int) -> int:
        tracemalloc.start()
        for key in range(first, last):
            replace(one, key)
            one.used(key, 1, 0.0)
        current, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return current

    churn(50, 5_000)
    assert churn(5_000, 25_000) < 600_000


def test_the_names_of_the_settings() -> None:
    assert list(POLICIES) == ["gdsf", "lru"]
    with pytest.raises(ValueError, match="no eviction policy is named 'fifo'; there are: gdsf, lru"):
        policy("fifo")


# ---------------------------------------------------------------------- lru


@given(calls)
@settings(max_examples=200, deadline=None)
def test_the_least_recently_used_goes_first(told: list[Call]) -> None:
    one: Lru[int] = Lru()
    order: OrderedDict[int, None] = OrderedDict()
    for call in told:
        tell(one, call)
        what, key, _ = call
        if what == "added" or (what == "used" and key in order):
            order[key] = None
            order.move_to_end(key)
        elif what in ("evicted", "forgotten"):
            order.pop(key, None)
    assert list(one.victims()) == list(order)


# ---------------------------------------------------------------------- gdsf


def scanned(one: EvictionPolicy[int], room: int, between: int, chance: random.Random) -> bool:
    """Whether half of what has room, each used in turn with `between` cold models from one to the next, is never evicted."""
    fill(one, range(room))
    hot = chance.sample(range(room), room // 2)
    for key in hot * 4:
        one.used(key, 1, 0.0)
    turns = itertools.cycle(hot)
    for key in range(1_000, 1_000 + 10 * room):
        if replace(one, key) in hot:
            return False
        if key % between == 0:
            one.used(next(turns), 1, 0.0)
    return True


@given(st.integers(20, 120), st.integers(1, 4), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_a_scan_over_cold_models_leaves_the_hot_ones_in(room: int, between: int, seed: int) -> None:
    assert scanned(Gdsf(), room, between, random.Random(seed))


def test_a_scan_flushes_what_lru_had() -> None:
    assert not scanned(Lru(), 100, 4, random.Random(1))


def test_a_loop_over_more_than_there_is_room_for_keeps_most_of_it() -> None:
    def hits(one: EvictionPolicy[int]) -> int:
        present, found = set[int](), 0
        for number in range(11_000):
            key = number % 110
            if key in present:
                found += 1
                one.used(key, 1, number)
            elif len(present) == 100:
                present.remove(replace(one, key))
            else:
                one.added(key, 1_000, 0.01, number)
            present.add(key)
        return found

    assert hits(Lru()) == 0
    assert hits(Gdsf()) > 7_000


@pytest.mark.parametrize(
    ("better", "worse"),
    [((1_000, 0.1), (1_000, 0.01)), ((1_000, 0.1), (10_000, 0.1)), ((50_000, 5.0), (1_000, 0.01))],
    ids=["slower to load", "smaller", "more seconds a byte"],
)
def test_of_equally_used_models_the_one_goes_that_saves_less_for_a_byte(
    better: tuple[int, float], worse: tuple[int, float]
) -> None:
    for first, second in ((better, worse), (worse, better)):
        one: Gdsf[int] = Gdsf(window=0.0)
        one.added(1, *first, 0.0)
        one.added(2, *second, 0.0)
        order = list(one.victims())
        assert order == ([2, 1] if first == better else [1, 2])


def test_what_is_used_more_often_stays() -> None:
    one: Gdsf[int] = Gdsf(half_life=1e12, window=0.0)
    fill(one, range(10))
    for key in range(10):
        one.used(key, 100 - 10 * key, 0.0)
    assert list(one.victims()) == list(range(9, -1, -1))


def test_uses_of_long_ago_count_for_little() -> None:
    one: Gdsf[int] = Gdsf(window=0.0)
    fill(one, range(3))
    one.used(0, 1_000, 0.0)
    for _ in range(400):
        one.used(1, 1, 0.0)
        one.used(2, 1, 0.0)
    assert next(one.victims()) == 0


def test_a_burst_counts_as_its_uses_one_by_one() -> None:
    burst: Gdsf[int] = Gdsf(half_life=1e12, window=0.0)
    single: Gdsf[int] = Gdsf(half_life=1e12, window=0.0)
    for one, times in ((burst, 64), (single, 1)):
        fill(one, range(2))
        for _ in range(64 // times):
            one.used(0, times, 0.0)
        one.used(1, 65, 0.0)
        assert list(one.victims()) == [0, 1]
        one.used(0, 2, 0.0)
        assert list(one.victims()) == [1, 0]


def test_a_newcomer_is_safe_in_the_window_and_then_goes_before_what_is_worth_as_much() -> None:
    one: Gdsf[int] = Gdsf(window=0.1)
    fill(one, range(20))
    fill(one, range(100, 102))
    assert list(one.victims())[-2:] == [100, 101]
    one.added(102, 1_000, 0.01, 0.0)
    order = list(one.victims())
    assert order[-2:] == [101, 102]
    assert replace(one, 103) in range(20)


def test_what_outlived_another_no_longer_is_a_newcomer() -> None:
    one: Gdsf[int] = Gdsf(half_life=1e12, window=0.0)
    fill(one, range(3))
    assert list(one.victims()) == [0, 1, 2]
    one.removed(0, evicted=True)
    one.added(3, 1_000, 0.01, 0.0)
    assert list(one.victims()) == [3, 1, 2]


def test_asking_alone_makes_nobody_less_of_a_newcomer() -> None:
    one: Gdsf[int] = Gdsf(half_life=1e12, window=0.0)
    fill(one, range(2))
    assert list(one.victims()) == [0, 1]
    one.added(2, 1_000, 0.01, 0.0)
    assert list(one.victims()) == list(one.victims()) == [0, 1, 2]


def test_newcomers_that_are_taken_out_while_nothing_can_be_evicted_are_let_go() -> None:
    one: Gdsf[int] = Gdsf()
    for key in range(2_000):
        one.added(key, 1_000, 0.01, 0.0)
        next(one.victims())
        one.removed(key, evicted=False)
    assert len(one._leaving) <= 1


def test_use_is_remembered_of_what_was_evicted_and_not_of_what_was_removed() -> None:
    for evicted, last in ((True, 0), (False, 1)):
        one: Gdsf[int] = Gdsf(window=0.0)
        fill(one, range(2))
        one.used(0, 20, 0.0)
        one.used(1, 10, 0.0)
        one.removed(0, evicted=evicted)
        one.added(0, 1_000, 0.01, 0.0)
        assert list(one.victims())[-1] == last


def test_forgetting_what_went_before() -> None:
    one: Gdsf[int] = Gdsf(window=0.0)
    fill(one, range(2))
    one.used(0, 20, 0.0)
    one.used(1, 10, 0.0)
    one.removed(0, evicted=True)
    one.removed(0, evicted=False)
    one.added(0, 1_000, 0.01, 0.0)
    assert list(one.victims()) == [0, 1]


def test_one_slow_load_does_not_outweigh_those_before() -> None:
    one: Gdsf[int] = Gdsf(window=0.0)
    fill(one, range(2))
    one.used(1, 7, 0.0)
    one.removed(0, evicted=True)
    one.added(0, 1_000, 0.1, 0.0)
    assert list(one.victims()) == [0, 1]
    one.removed(0, evicted=False)
    one.added(0, 1_000, 0.1, 0.0)
    assert list(one.victims()) == [1, 0]


def test_a_new_load_of_what_is_in_keeps_its_use() -> None:
    one: Gdsf[int] = Gdsf(window=0.0)
    fill(one, range(2))
    one.used(0, 20, 0.0)
    one.used(1, 10, 0.0)
    one.added(0, 1_000, 0.01, 0.0)
    assert list(one.victims()) == [1, 0]
    one.added(0, 100_000, 0.01, 0.0)
    assert list(one.victims()) == [0, 1]


def test_the_request_that_a_model_was_loaded_for_counts_once_whether_or_not_it_was_loaded_ahead() -> None:
    one: Gdsf[int] = Gdsf(half_life=1e12, window=0.0)
    fill(one, range(3))
    one.used(0, 1, 0.0)
    assert list(one.victims()) == [0, 1, 2]
    one.used(0, 1, 0.0)
    one.used(1, 2, 0.0)
    one.used(1, 1, 0.0)
    assert list(one.victims()) == [2, 0, 1]


def test_what_turns_out_larger_goes_earlier_and_what_is_smaller_later() -> None:
    one: Gdsf[int] = Gdsf(window=0.0)
    fill(one, range(3))
    list(one.victims())
    one.used(0, 1, 0.0)
    one.resized(0, 100)
    one.resized(2, 10_000)
    assert list(one.victims()) == [2, 1, 0]


def test_uses_without_end_overflow_nothing() -> None:
    one: Gdsf[int] = Gdsf(half_life=1e-3)
    fill(one, range(3))
    for _ in range(100):
        one.used(0, 10**9, 0.0)
    one.used(1, 1, 0.0)
    list(one.victims())
    assert all(-inf < ranked.value < inf for ranked in one._ranking.ascending())


def changing(one: EvictionPolicy[int], room: int, chance: random.Random) -> int:
    """Hits where a few models are asked for, each a few times, and then never again."""
    present, hits = set[int](), 0
    for number in range(60 * room):
        key = number // 2 - min(int(chance.expovariate(1.6 / room)), room * 2)
        if key in present:
            hits += 1
            one.used(key, 1, number)
        elif len(present) == room:
            present.remove(replace(one, key))
        else:
            one.added(key, 1_000, 0.01, number)
        present.add(key)
    return hits


def test_where_everything_changes_it_comes_close_to_the_least_recently_used() -> None:
    lru = changing(Lru(), 200, random.Random(1))
    adapted: Gdsf[int] = Gdsf()
    rigid: Gdsf[int] = Gdsf()
    rigid._shortest = rigid._longest
    assert changing(adapted, 200, random.Random(1)) > 0.9 * lru > 2 * changing(rigid, 200, random.Random(1))
    assert adapted._half_life < adapted._longest / 2


def test_where_popularity_is_stable_uses_count_for_long() -> None:
    one: Gdsf[int] = Gdsf()
    changing(one, 100, random.Random(1))
    chance = random.Random(2)
    first = 1_000_000
    for _ in range(20_000):
        key = first + min(int(chance.paretovariate(0.3)), 5_000)
        if key in one._models:
            one.used(key, 1, 0.0)
        else:
            replace(one, key)
    assert one._half_life > one._longest / 2


def test_so_many_are_remembered() -> None:
    one: Gdsf[int] = Gdsf()
    fill(one, range(1_000))
    for key in range(1_000, 4_000):
        replace(one, key)
    assert len(one._gone) <= REMEMBERED * 1_000
    for victim in list(one.victims()):
        one.removed(victim, evicted=True)
    assert len(one._gone) == REMEMBERED_LEAST


# ---------------------------------------------------------------------- shadow


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6), st.booleans()), max_size=100))
@settings(max_examples=200, deadline=None)
def test_a_shadow_holds_what_was_asked_for_last(told: list[tuple[int, int, bool]]) -> None:
    shadow: Shadow[int] = Shadow()
    held: list[tuple[int, int]] = []
    for key, size, forgotten in told:
        there = key in [other for other, _ in held]
        held = [pair for pair in held if pair[0] != key]
        if forgotten:
            shadow.forget(key)
        else:
            assert shadow.asked(key) == there
            shadow.hold(key, size, 15, 6)
            held.append((key, size))
            while sum(size for _, size in held) > 15 or len(held) > 6:
                held.pop(0)
        assert len(shadow) == len(held)


def test_a_shadow_keeps_one_that_is_too_large_for_it() -> None:
    shadow: Shadow[str] = Shadow()
    shadow.hold("a", 10, 5, 6)
    assert shadow.asked("a")
    shadow.hold("b", 1, 5, 6)
    assert not shadow.asked("a")
    assert shadow.asked("b")


# ---------------------------------------------------------------------- ranking

changes = st.lists(
    st.tuples(st.sampled_from(["raise", "lower", "file", "remove", "walk"]), st.integers(0, 15), st.integers(0, 9)),
    max_size=200,
)


@given(changes)
@settings(max_examples=300, deadline=None)
def test_a_ranking_is_in_order_whatever_was_raised_lowered_or_walked_before(told: list[tuple[str, int, int]]) -> None:
    ranking: Ranking[int] = Ranking()
    all_ = [Ranked(key) for key in range(16)]
    for what, key, number in told:
        ranked = all_[key]
        if what == "raise":
            ranked.value += number
        elif what == "walk":
            list(itertools.islice(ranking.ascending(), number))
        elif what == "remove":
            ranking.remove(ranked)
        else:
            ranked.value -= number if what == "lower" else 0
            ranking.file(ranked)
    present = [ranked for ranked in all_ if ranked.filed]
    walked = list(ranking.ascending())
    assert len(ranking) == len(present)
    assert [ranked.value for ranked in walked] == sorted(ranked.value for ranked in present)
    assert {ranked.key for ranked in walked} == {ranked.key for ranked in present}


def records(ranking: Ranking[Any]) -> int:
    return len(ranking._heap) + len(ranking._walked)


@pytest.mark.parametrize("walk", [False, True])
def test_void_records_are_swept(walk: bool) -> None:
    ranking: Ranking[int] = Ranking()
    kept = [Ranked(key) for key in range(10)]
    for number in range(5_000):
        ranked = kept[number % 10]
        ranked.value = -float(number)
        ranking.file(ranked)
        if walk:
            list(ranking.ascending())
        gone = Ranked(1_000 + number)
        ranking.file(gone)
        ranking.remove(gone)
        assert records(ranking) <= 2 * (len(kept) + 1) + SLACK


def test_a_raise_is_paid_for_once() -> None:
    ranking: Ranking[int] = Ranking()
    all_ = [Ranked(key) for key in range(1_000)]
    for ranked in all_:
        ranking.file(ranked)
    for ranked in all_:
        ranked.value = 1.0
    before = ranking._number
    for _ in range(100):
        next(ranking.ascending())
    assert ranking._number - before <= 1_000


@pytest.mark.parametrize("make", [Gdsf, Lru])
def test_victims_are_lazy(make: Callable[[], EvictionPolicy[int]]) -> None:
    one = make()
    fill(one, range(2_000))
    next(one.victims())
    tracemalloc.start()
    next(one.victims())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000
