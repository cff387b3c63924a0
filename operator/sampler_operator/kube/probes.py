"""The port for probes and Prometheus, served by threads: it answers also when the loop hangs."""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from ..errors import OperatorError

__all__ = ["BEAT_SECONDS", "Health", "health_app", "serve_probes"]

BEAT_SECONDS: Final = 1.0
_SILENCE_SECONDS: Final = 30.0

_App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Health:
    """What the event loop last told. ``monotonic`` is a clock in seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._beat = monotonic()
        self.is_ready = False
        """Everything in the cluster is known, and passes run."""

    def beat(self) -> None:
        """The loop turns."""
        self._beat = self._monotonic()

    def silent_seconds(self) -> float:
        """Since the last beat."""
        return self._monotonic() - self._beat


def health_app(health: Health, registry: CollectorRegistry) -> _App:
    """``/healthz``, ``/readyz``, and Prometheus' page everywhere else."""
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/healthz":
                silent = health.silent_seconds()
                reason = f"the event loop has not turned for {silent:.0f} s"
                is_well = silent <= _SILENCE_SECONDS
            case "/readyz":
                reason, is_well = "the cluster has not been listed yet", health.is_ready
            case _:
                page: Iterable[bytes] = metrics(environ, start_response)
                return page
        status = "200 OK" if is_well else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [b"ok\n" if is_well else f"{reason}\n".encode()]

    return app


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Probes come every few seconds."""


_IS_DUAL: Final = socket.has_dualstack_ipv6()


class _Server(ThreadingMixIn, WSGIServer):
    """Of both families, since a pod may have addresses of either."""

    daemon_threads = True
    address_family = socket.AF_INET6 if _IS_DUAL else socket.AF_INET

    def server_bind(self) -> None:
        if _IS_DUAL:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve_probes(port: int, health: Health, registry: CollectorRegistry) -> int:
    """Until the process ends; the port, which is a free one for 0. Raises OperatorError."""
    address = "::" if _IS_DUAL else ""
    try:
        server = make_server(address, port, health_app(health, registry), _Server, _Quiet)
    except OSError as error:
        raise OperatorError(f"--metrics-port {port}: {error.strerror}") from None
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return server.server_port
