"""A real Kubernetes control plane without nodes: etcd, API server, controllers, scheduler.

It needs no root and no container: the programs of ``tests.kube_tools`` on a loopback address of
their own. Nothing runs pods; ``tests.apiserver_pods`` does to them what a kubelet would. Import
``api_server``, ``namespace`` and ``nodes`` into the conftest of a tier to use it.
"""

import base64
import itertools
import json
import os
import random
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import pytest
from tests.apiserver_access import ApiAccess
from tests.apiserver_certificates import Authority
from tests.apiserver_client import RefusedError
from tests.apiserver_flags import (
    API_PORT,
    PORTS,
    api_server_flags,
    controller_manager_flags,
    etcd_flags,
    etcd_url,
    scheduler_flags,
)
from tests.apiserver_namespaces import NAMESPACES, end_namespace, make_namespace
from tests.apiserver_pods import add_node
from tests.apiserver_processes import Processes
from tests.kube_tools import kube_tool, missing_tools
from tests.processes import is_stopped
from tests.proxy import wait_until

__all__ = ["ApiServer", "api_server", "namespace", "nodes"]

_START_SECONDS: Final = 45
_GARBAGE_PERCENT: Final = "400"
"""Go's collector runs a quarter as often: less CPU time, for 100 MB more of memory."""


class ApiServer(ApiAccess):
    """The control plane; a ``with`` block starts it and ends it.

    A process of the tests that is killed takes all programs with
    it; the folder then stays, as pytest's temporary folders do. ``options`` are further flags of
    kube-apiserver; ``without`` are controllers that do not run.
    """

    def __init__(
        self, folder: Path, options: Sequence[str] = (), without: Sequence[str] = ()
    ) -> None:
        self._options = tuple(options)
        self._without = tuple(without)
        self._address = _free_address()
        authority = Authority(folder / "certificates")
        super().__init__(folder, f"https://{self._address}:{API_PORT}", authority)
        self._processes = Processes(folder / "logs")
        addresses = (f"IP:{self._address}", "IP:127.0.0.1", "DNS:localhost", "DNS:kubernetes")
        self._serving = authority.server("api", addresses)
        self._token_key = authority.signing_key("tokens")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._processes)
            self._start("etcd", etcd_flags(self._address, self._folder / "etcd"))
            self.start_api()
            self._start_controllers()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def fallen(self) -> dict[str, str]:
        """Programs that have ended by themselves, with the end of their logs."""
        return {name: self._processes.log(name) for name in self._processes.fallen()}

    @property
    def is_serving(self) -> bool:
        """The API server was not stopped, and has not ended."""
        return self._processes.is_running("kube-apiserver")

    def start_api(self) -> None:
        """Start the API server alone, at the address it had; returns when it is ready.

        Controllers and scheduler find it again by themselves, up to half a minute later.
        """
        flags = api_server_flags(self._address, self._authority, self._serving, self._token_key)
        self._start("kube-apiserver", [*flags, *self._options])
        self._wait("kube-apiserver", lambda: self.client.get("/readyz"))

    def stop_api(self) -> None:
        """SIGKILL to the API server alone."""
        self._processes.kill("kube-apiserver")

    def restart_controllers(self) -> None:
        """After an outage, for those who do not want to wait until they try again."""
        for name in ("kube-controller-manager", "kube-scheduler"):
            self._processes.kill(name)
        self._start_controllers()

    @contextmanager
    def frozen_api(self) -> Iterator[None]:
        """The API server keeps its connections and answers nobody."""
        pid = self._processes.pid("kube-apiserver")
        os.kill(pid, signal.SIGSTOP)
        try:
            # A signal is sent before it has arrived, at every thread.
            wait_until(lambda: is_stopped(pid), "the API server has stopped")
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def compact(self) -> int:
        """Forget every revision but the newest in etcd: that revision.

        The API server's own cache still serves what it saw: between ``stop_api`` and ``start_api``
        this makes every older watch, and every older list, fail with 410.
        """
        key = base64.b64encode(b"\0").decode()
        revision = int(self._ask_etcd("range", {"key": key})["header"]["revision"])
        self._ask_etcd("compaction", {"revision": revision, "physical": True})
        return revision

    def _start_controllers(self) -> None:
        """After the API server is ready: earlier they would wait in their back-off."""
        controllers, scheduler = "kube-controller-manager", "kube-scheduler"
        config = self.kubeconfig(f"system:{controllers}")
        flags = controller_manager_flags(config, self._authority, self._token_key, self._without)
        self._start(controllers, flags)
        self._start(scheduler, scheduler_flags(self.kubeconfig(f"system:{scheduler}")))
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait(controllers, lambda: self.client.get(account))

    def _start(self, name: str, flags: Sequence[str]) -> None:
        environment = self._environment | {"GOGC": _GARBAGE_PERCENT}
        self._processes.start(name, str(kube_tool(name)), *flags, environment=environment)

    def _wait(self, name: str, answered: Callable[[], object]) -> None:
        def holds() -> bool:
            if not self._processes.is_running(name):
                raise RuntimeError(f"{name} has ended:\n{self._processes.log(name)}")
            with suppress(OSError, RefusedError):
                answered()
                return True
            return False

        wait_until(holds, f"{name} is ready", _START_SECONDS)

    def _ask_etcd(self, question: str, body: dict[str, object]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{etcd_url(self._address)}/v3/kv/{question}", json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


def _free_address() -> str:
    """A loopback address whose ports nobody uses: unlike free ports of 127.0.0.1, they are still
    free when the API server starts again."""
    while True:
        address = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.1"
        try:
            for port in PORTS:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((address, port))
        except OSError:
            continue
        return address


@pytest.fixture(scope="session")
def api_server(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[ApiServer]:
    """The control plane of this run. Namespaces that are deleted stay as they are there."""
    missing = missing_tools()
    if missing:
        told = f"no {', '.join(missing)}: `make kube-tools` builds them"
        if "api" in os.environ.get("REQUIRE_TIERS", "").split():
            pytest.fail(told, pytrace=False)
        pytest.skip(told)
    folder = tmp_path_factory.mktemp("api-server")
    started = time.monotonic()
    try:
        with ApiServer(folder, without=[NAMESPACES]) as server:
            with pytestconfig.pluginmanager.getplugin(
                "capturemanager"
            ).global_and_fixture_disabled():
                print(f"API server: ready after {time.monotonic() - started:.1f} s")
            yield server
            for name, log in server.fallen.items():
                pytest.fail(f"{name} has ended by itself:\n{log}", pytrace=False)
    finally:
        shutil.rmtree(folder)


_numbers = itertools.count()


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[str]:
    """A namespace of the test's own, with its default service account."""
    yield make_namespace(api_server.client, name := f"test-{next(_numbers)}")
    # A test that failed in an outage must not take the others with it.
    if not api_server.is_serving:
        api_server.start_api()
    end_namespace(api_server.client, name)


@pytest.fixture(scope="session")
def nodes(api_server: ApiServer) -> tuple[str, ...]:
    """Two ready nodes of 8 GPUs each, on which the scheduler puts pods."""
    names = ("node-0", "node-1")
    for name in names:
        add_node(api_server.client, name, gpus=8)
    return names
