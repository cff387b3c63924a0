"""The demo on the engine without a model: the main job, end to end, with its kill."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import is_alive
from tests.proxy import wait_until

from sampler_operator.local.folders import Folder
from sampler_operator.local.state import read_state

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "demo", "--engine", "sim"]


def test_the_demo_loses_and_doubles_nothing_when_a_replica_is_killed() -> None:
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.rstrip().splitlines()[-1]
    assert re.fullmatch(
        r"demo ok: 64 sequences, 0 lost, 0 duplicated, [1-9]\d* continued after a kill", last
    )


def test_the_demo_ends_its_fleet_when_it_is_stopped(tmp_path: Path) -> None:
    process = subprocess.Popen(
        # Who is to be stopped in a second's work is not faster than who stops it.
        ["nice", "-n", "15", *COMMAND],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    with process:
        assert process.stdout is not None
        ready = next(line for line in process.stdout if "are ready" in line)
        (folder,) = map(Folder, tmp_path.glob("*/state/smollm2"))
        state = read_state(folder)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "demo stopped" in rest
    assert f"logs of the replicas are in {folder.logs}" in rest
    assert state is not None
    assert len(state.pods) == 2
    assert all(pod.name in ready for pod in state.pods)
    pids = [state.pid, *(pod.pid for pod in state.pods)]
    wait_until(lambda: not any(map(is_alive, pids)), "the end of all processes")
