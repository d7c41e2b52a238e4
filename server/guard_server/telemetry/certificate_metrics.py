"""Metrics of a gateway's certificates, read at each scrape."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from guard_server.telemetry.catalogue import CATALOGUE
from guard_server.tls.renewal import RenewedCertificates

LISTENER, TRITON = "guard_certificate", "guard_triton_certificate"
"""How the names of the metrics begin, by who is shown the certificates."""


def add_certificate_metrics(
    registry: CollectorRegistry, begins: str, certificates: RenewedCertificates
) -> None:
    """How long they are good for, and whether the files are; `begins`: LISTENER or TRITON."""
    read: dict[str, Callable[[], float]] = {
        f"{begins}_days_left": lambda: certificates.current.days_left,
        f"{begins}_faults": lambda: certificates.fault is not None,
    }
    for name, value in read.items():
        Gauge(name, CATALOGUE[name].text, registry=registry).set_function(value)
