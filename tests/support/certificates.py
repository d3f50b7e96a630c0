"""An authority of a test's own, and certificates that it signs, made with the machine's openssl."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the machine has no openssl to make keys with"
)

_LEAF = ("-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, in PEM."""

    file: Path
    key: Path


class Authority:
    """Signs certificates for localhost; its own is `file`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.file = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        self._made(self.file, self._key, name)

    def sign(self, name: str) -> Certificate:
        """A certificate and key in files of that name; those that were there change."""
        certificate = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        by = ("-CA", str(self.file), "-CAkey", str(self._key))
        self._made(certificate.file, certificate.key, name, *(*by, *_LEAF))
        return certificate

    def _made(self, file: Path, key: Path, name: str, *more: str) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", f"/CN={name}", *more, "-keyout", str(key), "-out", str(file)],
            check=True, capture_output=True,
        )  # fmt: skip
