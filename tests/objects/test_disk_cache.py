"""Copies on disk: the budget, what is held, and who goes first, under random use."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.objects.disk_cache import Copy, DiskCache

ENDLESS = 1 << 60
URLS = [f"s3://b/{number}" for number in range(6)]


def copy(url: str, bytes_: int, holds: int = 0, revision: str = "1") -> Copy:
    return Copy(url, revision, url, bytes_, bytes_, holds=holds)


def urls(gone: list[Copy] | None) -> list[str] | None:
    return None if gone is None else [one.url for one in gone]


def filled(budget: int, *names: str, bytes_: int = 10) -> tuple[DiskCache, list[Copy]]:
    cache = DiskCache(budget)
    copies = [copy(name, bytes_) for name in names]
    for one in copies:
        assert cache.add(one) == []
    return cache, copies


def test_the_least_recently_used_goes_first() -> None:
    cache, (a, _, c) = filled(30, "a", "b", "c")
    cache.hold(a)
    cache.release(a)
    assert urls(cache.set_aside("d", 20, ENDLESS)) == ["b", "c"]
    assert cache.find("b") is None
    assert cache.find("a") is a
    assert c.leaving
    assert cache.used == 30


def test_what_is_held_or_in_the_making_stays() -> None:
    cache, (a, b) = filled(30, "a", "b")
    cache.hold(a)
    assert cache.set_aside("c", 10, ENDLESS) == []
    assert cache.is_busy("d")
    assert cache.set_aside("d", 20, ENDLESS) is None
    assert cache.find("b") is b
    cache.give_back("c")
    assert urls(cache.set_aside("d", 20, ENDLESS)) == ["b"]


def test_a_disk_that_fills_up_counts_as_much_as_the_budget() -> None:
    cache, _ = filled(1000, "a", "b", "c")
    assert urls(cache.set_aside("d", 25, 10)) == ["a", "b"]
    assert cache.set_aside("e", 25, 10) is None


def test_only_what_is_more_than_before_is_set_aside() -> None:
    cache = DiskCache(100)
    assert cache.set_aside("a", 60, ENDLESS) == []
    assert cache.set_aside("a", 50, ENDLESS) == []
    assert cache.set_aside("a", 90, ENDLESS) == []
    assert cache.used == 90
    assert not cache.is_busy("a")
    cache.add(copy("a", 40))
    assert cache.used == 40


def test_what_is_replaced_while_it_is_read_goes_with_its_last_reader() -> None:
    cache, (old,) = filled(100, "a")
    cache.hold(old)
    cache.hold(old)
    new = copy("a", 10, revision="2")
    assert cache.add(new) == []
    assert cache.find("a") is new
    assert cache.used == 20
    assert cache.release(old) == []
    assert cache.release(old) == [old]
    assert cache.used == 10


def test_what_grows_makes_others_go() -> None:
    cache, (a, b, c) = filled(30, "a", "b", "c")
    assert urls(cache.resize(c, 15)) == ["a"]
    assert cache.used == 25
    cache.hold(b)
    assert cache.resize(b, 50) == [c]
    assert cache.used == 50
    assert a.leaving


class Machine(RuleBasedStateMachine):
    """Anything that may happen, in any order; the model beside it knows which files there are."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = DiskCache(100)
        self.files: list[Copy] = []
        self.held: list[Copy] = []
        self.making: dict[str, int] = {}
        self.order: list[Copy] = []
        self.grown = False

    def gone(self, copies: list[Copy]) -> None:
        for one in copies:
            assert one not in self.held
            self.files.remove(one)
            if one in self.order:
                self.order.remove(one)

    @rule(url=st.sampled_from(URLS), more=st.integers(1, 60), free=st.sampled_from([30, ENDLESS]))
    def set_aside(self, url: str, more: int, free: int) -> None:
        needed = self.making.get(url, 0) + more
        before, idle = self.cache.used, [one for one in self.order if one not in self.held]
        gone = self.cache.set_aside(url, needed, free)
        if gone is None:
            room = min(self.cache.budget - before, free) + sum(one.bytes for one in idle)
            assert more > room
            return
        assert gone == idle[: len(gone)]
        self.making[url] = needed
        self.gone(gone)

    @precondition(lambda self: self.making)
    @rule(data=st.data(), held=st.booleans())
    def finish(self, data: st.DataObject, held: bool) -> None:
        url = data.draw(st.sampled_from(sorted(self.making)))
        made = copy(url, self.making.pop(url), int(held))
        old = self.cache.find(url)
        gone = self.cache.add(made)
        self.files.append(made)
        if held:
            self.held.append(made)
        if old is not None and old not in gone:
            self.order.remove(old)
        self.order.append(made)
        self.gone(gone)
        assert made not in gone

    @precondition(lambda self: self.making)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        url = data.draw(st.sampled_from(sorted(self.making)))
        del self.making[url]
        self.cache.give_back(url)

    @rule(url=st.sampled_from(URLS))
    def hold(self, url: str) -> None:
        found = self.cache.find(url)
        if found is not None:
            self.cache.hold(found)
            self.held.append(found)
            self.order.remove(found)
            self.order.append(found)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        one = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        gone = self.cache.release(one)
        assert gone == ([one] if one.leaving and one not in self.held else [])
        self.gone(gone)

    @rule(url=st.sampled_from(URLS))
    def discard(self, url: str) -> None:
        found = self.cache.find(url)
        gone = self.cache.discard(url)
        if found is not None:
            assert gone == ([] if found in self.held else [found])
            self.order.remove(found)
            self.gone(gone)
        else:
            assert gone == []

    @precondition(lambda self: self.files)
    @rule(data=st.data(), more=st.integers(-5, 20))
    def resize(self, data: st.DataObject, more: int) -> None:
        one = data.draw(st.sampled_from(range(len(self.files))))
        found = self.files[one]
        if not found.leaving:
            self.grown = self.grown or more > 0
            self.gone(self.cache.resize(found, max(found.bytes + more, 0)))

    @invariant()
    def sums_are_right(self) -> None:
        assert self.cache.used == sum(one.bytes for one in self.files) + sum(self.making.values())
        assert self.grown or self.cache.used <= self.cache.budget
        assert len(self.cache) == len(self.order)
        assert self.cache.is_busy("") == bool(self.held or self.making)
        for one in self.order:
            assert self.cache.find(one.url) is one
            assert not one.leaving


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(st.sampled_from(URLS), st.integers(0, 40)), max_size=30))
def test_copies_of_an_earlier_start_are_brought_down_to_the_budget(found: list[tuple[str, int]]) -> None:
    cache = DiskCache(50)
    for url, bytes_ in found:
        cache.add(copy(url, bytes_))
        assert cache.used <= 50
        assert cache.find(url) is not None
