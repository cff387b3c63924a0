"""Which declared adapters a replica loads, keeps and lets go, and when it may become ready. Pure.

An adapter that is declared without a digest is what its directory held when it was loaded, until
its entry changes: what is written over the directory later changes nothing at this replica.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from sampler_api.errors import InvalidRequest
from sampler_api.fleet import ADAPTERS_FILE, AdaptersConfig, AdapterState, DeclaredAdapter

__all__ = ["DeclaredAdapters", "parse_adapters"]

_FIRST_DELAY_SECONDS: Final = 1.0
_LONGEST_DELAY_SECONDS: Final = 30.0
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def parse_adapters(content: bytes) -> AdaptersConfig:
    """The config in a file; nothing means an empty one. Raises InvalidRequest, naming the field."""
    if not content.strip():
        return AdaptersConfig()
    try:
        config = msgspec.json.decode(content, type=AdaptersConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{ADAPTERS_FILE}: {error}", "adapters") from None
    names: set[str] = set()
    for index, adapter in enumerate(config.declared):
        where = f"{ADAPTERS_FILE}: declared[{index}]"
        if not adapter.name or adapter.name in names:
            raise InvalidRequest(f"{where}.name: {adapter.name!r} is empty or there twice", "name")
        if not adapter.path:
            raise InvalidRequest(f"{where}.path: is empty", "path")
        if adapter.digest is not None and not _DIGEST.fullmatch(adapter.digest):
            raise InvalidRequest(
                f"{where}.digest: {adapter.digest!r} is not sha256: and 64 hexadecimal digits",
                "digest",
            )
        names.add(adapter.name)
    return config


@dataclass(slots=True)
class _Entry:
    """What has become of one declared adapter."""

    held: str | None = None
    message: str = ""
    failures: int = 0
    due: float = 0.0

    @property
    def is_tried(self) -> bool:
        return self.held is not None or self.failures > 0


class DeclaredAdapters:
    """The declared set at one replica. Each held digest is one pin, which keeps it from eviction.

    Whoever acts on it loads what :meth:`next_due` names, tells :meth:`loaded` or :meth:`failed`,
    and releases the pins that it is told to. Times are seconds of any one clock.
    """

    def __init__(self) -> None:
        self._config = AdaptersConfig()
        self._entries: dict[DeclaredAdapter, _Entry] = {}
        self._pins: set[str] = set()
        self._settled = ""
        self._was_complete = False

    def take(self, config: AdaptersConfig) -> list[str]:
        """Follow another config; the digests whose pins are to be released."""
        self._config = config
        before, self._entries = self._entries, {}
        for adapter in config.declared:
            entry = before.get(adapter) or _Entry()
            # A person may just have put right what was wrong.
            entry.due = 0.0
            wanted = self.wanted_digest(adapter)
            if entry.held is None and wanted in self._pins:
                entry = _Entry(held=wanted)
            self._entries[adapter] = entry
        kept = {entry.held for entry in self._entries.values()}
        released = sorted(self._pins - kept)
        self._pins -= set(released)
        self._settle()
        return released

    def wanted_digest(self, adapter: DeclaredAdapter) -> str | None:
        """What must be found in its directory: the digest of its entry, or the one that ready
        replicas hold under its name; ``None`` = whatever is there."""
        if adapter.digest is not None:
            return adapter.digest
        required = self._config.required or ()
        return next((r.digest for r in required if r.name == adapter.name), None)

    def next_due(self, now: float) -> DeclaredAdapter | None:
        """What is to be loaded next, required ones first; ``None`` when nothing is due."""
        required = {r.name for r in self._config.required or ()}
        due = [a for a, e in self._entries.items() if e.held is None and e.due <= now]
        return min(due, key=lambda a: (a.name not in required, self._entries[a].due), default=None)

    def wait_seconds(self, now: float) -> float | None:
        """How long until something is due; ``None`` = not before the config changes."""
        waits = [entry.due - now for entry in self._entries.values() if entry.held is None]
        return max(0.0, min(waits)) if waits else None

    def loaded(self, adapter: DeclaredAdapter, digest: str) -> bool:
        """A load has succeeded; False when its pin is not needed (any more) and to be released."""
        entry = self._entries.get(adapter)
        if entry is None:
            return False
        is_new = digest not in self._pins
        entry.held, entry.message = digest, ""
        self._pins.add(digest)
        self._settle()
        return is_new

    def failed(self, adapter: DeclaredAdapter, message: str, now: float) -> None:
        """A load has failed; it is tried again with growing delays."""
        entry = self._entries.get(adapter)
        if entry is None:
            return
        entry.message = message
        entry.due = now + min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2**entry.failures)
        entry.failures = min(entry.failures + 1, 16)
        self._settle()

    def _settle(self) -> None:
        if all(entry.is_tried for entry in self._entries.values()):
            self._settled = self._config.declared_hash
        self._was_complete = self._was_complete or not self._missing()

    # -- what is told of it ------------------------------------------------------------------------

    @property
    def adapters_hash(self) -> str:
        """``declared_hash`` of the last config of which every adapter has been tried."""
        return self._settled

    @property
    def missing(self) -> str:
        """What the first readiness still waits for, by name; empty once it had everything."""
        return "" if self._was_complete else self._missing()

    def _missing(self) -> str:
        required = self._config.required
        if required is None:
            waits = [a.name for a, e in self._entries.items() if not e.is_tried]
            return f"declared adapters are being loaded: {', '.join(waits)}" if waits else ""
        absent = [r for r in required if r.digest not in self._pins]
        if not absent:
            return ""
        messages = {a.name: e.message for a, e in self._entries.items()}
        parts = (f"{r.name}@{r.digest} {messages.get(r.name, 'is not declared')}" for r in absent)
        return "required adapters are not held: " + "; ".join(part.strip() for part in parts)

    def names(self) -> Mapping[str, str]:
        """Digests of the declared adapters that are held, by name."""
        return {a.name: e.held for a, e in self._entries.items() if e.held is not None}

    def bases(self) -> Mapping[str, str]:
        """The base that replicas of a pod template must have, by template hash."""
        return self._config.bases

    def states(self) -> tuple[AdapterState, ...]:
        """One for each declared adapter, in the order of the config."""
        return tuple(
            AdapterState(a.name, "held", e.held)
            if e.held is not None
            else AdapterState(
                a.name, "failed" if e.failures else "loading", a.digest, message=e.message
            )
            for a, e in self._entries.items()
        )
