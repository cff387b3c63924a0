"""A server that cannot start says why: one line, on stderr and where Kubernetes looks for it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

OTHER = "sha256:" + "0" * 64
SIM = ("--engine", "sim", "--port", "0", "--manage-port", "0")


class Start:
    """Starts ``sampler serve`` and keeps what it left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "termination-log"
        self.taken = socket.create_server(("127.0.0.1", 0))
        self.environment: dict[str, str] = {}

    def __call__(self, *words: str) -> "subprocess.CompletedProcess[str]":
        known = {"FOLDER": str(self.folder), "TAKEN": str(self.taken.getsockname()[1])}
        command = [sys.executable, "-m", "sampler_cli.main", "serve"]
        return subprocess.run(
            [*command, *(word.format(**known) for word in words)],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            env={
                **os.environ,
                "SAMPLER_TERMINATION_LOG": str(self.log),
                "PYTHONWARNINGS": "",
                # What servers of others left in theirs is told of in the log.
                "TMPDIR": str(self.folder),
                **self.environment,
            },
        )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    start = Start(tmp_path)
    yield start
    start.taken.close()


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        pytest.param(
            ("--engine", "torch", "--model", "{FOLDER}/absent"), 2, "/absent", id="no model"
        ),
        pytest.param(
            ("--engine", "torch", "--model", "{FOLDER}"), 1, "holds no weights", id="no weights"
        ),
        pytest.param((*SIM, "--prot", "1"), 2, "--prot", id="a misspelt option"),
        pytest.param((*SIM, "--port", "70000"), 2, "--port", id="no port"),
        pytest.param(
            ("--engine", "sim", "--port", "8000", "--manage-port", "8000"),
            2,
            "--manage-port",
            id="options that exclude each other",
        ),
        pytest.param(
            (*SIM, "--tls-cert", "{FOLDER}/crt"), 2, "--tls-key", id="a certificate without a key"
        ),
        pytest.param(
            (*SIM, "--tls-cert", "{FOLDER}/crt", "--tls-key", "{FOLDER}/key"),
            1,
            "/key",
            id="an absent certificate",
        ),
        pytest.param(
            (*SIM, "--token-file", "{FOLDER}/tokens"), 2, "/tokens", id="an absent token file"
        ),
        pytest.param((*SIM, "--adapter-root", "{FOLDER}/loras"), 2, "/loras", id="an absent root"),
        pytest.param((*SIM, "--port", "{TAKEN}"), 1, "{TAKEN}", id="a taken data port"),
        pytest.param(
            (*SIM, "--manage-port", "{TAKEN}"), 1, "{TAKEN}", id="a taken management port"
        ),
        pytest.param((*SIM, "--host", "no.such.host"), 1, "no.such.host", id="no such host"),
        pytest.param((*SIM, "--model-digest", OTHER), 1, OTHER, id="another base"),
        pytest.param((*SIM, "--model-digest", "sha256:1"), 2, "--model-digest", id="no digest"),
        pytest.param(
            (*SIM, "--engines", "2", "--log-level", "warning", "--model-digest", OTHER),
            1,
            OTHER,
            id="another base of two engines",
        ),
    ],
)
def test_a_failed_start_is_one_line(
    start: Start, words: tuple[str, ...], code: int, named: str
) -> None:
    ended = start(*words)
    assert ended.returncode == code
    named = named.format(TAKEN=start.taken.getsockname()[1])
    told = ended.stderr.splitlines()
    # Engines of one pod fail alike; the first to fail ends the others, wherever they are.
    assert set(told) == {told[0]}
    assert len(told) == 1 or "--engines" in words
    assert named in told[0]
    assert start.log.read_text() == told[0] + "\n"
    assert ended.stdout == ""


def test_half_a_fleet_in_the_environment_is_one_line(start: Start) -> None:
    start.environment = {"SAMPLER_FLEET_NAME": "policy", "SAMPLER_FLEET_UID": "1"}
    assert start(*SIM).returncode == 2
    assert "SAMPLER_POD_NAMESPACE" in start.log.read_text()


def test_what_nobody_expected_is_a_traceback_and_one_line(start: Start) -> None:
    broken = start.folder / "broken"
    broken.mkdir()
    (broken / "uvicorn.py").write_text("raise RuntimeError('a broken\\ninstallation')\n")
    start.environment = {"PYTHONPATH": str(broken)}
    ended = start(*SIM)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert start.log.read_text() == "RuntimeError: a broken installation\n"


def test_a_missing_package_is_named_with_what_brings_it(start: Start) -> None:
    broken = start.folder / "broken"
    broken.mkdir()
    (broken / "uvicorn.py").write_text("import no_such_package\n")
    start.environment = {"PYTHONPATH": str(broken)}
    assert start(*SIM).returncode == 1
    assert "no_such_package is not installed" in start.log.read_text()
    assert "sampler-operator[server]" in start.log.read_text()
