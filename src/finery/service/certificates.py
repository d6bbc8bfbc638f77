"""HTTPS on this machine: an authority of its own, one certificate, a bundle for clients.

The authority may sign for this service's names alone (name constraints), so that a program
that trusts it trusts it for nothing else.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finery.files import write_atomic
from finery.workspace.secrets import write_private

YEARS = timedelta(days=825)  # what strict clients accept at most
RENEW_BEFORE = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Certificates:
    """Where the files lie that a server and its clients need."""

    authority: Path  # PEM of the authority's certificate
    certificate: Path  # PEM of the server's certificate
    key: Path  # PEM of its key, readable by the owner alone
    bundle: Path  # public roots and our authority, for REQUESTS_CA_BUNDLE

    @property
    def expires(self) -> datetime:
        """When the server's certificate ends (UTC)."""
        return _read(self.certificate).not_valid_after_utc


def files_in(folder: Path) -> Certificates:
    """The certificate files of a service, there or not."""
    names = ("authority.pem", "certificate.pem", "certificate.key", "bundle.pem")
    return Certificates(*(folder / name for name in names))


def ensure_certificates(folder: Path, host: str) -> Certificates:
    """The files for a service on `host`, made anew when absent, near their end, or for another."""
    found = files_in(folder)
    if not _usable(found, host):
        _make(found, host)
    _write_bundle(found)
    return found


def _usable(files: Certificates, host: str) -> bool:
    if not all(path.is_file() for path in (files.authority, files.certificate, files.key)):
        return False
    leaf, authority = _read(files.certificate), _read(files.authority)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ends = min(leaf.not_valid_after_utc, authority.not_valid_after_utc)
    return set(names) == set(_names(host)) and ends > datetime.now(UTC) + RENEW_BEFORE


def _read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _names(host: str) -> list[x509.GeneralName]:
    """The names that clients may use for the service."""
    here: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    try:
        own: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        own = x509.DNSName(host)
    return here if own in here else [*here, own]


def _constraint(name: x509.GeneralName) -> x509.GeneralName:
    if isinstance(name, x509.IPAddress):
        return x509.IPAddress(ipaddress.ip_network(str(name.value)))
    return name


def _make(files: Certificates, host: str) -> None:
    names = _names(host)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name, name = _called("finery local authority"), _called("finery")
    authority = (
        _begun(authority_name, authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints([_constraint(n) for n in names], None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), False)
        .sign(authority_key, hashes.SHA256())
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    leaf = (
        _begun(name, authority_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    # The authority's key is not kept: whoever finds this folder later can sign nothing with it.
    write_private(files.key, _pem(key))
    write_atomic(files.certificate, leaf.public_bytes(serialization.Encoding.PEM))
    write_atomic(files.authority, authority.public_bytes(serialization.Encoding.PEM))


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    moment = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - CLOCK_SKEW)
        .not_valid_after(moment + YEARS)
    )


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_bundle(files: Certificates) -> None:
    """Public roots, then ours: REQUESTS_CA_BUNDLE replaces what a program trusts otherwise."""
    ours = files.authority.read_text(encoding="utf-8")
    content = Path(certifi.where()).read_text(encoding="utf-8") + "\n" + ours
    if not files.bundle.is_file() or files.bundle.read_text(encoding="utf-8") != content:
        write_atomic(files.bundle, content)
