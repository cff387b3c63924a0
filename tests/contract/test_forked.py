"""A forked program is what ``python`` makes of the same words (``tests.forked``)."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest
from tests.forked import Forked, Forker
from tests.processes import is_alive
from tests.proxy import wait_until
from tests.servers import Server

ROOT = Path(__file__).parents[2]
SAYS = """
import json, os, sys
print("a line", file=sys.stderr)
print(json.dumps({
    "name": __name__,
    "file": __file__,
    "argv": sys.argv,
    "path": sys.path[0],
    "folder": os.getcwd(),
    "variables": dict(os.environ),
    "files": sorted(os.listdir("/proc/self/fd")),
    "leads": os.getpid() == os.getsid(0) == os.getpgid(0),
    "stdin": sys.stdin.read(),
}))
sys.exit(int(sys.argv[1]))
"""
WAITS = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("here", flush=True)
signal.pause()
"""


@pytest.fixture
def forker() -> Iterator[Forker]:
    with closing(Forker("json", ONE="1")) as made:
        yield made


@pytest.fixture
def log() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        yield file


def script(folder: Path, text: str) -> str:
    path = folder / "program.py"
    path.write_text(text)
    return str(path)


def said(words: list[str], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        check=False,
    )
    return {**json.loads(done.stdout), "code": done.returncode, "log": done.stderr}


def output_of(program: Forked) -> str:
    assert program.stdout is not None
    with program.stdout as stdout:
        return stdout.read()


def test_words_environment_files_and_exit_code_are_its_own(
    forker: Forker, log: IO[bytes], tmp_path: Path
) -> None:
    environment = os.environ | {"ONE": "1", "SAMPLER_TWO": "2"}
    assert forker.fits(environment)
    for code in (0, 3):
        words = [script(tmp_path, SAYS), str(code), "--word", "a b"]
        log.truncate(0)
        program = forker.start(words, environment, log, has_output=True)
        found = json.loads(output_of(program))
        assert program.wait(20) == code
        written = os.pread(log.fileno(), 100, 0).strip(b"\0")
        assert {**found, "code": code, "log": written} == said(words, environment)


def test_a_module_is_run_as_by_its_name(forker: Forker, log: IO[bytes]) -> None:
    words = ["-m", "sampler_cli.main", "version"]
    program = forker.start(words, os.environ | {"ONE": "1"}, log, has_output=True)
    wanted = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    assert output_of(program) == wanted.stdout != ""
    assert program.wait(20) == 0


def test_signals_reach_it_and_what_ends_it_is_told(
    forker: Forker, log: IO[bytes], tmp_path: Path
) -> None:
    words, environment = [script(tmp_path, WAITS)], os.environ | {"ONE": "1"}
    first, second = (forker.start(words, environment, log, has_output=True) for _ in range(2))
    for program, number, code in ((first, signal.SIGTERM, 7), (second, signal.SIGKILL, -9)):
        assert program.stdout is not None
        assert program.stdout.readline() == "here\n"
        assert program.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.01)
        program.send_signal(number)
        assert program.wait(20) == program.poll() == code
        # Nobody has its number now.
        program.send_signal(number)
        program.stdout.close()


def test_nothing_outlives_the_tests(log: IO[bytes], tmp_path: Path) -> None:
    forker = Forker("json")
    program = forker.start([script(tmp_path, WAITS)], os.environ, log, has_output=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "here\n"
    forker.close()
    wait_until(lambda: not is_alive(program.pid), "it is killed")
    assert output_of(program) == ""
    with pytest.raises(RuntimeError, match="nobody knows"):
        program.wait(20)


def test_where_imports_would_read_something_else_nothing_is_forked(
    forker: Forker, log: IO[bytes]
) -> None:
    for environment in (os.environ, os.environ | {"ONE": "1", "TMPDIR": "/elsewhere"}):
        assert not forker.fits(environment)
        with pytest.raises(AssertionError, match="imports would read"):
            forker.start(["-m", "json.tool"], environment, log)


def test_servers_of_tests_are_forked_whatever_the_tests_import() -> None:
    for module in ("peft", "transformers", "tests.reference"):
        pytest.importorskip(module)
    with Server() as server:
        command = Path(f"/proc/{server.announced['pid']}/cmdline").read_bytes()
        assert b"tests.forking" in command.split(b"\0")


def test_an_import_that_fails_says_so(log: IO[bytes]) -> None:
    with (
        closing(Forker("no_such_module")) as forker,
        pytest.raises(RuntimeError, match="No module named 'no_such_module'"),
    ):
        forker.start(["-m", "json.tool"], os.environ, log)
