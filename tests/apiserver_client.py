"""The Kubernetes API as plain JSON: what a test says and sees itself, without a client library."""

import json
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import urllib3
from tests.apiserver_certificates import Certificate

__all__ = ["KubeClient", "Object", "RefusedError"]

PatchKind = Literal["merge", "strategic-merge"]
Object = dict[str, Any]

_ASK_SECONDS: Final = 30


class RefusedError(Exception):
    """The API server answered with a Status that is no success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(code, reason, message)
        self.code = code
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.code} {self.reason}: {self.message}"


class KubeClient:
    """One user at the API server. It may be used from any thread, and outlives restarts of the
    server."""

    def __init__(self, url: str, authority: Path, user: Certificate) -> None:
        tls = ssl.create_default_context(cafile=str(authority))
        tls.load_cert_chain(user.certificate, user.key)
        address = urllib.parse.urlsplit(url)
        # Connections are kept: who waits looks a hundred times a second, and each new connection
        # costs the server more than its answer.
        self._pool = urllib3.HTTPSConnectionPool(
            str(address.hostname),
            address.port,
            timeout=_ASK_SECONDS,
            maxsize=4,
            retries=False,
            ssl_context=tls,
        )

    def get(self, path: str, **query: str) -> Object:
        """An object, or a list of them."""
        return self.request("GET", path, None, query)

    def post(self, path: str, body: Object, **query: str) -> Object:
        """What was created."""
        return self.request("POST", path, body, query)

    def put(self, path: str, body: Object, **query: str) -> Object:
        """What it was replaced by."""
        return self.request("PUT", path, body, query)

    def patch(self, path: str, body: Object, *, kind: PatchKind = "merge", **query: str) -> Object:
        """What it became."""
        return self.request("PATCH", path, body, query, f"application/{kind}-patch+json")

    def apply(
        self, path: str, body: Object, *, manager: str = "tests", force: bool = True
    ) -> Object:
        """Server-side apply: what it became."""
        query = {"fieldManager": manager, "force": str(force).lower()}
        return self.request("PATCH", path, body, query, "application/apply-patch+yaml")

    def delete(self, path: str, body: Object | None = None, **query: str) -> Object:
        """The deleted object, or a Status; ``body`` is a DeleteOptions."""
        return self.request("DELETE", path, body, query)

    def items(self, path: str, **query: str) -> list[Object]:
        """The objects of a list."""
        found: list[Object] = self.get(path, **query)["items"]
        return found

    def exists(self, path: str) -> bool:
        """The object is there."""
        try:
            self.get(path)
        except RefusedError as refused:
            if refused.code == 404:
                return False
            raise
        return True

    def watch(self, path: str, **query: str) -> Iterator[Object]:
        """Events, until the server ends the watch. Raises RefusedError, OSError."""
        target = f"{path}?{urllib.parse.urlencode({**query, 'watch': 'true'})}"
        try:
            response = self._pool.request("GET", target, preload_content=False)
            try:
                if response.status >= 400:
                    answer = _answer(response.data.decode())
                    raise RefusedError(response.status, answer.get("reason", ""), str(answer))
                while line := response.readline():
                    yield json.loads(line)
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, json.JSONDecodeError) as error:
            raise ConnectionError(f"watch {path}: {error!r}") from error

    def request(
        self,
        method: str,
        path: str,
        body: Object | None,
        query: Mapping[str, str],
        content_type: str = "application/json",
    ) -> Object:
        """The answer, which may be a watch's first event. Raises RefusedError, OSError when
        nobody answers."""
        data = None if body is None else json.dumps(body)
        target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        is_watch = query.get("watch") == "true"
        try:
            response = self._pool.request(
                method,
                target,
                body=data,
                headers={"content-type": content_type},
                preload_content=not is_watch,
            )
            if is_watch and response.status == 200:
                text = response.readline().decode()
            else:
                text = response.data.decode()
            if is_watch:
                response.close()
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        answer = _answer(text)
        if response.status >= 400:
            message = answer.get("message", text)
            raise RefusedError(response.status, answer.get("reason", ""), message)
        return answer


def _answer(text: str) -> Object:
    try:
        answer = json.loads(text)
    except ValueError:
        return {"text": text}
    return answer if isinstance(answer, dict) else {"value": answer}
