"""Where fleets of this machine keep their state, for the local runtime and its clients.

A fleet has a folder with its name. Clients read one file of it, a ``LocalFleet``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["ENV_STATE_DIR", "FLEET_FILE", "LOCAL_SCHEME", "fleet_folder", "state_root"]

LOCAL_SCHEME: Final = "local"
ENV_STATE_DIR: Final = "SAMPLER_STATE_DIR"
FLEET_FILE: Final = "fleet.json"


def state_root(environment: Mapping[str, str]) -> Path:
    """The folder of all fleets: ``SAMPLER_STATE_DIR``, else below ``XDG_STATE_HOME``."""
    own = environment.get(ENV_STATE_DIR)
    if own:
        return Path(own).absolute()
    state = environment.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "sampler"


def fleet_folder(environment: Mapping[str, str], name: str) -> Path:
    """The folder of one fleet, whether it exists or not."""
    return state_root(environment) / name
