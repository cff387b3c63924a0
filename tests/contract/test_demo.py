"""The demo on the engine without a model: the main job, end to end, with its kill."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "demo", "--engine", "sim"]


def test_the_demo_loses_and_doubles_nothing_when_a_server_is_killed() -> None:
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.rstrip().splitlines()[-1]
    assert re.fullmatch(
        r"demo ok: 64 sequences, 0 lost, 0 duplicated, [1-9]\d* continued after a kill", last
    )


def test_the_demo_ends_its_servers_when_it_is_stopped(tmp_path: Path) -> None:
    process = subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    with process:
        assert process.stdout is not None
        ready = next(line for line in process.stdout if "are ready" in line)
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "demo stopped" in rest
    assert re.search(r"127\.0\.0\.1:\d+ and 127\.0\.0\.1:\d+", ready)
    assert len(children) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
