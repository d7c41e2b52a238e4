"""The gateway's settings: `GUARD_*` in the environment, set by `guard serve` from its flags."""

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Safe by default: loopback only, no content in logs, operators' choices off."""

    model_config = SettingsConfigDict(env_prefix="GUARD_", frozen=True)

    traffic: Path | None = Field(
        default=None, description="traffic.json: the slots and their weights; it is followed."
    )
    slot: Path | None = Field(
        default=None,
        description="Instead of it, one slot's directory; its name is the slot's name.",
    )
    triton: str | None = Field(
        default=None, description="gRPC address of that slot's Triton, HOST:PORT."
    )
    host: str = "127.0.0.1"
    port: int = Field(default=50051, ge=0, le=65535, description="0: any free port.")
    tls_cert: Path | None = Field(default=None, description="PEM chain of the listener.")
    tls_key: Path | None = Field(default=None, description="PEM key of the listener.")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM authorities whose client certificates are required."
    )
    insecure: bool = Field(default=False, description="Allow plain text off loopback.")
    allow_slot_choice: bool = Field(default=False, description="Callers may name a slot.")
    strict_completion: bool = Field(
        default=False, description="Ask again where only the grammar says that a verdict is whole."
    )
    request_timeout_s: float = Field(
        default=30,
        gt=0,
        description="The longest that a request may take, whatever its own deadline.",
    )
    max_in_flight: int | None = Field(
        default=None, gt=0, description="Requests that a slot works on; else as its manifest says."
    )
    queue_per_place: float = Field(
        default=1.0, ge=0, description="Requests that may wait, for each that a slot works on."
    )
    max_connection_age_s: float = Field(
        default=300,
        gt=0,
        description="Then a connection takes no new call, so that callers spread out anew; calls "
        "and streams that it has are not cut.",
    )
    cache_mib: float = Field(default=64, ge=0, description="The verdict cache's size; 0: off.")
    cache_ttl_s: float = Field(default=300, gt=0, description="No older verdict is given again.")
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="Prometheus metrics; else none."
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="Where metrics are served: plain text, for anybody."
    )
    status: Path | None = Field(
        default=None,
        description="A directory that gateways of one port share: each tells its state there, and "
        "they split the engines' places.",
    )
    reuse_port: bool = Field(
        default=False, description="Share the port with other gateways (SO_REUSEPORT)."
    )
    log_format: Literal["console", "json"] = "json"

    @model_validator(mode="after")
    def _has_slots(self) -> Self:
        one_slot = self.slot is not None and self.triton is not None
        if one_slot == (self.traffic is not None) or (self.slot is None) != (self.triton is None):
            raise ValueError(
                "say which slots to serve: GUARD_TRAFFIC, or GUARD_SLOT and GUARD_TRITON for one"
            )
        return self

    @model_validator(mode="after")
    def _listener_is_safe(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("a certificate and its key go together: give both or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("client certificates need TLS: give a certificate and its key too")
        if not (self.tls_cert or self.insecure or _is_loopback(self.host)):
            raise ValueError(
                f"{self.host} can be reached from other machines: give a certificate and its key "
                "for TLS, or say --insecure if something in front of the server encrypts"
            )
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
