"""Which store FLEET.yaml means."""

from guard_control.gateways.fleet_file import CommandTraffic, ConfigMapTraffic, FleetFile
from guard_control.stores.command_store import CommandStore
from guard_control.stores.file_store import FileStore
from guard_control.stores.traffic_store import StoreFailed, TrafficStore


def store_of(file: FleetFile) -> TrafficStore:
    """Raises StoreFailed if it can't be used from here."""
    given = file.traffic
    if isinstance(given, CommandTraffic):
        return CommandStore(given.command)
    if isinstance(given, ConfigMapTraffic):
        try:
            from guard_control.stores.config_map_store import ConfigMapStore  # noqa: PLC0415
        except ImportError:
            raise StoreFailed(
                "A ConfigMap needs the Kubernetes client: `pip install "
                "'qwen3guard-server[kubernetes]'`."
            ) from None
        found = given.config_map
        return ConfigMapStore(found.name, found.namespace, found.key, found.kubeconfig)
    return FileStore(given.file)
