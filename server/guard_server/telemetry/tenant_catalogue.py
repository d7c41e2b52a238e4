"""The metrics of tenants: a part of catalogue.py."""

from guard_server.telemetry.described import Described

TENANTS = (
    Described(
        "guard_tenant_file_faults",
        "gauge",
        "Files of tenants that gateway processes can't use: they go by older ones.",
    ),
    Described(
        "guard_ignored_tenant_headers",
        "counter",
        "Headers that named a tenant where no proxy may: ignored.",
    ),
)
