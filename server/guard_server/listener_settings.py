"""Settings of who may connect and call: the listeners, their TLS, and tenants."""

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ListenerSettings(BaseSettings):
    """Loopback only, by default."""

    model_config = SettingsConfigDict(env_prefix="GUARD_", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address that the gateway listens on.")
    port: int = Field(default=50051, ge=0, le=65535, description="Port of the gateway.")
    tls_cert: Path | None = Field(
        default=None, description="PEM certificate chain; with its key it turns TLS on."
    )
    tls_key: Path | None = Field(default=None, description="PEM key of the certificate.")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM authorities: clients must have a certificate from one."
    )
    tls_client_sans: str | None = Field(
        default=None,
        description="Names of the callers that are let in, with commas between them: each as it is "
        "in the certificate's subjectAltName; default: every certificate of the authorities. "
        "Health checks are for all of these.",
    )
    keys: Path | None = Field(
        default=None,
        description="keys.json: callers' API keys, which `guard keys` writes. Changes to it are "
        "followed.",
    )
    tenants: Path | None = Field(
        default=None,
        description="tenants.json: what each tenant has. Changes to it are followed.",
    )
    callers: Literal["any", "known"] | None = Field(
        default=None,
        description="Who may call: `any`, or `known` for those alone whose key or certificate is a "
        "tenant's. Default: any without --keys and --tenants and on loopback, else known.",
    )
    edge_sockets: Path | None = Field(
        default=None,
        description="A directory of mode 0700 for Unix sockets, worker-0.sock and so on, one for "
        "each worker: there a proxy says by x-guard-tenant who calls. It is made if missing.",
    )
    edge_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="The same by TCP with certificates of both sides: the first worker's port; the "
        "next one's is one higher.",
    )
    edge_sans: str | None = Field(
        default=None,
        description="Names in the certificates of the proxies that may use --edge-port, with "
        "commas between them.",
    )
    insecure: bool = Field(default=False, description="Allow plain text off loopback.")
    reuse_port: bool = Field(
        default=False, description="Share the port with other workers (SO_REUSEPORT)."
    )
    worker: int = Field(
        default=0, ge=0, description="Number of this worker among those that share the port."
    )

    @model_validator(mode="after")
    def _listener_is_safe(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("a certificate and its key go together: give both or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("client certificates need TLS: give a certificate and its key too")
        if self.tls_client_sans is not None:
            if not self.tls_client_ca:
                raise ValueError(
                    "callers' names are those in their certificates: give the authorities too"
                )
            if not all(self.allowed_callers):
                raise ValueError("a caller's name is empty: give names with commas between them")
        if not (self.tls_cert or self.insecure or _is_loopback(self.host)):
            raise ValueError(
                f"{self.host} can be reached from other machines: give a certificate and its key "
                "for TLS, or say --insecure if something in front of the server encrypts"
            )
        return self

    @model_validator(mode="after")
    def _callers_can_be_known(self) -> Self:
        if self.callers == "known" and not self.knows_tenants:
            raise ValueError(
                "no caller can be known: give GUARD_KEYS, GUARD_TENANTS or a listener for edges too"
            )
        if (self.edge_port is None) != (self.edge_sans is None):
            raise ValueError(
                "GUARD_EDGE_PORT and GUARD_EDGE_SANS go together: give both or neither"
            )
        if self.edge_port is not None and not self.tls_client_ca:
            raise ValueError(
                "GUARD_EDGE_PORT needs client certificates, by which proxies are known: give "
                "GUARD_TLS_CLIENT_CA too, or use GUARD_EDGE_SOCKETS"
            )
        if self.edge_port is not None and self.edge_sockets is not None:
            raise ValueError("there is one listener for edges: a socket or a port")
        if self.edge_sans is not None and not all(_names(self.edge_sans)):
            raise ValueError("a proxy's name is empty: give names with commas between them")
        return self

    @property
    def knows_tenants(self) -> bool:
        """Whether a call may be a tenant's."""
        return bool(self.keys or self.tenants or self.edge_sockets or self.edge_port)

    @property
    def only_known_callers(self) -> bool:
        """Whether callers without a tenant are refused."""
        if self.callers is None:
            return self.knows_tenants and not _is_loopback(self.host)
        return self.callers == "known"

    @property
    def edges(self) -> frozenset[str]:
        """Names in the certificates of proxies; none where they need no certificate."""
        return _names(self.edge_sans) if self.edge_sans is not None else frozenset()

    @property
    def allowed_callers(self) -> frozenset[str]:
        """Names in certificates; none if every certificate will do."""
        if self.tls_client_sans is None:
            return frozenset()
        return _names(self.tls_client_sans)


def _names(listed: str) -> frozenset[str]:
    return frozenset(name.strip() for name in listed.split(","))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
