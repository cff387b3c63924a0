"""A server in a pod that may do nothing: a user without a name, no writable root."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.raw_adapters import write_adapter
from tests.servers import ProgramServer

from sampler_core.adapters import snapshot_adapter

NOBODY = 2000
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--bounding-set=-all", "--inh-caps=-all"),
)
NAMES = ("USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CONFIG_HOME", "HF_HOME")
WRITABLE = ("HOME", "TMPDIR", "XDG_CACHE_HOME")


def why_not() -> str:
    """What this machine lacks; empty when the test can run."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return "only root with setpriv becomes somebody else"
    command = [*AS_NOBODY, sys.executable, "-c", "import sampler_api, pwd; pwd.getpwuid(2000)"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if "KeyError" in tried.stderr else f"uid {NOBODY} has a name, or cannot read Python"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place where the server may write, below folders of others."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for variable in NAMES:
            monkeypatch.delenv(variable, raising=False)
        for variable in WRITABLE:
            place = folder / variable.lower()
            place.mkdir()
            os.chown(place, NOBODY, NOBODY)
            monkeypatch.setenv(variable, str(place))
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        yield folder


def test_a_user_without_a_name_serves_and_loads_adapters(folder: Path) -> None:
    adapter = write_adapter(folder / "adapter", 1)
    digest = snapshot_adapter(adapter).digest
    options = ("--engine", "sim", "--port", "0", "--manage-port", "0", "--listen-seconds", "0")
    words = (sys.executable, "-m", "sampler_cli.main", "serve", *options)
    with ProgramServer(*AS_NOBODY, *words, "--adapter-root", str(folder)) as server:
        assert os.stat(f"/proc/{server.announced['pid']}").st_uid == NOBODY
        body = {"digest": digest, "path": str(adapter)}
        assert httpx.post(server.url + "/v1/adapters", json=body).status_code == 201
        assert server.stop() == 0
