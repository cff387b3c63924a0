"""A model hub on loopback: the few routes that a download asks for, over real files.

Every commit is a folder of files. ``requests`` is what was asked, in order. With a ``gate`` only
half of a file is sent before it is open.
"""

import contextlib
import hashlib
import http.server
import json
import re
import threading
from pathlib import Path
from typing import Any, Final, Self

__all__ = ["FakeHub"]

_GATE_SECONDS: Final = 30
_INFO: Final = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/revision/([\w.-]+)")
_TREE: Final = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/tree/([\w.-]+)")
_FILE: Final = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)")


class FakeHub:
    """One repository with its branches; used in a ``with`` block."""

    def __init__(self, repository: str) -> None:
        self.repository = repository
        self.branches: dict[str, str] = {}
        self.commits: dict[str, Path] = {}
        self.requests: list[str] = []
        self.gate: threading.Event | None = None
        self.is_asked = threading.Event()
        """Somebody has had half of a file."""
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            def do_HEAD(self) -> None:
                hub._answer(self)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT says."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def commit(self, folder: Path, branch: str = "main") -> str:
        """Put a folder of files on a branch; the commit's id."""
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        commit = hashlib.sha1(f"{folder} {names}".encode()).hexdigest()
        self.commits[commit] = folder
        self.branches[branch] = commit
        return commit

    @property
    def downloads(self) -> list[str]:
        """Files whose content was asked for."""
        return [
            r.rpartition("/")[2] for r in self.requests if r.startswith("GET /" + self.repository)
        ]

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        self.requests.append(f"{handler.command} {path}")
        for pattern, answer in ((_INFO, self._info), (_TREE, self._tree), (_FILE, self._file)):
            found = pattern.fullmatch(path)
            if found is None:
                continue
            repository, revision, *rest = found.groups()
            commit = self.branches.get(revision, revision)
            if repository != self.repository:
                self._refuse(handler, "RepoNotFound")
            elif commit not in self.commits:
                self._refuse(handler, "RevisionNotFound")
            else:
                answer(handler, commit, *rest)
            return
        self._refuse(handler, "EntryNotFound")

    def _refuse(self, handler: http.server.BaseHTTPRequestHandler, code: str) -> None:
        self._send(handler, 404, b"{}", {"X-Error-Code": code})

    def _files(self, commit: str) -> dict[str, Path]:
        folder = self.commits[commit]
        return {
            str(path.relative_to(folder)): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def _info(self, handler: http.server.BaseHTTPRequestHandler, commit: str) -> None:
        siblings = [{"rfilename": name} for name in self._files(commit)]
        body = {"id": self.repository, "sha": commit, "siblings": siblings}
        self._send(handler, 200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _tree(self, handler: http.server.BaseHTTPRequestHandler, commit: str) -> None:
        entries = [
            {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}
            for name, path in self._files(commit).items()
        ]
        self._send(handler, 200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _file(self, handler: http.server.BaseHTTPRequestHandler, commit: str, name: str) -> None:
        path = self._files(commit).get(name)
        if path is None:
            self._refuse(handler, "EntryNotFound")
            return
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        content = path.read_bytes()
        given = handler.headers.get("Range")
        if given is None or handler.command == "HEAD":
            self._send(handler, 200, content, headers)
            return
        first, _, last = given.removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) + 1 if last else len(content)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self._send(handler, 206, content[start:end], headers)

    def _send(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str],
    ) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        half = len(body) // 2 if "ETag" in headers else 0
        # The client may have been killed meanwhile.
        with contextlib.suppress(ConnectionError):
            handler.wfile.write(body[:half])
            if half and self.gate is not None:
                self.is_asked.set()
                assert self.gate.wait(_GATE_SECONDS)
            handler.wfile.write(body[half:])


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
