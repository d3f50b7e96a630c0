"""The names of `POST /models`: taken once, listed once loaded, page by page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InsufficientMemory, ModelExists, TargetMissing
from serving.processes import target_registry
from serving.processes.target_registry import Named, TargetRegistry


def registry(*names: str) -> TargetRegistry:
    made = TargetRegistry()
    for name in names:
        made.add(name, f"/models/{name}")
        made.settle(name)
    return made


def test_a_name_is_taken_from_the_moment_it_is_asked_for_and_listed_once_it_is_loaded() -> None:
    made = TargetRegistry()
    made.add("a", "/models/a")
    with pytest.raises(ModelExists, match="being loaded"):
        made.add("a", "/models/other")
    with pytest.raises(TargetMissing):
        made.get("a")
    assert made.url("a") == "/models/a"
    assert made.page().models == []
    made.settle("a")
    assert made.get("a") == Named("a", "/models/a")
    with pytest.raises(ModelExists, match="loaded already"):
        made.add("a", "/models/a")


def test_what_could_not_be_loaded_leaves_its_name() -> None:
    made = TargetRegistry()
    made.add("a", "/models/a")
    made.forget("a")
    made.add("a", "/models/b")
    assert made.url("a") == "/models/b"


def test_what_is_being_unloaded_is_there_for_nobody_and_its_name_is_not_free() -> None:
    made = registry("a", "b")
    assert made.withhold("a") == Named("a", "/models/a")
    for missing in (made.get, made.withhold):
        with pytest.raises(TargetMissing, match="'a' is not loaded"):
            missing("a")
    with pytest.raises(ModelExists, match="unloaded"):
        made.add("a", "/models/a")
    made.forget("a")
    with pytest.raises(TargetMissing):
        made.url("a")
    assert list(made) == ["b"]


def test_pages_follow_each_other_by_name() -> None:
    made = registry("c", "a", "b", "ä")
    page = made.page(limit=3)
    assert ([model.name for model in page.models], page.next_token) == (["a", "b", "c"], "c")
    assert made.page(page.next_token, 3) == ([Named("ä", "/models/ä")], "")


def test_there_is_an_end_to_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_registry, "MOST", 2)
    made = registry("a", "b")
    with pytest.raises(InsufficientMemory, match="2 models are loaded"):
        made.add("c", "/models/c")


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)


@given(st.sets(NAMES, max_size=20), st.sets(NAMES, max_size=5), st.integers(1, 7))
def test_whatever_comes_and_goes_meanwhile_each_model_that_stays_is_listed_once(
    names: set[str], others: set[str], limit: int
) -> None:
    made, seen, token = registry(*names), [], ""
    comes, goes = sorted(others - names), sorted(others & names)
    while True:
        page = made.page(token, limit)
        seen += [model.name for model in page.models]
        assert len(page.models) <= limit
        if not page.next_token:
            break
        token = page.next_token
        if comes:
            made.add(comes[0], "/new")
            made.settle(comes.pop(0))
        if goes:
            made.withhold(goes[0])
            made.forget(goes.pop(0))
    assert [name for name in seen if name in names - others] == sorted(names - others)
    assert len(seen) == len(set(seen))
