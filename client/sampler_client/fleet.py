"""A fleet as a backend: sessions for samples, plain HTTP for adapters and tokenizer files."""

import base64
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from sampler_api.errors import FleetError, SamplerClosed
from sampler_api.frames import ModelCard, RevisionRef
from sampler_api.names import ADAPTERS_PATH, TOKENIZER_PATH
from sampler_core.groups import Group

from .discovery import Discovery
from .settings import ClientSettings
from .worker import CLOSED, Worker

__all__ = ["Fleet"]


class Fleet:
    """Implements ``sampler_core.groups.Backend`` over sessions. Starts its thread at the first
    use."""

    def __init__(self, discovery: Discovery, settings: ClientSettings) -> None:
        self._discovery = discovery
        self._settings = settings
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._is_closed = False

    def _running(self) -> Worker:
        worker = self._worker
        # A forked child has the object but not the thread, and must not share ids with its parent.
        if worker is not None and worker.pid == os.getpid():
            return worker
        with self._lock:
            if self._is_closed:
                raise SamplerClosed(CLOSED)
            if self._worker is None or self._worker.pid != os.getpid():
                self._worker = Worker(self._discovery, self._settings)
                self._worker.start()
            return self._worker

    @property
    def is_ready(self) -> bool:
        """A replica has answered."""
        worker = self._worker
        return worker is not None and worker.pid == os.getpid() and worker.card is not None

    def card(self) -> ModelCard:
        """What the fleet serves. Raises NoReplica, Unauthorized, Forbidden, ProtocolError."""
        worker = self._running()
        card = worker.card
        if card is not None:
            return card
        return worker.wait_for_card()

    def submit(self, groups: Sequence[Group]) -> None:
        """Queue groups."""
        if groups:
            self._running().post(groups)

    def cancel(self, groups: Sequence[Group]) -> None:
        """End groups."""
        worker = self._worker
        if groups and worker is not None and worker.pid == os.getpid():
            worker.call(worker.dispatcher.cancel, groups)

    def tokenizer_files(self) -> Mapping[str, bytes]:
        """The tokenizer of any replica, by file name."""
        if self.card().tokenizer is None:
            return {}
        (reply,) = self._ask("GET", TOKENIZER_PATH).values()
        return {name: base64.b64decode(data) for name, data in reply.get("files", {}).items()}

    def create_adapter(self, config: Mapping[str, object]) -> str:
        """Make a zero adapter on every replica that is connected; all must give one digest."""
        replies = self._ask("POST", ADAPTERS_PATH, {"config": config})
        digests = {url: str(reply.get("digest")) for url, reply in replies.items()}
        if len(set(digests.values())) != 1:
            told = ", ".join(f"{digest} at {url}" for url, digest in digests.items())
            raise FleetError(f"replicas made different adapters of one config: {told}")
        return next(iter(digests.values()))

    def ensure_adapter(self, ref: RevisionRef) -> None:
        """Have every connected replica load a revision now.

        A wrong directory is found here and not at a request, and what a trainer writes over the
        directory later changes nothing: replicas keep a copy. One that dies or is slow is passed
        over, as it loads the revision when it is asked for it.
        """
        if ref.path is not None:
            body = {"name": ref.name, "digest": ref.adapter, "path": ref.path}
            self._ask("POST", ADAPTERS_PATH, body)

    def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> dict[str, dict[str, Any]]:
        """The successes by replica."""
        # Where nothing but sampling is done, the import is not paid for.
        from .replica_requests import HttpRequest, agreed, ask_all, ask_in_turn, http_client

        self.card()
        worker = self._running()
        urls = worker.connected_urls()
        request = HttpRequest(method, path, body)
        ask = ask_all if body is not None else ask_in_turn
        http = http_client(urls, self._settings, self._discovery.certificate_name)
        return agreed(worker.run(ask(http, request, urls, self._settings)))

    def close(self) -> None:
        """Say bye, end the thread. Idempotent."""
        with self._lock:
            self._is_closed = True
            worker, self._worker = self._worker, None
        if worker is not None and worker.pid == os.getpid():
            worker.close()
