"""The object store of the benchmark: a SeaweedFS whose models are made once and kept from run to run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtests.bench.context import say
from loadtests.bench.servers import Server, free_port
from loadtests.control import calls
from loadtests.control.calls import KEYS, REGION
from loadtests.multi_model import wide

BUCKET: Final = "models"
WIDE: Final = "wide"
"""Below this prefix lie the models of `wide` that take 1 MB, below `WIDE-N` those that take N MB."""

SMALL: Final = "small"
"""Below this one, copies of one model of 24 KB."""

_UPLOADERS: Final = 4


@dataclass(frozen=True, slots=True)
class Shelf:
    """A store that runs; `pids` are the processes behind it."""

    port: int
    server: Server

    @property
    def environment(self) -> dict[str, str]:
        """How a program finds it."""
        return {
            **KEYS,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def prefix(self, folder: str) -> str:
        """The URL of a folder."""
        return f"s3://{BUCKET}/{folder}/"

    def fill(self, folder: str, count: int, content: Callable[[int], bytes]) -> None:
        """Makes and puts what is missing of so many models."""
        s3: Any = calls.client("s3", self.port, connections=_UPLOADERS)
        with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
            s3.create_bucket(Bucket=BUCKET)
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{folder}/")
        there = {found["Key"] for page in pages for found in page.get("Contents", ())}
        missing = [number for number in range(count) if key(folder, number) not in there]
        if not missing:
            return
        say(f"  making {len(missing)} models below {self.prefix(folder)}")

        def put(number: int) -> None:
            s3.put_object(Bucket=BUCKET, Key=key(folder, number), Body=content(number))

        with ThreadPoolExecutor(_UPLOADERS) as uploaders:
            list(uploaders.map(put, missing))

    def fill_wide(self, count: int, megabytes: int = 1) -> None:
        """So many models of so many MB."""
        self.fill(wide_folder(megabytes), count, functools.partial(wide.archive, megabytes=megabytes))


def wide_folder(megabytes: int) -> str:
    """The folder of the models that take so much."""
    return WIDE if megabytes == 1 else f"{WIDE}-{megabytes}"


def target(number: int) -> str:
    """What a model is called below its folder."""
    return f"{number:05}.tar.gz"


def key(folder: str, number: int) -> str:
    """Where a model lies in the bucket."""
    return f"{folder}/{target(number)}"


@contextlib.contextmanager
def running(
    start: Callable[..., contextlib.AbstractContextManager[Server]], folder: Path, core: int
) -> Iterator[Shelf]:
    """The store, its files in `folder`, on a core of its own choice; `start` starts a server."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with start(folder.resolve(), port, core=core) as server:
        yield Shelf(port, server)
