"""Documents against shapes, where the service models of the built operations have no case for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.control.review import MOST_ECHOED, MOST_FAULTS, Review, TooSlow, shown
from serving.control.validation import DEEPEST, Compiler
from serving.errors import ControlFault, NotSerialized

SHAPES: dict[str, dict[str, Any]] = {
    "Text": {"type": "string"},
    "Short": {"type": "string", "max": 3},
    "Word": {"type": "string", "min": 2, "max": 4, "pattern": "[a-z]*"},
    "Secret": {"type": "string", "max": 3, "sensitive": True},
    "Slow": {"type": "string", "pattern": "(x|xx)+[yz]"},
    "Loose": {"type": "string", "pattern": "a*"},
    "Blob": {"type": "blob", "max": 4},
    "Long": {"type": "long"},
    "Integer": {"type": "integer"},
    "Double": {"type": "double"},
    "Time": {"type": "timestamp"},
    "Words": {"type": "list", "member": {"shape": "Word"}},
    "Nodes": {"type": "list", "member": {"shape": "Node"}, "max": 100_000},
    "Named": {"type": "map", "key": {"shape": "Word"}, "value": {"shape": "Node"}},
    "Either": {
        "type": "structure",
        "union": True,
        "members": {"Left": {"shape": "Text"}, "Right": {"shape": "Short"}},
    },
    "Node": {
        "type": "structure",
        "members": {
            name: {"shape": shape}
            for name, shape in [
                ("Blob", "Blob"),
                ("Child", "Node"),
                ("Double", "Double"),
                ("Either", "Either"),
                ("Integer", "Integer"),
                ("KMSKeyId", "Short"),
                ("Long", "Long"),
                ("Loose", "Loose"),
                ("Named", "Named"),
                ("Nodes", "Nodes"),
                ("Secret", "Secret"),
                ("Slow", "Slow"),
                ("Text", "Text"),
                ("Time", "Time"),
                ("Word", "Word"),
                ("Words", "Words"),
            ]
        },
    },
}


def check(document: object, budget_s: float = 60.0) -> Any:
    review = Review(budget_s)
    checked = Compiler(SHAPES).check("Node")(document, "", review)
    review.settle()
    return checked


def refused(document: object) -> str:
    with pytest.raises(ControlFault) as raised:
        check(document)
    return raised.value.message


def test_all_that_is_wrong_is_said_at_once_with_its_path() -> None:
    document = {"Word": "ABCDE", "Nodes": [{}, {"Word": "a"}], "Named": {"key": {"Word": "B2"}}, "Words": ["ok", "no!"]}
    assert refused(document) == (
        "5 validation errors detected: "
        "Value 'ABCDE' at 'word' failed to satisfy constraint: Member must have length less than or equal to 4; "
        "Value 'ABCDE' at 'word' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-z]*; "
        "Value 'a' at 'nodes.2.member.word' failed to satisfy constraint: "
        "Member must have length greater than or equal to 2; "
        "Value 'B2' at 'named.key.member.word' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: [a-z]*; "
        "Value '[ok, no!]' at 'words' failed to satisfy constraint: Member must satisfy constraint: "
        "[Member must have length less than or equal to 4, Member must have length greater than or equal to 2, "
        "Member must satisfy regular expression pattern: [a-z]*]"
    )


def test_one_error_is_singular_and_a_secret_is_not_repeated() -> None:
    assert refused({"Secret": "password"}) == (
        "1 validation error detected: Value at 'secret' failed to satisfy constraint: "
        "Member must have length less than or equal to 3"
    )


def test_a_wrong_type_comes_before_all_constraints() -> None:
    with pytest.raises(NotSerialized, match=r"NUMBER_VALUE can not be converted to a String at 'nodes.1.member.text'"):
        check({"Word": "TOO LONG", "Nodes": [{"Text": 1}]})


def test_an_unknown_member_is_refused_with_the_nearest() -> None:
    assert "at 'nodes.1.member.wrod' failed" in refused({"Nodes": [{"Wrod": None, "Wrods": 1}, {"Wrod": 1}]}).replace(
        "nodes.2", "nodes.1"
    )
    assert refused({"Wrod": "a"}).endswith("not one that this version of the API has; the nearest is Word")
    assert check({"Wrod": None}) == {}


def test_unions_have_one_member() -> None:
    assert check({"Either": {"Left": "a", "Right": None, "__type": "x"}}) == {"Either": {"Left": "a"}}
    for union in ({}, {"Left": "a", "Right": "b"}, {"Left": None}):
        with pytest.raises(NotSerialized, match="exactly one of Left, Right was expected in the union at 'either'"):
            check({"Either": union})


def test_null_is_absent_except_in_lists() -> None:
    assert check({"Text": None, "Named": {"ab": None}}) == {"Named": {}}
    assert "Value null at 'words.2.member'" in refused({"Words": ["ab", None]})


@pytest.mark.parametrize(
    ("member", "value", "expected"),
    [
        ("Time", 5, 5.0),
        ("Time", 1.25, 1.25),
        ("Time", "1970-01-01T00:00:10Z", 10.0),
        ("Time", "1970-01-01T00:00:10", 10.0),
        ("Time", "1970-01-01T01:00:10.500+01:00", 10.5),
        ("Integer", -(2**31), -(2**31)),
        ("Integer", 3.0, 3),
        ("Long", 2**63 - 1, 2**63 - 1),
        ("Double", 2, 2.0),
        ("Blob", "AAEC", b"\x00\x01\x02"),
    ],
)
def test_values_take_the_form_that_operations_expect(member: str, value: object, expected: object) -> None:
    found = check({member: value})[member]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("member", "value", "text"),
    [
        ("Integer", 2**31, "NUMBER_VALUE can not be converted to an Integer at 'integer'"),
        ("Integer", 1e300, "DECIMAL_VALUE can not be converted to an Integer"),
        ("Integer", False, "FALSE_VALUE can not be converted to an Integer"),
        ("Long", 2**63, "NUMBER_VALUE can not be converted to a Long"),
        ("Time", 1e308, "NUMBER_VALUE can not be converted to milliseconds since epoch"),
        ("Time", "9999-99-99", "STRING_VALUE can not be converted to milliseconds since epoch"),
        ("Time", "0001-01-01T00:00:00+23:59", "milliseconds since epoch"),
        ("Blob", "not base64!", "it is not base64"),
        ("Blob", 1, "NUMBER_VALUE can not be converted to a Blob"),
    ],
)
def test_values_that_are_none_of_the_type(member: str, value: object, text: str) -> None:
    with pytest.raises(NotSerialized) as raised:
        check({member: value})
    assert text in raised.value.message


def test_a_blob_is_as_long_as_its_bytes() -> None:
    assert "Member must have length less than or equal to 4" in refused({"Blob": "AAECAwQF"})


def test_nesting_is_bounded() -> None:
    document: dict[str, Any] = {}
    for _ in range(DEEPEST - 1):
        document = {"Child": document}
    assert check(document) == document
    with pytest.raises(NotSerialized, match=f"deeper than {DEEPEST}"):
        check({"Child": document})


def test_no_pattern_takes_longer_than_its_budget() -> None:
    begun = time.monotonic()
    with pytest.raises(TooSlow, match="x\\|xx"):
        check({"Slow": "x" * 4000}, budget_s=0.05)
    assert time.monotonic() - begun < 5


def test_the_budget_is_for_all_patterns_of_a_document() -> None:
    review = Review(0.05)
    with pytest.raises(TooSlow):
        review.matches("(x|xx)+[yz]", "x" * 4000)
    assert review.budget_s is not None
    assert review.budget_s < 0.01


def test_what_has_no_length_is_not_matched_at_any_length() -> None:
    assert check({"Loose": "a" * 4096}) == {"Loose": "a" * 4096}
    assert "Member must satisfy regular expression pattern: a*" in refused({"Loose": "a" * 4097})


def test_errors_are_bounded_however_wrong_the_document_is() -> None:
    message = refused({"Nodes": [{"Word": "X" * 100_000}] * 1000})
    assert message.startswith(f"{MOST_FAULTS} validation errors detected")
    assert len(message) < MOST_FAULTS * (MOST_ECHOED + 200)
    assert len(refused({"Y" * 1_000_000: 1})) < 300


def test_huge_documents_are_refused_quickly() -> None:
    begun = time.monotonic()
    refused({"Nodes": [{}] * 1_000_000})
    refused({"Words": ["a" * 1000] * 100_000})
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        (["a", {"b": [False, None]}], "[a, {b=[false, null]}]"),
        ({"a": "b", "c": {}}, "{a=b, c={}}"),
    ],
)
def test_values_are_shown_as_java_shows_them(value: object, text: str) -> None:
    assert shown(value) == text


NAMES = st.sampled_from(sorted(SHAPES["Node"]["members"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, JSON, max_size=6) | JSON)
def test_any_document_is_accepted_or_refused_and_what_is_accepted_stays_so(document: object) -> None:
    try:
        checked = check(document)
    except ControlFault:
        return
    assert isinstance(checked, Mapping)
    assert check(checked) == checked


def test_a_hundred_thousand_unknown_members_cost_little() -> None:
    check = Compiler(SHAPES).check("Node")
    review = Review(1.0)
    begun = time.thread_time()
    check({f"Member{number}": 1 for number in range(100_000)}, "", review)
    assert time.thread_time() - begun < 2
    assert len(review.faults) == MOST_FAULTS
    assert "the nearest is" not in review.faults[0].text
