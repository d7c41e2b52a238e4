"""One side's certificate, its key and the other's authorities: read together, and checked.

gRPC itself says of a bad one only that it can't bind the port, or nothing at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from guard_core.errors import CertificateInvalid
from guard_server.settings import Settings

_CURVES = ("secp256r1", "secp384r1")


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files. The chain begins with one's own certificate."""

    chain: Path
    key: Path
    client_ca: Path | None  # of the other side; None: clients need no certificate


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the files hold. `expires`: the end of the listener's own certificate, in UTC."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    expires: datetime

    @property
    def days_left(self) -> float:
        """Until the certificate expires; negative after that."""
        return (self.expires - datetime.now(UTC)).total_seconds() / 86_400

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """As gRPC takes it."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], self.client_ca)


def files_of(settings: Settings) -> CertificateFiles | None:
    """None without TLS."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return CertificateFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def status_files_of(settings: Settings) -> CertificateFiles | None:
    """Of the status service; None without it."""
    if settings.status_tls_cert is None or settings.status_tls_key is None:
        return None
    return CertificateFiles(
        settings.status_tls_cert, settings.status_tls_key, settings.status_tls_client_ca
    )


def triton_files_of(settings: Settings) -> CertificateFiles | None:
    """What Tritons are shown, and theirs; None without TLS to them."""
    tls = settings.triton_tls
    return CertificateFiles(tls.cert, tls.key, tls.ca) if tls else None


def read(files: CertificateFiles) -> Certificates:
    """Raises CertificateInvalid, which names the file, unless new handshakes would succeed."""
    chain, key = _content(files.chain), _content(files.key)
    own = _certificates(files.chain, chain)[0]
    _check_key(files, own, key)
    _check_validity(files.chain, own)
    client_ca = None
    if files.client_ca is not None:
        client_ca = _content(files.client_ca)
        _check_authorities(files.client_ca, _certificates(files.client_ca, client_ca))
    return Certificates(chain, key, client_ca, own.not_valid_after_utc)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateInvalid(f"Can't read {path}: {error.strerror}.") from None


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CertificateInvalid(
            f"{path} is no list of certificates in PEM, or is not all there."
        ) from None


def _check_key(files: CertificateFiles, own: x509.Certificate, pem: bytes) -> None:
    try:
        key = load_pem_private_key(pem, password=None)
        fits = key.public_key() == own.public_key()
    except TypeError:
        raise CertificateInvalid(
            f"{files.key} is encrypted: give the key without a passphrase."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateInvalid(
            f"{files.key} is no private key in PEM, or is not all there."
        ) from None
    if not fits:
        raise CertificateInvalid(
            f"{files.key} is not the key of the first certificate in {files.chain}."
        )
    usable = isinstance(key, rsa.RSAPrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES
    )
    if not usable:
        raise CertificateInvalid(
            f"{files.key} is of a kind that gRPC's clients refuse: use RSA, P-256 or P-384."
        )


def _check_validity(path: Path, own: x509.Certificate) -> None:
    now = datetime.now(UTC)
    if own.not_valid_after_utc < now:
        raise CertificateInvalid(
            f"The certificate in {path} expired on {_shown(own.not_valid_after_utc)}: renew it."
        )
    if own.not_valid_before_utc > now:
        raise CertificateInvalid(
            f"The certificate in {path} is not valid before {_shown(own.not_valid_before_utc)}: "
            "wait, or set this machine's clock."
        )


def _check_authorities(path: Path, authorities: Sequence[x509.Certificate]) -> None:
    last = max(authority.not_valid_after_utc for authority in authorities)
    if last < datetime.now(UTC):
        raise CertificateInvalid(
            f"Every authority in {path} has expired, the last one on {_shown(last)}: "
            "no connection could be made."
        )


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
