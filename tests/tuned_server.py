"""A server over the sim engine whose every setting can be given: a script with one JSON argument.

``serve``, ``flush``, ``streams``, ``latency``, ``faults`` and ``sim`` are keyword arguments of the
settings of those names.
"""

import json
import sys
from pathlib import Path
from typing import Any

from sampler_server.engines.sim import SimEngine, SimSettings, tokenizer_files
from sampler_server.engines.sim.latency import LatencyModel
from sampler_server.engines.sim.settings import SimFaults
from sampler_server.serve import serve
from sampler_server.settings import FlushSettings, ServeSettings, StreamSettings


def _main(arguments: dict[str, dict[str, Any]]) -> int:
    given = arguments.get("serve", {})
    if "token_file" in given:
        given["token_file"] = Path(given["token_file"])
    settings = ServeSettings(
        flush=FlushSettings(**arguments.get("flush", {})),
        streams=StreamSettings(**arguments.get("streams", {})),
        **{"port": 0, "manage_port": 0, "listen_seconds": 0.0, **given},
    )
    sim = SimSettings(
        latency=LatencyModel(**arguments.get("latency", {})),
        faults=SimFaults(**arguments.get("faults", {})),
        **arguments.get("sim", {}),
    )
    return serve(settings, SimEngine(sim), tokenizer_files=tokenizer_files)


if __name__ == "__main__":
    sys.exit(_main(json.loads(sys.argv[1])))
