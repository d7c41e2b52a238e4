"""Metrics of the listener's certificates, read at each scrape."""

from prometheus_client import CollectorRegistry, Gauge

from guard_server.tls.renewal import RenewedCertificates


class CertificateMetrics:
    """How long they are good for, and whether the files are."""

    def __init__(self, registry: CollectorRegistry, certificates: RenewedCertificates) -> None:
        Gauge(
            "guard_certificate_days_left",
            "Until the certificate that is served expires.",
            registry=registry,
        ).set_function(lambda: certificates.current.days_left)
        Gauge(
            "guard_certificate_faults",
            "Gateway processes whose certificate files can't be used: they serve older ones.",
            registry=registry,
        ).set_function(lambda: certificates.fault is not None)
