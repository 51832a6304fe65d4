"""Certificates for tests."""

from pathlib import Path

import trustme

from dualmap.router.http.tls import TlsFiles


def write_cert(directory: Path, authority: trustme.CA, name: str = "gateway.test") -> TlsFiles:
    """cert.pem and key.pem in the directory."""
    issued = authority.issue_cert(name, "127.0.0.1")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    (directory / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    return TlsFiles(directory / "cert.pem", directory / "key.pem")
