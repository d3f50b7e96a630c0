"""The patterns of AWS's service models, which are Java's, as patterns of the `regex` package with the same meaning."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from serving.errors import ConfigurationError, MissingExtra

if TYPE_CHECKING:
    from regex import Pattern

# Java's predefined classes are ASCII; those of `regex` are Unicode, and its ASCII flag would narrow \p{L} as well.
_CLASSES: Final = {
    "d": r"0-9",
    "D": r"\x00-/:-\U0010FFFF",
    "w": r"a-zA-Z0-9_",
    "W": r"\x00-/:-@\[-\^`\{-\U0010FFFF",
    "s": r"\t-\r ",
    "S": r"\x00-\x08\x0E-\x1F!-\U0010FFFF",
}
_POSIX: Final = {
    "Alnum": "a-zA-Z0-9",
    "Alpha": "a-zA-Z",
    "Digit": "0-9",
    "Lower": "a-z",
    "Upper": "A-Z",
    "Punct": r"!-/:-@\[-`\{-~",
    "Graph": "!-~",
    "Print": " -~",
    "ASCII": r"\x00-\x7F",
    "Space": r"\t-\r ",
    "XDigit": "0-9a-fA-F",
}
_DOT: Final = r"[^\n\r\u0085\u2028\u2029]"

OVERRIDES: Final = {
    # Surrogate pairs as UTF-16 writes them; Python's strings hold the characters themselves.
    r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*": r"[\u0020-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF\t]*",
}
"""Patterns of the models that cannot be translated by rule, and what they are for `regex`."""

EXTENSIONS: Final = {
    # Model data may come from folders of the operator's own; which, the object store knows (`--allow-path`).
    r"(https|s3)://([^/]+)/?(.*)": r"((https|s3)://([^/]+)/?|file:///)(.*)",
}
"""Patterns that this server takes further than AWS does."""


@cache
def compiled(pattern: str) -> Pattern[str]:
    """The pattern, to be used with `fullmatch`. Raises `ConfigurationError` for one that is not understood, `MissingExtra`."""
    try:
        import regex
    except ImportError as error:
        raise MissingExtra(
            f"the control plane checks names by patterns with the regex package, which cannot be imported ({error}): "
            "pip install 'serving[control]'"
        ) from error
    text = OVERRIDES.get(pattern) or translated(EXTENSIONS.get(pattern, pattern))
    try:
        return regex.compile(text)
    except regex.error as error:
        raise ConfigurationError(f"the service model's pattern {pattern} cannot be compiled: {error}") from error


def translated(pattern: str) -> str:
    """A Java pattern in the language of `regex`. Raises `ConfigurationError` for set operations, which are not translated."""
    parts: list[str] = []
    at, inside = 0, False
    while at < len(pattern):
        one, two = pattern[at], pattern[at : at + 2]
        if one == "\\":
            text, at = _escape(pattern, at, inside)
            if inside and len(text) > 2:
                # Beside a class, a hyphen is itself.
                parts[-1] = r"\-" if parts[-1] == "-" else parts[-1]
                text, at = (text + r"\-", at + 1) if pattern[at : at + 1] == "-" else (text, at)
            parts.append(text)
            continue
        if inside and (one == "[" or two == "&&"):
            raise ConfigurationError(f"the service model's pattern {pattern} has a set operation at {at}")
        if one == "[":
            inside = True
            # What stands first in a class is itself: `[^]` and `[]` open one in neither language.
            one = pattern[at : at + 2] if pattern[at + 1 : at + 2] == "^" else one
        elif one == "]":
            inside = False
        elif one == "." and not inside:
            parts.append(_DOT)
            at += 1
            continue
        parts.append(one)
        at += len(one)
    return "".join(parts)


def _escape(pattern: str, at: int, inside: bool) -> tuple[str, int]:
    """The escape that begins at `at`, and where it ends."""
    letter = pattern[at + 1 : at + 2]
    if letter in _CLASSES:
        ranges, end = _CLASSES[letter], at + 2
    elif letter == "p" and pattern.startswith("{", at + 2):
        end = pattern.index("}", at) + 1
        ranges = _POSIX.get(pattern[at + 3 : end - 1], "")
    else:
        return pattern[at : at + 2], at + 2
    if not ranges:
        return pattern[at:end], end
    return ranges if inside else f"[{ranges}]", end
