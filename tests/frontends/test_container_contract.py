"""What the multi-model container contract says over HTTP is what the server as a whole is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import orjson
import pytest

from serving.errors import BadRequest, ModelExists, NotFound, TargetMissing
from serving.frontends.http import multi_model
from serving.frontends.http.multi_model import Page


class Shelf:
    """Implements `Container` in memory."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}

    async def container(self, what: str, name: str | None, parameters: bytes) -> bytes:
        """Implements `Container`."""
        if what == "container-list":
            asked = msgspec.json.decode(parameters, type=Page)
            names = [name for name in sorted(self.models) if name > asked.after]
            more = names[asked.limit - 1] if len(names) > asked.limit else None
            return orjson.dumps({"models": names[: asked.limit], "nextPageToken": more})
        assert name is not None
        if what == "container-add":
            if name in self.models:
                raise ModelExists
            self.models[name] = parameters.decode()
            return b""
        if name not in self.models:
            raise TargetMissing
        if what == "container-delete":
            del self.models[name]
            return b""
        return orjson.dumps({"modelName": name, "modelUrl": self.models[name]})


def run(work: Coroutine[Any, Any, bytes]) -> Any:
    """What is answered, as JSON."""
    return orjson.loads(asyncio.run(work))


def added(name: str, url: str = "/opt/ml/models/x/model") -> bytes:
    """The body that adds a model."""
    return orjson.dumps({"model_name": name, "url": url})


def test_a_models_life() -> None:
    shelf = Shelf()
    assert run(multi_model.add(shelf, added("a"))) == {"status": 'Model "a" loaded'}
    assert run(multi_model.describe(shelf, "a")) == {"modelName": "a", "modelUrl": "/opt/ml/models/x/model"}
    with pytest.raises(ModelExists):
        run(multi_model.add(shelf, added("a")))
    assert run(multi_model.remove(shelf, "a")) == {"status": 'Model "a" unloaded'}
    for gone in (multi_model.describe, multi_model.remove):
        with pytest.raises(TargetMissing):
            run(gone(shelf, "a"))


def test_a_page_at_a_time() -> None:
    shelf = Shelf()
    for number in range(250):
        run(multi_model.add(shelf, added(f"m{number:03}")))
    first = run(multi_model.page(shelf, "", ""))
    assert (len(first["models"]), first["nextPageToken"]) == (100, "m099")
    last = run(multi_model.page(shelf, "m199", "100"))
    assert (len(last["models"]), last["nextPageToken"]) == (50, None)


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "ten", "10000", "1e3", "٤", "0x10", "1 "])
def test_a_limit_that_is_none(limit: str) -> None:
    with pytest.raises(BadRequest, match="the parameter limit"):
        run(multi_model.page(Shelf(), "", limit))


NAME = "a" * 1024


@pytest.mark.parametrize("name", [NAME, "a/b:c", "é", "..", "a b", "8f14e45fceea167a5a36dedd4bea2543"])
def test_any_opaque_id_is_a_name(name: str) -> None:
    shelf = Shelf()
    run(multi_model.add(shelf, added(name)))
    assert list(shelf.models) == [name]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not"),
        (b"{", "the body is not"),
        (b"[]", "the body is not"),
        (b"null", "the body is not"),
        (b"[" * 50_000, "the body is not"),
        (b'{"model_name":"\xff","url":"/x"}', "the body is not"),
        (b'{"model_name":"\\ud800","url":"/x"}', "the body is not"),
        (b'{"url":"/x"}', "missing required field model_name"),
        (b'{"model_name":"a"}', "missing required field url"),
        (b'{"model_name":1,"url":"/x"}', "model_name"),
        (b'{"model_name":null,"url":"/x"}', "model_name"),
        (b'{"model_name":"a","url":{}}', "url"),
        (added(""), "model_name cannot be .* it is empty"),
        (added(NAME + "a"), "it has 1025 characters"),
        (added("a\nb"), "control characters"),
        (added("a\x00"), "control characters"),
        (added("a", ""), "url is not the path of a model"),
        (added("a", "/x\x00"), "url is not the path of a model"),
        (added("a", "/" + "x" * 4096), "url is not the path of a model"),
    ],
)
def test_a_body_that_names_no_model(body: bytes, words: str) -> None:
    shelf = Shelf()
    with pytest.raises(BadRequest, match=words) as caught:
        run(multi_model.add(shelf, body))
    assert len(caught.value.message) < 300
    assert not shelf.models


def test_a_platform_may_say_more() -> None:
    shelf = Shelf()
    run(multi_model.add(shelf, b'{"model_name":"a","url":"/x","preload":true}'))
    assert shelf.models == {"a": "/x"}


def test_another_server_says_how_to_be_one() -> None:
    multi_model.check(enabled=True)
    with pytest.raises(NotFound, match="--multi-model"):
        multi_model.check(enabled=False)
