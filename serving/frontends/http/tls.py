"""TLS for the server's ports, with certificates that are read again when their files change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from serving.errors import ConfigurationError
from serving.settings import Settings

log = logging.getLogger("serving.tls")


class TlsContext:
    """A server context over a certificate and key; a changed pair serves new handshakes, a broken one is not taken.

    With `client_ca` callers must show a certificate that one of its authorities has signed.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._seen = stamp(certificate, key)
        try:
            self.context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"the TLS certificate {certificate} and key {key} cannot be used: {error}"
            ) from error
        if client_ca is not None:
            self._ask_callers(client_ca)

    @classmethod
    def of(cls, settings: Settings) -> TlsContext | None:
        """The context that the settings ask for, or None."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    def _ask_callers(self, client_ca: Path) -> None:
        try:
            self.context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"the authorities in {client_ca} (tls_client_ca) cannot be used: {error}"
            ) from error
        self.context.verify_mode = ssl.CERT_REQUIRED

    def reload_if_changed(self) -> None:
        """Takes a changed pair into use; checked in a context of its own first, as a renewal writes two files."""
        seen = stamp(self._certificate, self._key)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            self.context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            log.error("the changed TLS certificate was not taken, the old one serves on: %s", error)
        else:
            log.info("the TLS certificate was renewed")


def stamp(*files: Path) -> tuple[int, ...]:
    """What differs once a file was written or replaced; empty where one is not there."""
    try:
        return tuple(moment for file in files for moment in (file.stat().st_mtime_ns, file.stat().st_ino))
    except OSError:
        return ()
