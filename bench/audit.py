"""What the API server itself wrote down of each request: who, what, when. For benchmarks."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

__all__ = ["POLICY", "Audit", "Request"]

POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "Metadata", "users": ["operator", "plain", "bench"]},
        {"level": "None"},
    ],
}
"""Only the users of the benchmark are written down."""

WRITES: Final = frozenset({"create", "update", "patch", "delete"})


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was answered; times in seconds since the epoch."""

    user: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    received: float
    answered: float

    @property
    def is_write(self) -> bool:
        """It changed something, events apart."""
        return self.verb in WRITES and self.resource != "events" and self.code < 400


class Audit:
    """The log, read from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self, wanted: Callable[[Request], bool] = lambda request: True) -> list[Request]:
        """The requests since the last reading, in the order of their answers."""
        return sorted(filter(wanted, self._lines()), key=lambda request: request.answered)

    def _lines(self) -> Iterator[Request]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                yield _request(json.loads(line))


def _request(entry: dict[str, object]) -> Request:
    reference = entry.get("objectRef") or {}
    assert isinstance(reference, dict)
    user, status = entry["user"], entry.get("responseStatus") or {}
    assert isinstance(user, dict)
    assert isinstance(status, dict)
    return Request(
        user=str(user["username"]),
        verb=str(entry["verb"]),
        resource=str(reference.get("resource", "")),
        subresource=str(reference.get("subresource", "")),
        namespace=str(reference.get("namespace", "")),
        name=str(reference.get("name", "")),
        code=int(status.get("code", 0)),
        received=_seconds(entry["requestReceivedTimestamp"]),
        answered=_seconds(entry["stageTimestamp"]),
    )


def _seconds(text: object) -> float:
    return datetime.fromisoformat(str(text)).timestamp()
