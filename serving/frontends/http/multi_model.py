"""The multi-model container contract: the models of a container are listed, added, described and removed by its platform.

Source: Amazon SageMaker Developer Guide, "Build Your Own Container for SageMaker AI Multi-Model Endpoints"; the bodies are those of
multi-model-server's management API.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

import msgspec
import orjson

from serving.errors import BadRequest, NotFound
from serving.frontends.http.paths import wrong_with

MOST_BYTES: Final = 64 * 1024
"""A body holds a name and a place."""

_URL_CHARACTERS: Final = 4096
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,3}")
_MODELS_ON_A_PAGE: Final = 100


class Container(Protocol):
    """What the server as a whole does with the models that it was told of."""

    async def container(self, what: str, name: str | None, parameters: bytes) -> bytes:
        """`container-list` (parameters: a `Page` as JSON), `container-get`, `container-add` (parameters: the model's URL)
        and `container-delete`.

        List and get answer JSON: `{"models": [{"modelName", "modelUrl"}, ...], "nextPageToken"}` and one of these models.
        Raises `TargetMissing`, `ModelExists`, `InsufficientMemory`, `LoadFailed`, `BadRequest` or `Unavailable`.
        """


class Page(msgspec.Struct, frozen=True):
    """Which of the models to list: at most `limit`, in the order of their names, from the first after `after`.

    `after` is the `nextPageToken` of the page before: the last name on it.
    """

    limit: int = _MODELS_ON_A_PAGE
    after: str = ""


class _Model(msgspec.Struct):
    """What `POST /models` says; a platform may say more to containers that know more."""

    model_name: str
    url: str


def check(*, enabled: bool) -> None:
    """Raises `NotFound` where the server is no multi-model container."""
    if not enabled:
        raise NotFound(
            "this server is no multi-model container: no models are added to it by POST /models; "
            "started with --multi-model it is one"
        )


async def page(container: Container, token: str, limit: str) -> bytes:
    """`GET /models?next_page_token=...&limit=...`."""
    if limit and not _LIMIT.fullmatch(limit):
        raise BadRequest(f"the parameter limit is '{limit[:20]}'; a whole number from 1 to 9999 was expected")
    asked = Page(int(limit or _MODELS_ON_A_PAGE), token)
    return await container.container("container-list", None, msgspec.json.encode(asked))


async def describe(container: Container, name: str) -> bytes:
    """`GET /models/{name}`."""
    return await container.container("container-get", name, b"")


async def add(container: Container, body: bytes) -> bytes:
    """`POST /models`: loads the model at a place on this machine."""
    try:
        model = msgspec.json.decode(body, type=_Model)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(
            f'the body is not {{"model_name": NAME, "url": PATH}}: {str(error).replace("`", "")}'
        ) from error
    why = wrong_with(model.model_name)
    if why:
        raise BadRequest(f"model_name cannot be the name of a model: {why}")
    if not model.url or len(model.url) > _URL_CHARACTERS or "\0" in model.url:
        raise BadRequest(f"url is not the path of a model; 1 to {_URL_CHARACTERS} characters were expected")
    await container.container("container-add", model.model_name, model.url.encode())
    return _status(f'Model "{model.model_name}" loaded')


async def remove(container: Container, name: str) -> bytes:
    """`DELETE /models/{name}`: unloads it and frees its memory."""
    await container.container("container-delete", name, b"")
    return _status(f'Model "{name}" unloaded')


def _status(text: str) -> bytes:
    return orjson.dumps({"status": text})
