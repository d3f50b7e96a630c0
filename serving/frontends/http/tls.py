"""TLS for the HTTP port, with certificates that are read again when their files change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from serving.errors import ConfigurationError
from serving.settings import Settings

log = logging.getLogger("serving.tls")


class TlsContext:
    """A server context over a certificate and key; a changed pair serves new handshakes, a broken one is not taken."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._seen = self._stamp()
        try:
            self.context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"the TLS certificate {certificate} and key {key} cannot be used: {error}"
            ) from error

    @classmethod
    def of(cls, settings: Settings) -> TlsContext | None:
        """The context that the settings ask for, or None."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(Path(settings.tls_cert), Path(settings.tls_key))

    def reload_if_changed(self) -> None:
        """Takes a changed pair into use; checked in a context of its own first, as a renewal writes two files."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            self.context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            log.error("the changed TLS certificate was not taken, the old one serves on: %s", error)
        else:
            log.info("the TLS certificate was renewed")

    def _stamp(self) -> tuple[int, ...]:
        try:
            return tuple(
                moment
                for path in (self._certificate, self._key)
                for moment in (path.stat().st_mtime_ns, path.stat().st_ino)
            )
        except OSError:
            return ()
