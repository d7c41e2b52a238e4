"""traffic.json in a ConfigMap, which is mounted in every gateway's pod."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from guard_control.stores.traffic_store import (
    StoreConflict,
    StoredTraffic,
    StoreFailed,
    TrafficStore,
)
from guard_core.errors import TrafficInvalid
from guard_core.slot import traffic
from guard_core.slot.traffic import Traffic

_TIMES_S = 5.0, 10.0  # to connect, and to be answered
_CONFLICT = 409

_Answer = TypeVar("_Answer")


class ConfigMapStore(TrafficStore):
    """Its version is the resourceVersion: whatever changes the ConfigMap is a conflict."""

    # The kubelet brings a changed ConfigMap to a pod within its sync period of a minute, and what
    # it caches.
    follow_s: ClassVar[float] = 180.0

    def __init__(self, name: str, namespace: str, key: str, kubeconfig: Path | None) -> None:
        """By this kubeconfig; None: by the service account of this pod, or this user's kubeconfig.

        Raises StoreFailed if that can't be used.
        """
        self._name = name
        self._namespace = namespace
        self._key = key
        self._what = f"The ConfigMap {namespace}/{name}"
        settings = client.Configuration()
        try:
            if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(
                    config_file=str(kubeconfig) if kubeconfig else None,
                    client_configuration=settings,
                )
        except (config.ConfigException, OSError) as error:
            raise StoreFailed(f"There is no way to the Kubernetes API: {error}.") from None
        settings.retries = False  # who writes tries again, and reads before
        self._api = client.CoreV1Api(client.ApiClient(settings))

    async def read(self) -> StoredTraffic:
        return self._stored(await self._get())

    async def replace(self, last: StoredTraffic, new: Traffic) -> StoredTraffic:
        # Labels, annotations and other keys stay as they are.
        found = await self._get()
        if found.metadata.resource_version != last.version:
            raise StoreConflict
        found.data = {**(found.data or {}), self._key: new.text()}
        return self._stored(
            await self._ask(
                lambda: self._api.replace_namespaced_config_map(
                    self._name, self._namespace, found, _request_timeout=_TIMES_S
                )
            )
        )

    async def _get(self) -> Any:
        return await self._ask(
            lambda: self._api.read_namespaced_config_map(
                self._name, self._namespace, _request_timeout=_TIMES_S
            )
        )

    def _stored(self, found: Any) -> StoredTraffic:
        text = (found.data or {}).get(self._key)
        if text is None:
            raise StoreFailed(f"{self._what} has no key {self._key}.")
        try:
            read = traffic.parse(self._what, text.encode())
        except TrafficInvalid as error:
            raise StoreFailed(str(error)) from None
        return StoredTraffic(read, found.metadata.resource_version)

    async def _ask(self, call: Callable[[], _Answer]) -> _Answer:
        """Raises StoreConflict or StoreFailed."""
        try:
            return await asyncio.to_thread(call)
        except ApiException as error:
            if error.status == _CONFLICT:
                raise StoreConflict from None
            refused = " May this account get and update it?" if error.status in (401, 403) else ""
            raise StoreFailed(
                f"{self._what}: the Kubernetes API answers {error.status} {error.reason}.{refused}"
            ) from None
        except HTTPError as error:
            raise StoreFailed(f"{self._what}: the Kubernetes API is away: {error}.") from None
