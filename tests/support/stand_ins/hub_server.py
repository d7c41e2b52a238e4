"""A model hub on this machine: one repository, served the way the real hub does."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPOSITORY = "some-org/some-guard"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BRANCHES = ("main", "next")


class Hub:
    """Serves the files of `directory` as REPOSITORY, whose branches all are at COMMIT."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.downloads: list[str] = []
        """Each file that was fetched, once for every time."""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a GET."""
        revision, _, file = path.removeprefix(f"/{REPOSITORY}/resolve/").partition("/")
        if path.startswith(f"/{REPOSITORY}/resolve/") and revision == COMMIT:
            return self._file(file)
        api, _, rest = path.partition(f"/api/models/{REPOSITORY}")
        if api or not rest:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        kind, revision = rest.strip("/").split("/", 1)
        if revision not in (*BRANCHES, COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        names = sorted(path.name for path in self.directory.iterdir())
        if kind == "revision":
            siblings = [{"rfilename": name} for name in names]
            found: object = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
        else:
            found = [
                {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                for name in names
                for data in [(self.directory / name).read_bytes()]
            ]
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()

    def _file(self, name: str) -> tuple[int, dict[str, str], bytes]:
        if not (self.directory / name).is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        data = (self.directory / name).read_bytes()
        return 200, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": COMMIT}, data


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Gives the hub's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            status, headers, data = hub.answer(path)
            if body and "/resolve/" in path:
                hub.downloads.append(path.rsplit("/", 1)[1])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
