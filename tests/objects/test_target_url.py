"""Names of targets: where below the prefix they lie, and which cannot be."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadRequest
from serving.objects.location import locate
from serving.objects.target_url import MOST_CHARACTERS, target_url

PREFIX = "s3://models/many/"


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("a.tar.gz", "a.tar.gz"),
        ("/a.tar.gz", "a.tar.gz"),
        ("team/a.tar.gz", "team/a.tar.gz"),
        ("a b+c%20?x#y.onnx", "a b+c%20?x#y.onnx"),
        ("..a/b../...", "..a/b../..."),
        ("%2e%2e/%2F", "%2e%2e/%2F"),
        ("模型/ü.onnx", "模型/ü.onnx"),
        ("x" * (MOST_CHARACTERS - len("many/")), "x" * (MOST_CHARACTERS - len("many/"))),
    ],
)
def test_a_target_lies_below_the_prefix(target: str, key: str) -> None:
    assert target_url(PREFIX, target) == PREFIX + key


def test_urls_of_files_are_quoted() -> None:
    assert target_url("file:///models/", "a b%2F?#ü.onnx") == "file:///models/a%20b%252F%3F%23%C3%BC.onnx"
    assert target_url("https://b.s3.amazonaws.com/p/", "a b.onnx") == "https://b.s3.amazonaws.com/p/a%20b.onnx"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("", "is empty"),
        ("/", "is empty"),
        ("//a", "has a part that is empty, . or .."),
        ("..", "has a part that is"),
        ("../a", "has a part that is"),
        ("a/../b", "has a part that is"),
        ("a/..", "has a part that is"),
        ("/../etc/passwd", "has a part that is"),
        ("./a", "has a part that is"),
        ("a/./b", "has a part that is"),
        ("a//b", "has a part that is"),
        ("a/", "has a part that is"),
        (".", "has a part that is"),
        ("a\\b", "a backslash"),
        ("a\0b", "a control character"),
        ("a\nb", "a control character"),
        ("a\n", "a control character"),
        ("a\x7f", "a control character"),
        ("a\x85b", "a control character"),
        ("a\u2028b", "a control character"),
        ("a\ud800", "half a character"),
        (" a", "begins with a space"),
        ("\ta", "begins with a space"),
        ("x" * (MOST_CHARACTERS + 1), "has 1025 characters, 1024 are allowed"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_what_is_right(target: str, why: str) -> None:
    with pytest.raises(BadRequest) as caught:
        target_url(PREFIX, target)
    assert why in caught.value.message
    assert "such as model.tar.gz" in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(("target", "fits"), [("x" * 1019, True), ("x" * 1020, False), ("ü" * 510, False)])
def test_what_makes_too_long_a_key_is_the_callers_fault(target: str, fits: bool) -> None:
    if fits:
        assert locate(target_url(PREFIX, target)).key == f"many/{target}"
        return
    with pytest.raises(BadRequest, match="makes a key of more than 1024 bytes with the endpoint's prefix"):
        target_url(PREFIX, target)


@given(st.text(st.sampled_from("./\\%a\0 ~ü"), max_size=12) | st.text(max_size=20))
def test_whatever_the_name_nothing_else_is_reached(target: str) -> None:
    try:
        url, file = target_url(PREFIX, target), target_url("file:///srv/models/", target)
    except BadRequest:
        return
    parts = locate(url).key.split("/")
    assert parts[0] == "many"
    assert not {"", ".", ".."} & set(parts)
    assert unquote(file).startswith("file:///srv/models/")
    assert not {"", ".", ".."} & set(unquote(file).removeprefix("file:///").split("/"))
