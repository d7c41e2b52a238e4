"""An authority for one run, with certificates for a server on this machine and for its callers."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

_VALID = timedelta(days=1)
_AUTHORITY = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "guard bench")])


def issue(directory: Path, callers: list[str]) -> dict[str, str]:
    """Writes the authority's file and each caller's; returns the gateway's settings for them."""
    directory.mkdir(exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    certificate = _signed(authority, _AUTHORITY, authority, x509.BasicConstraints(True, None))
    ca, server = directory / "authority.pem", directory / "server.pem"
    ca.write_bytes(certificate.public_bytes(Encoding.PEM))
    names: dict[str, x509.GeneralName] = {name: x509.DNSName(name) for name in callers}
    names["server"] = x509.IPAddress(IPv4Address("127.0.0.1"))
    for name, general in names.items():
        key = ec.generate_private_key(ec.SECP256R1())
        issued = _signed(key, x509.Name([]), authority, x509.SubjectAlternativeName([general]))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = directory / f"{name}.pem"
        path.touch(0o600)
        path.write_bytes(pem + issued.public_bytes(Encoding.PEM))
    return {"tls_cert": str(server), "tls_key": str(server), "tls_client_ca": str(ca)}


def credentials(directory: Path, caller: str) -> grpc.ChannelCredentials:
    """What a caller of `issue` connects with."""
    own = (directory / f"{caller}.pem").read_bytes()
    return grpc.ssl_channel_credentials((directory / "authority.pem").read_bytes(), own, own)


def _signed(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    authority: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(_AUTHORITY)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _VALID).not_valid_after(now + _VALID)
    return builder.add_extension(extension, critical=True).sign(authority, hashes.SHA256())
