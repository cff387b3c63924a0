"""What the API server has said of a fleet's pods, and when: a watch in a thread of its own."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Self

from tests.apiserver_client import KubeClient, Object, RefusedError
from tests.faults.journal import JournalWriter

__all__ = ["PodWatch", "ending_of", "is_ready", "restarts_of"]

_PAUSE_SECONDS: Final = 0.2
_WATCH_SECONDS: Final = 2


class PodWatch:
    """The pods of one fleet. Survives outages of the API server."""

    def __init__(self, client: KubeClient, namespace: str, fleet: str) -> None:
        self._client = client
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._query = {"labelSelector": f"sampler.dev/fleet={fleet}"}
        self._lock = threading.Lock()
        self._pods: dict[str, Object] = {}
        self._last: dict[str, Object] = {}
        self._told_to_leave: dict[str, float] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pod-watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def pods(self) -> list[Object]:
        """As they are, by name."""
        with self._lock:
            return [self._pods[name] for name in sorted(self._pods)]

    @property
    def ready(self) -> list[Object]:
        """Those that serve, and are not about to end."""
        return [pod for pod in self.pods if is_ready(pod)]

    def pod(self, name: str) -> Object | None:
        """One of them, as it was last; it may be gone."""
        with self._lock:
            return self._last.get(name)

    @property
    def told_to_leave(self) -> dict[str, float]:
        """When pods were first seen to end."""
        with self._lock:
            return dict(self._told_to_leave)

    def _run(self) -> None:
        while not self._is_over.is_set():
            with suppress(OSError, RefusedError):
                listed = self._client.get(self._path, **self._query)
                with self._lock:
                    self._pods = {pod["metadata"]["name"]: pod for pod in listed["items"]}
                for pod in listed["items"]:
                    self._take(pod)
                version = listed["metadata"]["resourceVersion"]
                for event in self._events(version):
                    self._take(event["object"], is_gone=event["type"] == "DELETED")
                continue
            self._is_over.wait(_PAUSE_SECONDS)

    def _events(self, version: str) -> Iterator[Object]:
        times = {"timeoutSeconds": str(_WATCH_SECONDS), "resourceVersion": version}
        for event in self._client.watch(self._path, **self._query, **times):
            if event["type"] == "ERROR":
                return
            yield event

    def _take(self, pod: Object, is_gone: bool = False) -> None:
        name = pod["metadata"]["name"]
        with self._lock:
            self._last[name] = pod
            if is_gone:
                self._pods.pop(name, None)
            else:
                self._pods[name] = pod
            if "deletionTimestamp" in pod["metadata"]:
                self._told_to_leave.setdefault(name, JournalWriter.now())


def is_ready(pod: Object) -> bool:
    """It serves, and is not about to end."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def restarts_of(pod: Object | None) -> int:
    """How often its container has been started again."""
    statuses = [] if pod is None else pod["status"].get("containerStatuses", [])
    return sum(status["restartCount"] for status in statuses)


def ending_of(pod: Object | None) -> str:
    """How its container ended last, as the API server has it."""
    for status in [] if pod is None else pod["status"].get("containerStatuses", []):
        ended = status.get("lastState", {}).get("terminated") or status.get("state", {}).get(
            "terminated"
        )
        if ended:
            return f"{ended['reason']}, exit code {ended['exitCode']}"
    return ""
