"""A small hub on loopback: what `huggingface_hub` asks of one, for a few repositories made of local files."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """`repositories` maps an id to a folder. Ids in `gated` need the token `good`."""

    def __init__(self, repositories: dict[str, Path], gated: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        hub = self
        self.repositories = repositories
        self.gated = gated
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(path)
        repository = next((r for r in self.repositories if f"/{r}/" in f"{path}/"), None)
        if repository is None:
            self._error(request, 401, "RepoNotFound", "Repository not found")
        elif repository in self.gated and request.headers.get("authorization") != "Bearer good":
            self._error(request, 403, "GatedRepo", "Access to this model is restricted")
        elif path.startswith("/api/models/"):
            self._information(request, repository, path)
        else:
            self._file(request, repository, path, body)

    def _information(self, request: BaseHTTPRequestHandler, repository: str, path: str) -> None:
        if path.rpartition("/")[2] not in ("main", COMMIT, repository.rpartition("/")[2]):
            self._error(request, 404, "RevisionNotFound", "Invalid rev id")
            return
        if "/tree/" in path:
            self._tree(request, repository)
            return
        files = [{"rfilename": f.name} for f in sorted(self.repositories[repository].iterdir()) if f.is_file()]
        self._send(request, json.dumps({"id": repository, "sha": COMMIT, "siblings": files, "private": False}).encode())

    def _tree(self, request: BaseHTTPRequestHandler, repository: str) -> None:
        files = [f for f in sorted(self.repositories[repository].iterdir()) if f.is_file()]
        tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
        self._send(request, json.dumps(tree).encode())

    def _file(self, request: BaseHTTPRequestHandler, repository: str, path: str, body: bool) -> None:
        file = self.repositories[repository] / path.rpartition("/")[2]
        if not file.is_file():
            self._error(request, 404, "EntryNotFound", "Entry not found")
            return
        data = file.read_bytes()
        headers = {"etag": f'"{hashlib.sha1(data).hexdigest()}"', "x-repo-commit": COMMIT}
        self._send(request, data, headers, body)

    def _error(self, request: BaseHTTPRequestHandler, status: int, code: str, text: str) -> None:
        headers = {"x-error-code": code, "x-error-message": text}
        self._send(request, json.dumps({"error": text}).encode(), headers, status=status)

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        data: bytes,
        headers: dict[str, str] | None = None,
        body: bool = True,
        status: int = 200,
    ) -> None:
        request.send_response(status)
        for name, value in {
            **(headers or {}),
            "content-length": str(len(data)),
            "content-type": "application/json",
        }.items():
            request.send_header(name, value)
        request.end_headers()
        if body and request.command != "HEAD":
            request.wfile.write(data)
