"""A real server process over the sim engine, for tests; run as a script it is that process."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

__all__ = ["ServerProcess"]

_ROOT = Path(__file__).parent.parent


class ServerProcess:
    """``sim`` behind free ports; ``serve``, ``flush``, ``streams``, ``latency`` and ``sim`` are
    keyword arguments of the settings of those names."""

    def __init__(self, **settings: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=_ROOT,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: {self.process.communicate()[1]}")
        chosen = json.loads(line)
        self.port: int = chosen["port"]
        self.manage_port: int = chosen["manage_port"]
        self.pid: int = chosen["pid"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    @property
    def session_url(self) -> str:
        """Where sessions connect."""
        return f"ws://127.0.0.1:{self.port}/v1/session"

    def get(self, path: str, *, manage: bool = True, token: str | None = None) -> tuple[int, Any]:
        """Status and body, JSON where it is JSON."""
        return self._ask("GET", path, manage, token, None)

    def post(
        self, path: str, body: bytes = b"", *, manage: bool = True, token: str | None = None
    ) -> tuple[int, Any]:
        """Status and JSON body."""
        return self._ask("POST", path, manage, token, body)

    def status(self) -> dict[str, Any]:
        """``GET /status``."""
        body: dict[str, Any] = self.get("/status")[1]
        return body

    def _ask(
        self, method: str, path: str, manage: bool, token: str | None, body: bytes | None
    ) -> tuple[int, Any]:
        port = self.manage_port if manage else self.port
        headers = {"content-type": "application/json"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", data=body, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                status, data = response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, data = error.code, error.read()
        try:
            return status, json.loads(data)
        except ValueError:
            return status, data.decode()


def _main(arguments: dict[str, dict[str, Any]]) -> int:
    from sampler_server.engines.sim import SimEngine, SimSettings, tokenizer_files
    from sampler_server.engines.sim.latency import LatencyModel
    from sampler_server.engines.sim.settings import SimFaults
    from sampler_server.serve import serve
    from sampler_server.settings import FlushSettings, ServeSettings, StreamSettings

    given = arguments.get("serve", {})
    for name in ("token_file", "termination_log"):
        if name in given:
            given[name] = Path(given[name])
    given["siblings"] = tuple(given.get("siblings", ()))
    settings = ServeSettings(
        flush=FlushSettings(**arguments.get("flush", {})),
        streams=StreamSettings(**arguments.get("streams", {})),
        **{"port": 0, "manage_port": 0, **given},
    )
    sim = SimSettings(
        latency=LatencyModel(**arguments.get("latency", {})),
        faults=SimFaults(**arguments.get("faults", {})),
        **arguments.get("sim", {}),
    )
    return serve(settings, SimEngine(sim), tokenizer_files=tokenizer_files)


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
