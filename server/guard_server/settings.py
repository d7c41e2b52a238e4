"""The gateway's settings: `GUARD_*` in the environment, or options of `guard serve`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from guard_core.engine.channel import TritonTls
from guard_core.verdict.readings import MarkerTreatment
from guard_server.listener_settings import ListenerSettings


class Settings(ListenerSettings):
    """Safe by default: loopback only, no content in logs, operators' choices off."""

    traffic: Path | None = Field(
        default=None,
        description="traffic.json: the slots and their weights. Changes to it are followed.",
    )
    slot: Path | None = Field(
        default=None,
        description="Directory of the only slot, instead of traffic.json; its name is the slot's.",
    )
    triton: str | None = Field(
        default=None,
        description="gRPC address of that slot's Triton: HOST:PORT, or unix:PATH:NUMBER.",
    )
    triton_tls_ca: Path | None = Field(
        default=None,
        description="PEM authorities of the Tritons' certificates; with the two below it turns on "
        "TLS with certificates of both sides to every Triton.",
    )
    triton_tls_cert: Path | None = Field(
        default=None, description="PEM certificate chain that the Tritons are shown."
    )
    triton_tls_key: Path | None = Field(default=None, description="PEM key of that certificate.")
    markers: MarkerTreatment = Field(
        default=MarkerTreatment.JUDGE_PARTS,
        description="What is done with content that holds the text which the slot's template puts "
        "between messages, where a request does not say it: judge_parts, refuse or as_text.",
    )
    allow_slot_choice: bool = Field(default=False, description="Allow callers to name a slot.")
    strict_completion: bool = Field(
        default=False,
        description="Run the engine again where only the grammar says that a verdict is complete.",
    )
    request_timeout_s: float = Field(
        default=30,
        gt=0,
        description="Longest time of a request in seconds, whatever its own deadline.",
    )
    max_in_flight: int | None = Field(
        default=None, gt=0, description="Concurrency limit per slot; default: the manifest's."
    )
    queue_per_place: float = Field(
        default=1.0, ge=0, description="Queue length as a multiple of the concurrency limit."
    )
    max_connection_age_s: float = Field(
        default=300,
        gt=0,
        description="Age in seconds after which a connection takes no new calls, so that clients "
        "spread over the replicas; calls and streams in flight go on.",
    )
    cache_mib: float = Field(
        default=64, ge=0, description="Size of the verdict cache in MiB; 0: no cache."
    )
    cache_ttl_s: float = Field(
        default=300, gt=0, description="Age in seconds after which a cached verdict is dropped."
    )
    isolate_callers: bool = Field(
        default=False,
        description="Share no verdict between callers, in the cache or in flight, and do not say "
        "what a request's cost owes to earlier ones.",
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port for Prometheus metrics; 0: no metrics."
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        description="Address for Prometheus metrics, which are plain text for any caller.",
    )
    status: Path | None = Field(
        default=None,
        description="Directory of worker status files; workers on one port read it to share the "
        "concurrency limit.",
    )
    status_host: str = Field(
        default="127.0.0.1",
        description="Address of the status service, for rollouts over gateways.",
    )
    status_port: int | None = Field(
        default=None,
        gt=0,
        le=65535,
        description="Port of the status service; with its three files below.",
    )
    status_tls_cert: Path | None = Field(
        default=None, description="PEM certificate chain of the status service."
    )
    status_tls_key: Path | None = Field(default=None, description="PEM key of that certificate.")
    status_tls_client_ca: Path | None = Field(
        default=None, description="PEM authorities: whoever has a certificate from one may ask."
    )
    supervisor: int | None = Field(
        default=None,
        description="File descriptor of a socket to the supervisor, which gets heartbeats and "
        "serves the metrics of all workers.",
    )
    log_format: Literal["console", "json"] = Field(
        default="json", description="Format of log lines."
    )

    @field_validator("port", "metrics_port", "status_port", mode="before")
    @classmethod
    def _no_service_link(cls, port: object) -> object:
        if isinstance(port, str) and port.startswith("tcp://"):
            raise ValueError(
                f"{port} is no port but a link that Kubernetes sets for a Service of this name: "
                "set enableServiceLinks: false in the pod's spec"
            )
        return port

    @field_validator("metrics_port")
    @classmethod
    def _zero_is_none(cls, port: int | None) -> int | None:
        return port or None

    @model_validator(mode="after")
    def _has_slots(self) -> Self:
        one_slot = self.slot is not None and self.triton is not None
        if one_slot == (self.traffic is not None) or (self.slot is None) != (self.triton is None):
            raise ValueError(
                "say which slots to serve: GUARD_TRAFFIC, or GUARD_SLOT and GUARD_TRITON for one"
            )
        return self

    @model_validator(mode="after")
    def _triton_tls_is_whole(self) -> Self:
        files = (self.triton_tls_ca, self.triton_tls_cert, self.triton_tls_key)
        if any(files) and not all(files):
            raise ValueError(
                "TLS to Triton needs GUARD_TRITON_TLS_CA, GUARD_TRITON_TLS_CERT and "
                "GUARD_TRITON_TLS_KEY together"
            )
        return self

    @model_validator(mode="after")
    def _status_service_is_whole(self) -> Self:
        given = (
            *(self.status_port, self.status_tls_cert, self.status_tls_key),
            self.status_tls_client_ca,
        )
        if any(given) and not all(given):
            raise ValueError(
                "the status service takes mutual TLS only: give its port, certificate, key and "
                "client authorities together, or none of them"
            )
        return self

    @property
    def triton_tls(self) -> TritonTls | None:
        """The files for TLS to every Triton; None without it."""
        ca, cert, key = self.triton_tls_ca, self.triton_tls_cert, self.triton_tls_key
        return TritonTls(ca, cert, key) if ca and cert and key else None
