"""The metrics of tenants: a part of catalogue.py."""

from guard_server.telemetry.described import Described
from guard_server.telemetry.metric_labels import CODE, TENANT

TENANTS = (
    Described(
        "guard_tenant_file_faults",
        "gauge",
        "Files of tenants that gateway processes can't use: they go by older ones.",
    ),
    Described(
        "guard_tenant_requests",
        "counter",
        "Conversations answered, refused or checked live.",
        (TENANT, CODE),
    ),
    Described(
        "guard_tenant_tokens", "counter", "Of prompts that got a verdict, cached or not.", (TENANT,)
    ),
    Described(
        "guard_unauthenticated_calls",
        "counter",
        "Calls refused before they were read: no key that holds, or none where one must be.",
    ),
    Described(
        "guard_ignored_tenant_headers",
        "counter",
        "Headers that named a tenant where no proxy may: ignored.",
    ),
)
