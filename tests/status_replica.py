"""The management port of a replica that tells what a test wants: ``GET /status`` and nothing else.

It listens on a loopback address of its own, at the port at which the operator asks pods; a pod of
the API server of tests may have that address.
"""

import itertools
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self

import msgspec
from tests.fake_replica import BASE

from sampler_api.fleet import AdaptersConfig, AdapterState, ReplicaStatus
from sampler_api.frames import ModelCard
from sampler_api.names import MANAGE_PORT

__all__ = ["StatusReplica"]

_POLL_SECONDS: Final = 0.02
"""How soon it notices that it is to end."""

_numbers: Final = itertools.count(1)


class StatusReplica:
    """A replica that holds no adapters; a ``with`` block opens its port and closes it."""

    def __init__(self, base: str = BASE) -> None:
        self._server = _server()
        self._server.replica = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="replica"
        )
        self._card = ModelCard(
            model="policy",
            engine="sim",
            base=base,
            tokenizer=None,
            vocab_size=1000,
            context_limit=1024,
            eos_ids=(2,),
            logprobs_modes=("processed",),
            max_logprobs=0,
        )
        self.status = ReplicaStatus(ready=True, incarnation="1", card=self._card)
        """What it answers."""
        self.asked = 0
        """How often it has answered."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """For ``make_pod_ready``."""
        return str(self._server.server_address[0])

    def take_in(
        self,
        config: AdaptersConfig,
        held: Mapping[str, str],
        failed: Mapping[str, str] | None = None,
    ) -> None:
        """It has tried every adapter of ``config``: it holds some, by digest, and tells why it does
        not hold others. What is left loads still."""
        states = []
        for adapter in config.declared:
            if adapter.name in held:
                states.append(AdapterState(adapter.name, "held", held[adapter.name]))
            elif failed and adapter.name in failed:
                states.append(AdapterState(adapter.name, "failed", message=failed[adapter.name]))
            else:
                states.append(AdapterState(adapter.name, "loading"))
        is_done = all(state.state != "loading" for state in states)
        self.status = msgspec.structs.replace(
            self.status,
            declared=tuple(states),
            adapters_hash=config.declared_hash if is_done else self.status.adapters_hash,
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    replica: StatusReplica


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        body = msgspec.json.encode(self.server.replica.status)
        self.send_response(200 if self.path == "/status" else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.replica.asked += 1

    def log_message(self, *_: object) -> None:
        """Tests count the questions themselves."""


def _server() -> _Server:
    for number in _numbers:
        address = f"127.{80 + number // 250 % 100}.90.{number % 250 + 1}"
        try:
            return _Server((address, MANAGE_PORT), _Handler)
        except OSError:
            continue  # somebody else's
    raise AssertionError("there is always another number")
