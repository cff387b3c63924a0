"""A real operator process with the rights that ``manifests/install.yaml`` grants: started, stopped,
killed and started again.

A ``with`` block starts it and ends it. What it writes goes to a file, which the conftest of a tier
shows when a test fails.
"""

import os
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self
from weakref import WeakSet

import yaml
from tests.apiserver import ApiServer
from tests.apiserver_client import Object, RefusedError
from tests.forked import Forked, Forker
from tests.installed_crd import install_crd
from tests.proxy import wait_until

from sampler_operator import names

__all__ = ["OperatorProcess", "operator_kubeconfig", "operator_logs"]

_ROOT: Final = Path(__file__).parent.parent
_ACCOUNT: Final = "system:serviceaccount:sampler-system:sampler-operator"
_ROLES: Final = ("ClusterRole", "ClusterRoleBinding")
_START_SECONDS: Final = 40
_END_SECONDS: Final = 20
_ASK_SECONDS: Final = 5
_LOG_BYTES: Final = 12000
_WRITES: Final = "sampler_operator_writes_total{"
_VARIABLES: Final = {"OMP_NUM_THREADS": "1"}
_FORKER: Final = Forker(
    *("sampler_operator.kube.operator", "sampler_operator.kube.probes", "uvloop"), **_VARIABLES
)

_known: "WeakSet[OperatorProcess]" = WeakSet()


def operator_logs() -> Iterator[tuple[str, str]]:
    """Name, and end of the log, of every operator that runs or that a traceback still holds."""
    for operator in list(_known):
        text = operator.log
        if text:
            yield operator.name, text[-_LOG_BYTES:]


def operator_kubeconfig(server: ApiServer) -> Path:
    """A kubeconfig of the operator's service account, with the roles of ``install.yaml``."""
    for manifest in _roles():
        plural = f"{manifest['kind'].lower()}s"
        path = f"/apis/rbac.authorization.k8s.io/v1/{plural}/{manifest['metadata']['name']}"
        server.client.apply(path, manifest)
    review = {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "spec": {
            "resourceAttributes": {"verb": "list", "group": names.GROUP, "resource": names.PLURAL}
        },
    }
    account = server.client_of(_ACCOUNT)
    reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    def is_granted() -> bool:
        try:
            return bool(account.post(reviews, review)["status"]["allowed"])
        except RefusedError:
            return False

    wait_until(is_granted, f"{_ACCOUNT} has its rights")
    return server.kubeconfig(_ACCOUNT)


def _roles() -> list[Object]:
    text = (_ROOT / "manifests" / "install.yaml").read_text()
    # The C loader where there is one: the CRD of that file is long.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [each for each in yaml.load_all(text, loader) if each["kind"] in _ROLES]


class OperatorProcess:
    """``sampler-operator run`` against ``server``, whose CRD is installed first.

    ``options`` are further words of its command line; without ``kubeconfig`` it has the rights of
    ``install.yaml``. It is forked (``tests.forked``).
    """

    def __init__(self, server: ApiServer, *options: str, kubeconfig: Path | None = None) -> None:
        self._server = server
        self._options = options
        self._kubeconfig = kubeconfig
        # Appended to over restarts; only ever read at an offset, as the child shares the position.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._log_end = ""
        self._process: Forked | None = None
        self._port = 0
        _known.add(self)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()
        self._log_end = self.log
        self._log.close()

    @property
    def name(self) -> str:
        """For reports."""
        return f"operator {' '.join(self._options)}".rstrip()

    @property
    def pid(self) -> int:
        """Its process id, for tests that signal or watch it."""
        assert self._process is not None, "the operator does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """It was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that it has written, also before it was started again."""
        if self._log.closed:
            return self._log_end
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def start(self, *, wait: bool = True) -> None:
        """Start it; with ``wait`` returns when it knows the cluster and passes run."""
        assert self._process is None, "the operator runs already"
        install_crd(self._server)
        kubeconfig = self._kubeconfig or operator_kubeconfig(self._server)
        self._port = _free_port()
        self._process = _FORKER.start(
            (
                *("-m", "sampler_operator", "run"),
                *("--kubeconfig", str(kubeconfig), "--metrics-port", str(self._port)),
                *self._options,
            ),
            os.environ | _VARIABLES,
            self._log,
        )
        if wait:
            wait_until(self._works, "the operator works", _START_SECONDS)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._end(signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, when it ends by itself."""
        assert self._process is not None, "the operator does not run"
        code = self._process.wait(_END_SECONDS)
        self._process = None
        return code

    def metrics(self) -> dict[str, float]:
        """Every figure of its metrics page, by name and labels as they stand there."""
        lines = self._ask("metrics").splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def writes(self) -> float:
        """How often it has written anything since its start."""
        figures = self.metrics().items()
        return sum(value for name, value in figures if name.startswith(_WRITES))

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None, "the operator does not run"
        self._process.send_signal(number)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._process = None
            raise

    def _works(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"the operator has ended with exit code {code}:\n{self.log}"
        try:
            return self._ask("readyz") == "ok\n"
        except OSError:
            return False

    def _ask(self, page: str) -> str:
        url = f"http://127.0.0.1:{self._port}/{page}"
        with urllib.request.urlopen(url, timeout=_ASK_SECONDS) as response:
            text: str = response.read().decode()
        return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
