"""Clients of the control API: boto3 as anybody would use it, and a raw one that costs next to nothing itself."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Mapping
from typing import Any, Self

import boto3
from botocore.config import Config

REGION = "us-east-1"
ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service-role/AmazonSageMaker-ExecutionRole"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
}
TYPE = "application/x-amz-json-1.1"
BUSY = ("Creating", "Updating", "Deleting")
SETTLES_S = 60.0

_numbers = itertools.count()


class Refused(Exception):
    """The control API answered with an error: its status, class and text."""

    def __init__(self, operation: str, status: int, code: str, message: str) -> None:
        super().__init__(f"{operation} was answered {status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


def client(service: str, port: int, *, connections: int = 10, read_s: float = 60.0) -> Any:
    """boto3's client of a service at a local port; it never tries again by itself."""
    settings = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=connections,
        read_timeout=read_s,
        connect_timeout=5,
        s3={"addressing_style": "path"},
    )
    return boto3.session.Session().client(
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name=REGION,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        config=settings,
    )


class Raw:
    """One kept-alive connection to the control API."""

    def __init__(self, port: int, timeout_s: float = 60.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def send(self, operation: str, parameters: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and body as they come. Raises OSError and http.client's errors."""
        headers = {"Content-Type": TYPE, "X-Amz-Target": f"SageMaker.{operation}"}
        self._connection.request("POST", "/", json.dumps(parameters).encode(), headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def call(self, operation: str, **parameters: Any) -> Any:
        """The answer's document. Raises `Refused`."""
        status, body = self.send(operation, parameters)
        document = json.loads(body) if body else {}
        if status != 200:
            code = str(document.get("__type", "")).rpartition("#")[2]
            raise Refused(operation, status, code, str(document.get("message") or document.get("Message") or ""))
        return document

    def settled(self, endpoint: str) -> Any:
        """The endpoint's description once it is not about to change. Raises `Refused`, TimeoutError."""
        limit = time.monotonic() + SETTLES_S
        while (found := self.call("DescribeEndpoint", EndpointName=endpoint))["EndpointStatus"] in BUSY:
            if time.monotonic() > limit:
                raise TimeoutError(f"the endpoint {endpoint} is {found['EndpointStatus']} after {SETTLES_S:g} s")
        return found

    def gone(self, endpoint: str) -> None:
        """Returns once there is no such endpoint. Raises TimeoutError."""
        try:
            self.settled(endpoint)
        except Refused as error:
            if "Could not find" not in error.message:
                raise
            return
        raise TimeoutError(f"the endpoint {endpoint} is still there")


def model(name: str, image: str, url: str) -> dict[str, Any]:
    """What CreateModel is told."""
    return {
        "ModelName": name,
        "PrimaryContainer": {"Image": image, "ModelDataUrl": url},
        "ExecutionRoleArn": ROLE,
    }


def config(name: str, model_name: str) -> dict[str, Any]:
    """What CreateEndpointConfig is told."""
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": model_name,
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
        "InitialVariantWeight": 1.0,
    }
    return {"EndpointConfigName": name, "ProductionVariants": [variant]}


def unique(prefix: str) -> str:
    """A name that this process has not given before."""
    return f"{prefix}-{next(_numbers)}"
