"""Metrics of the listener's certificates, read at each scrape."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from guard_server.telemetry.catalogue import CATALOGUE
from guard_server.tls.renewal import RenewedCertificates


class CertificateMetrics:
    """How long they are good for, and whether the files are."""

    def __init__(self, registry: CollectorRegistry, certificates: RenewedCertificates) -> None:
        read: dict[str, Callable[[], float]] = {
            "guard_certificate_days_left": lambda: certificates.current.days_left,
            "guard_certificate_faults": lambda: certificates.fault is not None,
        }
        for name, value in read.items():
            Gauge(name, CATALOGUE[name].text, registry=registry).set_function(value)
