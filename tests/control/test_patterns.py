"""Patterns of AWS's service models: each compiles, and means what it means in Java."""

from __future__ import annotations

import pytest
import regex

from serving.control.patterns import EXTENSIONS, OVERRIDES, compiled, translated
from serving.control.service import data_folder, read_model
from serving.errors import ConfigurationError

SERVICES = ("iam", "logs", "sagemaker", "sts")


def patterns() -> set[str]:
    models = [read_model(data_folder(), name) for name in SERVICES]
    return {raw["pattern"] for model in models for raw in model["shapes"].values() if "pattern" in raw}


def compiles(pattern: str) -> bool:
    try:
        regex.compile(translated(pattern))
    except (regex.error, ConfigurationError):
        return False
    return True


def test_every_pattern_compiles_or_has_an_override_and_no_override_is_idle() -> None:
    found = patterns()
    assert len(found) > 300
    assert {pattern for pattern in found if not compiles(pattern)} == set(OVERRIDES)
    for pattern in found:
        compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        (r"\d+", "12", True),
        (r"\d+", "٣", False),
        (r"[\d]+", "٣", False),
        (r"\w+", "é", False),
        (r"\W", "é", True),
        (r"[^\w]", "é", True),
        (r"\s", "\u00a0", False),
        (r"\S", "\u00a0", True),
        (r"[\S\s]*", "a b\n\U0001f600\x00", True),
        (r"[\D\d]", "7", True),
        (r"[\w-_]*", "a-_", True),
        (r"[-\w]+", "a-b", True),
        (r"[_-\w]+", "a-b", True),
        (r".*", "a\nb", False),
        (r".*", "a\u2028b", False),
        (r".*", "ab", True),
        (r"[.]", "a", False),
        (r"\.", "a", False),
        (r"[\p{L}\p{N}]+", "é٣", True),
        (r"\p{Alnum}+", "é", False),
        (r"[\p{Alnum}\-]+", "a-1", True),
        (r"([\p{L}\p{Z}\p{N}_.:\/=+\-@]*)${1,128}", "a b/c", True),
        (r"ab", "ab\n", False),
        (r"^ab$", "ab", True),
        (r"[^\]]+", "ab", True),
        (r"(a|b", "a", None),
        (r"[a-z&&[^b]]", "b", None),
        (r"[a-z[0-9]]", "1", None),
    ],
)
def test_what_a_pattern_means(pattern: str, text: str, matches: bool | None) -> None:
    if matches is None:
        with pytest.raises(ConfigurationError, match="pattern"):
            compiled(pattern)
    else:
        assert (compiled(pattern).fullmatch(text) is not None) is matches


@pytest.mark.parametrize(
    ("url", "matches"),
    [
        ("s3://bucket/key", True),
        ("https://host/path", True),
        ("file:///srv/models/model.tar.gz", True),
        ("file:///", True),
        ("file://srv/model.tar.gz", False),
        ("file:model.tar.gz", False),
        ("s3:///key", False),
        ("ftp://host/path", False),
    ],
)
def test_model_data_may_also_be_in_a_folder(url: str, matches: bool) -> None:
    (pattern,) = EXTENSIONS
    assert pattern in patterns()
    assert (compiled(pattern).fullmatch(url) is not None) is matches


def test_an_override_takes_what_the_pattern_takes_in_utf_16() -> None:
    (pattern,) = OVERRIDES
    assert compiled(pattern).fullmatch("a\tb\U0001f600")
    assert not compiled(pattern).fullmatch("a\nb")
