"""A hub on this machine: as much of the real one's interface as the upload of a data set uses."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """What was asked for, and the files that a commit brought."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.repos: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuse = 0
        """The status that every call gets, if any."""
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.calls.append(f"{method} {path.partition('?')[0]}")
        if self.refuse:
            return self.refuse, {"error": "no"}
        if path == "/api/repos/create":
            self.repos.append(json.loads(body))
            return 200, {"url": f"{self.url}/datasets/me/mine", "name": "me/mine"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return 200, {"files": files, "commitOid": "0" * 40}
        if "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "deletedFile":
                    self.files.pop(entry["value"]["path"], None)
            return 200, {"commitUrl": f"{self.url}/datasets/me/mine/commit/1", "commitOid": "1" * 40}
        if method == "GET" and path.startswith("/api/datasets/me/mine"):
            if "/tree/" in path:
                return 200, [
                    {"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in self.files.items()
                ]
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {"id": "me/mine", "sha": "0" * 40, "siblings": siblings, "private": False, "tags": []}
        return 404, {"error": f"{method} {path}"}


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub on this machine in the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            status, said = hub.answer(self.command, self.path, body)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_HEAD = _any

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
