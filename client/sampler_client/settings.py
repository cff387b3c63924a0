"""The knobs of a fleet client, with their units."""

from typing import Literal

import msgspec

__all__ = ["ClientSettings"]


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All times in seconds. Defaults are what a training job wants; tests scale them."""

    token: str | None = None
    ca_file: str | None = None
    """PEM file of the authorities to trust for ``https://``; None = those of the system."""
    weight: float = 1.0
    connect_timeout: float = 2.0
    silence_timeout: float = 5.0
    """No frame for so long: the session is dead."""
    progress_timeout: float = 60.0
    """Neither token nor beat for so long: the stream resumes elsewhere."""
    first_reply_timeout: float = 30.0
    """No endpoint has ever answered for so long: calls raise NoReplica."""
    gone_timeout: float = 60.0
    """Replicas are there, but none has served the revision of a stream for so long: it raises
    RevisionGone. While no replica at all answers, streams wait."""
    on_revision_gone: Literal["raise", "restart"] = "raise"
    """``restart``: instead such a sequence begins anew, from its prompt, on the base that is served
    then; what had arrived of it is dropped, but for tokens that the caller gave."""
    request_timeout: float = 120.0
    """A replica asked over plain HTTP, say to load an adapter, has not answered for so long."""
    straggler_timeout: float = 5.0
    """Once one replica has loaded an adapter, the others are waited for so long."""
    reconnect_delay: float = 0.1
    reconnect_delay_max: float = 2.0
    tick: float = 1.0
    max_frame_bytes: int = 64 << 20
    name: str = ""
