"""Certificates: strict clients take them, and their authority signs for nobody else."""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from finery.service import certificates
from finery.service.certificates import Certificates, ensure_certificates


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def handshake(files: Certificates, name: str) -> str | None:
    """The TLS version agreed on with a server that has these files; raises when it is refused."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=str(files.bundle))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def answer() -> None:
            with contextlib.suppress(OSError), server.wrap_socket(theirs, server_side=True):
                pass

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with client.wrap_socket(ours, server_hostname=name) as wrapped:
                return wrapped.version()
        finally:
            thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_strict_client_accepts_the_service_on_this_machine(tmp_path: Path, name: str) -> None:
    assert handshake(ensure_certificates(tmp_path, "localhost"), name) == "TLSv1.3"


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(ensure_certificates(tmp_path, "localhost"), "management.azure.com")


def test_the_authority_signs_for_the_services_own_names_alone(tmp_path: Path) -> None:
    files = ensure_certificates(tmp_path, "gpu.example.org")
    constraints = certificate(files.authority).extensions.get_extension_for_class(
        x509.NameConstraints
    )
    assert constraints.critical
    permitted = constraints.value.permitted_subtrees or []
    assert [name.value for name in permitted if isinstance(name, x509.DNSName)] == [
        "localhost",
        "gpu.example.org",
    ]
    assert handshake(files, "gpu.example.org") == "TLSv1.3"


def test_the_key_is_private_and_the_authoritys_is_not_kept(tmp_path: Path) -> None:
    files = ensure_certificates(tmp_path, "localhost")
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    holding = [path.name for path in tmp_path.iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert holding == [files.key.name]


def test_certificates_are_kept_until_they_no_longer_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure_certificates(tmp_path, "localhost").certificate.read_bytes()
    assert ensure_certificates(tmp_path, "127.0.0.1").certificate.read_bytes() == first
    other = ensure_certificates(tmp_path, "10.0.0.7").certificate.read_bytes()
    assert other != first
    monkeypatch.setattr(certificates, "RENEW_BEFORE", timedelta(days=10_000))
    renewed = ensure_certificates(tmp_path, "10.0.0.7")
    assert renewed.certificate.read_bytes() != other
    assert renewed.expires > datetime.now(UTC) + timedelta(days=800)


def test_the_bundle_holds_public_roots_and_ours(tmp_path: Path) -> None:
    files = ensure_certificates(tmp_path, "localhost")
    text = files.bundle.read_text(encoding="utf-8")
    assert text.count("BEGIN CERTIFICATE") > 50
    assert files.authority.read_text(encoding="utf-8").strip() in text
