"""A pod of sim engines under the supervisor; run as a script with their number."""

import json
import sys
from pathlib import Path

from sampler_server.supervisor import EnginePorts, engine_ports, supervise

_SERVER = Path(__file__).parent / "server_process.py"


def _command(engine: EnginePorts) -> list[str]:
    serve = {
        "port": engine.port,
        "manage_port": engine.manage_port,
        "siblings": engine.siblings,
        "announce": True,
        "listen_seconds": 0.1,
    }
    return [sys.executable, str(_SERVER), json.dumps({"serve": serve})]


if __name__ == "__main__":
    engines = engine_ports(int(sys.argv[1]), "127.0.0.1", 0, 0)
    sys.exit(supervise(engines, _command, announce=True))
