"""TLS of a listener, from PEM files. Renewed files are used for new connections without a restart."""

import logging
import ssl
from pathlib import Path

logger = logging.getLogger(__name__)


class TlsFiles:
    """Raises OSError if the files cannot be read or do not belong together."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._cert_file = cert_file
        self._key_file = key_file
        self._version = self._read_version()
        self._load(self.context)

    def renew(self) -> None:
        """Read the files again if they have changed; a broken pair changes nothing."""
        try:
            version = self._read_version()
            if version == self._version:
                return
            self._version = version
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # a pair that does not match must not be half taken
            self._load(self.context)
            logger.info("TLS certificate read again from %s", self._cert_file)
        except OSError as error:
            logger.error("the TLS certificate stays as it is: %s", error)

    def pem(self) -> tuple[bytes, bytes]:
        """Certificate chain and private key."""
        return self._cert_file.read_bytes(), self._key_file.read_bytes()

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._cert_file, self._key_file)
        except ssl.SSLError as error:
            raise OSError(f"{self._cert_file} and {self._key_file}: {error.reason or error}") from None

    def _read_version(self) -> tuple[int, ...]:
        files = (self._cert_file.stat(), self._key_file.stat())
        return tuple(value for stat in files for value in (stat.st_ino, stat.st_mtime_ns))
