"""A pause of the client process — a held GIL, SIGSTOP — moves no sequence.

The quick form scales every time-out of client and server by 1/20; the slow form runs at full
length.
"""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.servers import TunedServer

pytestmark = pytest.mark.long

_SCRIPT = Path(__file__).parent.parent / "paused_client.py"
SEQUENCES = 32


class Scale(NamedTuple):
    """Every time of the defaults, divided."""

    divisor: float

    @property
    def pause_seconds(self) -> float:
        return 90 / self.divisor

    @property
    def client(self) -> dict[str, float]:
        return {
            "tick": 1 / self.divisor,
            "silence_timeout": 5 / self.divisor,
            "progress_timeout": 60 / self.divisor,
        }

    @property
    def server(self) -> dict[str, dict[str, Any]]:
        return {
            "serve": {
                "ping_seconds": 20 / self.divisor,
                "ping_timeout_seconds": 120 / self.divisor,
            },
            "flush": {"heartbeat_seconds": 1 / self.divisor},
            "streams": {
                "lease_seconds": 30 / self.divisor,
                "keep_seconds": 120 / self.divisor,
            },
        }


SCALES = [
    pytest.param(Scale(20), id="at a twentieth"),
    pytest.param(Scale(1), id="at full length", marks=[pytest.mark.slow, pytest.mark.timeout(400)]),
]


@pytest.mark.rule("S12.8", only=("remote",))
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("pause", ["a thread holds the GIL", "the process is stopped"])
def test_no_sequence_moves_while_its_client_is_paused(pause: str, scale: Scale) -> None:
    # Sequences outlast the pause, so that all of them are in flight all the time.
    rate, seconds = 100, scale.pause_seconds * 1.2 + 1
    servers = [TunedServer(latency={"decode_rate": rate}, **scale.server) for _ in range(2)]
    with servers[0], servers[1]:
        arguments = {
            "url": ",".join(server.url for server in servers),
            "settings": scale.client,
            "long_tokens": int(rate * seconds),
            "sequences": SEQUENCES,
            "gil_seconds": scale.pause_seconds if pause == "a thread holds the GIL" else 0,
        }
        command = [sys.executable, str(_SCRIPT), json.dumps(arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "started\n"
            if pause == "the process is stopped":
                client.send_signal(signal.SIGSTOP)
                threading.Event().wait(scale.pause_seconds)
                client.send_signal(signal.SIGCONT)
            told = json.loads(client.stdout.readline())
    assert told["lengths"] == [arguments["long_tokens"]] * (SEQUENCES + 1)
    assert told["ended"] == [["finished"]] * (SEQUENCES + 1)
    assert told["seconds"] > scale.pause_seconds
