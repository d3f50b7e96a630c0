"""Lists: pages, sorts and filters, the same on every database, and a cost that does not grow with the page's number."""

from __future__ import annotations

import base64
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert

from serving.control import schema
from serving.control.store import Store
from serving.errors import ControlFault
from tests.control.caller import Caller, arn
from tests.control.conftest import Clock

T = 1_700_000_000.0


@pytest.fixture
def call(store: Store) -> Caller:
    return Caller(store)


def add_configs(store: Store, rows: list[tuple[str, float]], document: str = "{}") -> None:
    values = [
        {"name": name, "arn": arn("endpoint-config", name.lower()), "created_at": at, "document": document}
        for name, at in rows
    ]
    store.transact(lambda tx: tx.connection.execute(insert(schema.endpoint_configs), values).close())


def names(pages: list[list[dict[str, Any]]], member: str = "EndpointConfigName") -> list[str]:
    return [one[member] for page in pages for one in page]


def test_an_empty_list(call: Caller) -> None:
    assert call("ListModels") == {"Models": []}
    assert call("ListEndpoints") == {"Endpoints": []}


def test_the_newest_ten_come_first(call: Caller, clock: Clock) -> None:
    for n in range(12):
        call.model(f"m{n}")
        clock.advance(1)
    answer = call("ListModels")
    assert [one["ModelName"] for one in answer["Models"]] == [f"m{n}" for n in reversed(range(2, 12))]
    assert answer["Models"][0] == {"ModelName": "m11", "ModelArn": arn("model", "m11"), "CreationTime": T + 11}
    rest = call("ListModels", NextToken=answer["NextToken"], MaxResults=100)
    assert [one["ModelName"] for one in rest["Models"]] == ["m1", "m0"]
    assert "NextToken" not in rest


def test_a_page_that_ends_with_the_list_has_no_token(call: Caller, store: Store) -> None:
    add_configs(store, [(f"c{n}", T) for n in range(20)])
    pages = call.pages("ListEndpointConfigs", "EndpointConfigs")
    assert [len(page) for page in pages] == [10, 10]
    assert call("ListEndpointConfigs", NextToken="")["EndpointConfigs"] == pages[0]


@pytest.mark.parametrize("order", ["Ascending", "Descending"])
def test_names_sort_by_their_bytes(call: Caller, store: Store, order: str) -> None:
    mixed = ["b", "B1", "a-b", "a0", "aB", "ab", "Z", "a", "0"]
    add_configs(store, [(name, T) for name in mixed if name != "ab"])
    found = names(call.pages("ListEndpointConfigs", "EndpointConfigs", SortBy="Name", SortOrder=order, MaxResults=2))
    expected = sorted(name for name in mixed if name != "ab")
    assert found == (expected if order == "Ascending" else expected[::-1])


def test_rows_that_come_and_go_neither_repeat_nor_hide_others(call: Caller, store: Store) -> None:
    add_configs(store, [(f"c{n:02}", T + n) for n in range(30)])
    first = call("ListEndpointConfigs")
    add_configs(store, [(f"new{n}", T + 100 + n) for n in range(15)])
    gone = schema.endpoint_configs.c.name.in_(["c20", "c21", "c15"])
    store.transact(lambda tx: tx.connection.execute(delete(schema.endpoint_configs).where(gone)).close())
    rest = call.pages("ListEndpointConfigs", "EndpointConfigs", NextToken=first["NextToken"], MaxResults=100)
    assert names(rest) == [f"c{n:02}" for n in reversed(range(20)) if n != 15]


def test_filters(call: Caller, clock: Clock) -> None:
    for name in ("Alpha", "beta", "alphabet"):
        call.model(name)
        clock.advance(10)

    def found(**filters: Any) -> list[str]:
        return names(call.pages("ListModels", "Models", SortBy="Name", **filters), "ModelName")

    assert found(NameContains="alpha") == ["alphabet", "Alpha"]
    assert found(NameContains="BET") == ["beta", "alphabet"]
    assert found(NameContains="-") == []
    assert found(CreationTimeAfter=T + 10) == ["beta", "alphabet"]
    assert found(CreationTimeBefore=T + 10) == ["Alpha"]
    assert found(CreationTimeAfter=T + 10, CreationTimeBefore=T + 10.5, NameContains="e") == ["beta"]


def test_endpoints_by_status_and_time_of_change(call: Caller, clock: Clock) -> None:
    call.model()
    call.config()
    for name in ("a", "b", "c", "d"):
        call.endpoint(name)
        clock.advance(1)
    call.settle("b", "InService")
    call.settle("c", "Failed", serving=False, reason="no such object")
    call("DeleteEndpoint", EndpointName="c")
    by_status = call.pages("ListEndpoints", "Endpoints", SortBy="Status", SortOrder="Ascending", MaxResults=1)
    assert [(one["EndpointName"], one["EndpointStatus"]) for page in by_status for one in page] == [
        ("a", "Creating"),
        ("d", "Creating"),
        ("c", "Deleting"),
        ("b", "InService"),
    ]
    assert names(call.pages("ListEndpoints", "Endpoints", StatusEquals="Creating"), "EndpointName") == ["d", "a"]
    assert names(call.pages("ListEndpoints", "Endpoints", LastModifiedTimeAfter=T + 3), "EndpointName") == ["d", "c"]
    assert names(call.pages("ListEndpoints", "Endpoints", LastModifiedTimeBefore=T + 1), "EndpointName") == ["a"]
    assert call("ListEndpoints", StatusEquals="Deleting")["Endpoints"] == [
        {
            "EndpointName": "c",
            "EndpointArn": arn("endpoint", "c"),
            "CreationTime": T + 2,
            "LastModifiedTime": T + 4,
            "EndpointStatus": "Deleting",
        }
    ]


def test_a_token_is_good_for_its_own_list_only(call: Caller, store: Store) -> None:
    add_configs(store, [(f"c{n}", T) for n in range(30)])
    for n in range(11):
        call.model(f"m{n}")
    token = call("ListEndpointConfigs", NameContains="c")["NextToken"]
    call("ListEndpointConfigs", NameContains="c", NextToken=token, MaxResults=3)
    # A default that is spelt out is the same list.
    call("ListEndpointConfigs", NameContains="c", NextToken=token, SortBy="CreationTime", SortOrder="Descending")
    raw = base64.urlsafe_b64decode(token)
    others = [
        call("ListModels")["NextToken"],
        token[:-4],
        base64.urlsafe_b64encode(raw[:-3] + b'9"]').decode(),
        base64.urlsafe_b64encode(bytes([raw[0] ^ 1]) + raw[1:]).decode(),
        "x",
        "ü" * 20,
        "x" * 8192,
        base64.urlsafe_b64encode(b"").decode() or "=",
    ]
    for other in others:
        with pytest.raises(ControlFault, match="NextToken is not valid"):
            call("ListEndpointConfigs", NameContains="c", NextToken=other)
    for changed in ({}, {"NameContains": "c1"}, {"NameContains": "c", "SortBy": "Name"}, {"SortOrder": "Ascending"}):
        with pytest.raises(ControlFault, match="NextToken is not valid"):
            call("ListEndpointConfigs", NextToken=token, **changed)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    rows=st.dictionaries(
        st.from_regex(r"[a-cA-C0-1](-*[a-cA-C0-1]){0,3}", fullmatch=True),
        st.sampled_from([T, T + 0.1, T + 0.1000001, T + 1 / 3, T + 5]),
        max_size=25,
    ),
    by=st.sampled_from(["Name", "CreationTime"]),
    order=st.sampled_from(["Ascending", "Descending"]),
    size=st.integers(1, 7),
    contains=st.sampled_from([None, "a", "B-", "0"]),
)
def test_pages_together_are_the_whole_list_in_order(
    store: Store, rows: dict[str, float], by: str, order: str, size: int, contains: str | None
) -> None:
    rows = {name: at for name, at in rows.items() if name == min(k for k in rows if k.lower() == name.lower())}
    store.transact(lambda tx: tx.connection.execute(delete(schema.endpoint_configs)).close())
    if rows:
        add_configs(store, list(rows.items()))
    parameters: dict[str, Any] = {"SortBy": by, "SortOrder": order, "MaxResults": size}
    if contains is not None:
        parameters["NameContains"] = contains
    pages = Caller(store).pages("ListEndpointConfigs", "EndpointConfigs", **parameters)
    assert all(len(page) == size for page in pages[:-1])
    keys = {"Name": lambda name: name, "CreationTime": lambda name: (rows[name], name)}
    expected = sorted((n for n in rows if (contains or "").lower() in n.lower()), key=keys[by])
    assert names(pages) == (expected if order == "Ascending" else expected[::-1])


def test_the_last_page_of_many_costs_what_the_first_does(call: Caller, store: Store) -> None:
    document = '{"ProductionVariants":[' + ",".join(['{"VariantName":"AllTraffic","ModelName":"m"}'] * 20) + "]}"
    add_configs(store, [(f"config-{n}", T + n) for n in range(1000)], document)

    def cost_s(**parameters: Any) -> float:
        costs = []
        for _ in range(7):
            begin = time.perf_counter()
            call("ListEndpointConfigs", **parameters)
            costs.append(time.perf_counter() - begin)
        return min(costs)

    pages, token = [], None
    while True:
        answer = call("ListEndpointConfigs", MaxResults=100, **({"NextToken": token} if token else {}))
        pages.append(answer["EndpointConfigs"])
        if "NextToken" not in answer:
            break
        token = answer["NextToken"]
    assert len(pages) == 10
    first, last = cost_s(MaxResults=100), cost_s(MaxResults=100, NextToken=token)
    assert last < first * 2
    assert first < 0.05
    assert all(a["CreationTime"] > b["CreationTime"] for page in pages for a, b in pairwise(page))
