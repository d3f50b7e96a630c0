"""A SeaweedFS for the tests: started as the server starts its own, with its keys, in a thread that lasts as long."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from serving.processes.seaweed import Seaweed
from serving.settings import Aws

T = TypeVar("T")

_CALL_S = 60.0


class S3:
    """A running SeaweedFS and what tests want of it; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="s3", daemon=True)
        self._names = itertools.count(1)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.seaweed = self._do(Seaweed.start(self._directory, 0, Aws()))
        except BaseException:
            self._end()
            raise
        self.client = self.client_of(self.aws)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.client.close()
        self._do(self.seaweed.stop())
        self._end()

    @property
    def aws(self) -> Aws:
        """How it is reached, as the object store takes it."""
        return self.seaweed.aws

    @property
    def url(self) -> str:
        """Where it is."""
        assert self.aws.endpoint_url is not None
        return self.aws.endpoint_url

    @property
    def port(self) -> int:
        """Its port of loopback."""
        return self.seaweed.port

    @property
    def env(self) -> dict[str, str]:
        """The environment by which servers and clients find it."""
        assert self.aws.access_key_id is not None
        assert self.aws.secret_access_key is not None
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self.aws.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.aws.secret_access_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def bucket(self, name: str | None = None) -> str:
        """Makes a bucket, of a new name unless one is given, and gives its name."""
        name = name or f"bucket-{next(self._names)}"
        self.client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, body: bytes | Path) -> str:
        """Makes an object of bytes or of a file, and gives its URL."""
        if isinstance(body, Path):
            self.client.upload_file(str(body), bucket, key)
        else:
            self.client.put_object(Bucket=bucket, Key=key, Body=body)
        return f"s3://{bucket}/{key}"

    @staticmethod
    def client_of(aws: Aws) -> Any:
        """A boto3 client of S3."""
        # Not above: it is slow to import, and few tests need it.
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=aws.endpoint_url,
            aws_access_key_id=aws.access_key_id,
            aws_secret_access_key=aws.secret_access_key,
            region_name=aws.region,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_S)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()
