"""The certificate of the data port, taken in again when its files change.

Whoever issues certificates replaces the files long before the old one ends; a server with a model
in memory must not restart for that.
"""

import asyncio
import logging
import ssl
from pathlib import Path

from sampler_api.errors import InvalidRequest

__all__ = ["Certificate"]

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0

_Stamp = tuple[tuple[int, int, int], ...]


class Certificate:
    """PEM files of a certificate chain and its key, without a password, in ``context``.

    Raises InvalidRequest for files that cannot be used at the start; later the last good ones stay.
    """

    def __init__(self, certificate: Path, key: Path, poll_seconds: float = _POLL_SECONDS) -> None:
        self._files = (certificate, key)
        self._poll_seconds = poll_seconds
        self._error = ""
        try:
            self._stamp = self._look()
            self.context = self._load()
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(self._unusable(error), "tls_cert") from None

    async def follow(self) -> None:
        """Look for changes until cancelled. Connections that are open keep what they have."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            self.look()

    def look(self) -> None:
        """Take the files in if they have changed and belong together."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            # A pair that does not fit would leave the context in use with half of it.
            self._load()
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            # Perhaps only one of them has been written yet: it is tried again.
            if str(error) != self._error:
                self._error = str(error)
                log.warning("%s; the last ones stay", self._unusable(error))
            return
        self._stamp, self._error = stamp, ""
        log.info("certificate %s was taken in again", self._files[0])

    def _look(self) -> _Stamp:
        found = [path.stat() for path in self._files]
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._files, password=_no_password)
        return context

    def _unusable(self, error: OSError) -> str:
        certificate, key = self._files
        reason = error.strerror or str(error)
        return f"certificate {certificate} with key {key}: cannot be used ({reason})"


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal, and wait.
    raise OSError("the key needs a password; store it without one")
