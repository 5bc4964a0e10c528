"""A Hugging Face Hub on loopback: a real HTTP server with the Hub's endpoints, its headers, and its faults on request.

    with HubServer() as hub:
        hub.add("org/tiny", {"config.json": b"{}", "model.safetensors": b"…"})
        …  # HF_ENDPOINT=hub.url

Endpoints: GET /api/models/{id}[/revision/{rev}], HEAD and GET /{id}/resolve/{rev}/{file}.
As on the real Hub, large files are answered with a redirect to a file server on another origin ("localhost" instead of
"127.0.0.1"), with the file's sha256 and size in X-Linked-Etag and X-Linked-Size; small ones have their git blob sha1 as ETag.
"""

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".pth", ".gguf", ".pt", ".onnx", ".model")
CHUNK = 1 << 14


@dataclass
class Repo:
    """A repository: its revisions, newest last, and who may read it."""

    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit → name → content
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as the server saw it. range: the Range header."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class HubServer:
    """The server. Its faults may be changed at any time while it runs.

    tokens: those that exist; a token in `readers` may read gated and private repositories.
    hang: accept connections and never answer. status: file name → status to answer its GET with, once for each entry.
    cut_after: file name → numbers of bytes after which to cut its next connections. ignore_range: always send whole files.
    corrupt: files that are sent with one byte changed. too_long: files that are sent with bytes after their end.
    declared: file name → size to claim. throttle: bytes a second, None for all at once.
    """

    repos: dict[str, Repo] = field(default_factory=dict, repr=False)
    tokens: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    hang: bool = False
    status: dict[str, list[int]] = field(default_factory=dict)
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    ignore_range: bool = False
    corrupt: set[str] = field(default_factory=set)
    too_long: set[str] = field(default_factory=set)
    declared: dict[str, int] = field(default_factory=dict)
    throttle: int | None = None
    requests: list[Seen] = field(default_factory=list, repr=False)
    url: str = ""

    def __enter__(self) -> Self:
        hub = self

        class Bound(_Handler):
            server_hub = hub

        self.stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, repo_id: str, files: dict[str, bytes] | Path, *, branch: str = "main", **access: bool) -> str:
        """Commit files (a folder or name → content) to a branch, and return the commit. access: gated, private."""
        if isinstance(files, Path):
            files = {file.name: file.read_bytes() for file in files.iterdir() if file.is_file()}
        repo = self.repos.setdefault(repo_id, Repo(**access))
        digest = hashlib.sha1(f"{repo_id} {len(repo.revisions)}".encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        commit = digest.hexdigest()
        repo.revisions[commit] = dict(files)
        repo.branches[branch] = commit
        return commit

    def downloads(self, name: str) -> list[Seen]:
        """The GET requests that a file was asked for with, at the server that has its bytes."""
        wanted = re.compile(rf"/(files|[^/]+/[^/]+/resolve)/.*/?{re.escape(name)}")
        return [seen for seen in self.requests if seen.method == "GET" and wanted.match(seen.path) and not self._moved(seen)]

    def _moved(self, seen: Seen) -> bool:
        return "/resolve/" in seen.path and seen.path.endswith(LARGE)


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        token = self.headers.get("authorization")
        hub.requests.append(Seen(self.command, path, self.headers.get("range"), token))
        if hub.hang:
            hub.stopped.wait()
            self.close_connection = True
            return
        if path.startswith("/files/"):
            _, _, digest, name = path.split("/", 3)
            self._send_file(name, self._by_digest(digest), f'"{digest[:8]}-of-the-file-server"')
            return
        if token is not None and hub.tokens | hub.readers and token.removeprefix("Bearer ") not in hub.tokens | hub.readers:
            self._error(401, message="Invalid credentials in Authorization header")
            return
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api is not None:
            self._api(api[1], api[2] or "main", token)
        elif resolve is not None:
            self._resolve(resolve[1], resolve[2], resolve[3], token)
        else:
            self._error(404)

    do_HEAD = do_GET  # noqa: N815

    def _repo(self, repo_id: str, revision: str, token: str | None) -> tuple[Repo, str] | None:
        repo = self.server_hub.repos.get(repo_id)
        reader = token is not None and token.removeprefix("Bearer ") in self.server_hub.readers
        if repo is None or (repo.private and not reader):
            # Without a token the Hub does not say whether it is private or does not exist.
            self._error(404 if token is not None or repo is None else 401, "RepoNotFound", "Repository not found")
            return None
        commit = repo.branches.get(revision, revision)
        if commit not in repo.revisions:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repo, commit

    def _api(self, repo_id: str, revision: str, token: str | None) -> None:
        found = self._repo(repo_id, revision, token)
        if found is None:
            return
        repo, commit = found
        files = repo.revisions[commit]
        about = {"id": repo_id, "sha": commit, "siblings": [{"rfilename": name} for name in sorted(files)], "tags": []}
        body = json.dumps(about).encode()
        self._headers(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _resolve(self, repo_id: str, revision: str, name: str, token: str | None) -> None:
        found = self._repo(repo_id, revision, token)
        if found is None:
            return
        repo, commit = found
        if repo.gated and (token is None or token.removeprefix("Bearer ") not in self.server_hub.readers):
            self._error(401 if token is None else 403, "GatedRepo", f"Access to model {repo_id} is restricted.")
            return
        content = repo.revisions[commit].get(name)
        if content is None:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        if not name.endswith(LARGE):
            self._send_file(name, content, f'"{_git(content)}"', {"X-Repo-Commit": commit})
            return
        digest = hashlib.sha256(content).hexdigest()
        self._headers(
            302,
            {
                "Location": f"{self.server_hub.url.replace('127.0.0.1', 'localhost')}/files/{digest}/{name}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(self.server_hub.declared.get(name, len(content))),
                "Content-Length": "0",
            },
        )

    def _by_digest(self, digest: str) -> bytes:
        contents = (c for repo in self.server_hub.repos.values() for files in repo.revisions.values() for c in files.values())
        return next(content for content in contents if hashlib.sha256(content).hexdigest() == digest)

    def _send_file(self, name: str, content: bytes, etag: str, more: dict[str, str] | None = None) -> None:
        hub = self.server_hub
        headers = {"ETag": etag, "Accept-Ranges": "bytes"} | (more or {})
        if self.command == "HEAD":
            self._headers(200, headers | {"Content-Length": str(hub.declared.get(name, len(content)))})
            return
        if hub.status.get(name):
            self._error(hub.status[name].pop(0))
            return
        if name in hub.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        if name in hub.too_long:
            content += b"x" * 1000
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "")
        start, status = 0, 200
        if asked is not None and not hub.ignore_range:
            start, status = int(asked[1]), 206
            if start >= len(content):
                self._error(416, headers={"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._headers(status, headers | {"Content-Length": str(len(content) - start)})
        cuts = hub.cut_after.get(name)
        end = len(content) if not cuts else min(len(content), start + cuts.pop(0))
        self._send_bytes(content[start:end])
        if end < len(content):
            self.close_connection = True

    def _send_bytes(self, content: bytes) -> None:
        try:
            for start in range(0, len(content), CHUNK):
                self.wfile.write(content[start : start + CHUNK])
                if self.server_hub.throttle:
                    time.sleep(CHUNK / self.server_hub.throttle)
        except ConnectionError:  # The client was killed, or has had enough.
            self.close_connection = True

    def _error(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode() if self.command == "GET" else b""
        named = {"X-Error-Code": code, "X-Error-Message": message}
        self._headers(
            status, {key: value for key, value in named.items() if value} | {"Content-Length": str(len(body))} | (headers or {})
        )
        self.wfile.write(body)

    def _headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
