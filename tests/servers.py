"""Real server processes: started, asked over HTTP, killed, stopped, and started again.

A ``with`` block starts one and ends it. What it writes to stderr goes to a file, which
``tests/conftest.py`` shows when a test fails.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from weakref import WeakSet

import msgspec
from tests.forked import Forked, Forker

from sampler_api.fleet import ReplicaStatus

__all__ = ["Port", "ProgramServer", "Server", "TunedServer", "server_logs"]

_ROOT: Final = Path(__file__).parent.parent
_END_SECONDS: Final = 20
_ASK_SECONDS: Final = 10
_LOG_BYTES: Final = 4000

_SIM: Final = (
    *(f"sampler_cli.{name}" for name in ("down", "fetch", "launch", "serve", "status", "up")),
    *("sampler_server.adapters", "sampler_server.scratch", "sampler_server.serve"),
    *("sampler_server.routes.openai", "sampler_server.routes.sample"),
    *("tokenizers", "uvicorn.protocols.http.h11_impl", "uvloop"),
    "sampler_server.engines.sim",
)
_TORCH: Final = (
    *_SIM,
    "sampler_server.engines.torch.engine",
    "sampler_server.local_sampler",
    *("transformers.models.auto.tokenization_auto", "transformers.models.qwen3.modeling_qwen3"),
)
_VARIABLES: Final = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
_FORKERS: Final = {"sim": Forker(*_SIM, **_VARIABLES), "torch": Forker(*_TORCH, **_VARIABLES)}
"""Of the engines that are started often."""

_known: "WeakSet[ProgramServer]" = WeakSet()


def server_logs() -> Iterator[tuple[str, str]]:
    """Address, and end of the log, of every server that runs or that a traceback still holds."""
    for server in list(_known):
        text = server.log
        if text:
            yield server.name, text[-_LOG_BYTES:]


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a server on this machine."""

    number: int

    @property
    def url(self) -> str:
        """Its address without a path."""
        return f"http://127.0.0.1:{self.number}"

    def get(self, path: str, *, token: str | None = None) -> tuple[int, Any]:
        """Status and body, JSON where it is JSON."""
        return self._ask("GET", path, None, token)

    def post(self, path: str, body: bytes = b"", *, token: str | None = None) -> tuple[int, Any]:
        """Status and body, JSON where it is JSON."""
        return self._ask("POST", path, body, token)

    def _ask(
        self, method: str, path: str, body: bytes | None, token: str | None
    ) -> tuple[int, Any]:
        headers = {"content-type": "application/json"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.url + path, data=body, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_ASK_SECONDS) as response:
                status, data = response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, data = error.code, error.read()
        try:
            return status, json.loads(data)
        except ValueError:
            return status, data.decode()


class ProgramServer:
    """Any program that prints its ports as one JSON line when it listens.

    ``announced`` is that line, ``data`` and ``manage`` are its ports; of a supervisor the line
    has those of each engine. ``output`` is what followed on stdout, once it has ended. With a
    ``forker`` the program, of this Python, is forked.
    """

    def __init__(self, *words: str, forker: Forker | None = None) -> None:
        self._words = words
        self._forker = forker
        # Appended to over restarts; only ever read at an offset, as the child shares the position.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._log_end = ""
        self._process: Forked | subprocess.Popen[str] | None = None
        self.announced: dict[str, Any] = {}
        self.data = Port(0)
        self.manage = Port(0)
        self.output = ""
        _known.add(self)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running:
            self.stop()
        self._log_end = self.log
        self._log.close()

    def words(self) -> tuple[str, ...]:
        """The command line of the next start."""
        return self._words

    @property
    def name(self) -> str:
        """The name that segments give it."""
        return f"127.0.0.1:{self.data.number}"

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.data.url

    @property
    def session_url(self) -> str:
        """Where sessions connect."""
        return f"ws://{self.name}/v1/session"

    @property
    def log(self) -> str:
        """All that it has written to stderr."""
        if self._log.closed:
            return self._log_end
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    @property
    def is_running(self) -> bool:
        """It was started, and nobody has seen it end."""
        return self._process is not None

    def status(self) -> dict[str, Any]:
        """``GET /status``, with the names of its fields."""
        status = msgspec.convert(self.manage.get("/status")[1], ReplicaStatus)
        load = {} if status.load is None else msgspec.structs.asdict(status.load)
        return {**msgspec.structs.asdict(status), "load": load}

    def start(self) -> None:
        """Start it; after a first time on the ports that it had. Returns when it listens."""
        process = self._started()
        self._process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            code = self.wait(_END_SECONDS)
            raise RuntimeError(f"the server ended with {code} before it served:\n{self.log}")
        self.announced = json.loads(line)
        self.data = Port(self.announced.get("port", 0))
        self.manage = Port(self.announced.get("manage_port", 0))

    def _started(self) -> Forked | subprocess.Popen[str]:
        environment = os.environ | _VARIABLES
        words = self.words()
        if self._forker is not None and self._forker.fits(environment):
            return self._forker.start(words[1:], environment, self._log, has_output=True)
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=_ROOT,
            text=True,
            # Engines under a supervisor are killed with it.
            start_new_session=True,
            env=environment,
        )

    def wait(self, seconds: float) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        assert self._process.stdout is not None
        code = self._process.wait(seconds)
        self.output = self._process.stdout.read()
        self._process.stdout.close()
        self._process = None
        return code

    def send(self, number: signal.Signals) -> None:
        """A signal; SIGSTOP and SIGCONT freeze and thaw it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, which drains it: its exit code. What takes too long is killed."""
        self.send(signal.SIGTERM)
        try:
            return self.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL to it and its children: its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        return self.wait(_END_SECONDS)


class Server(ProgramServer):
    """``sampler serve`` with ``options``; it keeps its ports over restarts.

    Forked (``tests.forked``), but for engines that are rare and in tests of the start itself. One
    that ``renders`` conversations begins with what it would import with the first of them.
    """

    def __init__(
        self, *options: str, engine: str = "sim", is_forked: bool = True, renders: bool = False
    ) -> None:
        words = (sys.executable, "-m", "sampler_cli.main", "serve", "--engine", engine)
        forker = _FORKERS.get("torch" if renders else engine) if is_forked else None
        super().__init__(*words, forker=forker)
        self._options = options

    def words(self) -> tuple[str, ...]:
        """The last of a repeated option counts, so that ``options`` win."""
        ports = ("--port", str(self.data.number), "--manage-port", str(self.manage.number))
        # Ports that are given are printed only on request.
        again = ("--announce",) if self.announced else ()
        return (*super().words(), *ports, *again, "--listen-seconds", "0", *self._options)


class TunedServer(ProgramServer):
    """The sim engine with ``settings`` that are no options of the command; ``tests.tuned_server``
    says which."""

    def __init__(self, **settings: dict[str, Any]) -> None:
        script = str(_ROOT / "tests" / "tuned_server.py")
        super().__init__(sys.executable, script, json.dumps(settings), forker=_FORKERS["sim"])
