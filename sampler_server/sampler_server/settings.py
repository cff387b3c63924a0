"""What a server process is told when it starts: one frozen value, passed down."""

from dataclasses import dataclass
from pathlib import Path

from sampler_api.names import DATA_PORT, MANAGE_PORT

__all__ = ["FlushSettings", "ServeSettings", "StreamSettings"]


@dataclass(frozen=True, slots=True)
class FlushSettings:
    """When deltas go out; seconds. ``interactive_seconds`` is for streams that a person reads."""

    batch_tokens: int = 32
    wait_seconds: float = 0.25
    interactive_seconds: float = 0.025
    tick_seconds: float = 0.005
    slack_seconds: float = 0.02
    """Deltas that would be due within this time join a frame that goes out anyway."""
    heartbeat_seconds: float = 1.0
    load_seconds: float = 0.05
    """The load report is repeated at most this often; frames in between do without."""
    frame_bytes: int = 4 << 20
    """Columns of one frame stop growing here: the bound on what a slow reader holds unsent."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How long streams outlive their session, and finished columns wait for their ack."""

    lease_seconds: float = 30.0
    keep_seconds: float = 120.0
    keep_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """One server process. Ports of 0 are chosen by the system and printed on stdout."""

    host: str = "127.0.0.1"
    """``*`` = all interfaces."""
    port: int = DATA_PORT
    manage_port: int = MANAGE_PORT
    manage_host: str | None = None
    """Interface of the management port; None = ``host``."""
    model_name: str | None = None
    """Name in ``/v1/models`` and the hello; None = the engine's."""
    tokenizer_dir: Path | None = None
    """Directory with tokenizer files; None = no text (stop strings and chat are refused)."""
    adapter_roots: tuple[Path, ...] = ()
    adapters_config: Path | None = None
    """Directory with the file of declared adapters; it is watched. None = none are declared."""
    model_digest: str | None = None
    """What the base must be; another one fails the start."""
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    """PEM files for TLS on the data port, both or none; they are watched."""
    replica: str = ""
    """Name of this replica; empty = host:port."""
    fleet: str = ""
    """``namespace/name/uid``; empty = none."""
    template_hash: str = ""
    """Of the pod template that this replica was made from."""
    siblings: tuple[int, ...] = ()
    """Data ports of the other engines of this pod."""
    termination_log: Path | None = None
    drain_seconds: float = 30.0
    """Plain-HTTP requests may run this long after a drain began."""
    listen_seconds: float = 5.0
    """The listener stays open at least this long after a drain began; plain-HTTP requests that
    come meanwhile are served."""
    hand_over_seconds: float = 3.0
    stall_seconds: float = 10.0
    max_frame_bytes: int = 64 << 20
    max_body_bytes: int = 16 << 20
    max_sessions: int = 4096
    ping_seconds: float = 20.0
    ping_timeout_seconds: float = 120.0
    announce: bool = False
    """Print the JSON line with the ports also when they were given."""
    flush: FlushSettings = FlushSettings()
    streams: StreamSettings = StreamSettings()
