"""A booster file as a document: the tree of values that the JSON format has, whichever of the formats it came in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from containers.xgboost import legacy, ubjson
from serving.errors import ArtifactError

NEWEST: Final = 3
"""The newest major version of XGBoost whose files are read."""

SNIFFED_BYTES: Final = 4096

_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]|\(dp|c__builtin__|ccopy_reg|cxgboost")
_CHUNKED: Final = (b"CONFIG-offset:", b"bs64")


def sniff(start: bytes) -> str:
    """What a file that starts so is: "json", "ubjson", "legacy", "pickle" (of XGBoost) or "" for none of them."""
    text = start.lstrip()
    if start.startswith(b"{") and (b"\x07learner" in start[:64] or b"\x07version" in start[:64]):
        return "ubjson"
    if text.startswith(b"{") and re.search(rb'"learner"\s*:', text):
        return "json"
    if legacy.is_legacy(start):
        return "legacy"
    return "pickle" if _PICKLE.match(start) and b"xgboost" in start else ""


def loads(content: bytes, path: Path) -> dict[str, Any]:
    """The document of a booster file. Raises `ArtifactError`."""
    kind = sniff(content[:SNIFFED_BYTES])
    try:
        if kind == "ubjson" or path.suffix == ".ubj":
            document = ubjson.loads(content)
        elif kind == "legacy":
            document = legacy.loads(content)
        elif kind == "json" or path.suffix == ".json":
            document = orjson.loads(content)
        else:
            raise ArtifactError(f"{path} {_unknown(content)}")
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged or cut short: {error}; save or copy the model again") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{path} holds no booster: an object with 'learner' was expected")
    _check_version(document, path)
    return document


def dumps(document: Mapping[str, Any]) -> bytes:
    """The document as JSON that the library reads."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _unknown(content: bytes) -> str:
    if not content:
        return "is empty; a booster was expected"
    if _PICKLE.match(content):
        return (
            "is a pickle, which runs any code that its maker put into it and is not loaded; load it where it was trained "
            "and write it with booster.save_model('model.json')"
        )
    if content.startswith(_CHUNKED):
        return "is a memory snapshot of XGBoost; write the model with booster.save_model('model.json')"
    return (
        "is no booster: XGBoost's JSON, UBJSON or (up to 3.0) binary format was expected; write it with "
        "booster.save_model('model.json')"
    )


def _check_version(document: Mapping[str, Any], path: Path) -> None:
    try:
        major, minor, patch = (int(part) for part in document["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} names no version of XGBoost; [major, minor, patch] was expected") from error
    if major > NEWEST:
        raise ArtifactError(
            f"{path} was written by XGBoost {major}.{minor}.{patch}, which is too new: files up to {NEWEST}.x are read; "
            "write the model with an older release, or update this server"
        )
