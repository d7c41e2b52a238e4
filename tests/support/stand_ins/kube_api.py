"""As much of the Kubernetes API as a ConfigMap needs, with its conflicts and refusals."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

_TOKEN = "secret"


class KubeApi:
    """One ConfigMap, guard-traffic in the namespace guard; an account that `token` names."""

    path = "/api/v1/namespaces/guard/configmaps/guard-traffic"

    def __init__(self) -> None:
        self._lock = Lock()
        self.version = 1
        self.found: dict[str, Any] = {"labels": {"of": "others"}, "data": {"other": "stays"}}
        self.forbidden = False
        self.slow = Event()
        self.slow.set()

    def read(self) -> dict[str, Any]:
        with self._lock:
            metadata = {
                "name": "guard-traffic",
                "namespace": "guard",
                "resourceVersion": str(self.version),
                "labels": self.found["labels"],
            }
            return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata} | {
                "data": self.found["data"]
            }

    def replace(self, body: dict[str, Any]) -> bool:
        """Whether its resourceVersion is that of what is there, or it has none."""
        with self._lock:
            version = body["metadata"].get("resourceVersion")
            if version not in (None, str(self.version)):
                return False
            self.version += 1
            self.found = {"labels": body["metadata"].get("labels"), "data": body["data"]}
            return True


@contextmanager
def kube_api(kubeconfig: Path) -> Iterator[KubeApi]:
    """Serves it, and writes how it is reached."""
    api = KubeApi()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200 if self.path == api.path else 404)

        def do_PUT(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._answer(200 if self._may() and api.replace(body) else 409)

        def _may(self) -> bool:
            return self.headers["authorization"] == f"Bearer {_TOKEN}" and not api.forbidden

        def _answer(self, status: int) -> None:
            api.slow.wait()
            status = status if self._may() else 403
            kind = {"kind": "Status", "apiVersion": "v1", "code": status}
            text = json.dumps(api.read() if status == 200 else kind).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    of = {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}, "name": "it"}
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [of],
                "users": [{"name": "it", "user": {"token": _TOKEN}}],
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                "current-context": "it",
            }
        )
    )
    try:
        yield api
    finally:
        api.slow.set()
        server.shutdown()
        thread.join()
        server.server_close()
